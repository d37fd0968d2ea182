"""What pip installs, the locked versions, and the checks on other systems: they hold what this tree holds."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from masked_memory import __main__ as program
from masked_memory.settings import loading
from toys import ROOT

pytestmark = pytest.mark.system

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS: dict[str, str] = PROJECT["project"]["scripts"]
SETUP: dict[str, Any] = PROJECT["tool"]["setuptools"]
NAME = "masked_memory"
NOT_INSTALLED = ("tests", "docs", "benchmarks", "notebooks")
ROOMS = sorted(".".join(f.relative_to(ROOT).parent.parts) for f in (ROOT / NAME).rglob("*/__init__.py"))
STAGES = (*program.STAGES, *program.OTHERS)
WORKFLOW_FILE = ROOT / ".github" / "workflows" / "tests.yml"
WORKFLOW: dict[str, Any] = yaml.safe_load(WORKFLOW_FILE.read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")


def runnable(folder: Path) -> set[str]:
    """The files of a folder that can be run, but packages themselves."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    return {name for name, text in texts.items() if 'if __name__ == "__main__":' in text} - {"__main__"}


# --- what is installed ------------------------------------------------------------------------------------------------


def test_the_command_runs_every_stage() -> None:
    assert set(STAGES) == runnable(ROOT) | runnable(ROOT / NAME) | runnable(ROOT / NAME / "rivals")


def test_commands_of_former_versions_name_the_one_there_is() -> None:
    assert COMMANDS.pop("masked-memory") == f"{NAME}.__main__:main"
    assert len(COMMANDS) == 16 and set(COMMANDS.values()) == {f"{NAME}.__main__:renamed"}
    assert {name.removeprefix("rmi-").replace("-", "_") for name in COMMANDS} == set(STAGES) - {"try_it"}


def test_every_room_is_installed_and_the_files_at_the_top_as_one_more() -> None:
    assert SETUP["package-dir"] == {NAME: NAME, f"{NAME}.stages": "."}
    assert sorted(SETUP["packages"]) == sorted([NAME, *ROOMS])


def test_the_version_is_one() -> None:
    version = PROJECT["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == version


class Built(NamedTuple):
    wheel: Path
    archive: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel and the source archive of a copy of this tree, which also holds what must not get into them."""
    tree, made = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("made")
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, tree)
    for folder in (NAME, "presets"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for outside in (*NOT_INSTALLED, "runs", "data"):
        (tree / outside).mkdir()
        (tree / outside / "__init__.py").touch()
        (tree / outside / "test_outside.py").touch()
    code = (
        "import sys; from setuptools import build_meta as build; folder = sys.argv[1]\n"
        "print(build.build_wheel(folder), build.build_sdist(folder), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made)], cwd=tree, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    wheel, archive = done.stderr.splitlines()[-1].split()
    return Built(made / wheel, made / archive)


def test_the_wheel_holds_what_the_stages_need_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    at_the_top = [*ROOT.glob("*.py"), ROOT / "config.yaml"]
    at_the_top += (ROOT / "presets").glob("*.yaml")
    wanted = {f"{NAME}/stages/{file.relative_to(ROOT).as_posix()}" for file in at_the_top}
    files = [file for file in (ROOT / NAME).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    wanted |= {file.relative_to(ROOT).as_posix() for file in files if file.parent.name != "stages"}
    assert names == wanted


def test_the_source_archive_can_be_built_again_and_holds_no_tests_or_runs(built: Built) -> None:
    with tarfile.open(built.archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "requirements.txt", "requirements-lock.txt", "README.md", "LICENSE"} <= names
    assert {"config.yaml", "train_vqvae.py", "masked_memory/settings/loading.py", "CITATION.cff"} <= names
    assert not {name for name in names if name.partition("/")[0] in (*NOT_INSTALLED, "runs", "data")}


def test_an_installed_command_finds_stages_and_presets_from_another_folder(built: Built, tmp_path: Path) -> None:
    """And the modules at the top lie open to nobody else."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(built.wheel) as opened:
        opened.extractall(site)
    code = (
        f"import sys; sys.path.append({str(site)!r}); before = list(sys.path); sys.argv[0] = 'bin/masked-memory'\n"
        f"from {NAME}.__main__ import main\n"
        "status = main(['data-split', '--config', 'presets/imagenette.yaml', '--data.source', 'nowhere'])\n"
        "from masked_memory.stages import vqvae; import importlib.util as found\n"
        "print(status, vqvae.__file__, [x for x in ('vqvae', 'settings', 'models', 'app') if found.find_spec(x)])\n"
        "print(sys.path == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.startswith("error: data.source nowhere is not"), done.stderr
    *_, found, unchanged = done.stdout.splitlines()
    assert found == f"2 {site / NAME / 'stages' / 'vqvae.py'} []" and unchanged == "True"


def test_the_command_runs_the_stage_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for words in (["tune", "--help"], ["train-mae", "--help"], ["train_vqvae.py", "--help"]):
        monkeypatch.setattr(sys, "argv", ["C:/Scripts/masked-memory.exe", *words])
        with pytest.raises(SystemExit) if words[0] != "tune" else nullcontext():
            assert program.main() == 0
        stage = words[0].removesuffix(".py").replace("-", "_")
        assert f"{stage} " in capsys.readouterr().out.partition("--config")[0]


def test_the_command_alone_lists_the_stages(capsys: pytest.CaptureFixture) -> None:
    assert (program.main([]), program.main(["--help"])) == (2, 0)
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {stage} +\S", out, re.MULTILINE) for stage in STAGES)


def test_a_stage_that_there_is_not_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert program.main(["train"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no stage train; expected one of: data_split, ")


def test_a_command_of_a_former_version_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["C:/Scripts/rmi-train-vqvae.exe", "--help"])
    assert program.renamed() == 2
    assert capsys.readouterr().err == (
        "error: rmi-train-vqvae is called masked-memory train_vqvae now; type: masked-memory train_vqvae\n"
    )


# --- the locked versions ----------------------------------------------------------------------------------------------


class Pin(NamedTuple):
    version: str
    marker: str
    hashes: list[str]


def pins() -> dict[str, Pin]:
    found: dict[str, Pin] = {}
    for entry in re.split(r"\n(?=\S)", LOCK):
        if entry.startswith("#"):
            continue
        first, *rest = entry.replace("\\\n", "\n").strip().splitlines()
        pinned, _, marker = first.partition(";")
        name, version = pinned.strip().split("==")
        assert canonicalize_name(name) not in found, f"{name} is locked twice"
        found[canonicalize_name(name)] = Pin(version, marker.strip(), [line.strip() for line in rest])
    return found


def requirements(file: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("needed", requirements("requirements.txt"), ids=lambda needed: needed.name)
def test_every_requirement_is_locked_within_its_range_on_all_systems(needed: Requirement) -> None:
    pin = pins()[canonicalize_name(needed.name)]
    assert needed.specifier.contains(pin.version) and pin.marker == ""


def test_every_locked_package_has_hashes() -> None:
    for name, pin in pins().items():
        assert pin.hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in pin.hashes), name


def test_the_lock_names_no_address_and_no_path() -> None:
    assert re.findall(r"https?:|file:|--\w*index\S*|--find-links|--trusted-host|@|/", LOCK) == []


@pytest.mark.parametrize("file", ["requirements.txt", "tests/requirements.txt"])
def test_every_requirement_has_a_lowest_version(file: str) -> None:
    """So that `make test-lowest` tests a version that someone meant."""
    assert [one.name for one in requirements(file) if not any(part.operator == ">=" for part in one.specifier)] == []


# --- the checks on other systems --------------------------------------------------------------------------------------


def steps(job: str) -> list[str]:
    """The lines that a job runs."""
    texts = [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]
    return [line for text in texts for line in text.splitlines()]


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as they are typed by hand."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    return [line.strip().replace("$(RUN)", "python") for line in block.splitlines()]


def test_the_workflow_runs_what_the_gate_runs() -> None:
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert gate[-3:] == ["make lint", "make test", "make test-system"]
    assert set(recipe("lint")) <= set(steps("lint"))
    assert {*recipe("test"), *recipe("test-system")} <= set(steps("tests"))


def test_the_workflow_covers_the_systems_and_versions_that_are_promised() -> None:
    matrix = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]
    assert [system.split("-")[0] for system in matrix["system"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"


def test_the_short_demo_of_the_workflow_is_the_stages_of_make_demo() -> None:
    (listed,) = re.findall(r"^STAGES = (.*)\\\n(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    stages = re.findall(r"\w+(?=\.py)", " ".join(listed))
    run = [line.split()[1] for line in steps("tests") if line.startswith("masked-memory ")]
    assert run == [*stages, "summary"]
    words = WORKFLOW["jobs"]["tests"]["env"]["SHORT"].split()
    pairs = zip(words[::2], words[1::2], strict=True)
    given = {name.removeprefix("--"): yaml.safe_load(value) for name, value in pairs}
    assert loading.changed_keys(loading.load([], given)) == given


@pytest.mark.parametrize("target", ["test-lowest", "audit"])
def test_the_workflow_calls_targets_that_there_are(target: str) -> None:
    assert recipe(target) and f"make {target}" in steps(target.removeprefix("test-"))
