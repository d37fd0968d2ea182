"""An open stage: finished, broken, resumed."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mlflow import MlflowClient

from masked_memory.pipeline import stage as stages
from masked_memory.pipeline.files import InputError, read_json, write_json
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.processes import this_process
from masked_memory.pipeline.runs import RunFolder, Sought, read_best, resolve_run
from masked_memory.pipeline.stage import inputs_of, open_stage
from masked_memory.pipeline.tracking import registered_run
from masked_memory.settings.config import Config

MEND = "python train_vqvae.py"


# Finding a run


def resolve(runs: Path, asked: str = "best", key: str = "split a") -> Path:
    return resolve_run(runs, asked, Sought("train_vqvae", key, "split a (32 pixels)", MEND))


# The frame around a stage


def stage_config(runs: Path, mlflow: bool = False) -> Config:
    return Config.model_validate({"run": {"dir": str(runs), "mlflow": mlflow}})


def status_of(folder: RunFolder) -> str:
    return folder.record()["status"]


def test_a_stage_that_ends_well_is_finished_and_in_best_json(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = stage_config(tmp_path)
    with open_stage("train_vqvae", cfg, {"data_split": "x"}, machine, resume=False) as stage:
        assert status_of(stage.folder) == "running"
        stage.metrics["psnr"] = 21.0
        stage.model({"w": torch.ones(2)}, {"hidden": 8}, {"split": "abc"})
        assert read_json(stage.folder.model / "meta.json")["metrics"] == {"psnr": 21.0}
        stage.metrics["ssim"] = 0.9
        stage.finish("abc", 0.5, "mse", True)
    assert status_of(stage.folder) == "finished"
    assert resolve(tmp_path, key="abc") == stage.folder.path
    meta = read_json(stage.folder.model / "meta.json")
    assert (meta["split"], meta["run"], meta["stage"]) == ("abc", stage.folder.name, "train_vqvae")
    assert meta["metrics"] == {"psnr": 21.0, "ssim": 0.9} and "torch" in meta["versions"]
    assert read_json(stage.folder.path / "metrics.json")["psnr"] == 21.0
    assert capsys.readouterr().out.splitlines()[-1] == str(stage.folder.path)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_stage_that_breaks_is_resumed_by_the_same_settings_only(
    error: BaseException, tmp_path: Path, machine: Machine
) -> None:
    def start(identity: str, inputs: dict[str, str], resume: bool, act: Callable[[], None]) -> tuple[RunFolder, bool]:
        with open_stage("train_vqvae", stage_config(tmp_path), inputs, machine, resume, identity) as stage:
            act()
        return stage.folder, stage.resumed

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        start("same", {"data_split": "x"}, False, fail)
    (broken,) = (RunFolder(path.parent) for path in (tmp_path / "train_vqvae").glob("*/run.json"))
    expected = ("killed", "KeyboardInterrupt") if isinstance(error, KeyboardInterrupt) else ("failed", "broken")
    assert (status_of(broken), broken.record()["error"]) == expected
    assert read_best(tmp_path, "train_vqvae") == {}
    for identity, inputs, resume in (("other", "x", True), ("same", "y", True), ("same", "x", False)):
        folder, resumed = start(identity, {"data_split": inputs}, resume, lambda: None)
        assert not resumed and folder != broken
        folder.update(status="finished")
    assert start("same", {"data_split": "x"}, True, lambda: None) == (broken, True)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.5], "the best so far"),
        ([0.5, 0.4], "the best so far"),
        ([0.5, 0.5], "as good as the best so far, which it replaces"),
        ([0.4, 0.5], "is better (0.4) and stays the one that later stages take; to take this one there, name it"),
    ],
)
def test_a_run_says_how_it_stands_to_earlier_ones(
    scores: list[float], said: str, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    for score in scores:
        with open_stage("train_vqvae", stage_config(tmp_path), {}, machine, resume=False) as stage:
            write_json(stage.folder.model / "meta.json", {})
            stage.finish("split a", score, "mse")
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("validation")][-1]
    assert last.startswith(f"validation mse {scores[-1]:.4g}: ") and said in last


def test_a_run_that_is_not_handed_on_does_not_become_the_best(tmp_path: Path, machine: Machine) -> None:
    with open_stage("vqvae_reconstruction", stage_config(tmp_path), {}, machine, resume=False) as stage:
        stage.finish(None)
    assert status_of(stage.folder) == "finished" and read_best(tmp_path, "vqvae_reconstruction") == {}


def test_a_stage_with_mlflow_leaves_the_same_numbers_there(
    mlflow_runs: Path, client: MlflowClient, machine: Machine
) -> None:
    """A killed stage goes on in its MLflow run; the model that wins is the champion."""
    cfg = stage_config(mlflow_runs, mlflow=True)
    frame = open_stage("train_classifier", cfg, {"vqvae": "some run"}, machine, resume=False)
    with pytest.raises(KeyboardInterrupt), frame as killed:
        raise KeyboardInterrupt
    assert client.get_run(killed.ledger.run_id).info.status == "KILLED"
    with open_stage("train_classifier", cfg, {"vqvae": "some run"}, machine, resume=True) as stage:
        stage.model({"w": torch.ones(2)}, {"hidden": 8}, {"split": "abc"})
        stage.metrics["accuracy"] = 0.9
        stage.finish("abc", 0.9, "accuracy", False, registered_as="classifier")
    assert stage.ledger.run_id == killed.ledger.run_id
    run = client.get_run(stage.ledger.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["accuracy"] == 0.9
    assert run.data.params["train_classifier.epochs"] == "12" and run.data.params["input.vqvae"] == "some run"
    assert "train_vqvae.epochs" not in run.data.params
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} >= {"config.yaml", "metrics.json", "model"}
    assert registered_run(mlflow_runs, "models:/classifier@champion") == stage.folder.path


@pytest.mark.parametrize("name", ["a?b", "100 %"])
def test_a_folder_that_no_database_could_be_opened_in_is_refused(name: str, tmp_path: Path, machine: Machine) -> None:
    """MLflow would try again for minutes."""
    with pytest.raises(InputError, match="in it, which databases misread; name another"):
        open_stage("train_vqvae", stage_config(tmp_path / name), {}, machine, resume=False).__enter__()
    assert not (tmp_path / name).exists()


def test_what_a_vanished_process_left_running_in_mlflow_is_killed_at_the_next_start(
    mlflow_runs: Path, client: MlflowClient, machine: Machine
) -> None:
    """Its run and its trial; also when the run is resumed, of which then only the trial has ended, and when it vanished
    before it had noted which MLflow run it is."""
    cfg = stage_config(mlflow_runs, mlflow=True)
    left, ended = [], subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in ("first", "second", "third"):
        with pytest.raises(KeyboardInterrupt), open_stage("train_mae", cfg, {"split": name}, machine, False) as stage:
            raise KeyboardInterrupt
        left.append((stage, stage.ledger.child("trial 0")))
    for stage, _ in left:
        client.update_run(stage.ledger.run_id, status="RUNNING")
        stage.folder.update(status="running", process={"host": this_process()["host"], "pid": ended.pid})

    def status(run_id: str) -> str:
        return str(client.get_run(run_id).info.status)

    (first, its_trial), (second, other_trial), (third, last_trial) = left
    third.folder.update(mlflow_run=None)
    assert {status(run.run_id) for stage, trial in left for run in (stage.ledger, trial)} == {"RUNNING"}
    with open_stage("train_mae", cfg, {"split": "second"}, machine, resume=True) as stage:
        assert stage.resumed and stage.folder == second.folder
        assert {status(run.run_id) for run in (first.ledger, its_trial, other_trial, third.ledger, last_trial)} == {
            "KILLED"
        }
        assert status(second.ledger.run_id) == "RUNNING"
    assert status(second.ledger.run_id) == "FINISHED" and first.folder.record()["status"] == "killed"


def test_a_run_that_had_not_noted_its_mlflow_run_goes_on_in_it(
    mlflow_runs: Path, client: MlflowClient, machine: Machine
) -> None:
    cfg = stage_config(mlflow_runs, mlflow=True)
    with pytest.raises(KeyboardInterrupt), open_stage("train_painter", cfg, {}, machine, resume=False) as killed:
        raise KeyboardInterrupt
    killed.folder.update(mlflow_run=None)
    with open_stage("train_painter", cfg, {}, machine, resume=True) as stage:
        assert stage.folder == killed.folder and stage.ledger.run_id == killed.ledger.run_id
    assert client.get_run(killed.ledger.run_id).info.status == "FINISHED"


def test_an_interrupt_while_mlflow_makes_the_run_leaves_nothing_running(
    mlflow_runs: Path, client: MlflowClient, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    real = stages.open_ledger

    def interrupted(*given: Any) -> Any:
        made = real(*given)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(stages, "open_ledger", interrupted)
    cfg = stage_config(mlflow_runs, mlflow=True)
    with pytest.raises(KeyboardInterrupt), open_stage("sample", cfg, {}, machine, resume=False):
        pass
    signal.signal(signal.SIGINT, before)
    (folder,) = (RunFolder(path.parent) for path in (mlflow_runs / "sample").glob("*/run.json"))
    experiment = client.get_experiment_by_name("sample")
    assert status_of(folder) == "killed"
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["KILLED"]


def test_a_run_whose_ledger_cannot_be_opened_has_failed_and_can_be_resumed(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise OSError("the database is locked")

    cfg = stage_config(tmp_path, mlflow=True)
    monkeypatch.setattr("masked_memory.pipeline.stage.open_ledger", broken)
    with pytest.raises(OSError, match="locked"), open_stage("train_vqvae", cfg, {}, machine, resume=False):
        pass
    (folder,) = (RunFolder(path.parent) for path in (tmp_path / "train_vqvae").glob("*/run.json"))
    assert (status_of(folder), folder.record()["error"]) == ("failed", "the database is locked")
    plain = stage_config(tmp_path)
    with open_stage("train_vqvae", plain, {}, machine, resume=True) as stage:
        assert stage.resumed and stage.folder == folder


def test_the_commit_of_a_run_is_that_of_its_start(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is made while a model trains did not make it."""
    commits = iter(["before", "while it trained", "later"])
    monkeypatch.setattr("masked_memory.pipeline.stage.commit", lambda: next(commits))
    with open_stage("train_vqvae", stage_config(tmp_path), {}, machine, resume=False) as stage:
        stage.model({"w": torch.ones(2)}, {}, {})
        stage.finish("abc", 0.5, "mse", True)
    assert read_json(stage.folder.model / "meta.json")["commit"] == stage.folder.record()["commit"] == "before"


def test_inputs_are_named_by_their_stage_or_as_told_and_what_is_not_there_is_left_out() -> None:
    class Made(NamedTuple):
        stage: str
        folder: Path

    first, second = Made("data_split", Path("a")), Made("train_vqvae", Path("b"))
    assert inputs_of([first, second], rival=second, other=None) == {"data_split": "a", "train_vqvae": "b", "rival": "b"}
