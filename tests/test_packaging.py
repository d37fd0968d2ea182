"""What pip installs, the locked versions, and the checks on other systems: they hold what this tree holds."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import installed
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from masked_memory.settings import loading
from toys import ROOT

pytestmark = pytest.mark.system

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS: dict[str, str] = PROJECT["project"]["scripts"]
SETUP: dict[str, Any] = PROJECT["tool"]["setuptools"]
NAME = "reconstruct_masked_images"
NOT_INSTALLED = ("tests", "docs", "benchmarks")
ROOMS = sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py") if folder.parent.name not in NOT_INSTALLED)
WORKFLOW_FILE = ROOT / ".github" / "workflows" / "tests.yml"
WORKFLOW: dict[str, Any] = yaml.safe_load(WORKFLOW_FILE.read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")


def stage_scripts() -> set[str]:
    """The files at the top that can be run."""
    return {file.stem for file in ROOT.glob("*.py") if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")}


def command_of(stage: str) -> str:
    return f"rmi-{stage.replace('_', '-')}"


# --- what is installed ------------------------------------------------------------------------------------------------


def test_every_stage_has_a_command() -> None:
    assert set(COMMANDS) == {command_of(stage) for stage in stage_scripts()}
    assert set(COMMANDS.values()) == {f"{NAME}.installed:main"}
    assert len(COMMANDS) >= 16


def test_every_room_is_installed_in_one_folder() -> None:
    assert SETUP["package-dir"] == {NAME: "."}
    assert sorted(SETUP["packages"]) == [NAME, *(f"{NAME}.{room}" for room in ROOMS)]


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
    for room in [*ROOMS, "presets", "shipped"]:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
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
    wanted = {file.name for file in ROOT.glob("*.py")} | {"config.yaml"}
    for room in [*ROOMS, "presets", "shipped"]:
        files = (file for file in (ROOT / room).rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        wanted |= {file.relative_to(ROOT).as_posix() for file in files}
    assert names == {f"{NAME}/{name}" for name in wanted}


def test_the_source_archive_can_be_built_again_and_holds_no_tests_or_runs(built: Built) -> None:
    with tarfile.open(built.archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "requirements.txt", "requirements-lock.txt", "README.md", "LICENSE"} <= names
    assert {"config.yaml", "installed.py", "masked_memory/settings/loading.py", "CITATION.cff"} <= names
    assert not {name for name in names if name.partition("/")[0] in (*NOT_INSTALLED, "runs", "data")}


def test_an_installed_command_finds_rooms_and_presets_from_another_folder(built: Built, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(built.wheel) as opened:
        opened.extractall(site)
    (site / NAME / "probe.py").write_text(PROBE)
    code = (
        f"import sys; sys.path.append({str(site)!r}); from {NAME}.installed import main; sys.argv[0] = 'bin/rmi-probe'"
    )
    call = [sys.executable, "-c", f"{code}; sys.exit(main())"]
    done = subprocess.run(call, cwd=elsewhere, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.splitlines() == [str(site / NAME / "settings" / "loading.py"), "imagenette"]


#: A stage that asks for no more than its settings.
PROBE = """
from pathlib import Path
from masked_memory.settings import loading

def main():
    print(loading.__file__)
    print(loading.load([Path("presets/imagenette.yaml")], {}).data.source)
    return 7
"""


def test_a_command_runs_the_stage_of_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["C:/Scripts/rmi-tune.exe", "--help"])
    assert installed.main() == 0
    assert "python tune.py train_vqvae" in capsys.readouterr().out and sys.path[0] == str(ROOT)


@pytest.mark.parametrize("name", ["train", "rmi-nothing", "rmi-"])
def test_a_command_of_another_name_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}"])
    assert installed.main() == 2
    assert capsys.readouterr().err == f"error: this command is called {name}; expected rmi-STAGE, as pip named it\n"


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


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
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
    run = [line.split()[0] for line in steps("tests") if line.startswith("rmi-")]
    assert run == [*map(command_of, stages), "rmi-summary"]
    words = WORKFLOW["jobs"]["tests"]["env"]["SHORT"].split()
    pairs = zip(words[::2], words[1::2], strict=True)
    given = {name.removeprefix("--"): yaml.safe_load(value) for name, value in pairs}
    assert loading.changed_keys(loading.load([], given)) == given


@pytest.mark.parametrize("target", ["test-lowest", "audit"])
def test_the_workflow_calls_targets_that_there_are(target: str) -> None:
    assert recipe(target) and f"make {target}" in steps(target.removeprefix("test-"))
