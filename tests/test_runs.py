"""Run folders, the hand-off between stages, and the MLflow ledger."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from pipeline import runs
from pipeline.files import InputError, read_json
from pipeline.machine import Machine
from pipeline.runs import RunFolder, check_handed, note_best, read_best, resolve_run
from pipeline.stage import open_stage
from pipeline.tracking import Ledger, MlflowLedger, NullLedger, database_uri, open_ledger, registered_run
from settings.config import Config

MEND = "python train_vqvae.py"


def made(runs: Path, stage: str = "train_vqvae", digest: str = "d1", status: str = "running") -> RunFolder:
    folder = RunFolder.create(runs, stage, "run:\n  seed: 0\n", digest)
    folder.update(status=status)
    return folder


def said(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Run folders


def test_a_run_folder_holds_its_settings_and_its_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "train_vqvae", "run:\n  seed: 3\n", "d1")
    assert folder.path.parent == tmp_path / "train_vqvae"
    assert (folder.path / "config.yaml").read_text(encoding="utf-8") == "run:\n  seed: 3\n"
    assert folder.record() == {"stage": "train_vqvae", "status": "running", "digest": "d1"}
    folder.update(status="finished", score=0.5)
    assert folder.record() == {"stage": "train_vqvae", "status": "finished", "digest": "d1", "score": 0.5}
    folder.write_metrics({"psnr": 20.5})
    assert read_json(folder.path / "metrics.json") == {"psnr": 20.5}


def test_runs_started_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert len({made(tmp_path).path for _ in range(5)}) == 5


def test_history_written_again_has_no_line_twice(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.write_history([{"epoch": 1, "val_loss": 0.5}])
    folder.write_history([{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.4}])
    lines = (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_only_an_unfinished_run_with_the_same_settings_is_found(tmp_path: Path) -> None:
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") is None
    made(tmp_path, status="finished")
    made(tmp_path, digest="d2")
    made(tmp_path, stage="train_distil")
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") is None
    killed = made(tmp_path)
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") == killed
    killed.update(status="failed")
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") == killed
    killed.update(status="finished")
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") is None


def test_the_newest_unfinished_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for second in (2, 9, 5):
        monkeypatch.setattr(runs.time, "strftime", lambda form, s=second: f"20300101-00000{s}")
        folders.append(made(tmp_path))
    assert RunFolder.find_unfinished(tmp_path, "train_vqvae", "d1") == folders[1]


# The best run


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_better_score_stays_in_either_direction(lower_is_better: bool, tmp_path: Path) -> None:
    good, bad = (1.0, 2.0) if lower_is_better else (2.0, 1.0)
    first, second, third = made(tmp_path), made(tmp_path), made(tmp_path)
    assert note_best(first, "split a", bad, "mse", lower_is_better)
    assert note_best(second, "split a", good, "mse", lower_is_better)
    assert not note_best(third, "split a", bad, "mse", lower_is_better)
    entry = read_best(tmp_path, "train_vqvae")["split a"]
    assert (entry["run"], entry["score"], entry["metric"]) == (second.name, good, "mse")


def test_each_key_has_a_best_run_of_its_own(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    assert note_best(first, "split a", 0.1, "mse", True)
    assert note_best(second, "split b", 9.9, "mse", True)
    assert {key: entry["run"] for key, entry in read_best(tmp_path, "train_vqvae").items()} == {
        "split a": first.name,
        "split b": second.name,
    }


def test_without_a_score_the_newest_run_is_the_best(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    assert note_best(first, "split a", None, "", True) and note_best(second, "split a", None, "", True)
    assert read_best(tmp_path, "train_vqvae")["split a"]["run"] == second.name


def test_a_best_run_whose_folder_is_gone_can_be_replaced(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    note_best(first, "split a", 0.1, "mse", True)
    first.path.rename(tmp_path / "elsewhere")
    assert note_best(second, "split a", 0.9, "mse", True)


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_score_that_is_no_number_never_replaces_one(lower_is_better: bool, tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    note_best(first, "split a", 0.5, "mse", lower_is_better)
    assert not note_best(second, "split a", float("nan"), "mse", lower_is_better)
    assert read_best(tmp_path, "train_vqvae")["split a"]["run"] == first.name


# Finding a run


def resolve(runs: Path, asked: str = "best", key: str = "split a") -> Path:
    return resolve_run(runs, "train_vqvae", asked, key, "split a (32 pixels)", MEND)


def test_best_is_the_best_run_of_the_key(tmp_path: Path) -> None:
    for score in (0.5, 0.2, 0.9):
        note_best(made(tmp_path), "split a", score, "mse", True)
    found = resolve(tmp_path)
    assert found.name == read_best(tmp_path, "train_vqvae")["split a"]["run"]
    assert read_best(tmp_path, "train_vqvae")["split a"]["score"] == 0.2


def test_a_named_run_folder_is_taken_even_from_elsewhere(tmp_path: Path) -> None:
    folder = made(tmp_path / "other runs")
    assert resolve(tmp_path, str(folder.path)) == folder.path


def test_a_missing_run_says_for_what_and_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(tmp_path)
    message = said(caught)
    assert "train_vqvae for split a (32 pixels)" in message and message.endswith(f"type: {MEND}")
    note_best(made(tmp_path), "split b", 0.1, "mse", True)
    with pytest.raises(InputError, match=r"1 for others"):
        resolve(tmp_path)


def test_a_best_run_that_was_deleted_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    note_best(folder, "split a", 0.1, "mse", True)
    folder.path.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        resolve(tmp_path)
    message = said(caught)
    assert folder.name in message and "gone" in message and message.endswith(f"type: {MEND}")


def test_a_folder_that_is_no_run_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, str(tmp_path / "nowhere"))
    assert "nowhere" in said(caught) and "expected best or a folder under" in said(caught)


def test_a_hand_off_that_fits_passes_and_one_that_does_not_names_both_values() -> None:
    file = Path("runs") / "x" / "meta.json"
    check_handed(file, {"codebook_size": 256, "split": "abc", "more": 1}, {"codebook_size": 256, "split": "abc"}, MEND)
    with pytest.raises(InputError) as caught:
        check_handed(file, {"codebook_size": 256, "split": "abc"}, {"split": "abc", "codebook_size": 128}, MEND)
    assert said(caught) == f"{file}: codebook_size is 256, but 128 is needed here; type: {MEND}"
    with pytest.raises(InputError, match="split is None, but abc is needed"):
        check_handed(file, {}, {"split": "abc"}, MEND)


# The ledger. The database is made once: that takes seconds.


@pytest.fixture(scope="module")
def mlflow_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "runs"


@pytest.fixture
def ledger(mlflow_runs: Path) -> MlflowLedger:
    return open_ledger(mlflow_runs, "train_vqvae", "a run", {"stage": "train_vqvae"}, None)


@pytest.fixture
def client(mlflow_runs: Path) -> MlflowClient:
    return MlflowClient(database_uri(mlflow_runs), database_uri(mlflow_runs))


def test_params_and_metrics_are_there_to_read(ledger: MlflowLedger, client: MlflowClient) -> None:
    ledger.params({f"section.key_{n}": n for n in range(230)} | {"nothing": None, "list": [1, 2]})
    for step in (1, 2, 3):
        ledger.metrics({"val_loss": 1 / step, "train_loss": 2 / step}, step)
    ledger.tags({"pruned": "true"})
    ledger.end("FINISHED")
    run = client.get_run(ledger.run_id)
    assert len(run.data.params) == 232
    assert run.data.params["section.key_229"] == "229" and run.data.params["list"] == "[1, 2]"
    history = client.get_metric_history(ledger.run_id, "val_loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert run.data.tags["pruned"] == "true" and run.data.tags["stage"] == "train_vqvae"
    assert run.info.status == "FINISHED" and run.info.run_name == "a run"


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    ledger: MlflowLedger, client: MlflowClient, mlflow_runs: Path
) -> None:
    ledger.params({"seed": 0})
    ledger.metrics({"val_loss": 1.0}, 1)
    ledger.end("KILLED")
    again = open_ledger(mlflow_runs, "train_vqvae", "a run", {}, ledger.run_id)
    assert client.get_run(again.run_id).info.status == "RUNNING"
    again.params({"seed": 0, "later": 1})  # MLflow itself refuses a param that is logged twice with another value
    again.metrics({"val_loss": 0.5}, 2)
    again.end("FINISHED")
    run = client.get_run(ledger.run_id)
    assert again.run_id == ledger.run_id and run.data.params == {"seed": "0", "later": "1"}
    assert len(client.get_metric_history(ledger.run_id, "val_loss")) == 2


def test_a_child_is_nested_under_its_parent(ledger: MlflowLedger, client: MlflowClient) -> None:
    child = ledger.child("trial 0")
    child.params({"learning_rate": 0.1})
    child.end("FAILED")
    run = client.get_run(child.run_id)
    assert run.data.tags["mlflow.parentRunId"] == ledger.run_id
    assert run.info.run_name == "trial 0" and run.info.status == "FAILED"
    assert run.info.experiment_id == client.get_run(ledger.run_id).info.experiment_id
    assert client.get_run(ledger.run_id).data.params == {}, "what a trial tries is not the parent's setting"


def test_artifacts_lie_under_the_runs_folder(
    ledger: MlflowLedger, client: MlflowClient, mlflow_runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curves.png").write_bytes(b"a picture")
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    ledger.artifacts(tmp_path / "figures", "figures")
    ledger.artifacts(tmp_path / "metrics.json")
    assert {entry.path for entry in client.list_artifacts(ledger.run_id)} == {"figures", "metrics.json"}
    (stored,) = (mlflow_runs / "artifacts").rglob(f"{ledger.run_id}/**/curves.png")
    assert stored.read_bytes() == b"a picture"


def test_the_dataset_is_logged_with_its_digest(ledger: MlflowLedger, client: MlflowClient, tmp_path: Path) -> None:
    ledger.dataset("digits", "abc123", tmp_path)
    (logged,) = client.get_run(ledger.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("digits", "abc123")


def test_a_registered_model_leads_back_to_its_run_folder(mlflow_runs: Path, tmp_path: Path) -> None:
    """The alias moves to the newer model only when it is given; versions stay."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    ledgers = []
    for alias in ("champion", None, "champion"):
        folder = made(mlflow_runs)
        ledger = open_ledger(mlflow_runs, "train_vqvae", folder.name, {"stage": "train_vqvae"}, None)
        ledger.artifacts(tmp_path, "model")
        ledger.register("vqvae", alias)
        ledgers.append(folder)
        champion = registered_run(mlflow_runs, "models:/vqvae@champion")
        assert champion == (folder if alias else ledgers[0]).path
    assert registered_run(mlflow_runs, "models:/vqvae/2") == ledgers[1].path
    assert resolve(mlflow_runs, "models:/vqvae@champion") == ledgers[2].path
    ledgers[2].path.rename(mlflow_runs / "elsewhere")
    with pytest.raises(InputError, match="which is gone"):
        registered_run(mlflow_runs, "models:/vqvae@champion")


@pytest.mark.parametrize("uri", ["models:/nosuch@champion", "models:/vqvae@nosuch", "models:/vqvae/99", "models:/odd"])
def test_an_unknown_model_is_refused_with_what_is_registered(uri: str, mlflow_runs: Path) -> None:
    with pytest.raises(InputError) as caught:
        registered_run(mlflow_runs, uri)
    assert said(caught).startswith(f"{uri} is not registered in") and "registered are: " in said(caught)


def test_the_null_ledger_takes_every_call_that_the_mlflow_ledger_takes() -> None:
    def methods(kind: type) -> dict[str, inspect.Signature]:
        functions = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(f).replace(return_annotation=None) for name, f in functions if name[0] != "_"}

    assert methods(NullLedger) == methods(MlflowLedger) == methods(Ledger)
    null = NullLedger()
    null.child("trial 0").metrics({"loss": 1.0}, 1)
    assert null.run_id == ""


# The frame around a stage


def stage_config(runs: Path, mlflow: bool = False) -> Config:
    return Config.model_validate({"run": {"dir": str(runs), "mlflow": mlflow}})


def status_of(folder: RunFolder) -> str:
    return folder.record()["status"]


def test_a_stage_that_ends_well_is_finished_and_in_best_json(
    tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = stage_config(tmp_path)
    with open_stage("train_vqvae", cfg, {"data_split": "x"}, "identity", machine, resume=False) as stage:
        assert status_of(stage.folder) == "running"
        stage.metrics["psnr"] = 21.0
        stage.model({"w": torch.ones(2)}, {"hidden": 8}, {"split": "abc"})
        stage.finish("abc", 0.5, "mse", True)
    assert status_of(stage.folder) == "finished"
    assert resolve(tmp_path, key="abc") == stage.folder.path
    meta = read_json(stage.folder.model / "meta.json")
    assert (meta["split"], meta["run"], meta["stage"]) == ("abc", stage.folder.name, "train_vqvae")
    assert meta["metrics"] == {"psnr": 21.0} and "torch" in meta["versions"]
    assert read_json(stage.folder.path / "metrics.json")["psnr"] == 21.0
    assert capsys.readouterr().out.splitlines()[-1] == str(stage.folder.path)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_stage_that_breaks_is_resumed_by_the_same_settings_only(
    error: BaseException, tmp_path: Path, machine: Machine
) -> None:
    def start(identity: str, inputs: dict[str, str], resume: bool, act: Callable[[], None]) -> tuple[RunFolder, bool]:
        with open_stage("train_vqvae", stage_config(tmp_path), inputs, identity, machine, resume) as stage:
            act()
        return stage.folder, stage.resumed

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        start("same", {"data_split": "x"}, False, fail)
    (broken,) = (RunFolder(path.parent) for path in (tmp_path / "train_vqvae").glob("*/run.json"))
    assert status_of(broken) == "failed" and broken.record()["error"] in ("broken", "KeyboardInterrupt")
    assert read_best(tmp_path, "train_vqvae") == {}
    for identity, inputs, resume in (("other", "x", True), ("same", "y", True), ("same", "x", False)):
        folder, resumed = start(identity, {"data_split": inputs}, resume, lambda: None)
        assert not resumed and folder != broken
        folder.update(status="finished")
    assert start("same", {"data_split": "x"}, True, lambda: None) == (broken, True)


def test_a_run_that_is_not_handed_on_does_not_become_the_best(tmp_path: Path, machine: Machine) -> None:
    with open_stage("vqvae_reconstruction", stage_config(tmp_path), {}, "", machine, resume=False) as stage:
        stage.finish(None)
    assert status_of(stage.folder) == "finished" and read_best(tmp_path, "vqvae_reconstruction") == {}


def test_a_stage_with_mlflow_leaves_the_same_numbers_there(
    mlflow_runs: Path, client: MlflowClient, machine: Machine
) -> None:
    """A killed stage goes on in its MLflow run; the model that wins is the champion."""
    cfg = stage_config(mlflow_runs, mlflow=True)
    frame = open_stage("train_classifier", cfg, {"vqvae": "some run"}, "id", machine, resume=False)
    with pytest.raises(KeyboardInterrupt), frame as killed:
        raise KeyboardInterrupt
    assert client.get_run(killed.ledger.run_id).info.status == "KILLED"
    with open_stage("train_classifier", cfg, {"vqvae": "some run"}, "id", machine, resume=True) as stage:
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
