"""The house: which room may know of which, how large a room may be, and that importing is silent.

Read from the source alone: nothing here imports what it judges.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from toys import ROOT

PACKAGE, WING = "masked_memory", "masked_memory.rivals"
#: The stages and models at the top, which others import as masked_memory.stages.NAME; the last two use the wing.
TOP = (
    "vqvae", "masking", "data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil",
    "reconstruct_masked", "app", "summary", "train_prior", "sample",
)  # fmt: skip
MODELS, USE_THE_WING = ("vqvae", "masking"), ("train_prior", "sample")
#: From the ground up: a room knows those below it and its own.
LAYERS = (
    "home", "pipeline", "settings", "sources", "masking", "models", "vqvae", "recall", "handoff", "measuring",
    "own_picture", "page", "reporting", "interface", "scripts",
)  # fmt: skip
#: The same within the wing, which knows the whole core but its scripts.
WING_LAYERS = ("models", "priors", "fillers", "coding", "handoff", "measuring", "scripts")
MOST_AT_THE_TOP, MOST_SCRIPTS = 32, 12
#: The same part of each stage, under the same name.
PARTS_OF_A_STAGE = {"main", "run", "report", "save", "announce", "evaluate", "GOAL", "FILES", "SHORTCUTS"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_PARAMETERS = 420, 60, 7

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Import(NamedTuple):
    """A name that a module imports from another of the house; `name` is None for the module itself."""

    module: str
    name: str | None
    line: int
    at_the_top: bool


def source_files() -> list[Path]:
    folders = (PACKAGE, "docs", "benchmarks")
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    return sorted(file.relative_to(ROOT) for file in files)


def name_of_module(file: Path) -> str:
    return ".".join(file.with_suffix("").parts) if len(file.parts) > 1 else f"{PACKAGE}.stages.{file.stem}"


FILES = source_files()
TREES = {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in FILES}
NAMES = {name_of_module(file): file for file in FILES if file.name != "__init__.py"}
MODULES = sorted(NAMES)
SCRIPTS = sorted(
    module for module in MODULES if module.startswith(PACKAGE)
    and any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in TREES[NAMES[module]].body)
    and not module.endswith(("shipped", "layers"))
)  # fmt: skip


def imports_of(module: str) -> Iterator[Import]:
    """Imports of modules of this house, at any depth."""
    tree = TREES[NAMES[module]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in NAMES:
                    yield Import(alias.name, None, node.lineno, node in tree.body)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in NAMES:
                    yield Import(whole, None, node.lineno, node in tree.body)
                elif node.module in NAMES:
                    yield Import(node.module, alias.name, node.lineno, node in tree.body)


def in_the_wing(module: str) -> bool:
    return module.startswith(f"{WING}.")


def layer_of(module: str) -> int:
    """The higher, the later: the wing is above the whole core but its scripts, which may not know each other either."""
    if not module.startswith(f"{PACKAGE}."):
        return 1000  # docs, benchmarks
    if module in SCRIPTS:
        return 500
    if in_the_wing(module):
        return 100 + WING_LAYERS.index(module.split(".")[2])
    _, room, *rest = module.split(".")
    return LAYERS.index(rest[0] if room == "stages" else room)


def is_private(name: str | None) -> bool:
    return name is not None and name.startswith("_") and not name.startswith("__")


def functions_of(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(TREES[file]) if isinstance(node, Function))


def name_of(function: Function) -> str:
    return getattr(function, "name", "lambda")


def public_names(module: str) -> set[str]:
    """What a module defines itself at its top level, but what is private."""
    found: set[str] = set()
    for node in TREES[NAMES[module]].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in found if not name.startswith("_")}


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_these_modules_and_no_others_lie_at_the_top() -> None:
    assert {file.stem for file in FILES if len(file.parts) == 1} == set(TOP)
    assert len(TOP) <= MOST_SCRIPTS


def test_little_lies_at_the_top() -> None:
    """What git keeps, without its own folder."""
    call = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    kept = subprocess.run(call, capture_output=True, text=True, check=False)
    if kept.returncode:
        pytest.skip("not a checkout")
    entries = {name.partition("/")[0] for name in kept.stdout.splitlines()}
    assert len(entries) <= MOST_AT_THE_TOP, sorted(entries)


def test_every_room_is_a_layer() -> None:
    rooms = {module.split(".")[1] for module in MODULES if module.startswith(PACKAGE) and module not in SCRIPTS}
    assert rooms - {"rivals", "stages"} == set(LAYERS) - {"scripts", *MODELS}
    inside = {module.split(".")[2] for module in MODULES if in_the_wing(module) and module not in SCRIPTS}
    assert inside == set(WING_LAYERS) - {"scripts"}


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=str)
def test_a_package_says_what_it_is_and_nothing_else(file: Path) -> None:
    if file.parent.name in (PACKAGE, "stages"):  # the public names; where the files at the top lie
        return
    (only,) = TREES[file].body
    assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and isinstance(only.value.value, str)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_module_is_longer_than_can_be_read(file: Path) -> None:
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_function_is_long_or_takes_many_arguments(file: Path) -> None:
    """`self` and `cls` do not count; functions within functions do."""
    found = []
    for function in functions_of(file):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        parameters = [one.arg for one in named if one is not None and one.arg not in ("self", "cls")]
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MOST_LINES_OF_A_FUNCTION or len(parameters) > MOST_PARAMETERS:
            found.append(f"{file}:{function.lineno} {name_of(function)}: {lines} lines, {len(parameters)} parameters")
    assert found == []


# --- who knows whom ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_room_knows_those_below_it_only(module: str) -> None:
    up = [
        f"line {known.line}: {known.module}"
        for known in imports_of(module)
        if layer_of(known.module) > layer_of(module)
    ]
    assert up == []


def test_scripts_do_not_know_each_other() -> None:
    known = [(module, one.module) for module in SCRIPTS for one in imports_of(module) if one.module in SCRIPTS]
    assert known == []


def test_the_core_knows_nothing_of_the_wing() -> None:
    """But the two stages at the top that are about older priors. `handoff/wing.py` opens it when a setting asks."""
    knowing = {
        module for module in MODULES if not in_the_wing(module) for one in imports_of(module) if in_the_wing(one.module)
    }
    outside = {module for module in MODULES if not module.startswith(PACKAGE)}
    assert knowing - outside == {f"{PACKAGE}.stages.{name}" for name in USE_THE_WING}
    core = [file for file in FILES if file.parts[0] == PACKAGE and "rivals" not in file.parts]
    texts = [(file, node.value) for file in core for node in ast.walk(TREES[file]) if isinstance(node, ast.Constant)]
    naming = {file for file, text in texts if isinstance(text, str) and text.startswith(WING)}
    assert {file.name for file in naming} <= {"wing.py"}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    knows = {module: {one.module for one in imports_of(module) if one.at_the_top} for module in MODULES}
    while True:
        ends = {module for module, known in knows.items() if not known & set(knows)}
        if not ends:
            break
        knows = {module: known for module, known in knows.items() if module not in ends}
    assert knows == {}, "what is left stands in a circle, or leads to one"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_stays_in_its_module(module: str) -> None:
    found = [f"line {one.line}: {one.module}.{one.name}" for one in imports_of(module) if is_private(one.name)]
    local = {one.module.split(".")[-1] for one in imports_of(module) if one.name is None}
    for node in ast.walk(TREES[NAMES[module]]):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and isinstance(node.value, ast.Name):
            found += [f"line {node.lineno}: {node.value.id}.{node.attr}"] if node.value.id in local else []
    assert found == []


def test_a_public_name_means_one_thing() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for module in MODULES:
        for name in public_names(module) - PARTS_OF_A_STAGE:
            where[name].append(module)
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


# --- importing --------------------------------------------------------------------------------------------------------


def imported(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.system
def test_importing_every_module_prints_and_writes_nothing(tmp_path: Path) -> None:
    done = imported("\n".join(f"import {name}" for name in MODULES), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_free_of_torch(tmp_path: Path) -> None:
    """So that --help and a misspelt key are answered at once."""
    rooms = ", ".join(module for module in MODULES if module.startswith(f"{PACKAGE}.settings."))
    heavy = ("torch", "numpy", "transformers", "mlflow", "optuna", "matplotlib")
    code = f"import {rooms}\nprint([name for name in {heavy} if name in sys.modules])"
    done = imported(code, tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")
