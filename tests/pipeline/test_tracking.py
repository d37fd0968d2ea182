"""The MLflow ledger."""

import errno
import inspect
import sqlite3
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from sqlalchemy.exc import OperationalError

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.runs import RunFolder, Sought, resolve_run
from masked_memory.pipeline.tracking import Ledger, MlflowLedger, NullLedger, open_ledger, registered_run, trouble

MEND = "python train_vqvae.py"


def made(runs: Path, stage: str = "train_vqvae", digest: str = "d1", status: str = "running") -> RunFolder:
    folder = RunFolder.create(runs, stage, "run:\n  seed: 0\n", digest)
    folder.update(status=status)
    return folder


def said(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Finding a run


def resolve(runs: Path, asked: str = "best", key: str = "split a") -> Path:
    return resolve_run(runs, asked, Sought("train_vqvae", key, "split a (32 pixels)", MEND))


# The ledger. The database is made once: that takes seconds.


@pytest.fixture
def ledger(mlflow_runs: Path) -> MlflowLedger:
    return open_ledger(mlflow_runs, "train_vqvae", "a run", {"stage": "train_vqvae"}, None)


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


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + bytes(100)])
def test_a_database_that_is_none_is_said_in_one_line(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(InputError, match="cannot be used") as error:
        open_ledger(tmp_path, "train_vqvae", "run", {}, None)
    assert "--run.mlflow false" in said(error)
    assert (tmp_path / "mlflow.db").read_bytes() == content
    assert "Traceback" not in capfd.readouterr().err


SERVER = "http://127.0.0.1:9"


def caused(cause: Exception) -> Exception:
    try:
        raise OperationalError("INSERT", {}, cause) from cause
    except OperationalError as error:
        return error


@pytest.mark.parametrize(
    ("error", "uri", "expected"),
    [
        (PermissionError(errno.EACCES, "denied", "/x/artifacts/a"), SERVER, "cannot write /x/artifacts/a: denied"),
        (OSError(errno.ENOSPC, "No space left"), SERVER, "cannot write artifacts: No space left"),
        (requests.ConnectionError("refused"), SERVER, f"MLflow at {SERVER} does not answer (refused)"),
        (
            caused(sqlite3.OperationalError("read-only")),
            "sqlite:///x",
            "MLflow at sqlite:///x cannot be used (read-only)",
        ),
        (MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), SERVER, None),
        (TypeError("a mistake"), SERVER, None),
    ],
)
def test_trouble_is_named_by_its_cause(error: Exception, uri: str, expected: str | None) -> None:
    assert trouble(error, uri) == expected


def test_a_process_that_ends_while_tables_are_made_leaves_no_half_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would refuse a database with a part of its tables."""

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore.__init__", ended)
        with pytest.raises(KeyboardInterrupt):
            open_ledger(tmp_path, "train_vqvae", "x", {}, None)
    assert not (tmp_path / "mlflow.db").exists()
    for name in (".mlflow.db.0123abcd.db", ".mlflow.db.0123abcd.db-journal"):  # as a kill leaves them
        (tmp_path / name).write_bytes(b"half")
    open_ledger(tmp_path, "train_vqvae", "x", {}, None).end("FINISHED")
    assert (tmp_path / "mlflow.db").is_file() and not list(tmp_path.glob(".mlflow.db.0*"))
