"""make: each target comes down to the commands that the README names, with CONFIG and OPTIONS passed on."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from masked_memory.pipeline.commands import module_of
from toys import ROOT, STAGES, draw_classes, newest

pytestmark = [pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"), pytest.mark.system]
GIVEN = "--config presets/imagenette.yaml --run.seed 3"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment that looks installed, whose python is that of the tests."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in ("installed", "installed-tests"):
        (tmp_path / "venv" / name).touch()
    return tmp_path / "venv"


def made(target: str, environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    call = ["make", "-C", str(ROOT), "--no-print-directory", target, f"VENV={environment}", *words]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(call, env=inherited, capture_output=True, text=True, timeout=300, check=False)


def commands(target: str, environment: Path, *words: str) -> str:
    """What would be run, with the path of python shortened to `python`."""
    done = made(target, environment, "-n", "CONFIG=presets/imagenette.yaml", "OPTIONS=--run.seed 3", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{environment}/bin/python", "python")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("study", [f"python reconstruct_masked.py {GIVEN} --reconstruct_masked.pictures null"]),
        ("app", [f"python app.py {GIVEN}"]),
        ("bits", [f"python -m masked_memory compare_bits {GIVEN}"]),
        (
            "bench",
            [
                "python benchmarks/training_step.py",
                "python benchmarks/peak_memory.py",
                "python benchmarks/reading.py",
                f"python benchmarks/published_loop.py {GIVEN}",
            ],
        ),
        ("bench-gpu", ["python benchmarks/gpu.py"]),
        ("ui", ["python summary.py --ui --config presets/imagenette.yaml --run.seed 3"]),
        ("test", ['python -m pytest -n 2 -m "not system"']),
        ("test-system", ["python -m pytest -n 2 -m system"]),
        (
            "lint",
            [
                "python -m ruff check .",
                "python -m ruff format --check .",
                "python -m mypy",
                "python docs/tables.py --check",
                "python -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/tests.yml",
            ],
        ),
        ("docs", ["python docs/tables.py"]),
    ],
)
def test_a_target_is_these_commands(target: str, expected: list[str], environment: Path) -> None:
    assert commands(target, environment).splitlines() == expected


def test_the_lock_is_what_is_installed_where_the_tests_ran(environment: Path) -> None:
    *_, frozen, compiled = commands("lock", environment).replace(" \\\n ", "").splitlines()
    assert frozen.startswith("python -m pip freeze") and frozen.endswith("> build/tested.txt")
    assert compiled.startswith("python -m uv pip compile") and compiled.endswith(
        "requirements-lock.txt requirements.txt"
    )
    assert {"--universal", "--generate-hashes", "--constraints"} <= set(compiled.split())


def test_an_audit_that_could_not_look_up_a_package_fails(environment: Path) -> None:
    words = commands("audit", environment).split()
    assert {"pip-audit", "--strict", "--require-hashes"} <= set(words)
    assert words[words.index("-r") + 1] == "requirements-lock.txt"


def test_the_list_of_locked_packages_is_written_to_the_build_folder(environment: Path) -> None:
    text = commands("sbom", environment)
    assert "--output-file build/sbom.json requirements-lock.txt" in text


def test_the_lowest_versions_have_an_environment_of_their_own(environment: Path) -> None:
    lines = commands("test-lowest", environment).splitlines()
    lowest = f"{environment}-lowest"
    assert lines[-1] == f"{lowest}/bin/python -m pytest -n 2"
    (filled,) = [line for line in lines if "--resolution lowest-direct" in line]
    assert f"--python {lowest}/bin/python" in filled and filled.endswith("-r tests/requirements.txt")


def test_the_demo_is_all_stages_in_order_and_the_summary(environment: Path) -> None:
    loop, table = commands("demo", environment).splitlines()
    scripts = [f"{stage}.py" for stage in STAGES]
    second = '"train_classifier.py --train_classifier.degrade false --train_classifier.tune.trials 0"'
    scripts.insert(scripts.index("train_distil.py"), second)
    assert f"for stage in {' '.join(scripts)}; do" in loop and f"python $stage {GIVEN} || exit $?" in loop
    assert table == f"python summary.py {GIVEN}"


def test_the_rivals_are_all_models_and_their_comparison(environment: Path) -> None:
    *loop, compared, studied = commands("rivals", environment).replace(" \\\n ", "").splitlines()
    text = "\n".join(loop)
    found = re.findall(r'"(\w+) (\w+)([^"]*)"', text)
    untold = " --train_prior.condition_on_class false"
    assert found == [
        ("train_prior", "prior_pixelcnn", ""),
        ("train_prior", "prior_pixelcnn", untold),
        ("train_prior", "prior_gan", ""),
        ("train_prior", "prior_gan", untold),
        ("train_distil", "prior_distil", ""),
        ("train_distil", "published_study", ""),
        ("train_vqvae", "prior_components", ""),
    ]
    assert all((ROOT / "presets" / f"{preset}.yaml").is_file() for _, preset, _ in found)
    assert "script=$1; preset=$2; shift 2;" in text
    assert "python $script.py --config presets/imagenette.yaml presets/$preset.yaml --run.seed 3 $@ || exit $?" in text
    assert loop[-2:] == [f"python -m masked_memory train_mae {GIVEN}", f"python -m masked_memory train_painter {GIVEN}"]
    told = "--compare_priors.told_distil best --compare_priors.masked_vqvae best"
    assert compared == f"python -m masked_memory compare_priors {GIVEN} {told}"
    assert studied.startswith(f"python reconstruct_masked.py {GIVEN} --reconstruct_masked.pictures null")
    for rival in ("rival_distil", "rival_mae", "painter"):
        assert f"--reconstruct_masked.{rival} best" in studied


@pytest.mark.parametrize("target", ["demo", "study", "app", "rivals", "bits", "bench", "ui"])
def test_every_named_script_is_there(target: str, environment: Path) -> None:
    text = commands(target, environment)
    words = re.findall(r"python (\S+)\.py", text)
    named = [word for word in words if not word.startswith("$")] + re.findall(r'"(\w+) \w+[^"]*"', text)
    assert all((ROOT / f"{name}.py").is_file() for name in named)
    stages = re.findall(r"python -m masked_memory (\S+)", text)
    assert named or stages
    assert all(importlib.util.find_spec(module_of(stage)) for stage in stages)


def test_without_config_and_options_nothing_is_added(environment: Path) -> None:
    done = made("app", environment, "-n")
    assert done.stdout.strip() == f"{environment}/bin/python app.py"


def test_make_runs_a_stage_and_shows_what_it_found(environment: Path, tmp_path: Path) -> None:
    runs, source = tmp_path / "runs", draw_classes(tmp_path / "pictures")
    options = f"--run.dir {runs} --data.source {source} --data.image_size 16 --run.threads 1 --run.mlflow false"
    done = made("demo", environment, "STAGES=data_split.py", f"OPTIONS={options}")
    assert done.returncode == 0, done.stderr
    assert "== data_split" in done.stdout and f"{newest(runs, 'data_split') / 'figures'}" in done.stdout
    assert "not run yet:\n  python train_vqvae.py " in done.stdout and f"--data.source {source}" in done.stdout


def test_a_stage_that_is_refused_ends_make(environment: Path, tmp_path: Path) -> None:
    done = made("demo", environment, f"OPTIONS=--run.dir {tmp_path / 'runs'} --data.source {tmp_path / 'nowhere'}")
    started = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert done.returncode != 0 and started == ["== data_split.py"], "no other stage is started"
    assert "is not a folder" in done.stderr


def test_seeds_are_the_whole_demo_for_each_seed_and_their_comparison(environment: Path, tmp_path: Path) -> None:
    """A seed that is done is not run again."""
    seeds = tmp_path / "seeds"
    (seeds / "7").mkdir(parents=True)
    (seeds / "7" / "done").touch()
    text = commands("seeds", environment, "SEEDS=7 8", f"SEED_RUNS={seeds}")
    assert f"--run.dir {seeds}/8 --run.seed 8" in text and "--run.seed 7" not in text
    assert "--train_distil.tune.trials 0" in text and "--reconstruct_masked.pictures null" in text
    assert f'python -m masked_memory compare_seeds {GIVEN} --compare_seeds.folders "{seeds}/*"' in text
