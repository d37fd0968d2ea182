"""What a user edits is what runs: over tuning and the run folder to the stages that take the run."""

import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import edited_settings
from masked_memory.pipeline.files import read_json, write_json
from masked_memory.pipeline.runs import used_settings
from masked_memory.settings import layers, loading
from masked_memory.stages import summary
from toys import ROOT, Ran, copied, newest, words_of

Typed = Callable[..., tuple[int, str, str]]
RATE = ("--train_vqvae.learning_rate", "0.009")  # outside of the tiny settings' space


@pytest.fixture
def runs(ran: Ran, tmp_path: Path) -> Path:
    """The split, and room for VQ-VAEs."""
    return copied(ran.runs, tmp_path / "runs", "data_split")


class Fitted(NamedTuple):
    """A run with a rate that was set, with MLflow, and what it printed."""

    folder: Path
    runs: Path
    out: str


@pytest.fixture(scope="module")
def fitted(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    runs = copied(ran.runs, tmp_path_factory.mktemp("fitted") / "runs", "data_split")
    words = words_of("train_vqvae", runs, ran.source, *RATE, "--run.mlflow", "true")
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    return Fitted(newest(runs, "train_vqvae"), runs, done.stdout)


def noted(runs: Path, table: str, name: str) -> dict[str, dict[str, Any]]:
    """Name of each MLflow run like this -> key -> value, of its params or latest_metrics."""
    asked = f"SELECT runs.name, key, value FROM runs JOIN {table} USING (run_uuid) WHERE runs.name LIKE ?"
    found: dict[str, dict[str, Any]] = {}
    with closing(sqlite3.connect(runs / "mlflow.db")) as database:
        for run, key, value in database.execute(asked, (name,)):
            found.setdefault(run, {})[key] = value
    return found


@pytest.mark.system
def test_a_rate_that_is_set_is_fitted_and_everywhere_written_down(fitted: Fitted) -> None:
    """With one value outside of the space: the other keys are still searched, the first trial has what is set, and run
    folder, MLflow and --compare say what was fitted."""
    folder, runs, out = fitted
    assert "train_vqvae.learning_rate is kept as it is set" in out
    assert used_settings(folder)["train_vqvae"]["learning_rate"] == 0.009
    chosen = json.loads((folder / "model" / "config.json").read_text())["code_dim"]
    assert used_settings(folder)["train_vqvae"]["code_dim"] == chosen, "what tuning chose"
    assert used_settings(folder)["train_vqvae"]["tune"]["trials"] == 0, "used.yaml makes the same model again"
    params = noted(runs, "params", folder.name)[folder.name]
    assert params["train_vqvae.learning_rate"] == "0.009" and params["train_vqvae.code_dim"] == str(chosen)
    trials = noted(runs, "params", "trial %")
    assert trials["trial 0"] == {"code_dim": "8"}
    decided = noted(runs, "latest_metrics", "trial %")
    assert decided["trial 0"]["best_val_mse"] == decided["trial 0"]["mse"], "the column that decides has its number"
    table = out[out.index("trial  mse") :].splitlines()
    assert table[0].split() == ["trial", "mse", "code_dim"] and "as set" in table[1]


@pytest.mark.system
def test_what_was_fitted_makes_the_same_model_again(typed: Typed, runs: Path, ran: Ran, fitted: Fitted) -> None:
    """used.yaml of the run above."""
    first = fitted.folder
    status, out, _ = typed("train_vqvae", runs, ran.source, "--config", first / "used.yaml", "--run.dir", str(runs))
    again = newest(runs, "train_vqvae")
    assert status == 0 and "trial 0" not in out and again != first
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, again)]
    assert weights[0] == weights[1]


@pytest.mark.system
def test_two_runs_are_compared_by_what_they_were_fitted_with(
    typed: Typed,
    runs: Path,
    ran: Ran,
    fitted: Fitted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert typed("train_vqvae", runs, ran.source, "--train_vqvae.tune.trials", 0, "--train_vqvae.code_dim", 4)[0] == 0
    both = [str(folder) for folder in (fitted.folder, newest(runs, "train_vqvae"))]
    monkeypatch.setattr("sys.argv", ["summary.py", "--compare", *both])
    assert summary.main() == 0
    (rate,) = [line.split() for line in capsys.readouterr().out.splitlines() if "train_vqvae.learning_rate" in line]
    assert rate == ["train_vqvae.learning_rate", "0.009", "0.01"]


@pytest.mark.system
def test_the_next_stage_takes_the_model_that_is_set_or_says_which_it_takes(typed: Typed, runs: Path, ran: Ran) -> None:
    """A stride of 8 that scores worse, a codebook of before, and back to the first settings."""
    untuned = ("--train_vqvae.tune.trials", 0)
    assert typed("train_vqvae", runs, ran.source, *untuned)[0] == 0
    four = newest(runs, "train_vqvae")
    status, out, _ = typed("vqvae_reconstruction", runs, ran.source, "--train_vqvae.stride", 8, *untuned)
    (line,) = [line for line in out.splitlines() if line.startswith("not as set")]
    assert status == 0 and "train_vqvae.stride is 4 there and 8 here" in line and "--train_vqvae.stride 4" in line
    used = used_settings(newest(runs, "vqvae_reconstruction"))
    assert used["train_vqvae"]["stride"] == 4, "what was used is written down, not what was set"
    status, out, _ = typed("train_vqvae", runs, ran.source, "--train_vqvae.stride", 8, *untuned)
    eight = newest(runs, "train_vqvae")
    (line,) = [line for line in out.splitlines() if line.startswith("validation mse")]
    assert "the best so far of its shape" in line and "is of another shape" in line
    _, out, _ = typed("vqvae_reconstruction", runs, ran.source, "--train_vqvae.stride", 8, *untuned)
    assert f"inherited: VQ-VAE {eight} " in out and "not as set" not in out
    _, out, _ = typed("vqvae_reconstruction", runs, ran.source, *untuned)
    assert "not as set" not in out and eight.name not in out and four.parent.name in out


@pytest.mark.system
def test_a_run_that_is_worse_says_which_one_is_taken(typed: Typed, runs: Path, ran: Ran) -> None:
    assert typed("train_vqvae", runs, ran.source, "--train_vqvae.tune.trials", 0)[0] == 0
    worse = ("--train_vqvae.tune.trials", 0, "--train_vqvae.learning_rate", "1e-6")
    status, out, _ = typed("train_vqvae", runs, ran.source, *worse)
    folder = newest(runs, "train_vqvae")
    (line,) = [line for line in out.splitlines() if line.startswith("validation mse")]
    option = f"--vqvae_reconstruction.vqvae {folder.name}"
    assert status == 0 and "stays the one that later stages take" in line and line.endswith(option)
    _, out, _ = typed("vqvae_reconstruction", runs, ran.source, *option.split(), "--run.dry_run", "true")
    assert f"would use train_vqvae: {folder}" in out


def test_the_champion_of_mlflow_is_the_best_of_all_shapes(typed: Typed, runs: Path, ran: Ran) -> None:
    tracked = ("--train_vqvae.tune.trials", 0, "--run.mlflow", "true")
    assert typed("train_vqvae", runs, ran.source, *tracked)[0] == 0
    best = newest(runs, "train_vqvae")
    worse = ("--train_vqvae.hidden", 24, "--train_vqvae.learning_rate", "1e-6")
    _, out, _ = typed("train_vqvae", runs, ran.source, *tracked, *worse)
    assert "the best so far of its shape; " in out
    with closing(sqlite3.connect(runs / "mlflow.db")) as database:
        found = database.execute(
            "SELECT runs.name FROM registered_model_aliases alias JOIN model_versions version"
            " ON alias.name = version.name AND alias.version = version.version"
            " JOIN runs ON runs.run_uuid = version.run_id WHERE alias.alias = 'champion'"
        ).fetchall()
    assert found == [(best.name,)]


def test_the_command_of_an_error_leads_to_the_same_model(typed: Typed, runs: Path, ran: Ran) -> None:
    """For a VQ-VAE that is only taken as its shape was typed."""
    shape = ("--train_vqvae.tune.trials", 0, "--train_vqvae.hidden", 32)
    assert typed("train_vqvae", runs, ran.source, *shape)[0] == 0
    mine = newest(runs, "train_vqvae")
    status, _, err = typed("train_distil", runs, ran.source, *shape)
    assert status == 2 and mine.name in err
    words = shlex.split(err.strip().rpartition("type: ")[2])[2:]
    assert typed("vqvae_reconstruction", runs, ran.source, *words)[0] == 0
    _, out, _ = typed("train_distil", runs, ran.source, *shape, "--run.dry_run", "true")
    assert f"would use train_vqvae: {mine}" in out


def test_used_yaml_names_the_runs_that_were_taken(ran: Ran) -> None:
    taken = {
        "vqvae_reconstruction": {"vqvae": "train_vqvae"},
        "train_distil": {"indices": "vqvae_reconstruction"},
        "reconstruct_masked": {"distil": "train_distil", "classifier": "train_classifier"},
    }
    for stage, names in taken.items():
        used = used_settings(ran.folders[stage])[stage]
        assert {key: used[key] for key in names} == {key: ran.folders[made].name for key, made in names.items()}


def test_used_yaml_takes_the_same_run_after_a_better_one_was_made(typed: Typed, ran: Ran, tmp_path: Path) -> None:
    runs = copied(ran.runs, tmp_path / "runs", "data_split", "train_vqvae", "vqvae_reconstruction")
    first = runs / "train_vqvae" / ran.folders["train_vqvae"].name
    better = first.with_name("20990101-000000-0000")
    shutil.copytree(first, better)
    write_json(better / "run.json", read_json(better / "run.json") | {"score": 0.0})
    used = runs / "vqvae_reconstruction" / ran.folders["vqvae_reconstruction"].name / "used.yaml"
    for options, taken in (((), better), (("--config", used), first)):
        _, out, _ = typed("vqvae_reconstruction", runs, ran.source, *options, "--run.dry_run", "true")
        assert f"would use train_vqvae: {taken}\n" in out


def test_a_second_config_is_laid_over_the_first(typed: Typed, runs: Path, ran: Ran, tmp_path: Path) -> None:
    for number, values in enumerate(({"hidden": 8, "epochs": 1}, {"hidden": 24})):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump({"train_vqvae": values}), encoding="utf-8")
    first, second = (str(tmp_path / f"{number}.yaml") for number in range(2))
    _, out, _ = typed("train_vqvae", runs, ran.source, "--config", first, "--config", second, "--run.dry_run", "true")
    assert f"train_vqvae.hidden = 24 ({second}, 96 as shipped, over {first}, which has 8)" in out
    assert "train_vqvae.epochs = 1 " in out and "codebook_size = 16" in out, "nor is the first of all lost"


def test_an_option_that_is_typed_twice_is_said(typed: Typed, runs: Path, ran: Ran) -> None:
    twice = ("--train_vqvae.epochs", 3, "--train_vqvae.epochs", 4, "--run.dry_run", "true")
    _, out, _ = typed("train_vqvae", runs, ran.source, *twice)
    (line,) = [line for line in out.splitlines() if line.startswith("train_vqvae.epochs = ")]
    assert line.startswith("train_vqvae.epochs = 4 (typed, 8 as shipped") and line.endswith("typed before as 3)")


def test_nothing_is_tuned_in_an_empty_space_and_that_is_said(typed: Typed, runs: Path, ran: Ran) -> None:
    every = ("--train_vqvae.tune.trials", 2, "--train_vqvae.tune.space", "{}", "--train_vqvae.epochs", 1)
    status, out, _ = typed("train_vqvae", runs, ran.source, *every)
    assert (
        status == 0 and "train_vqvae.tune.trials is 2, but nothing is tuned, as tune.space is empty" in out.splitlines()
    )


# The list of all settings; `python tests/edited_settings.py` tries every one.


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> edited_settings.Project:
    places = (layers, "HOME"), (layers, "SHIPPED_FILE"), (loading, "BASE_FILE")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module, name in places:
            monkeypatch.setattr(module, name, getattr(module, name))  # put back in the end
        yield edited_settings.Project(tmp_path_factory.mktemp("project"))


@pytest.mark.system
@pytest.mark.parametrize(
    ("key", "value", "here", "then"),
    [
        ("train_vqvae.hidden", 24, "numbers", "said"),
        ("train_vqvae.learning_rate", 0.02, "numbers", "said"),
        ("train_vqvae.label_drop", 0.3, "said", "same"),
        ("train_distil.fixed_ratio", 0.3, "said", "same"),
        ("train_distil.mask_schedule", "fixed", "numbers", "said"),
        ("train_distil.condition_on_class", True, "numbers", "said"),
        ("data.seed", 1, "numbers", "refused"),
        ("data.workers", 1, "looks", "said"),
        ("data.given_split", False, "said", "refused"),
        ("vqvae_reconstruction.vqvae", "absent", "refused", "said"),
        ("train_vqvae.epochs", -1, "refused", "refused"),
    ],
)
def test_no_edit_is_silent(project: edited_settings.Project, key: str, value: object, here: str, then: str) -> None:
    outcome = edited_settings.try_edit(project, key, value)
    assert (outcome.here, outcome.then) == (here, then), outcome.said


@pytest.mark.system
def test_another_value_of_each_key_is_tried(project: edited_settings.Project) -> None:
    flat = loading.flatten(loading.check(project.shipped).model_dump())
    found = dict(edited_settings.edits(project.folder, project.shipped))
    assert set(found) == {key for key in flat if not key.startswith("compare_seeds.")}
    assert all(not layers.alike(value, flat[key]) for key, value in found.items())
    assert read_json(layers.SHIPPED_FILE)["config.yaml"] == project.shipped
