"""What MLflow is told while its server is there, away, and back again: a real server on loopback, with artifacts."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.files import InputError
from pipeline.runs import RunFolder
from pipeline.spool import PatientLedger, Spool, deliver, undelivered
from pipeline.tracking import open_ledger, reach, registered_run

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """MLflow's own, which can be stopped and started again over the same files."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None
        folder.mkdir()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "kept")]
        with (self.folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < until, (self.folder / "log.txt").read_text()[-2000:]
                time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 15)
            self.process.wait(timeout=30)
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server") / "files")
    made.start()
    yield made
    made.stop()


def history(client: MlflowClient, run: str, metric: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client.get_metric_history(run, metric)]


def test_a_server_that_goes_away_is_told_the_rest_later_and_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    runs = tmp_path / "runs"
    folder = RunFolder.create(runs, "train_vqvae", "", "key")
    (folder.model).mkdir()
    (folder.model / "model.safetensors").write_bytes(b"weights")
    opened = open_ledger(runs, "train_vqvae", folder.name, {"stage": "train_vqvae"}, None, server.uri)
    where = {"uri": server.uri, "experiment": opened.experiment_id}
    ledger = PatientLedger(opened, Spool(folder.path, where, said.append), opened.run_id)
    ledger.params({"seed": 3})
    ledger.metrics({"loss": 0.5}, step=1)
    trial = ledger.child("trial 0")
    trial.metrics({"mse": 0.1}, step=1)
    assert not undelivered(runs) and not said

    server.stop()
    started = time.monotonic()
    ledger.metrics({"loss": 0.25}, step=2)
    trial.end("FINISHED")
    late = ledger.child("trial 1")
    late.params({"learning_rate": 0.01})
    late.end("FINISHED")
    ledger.dataset("pictures", "abc", tmp_path)
    ledger.artifacts(folder.model, "model")
    ledger.register("vqvae-pictures", "champion")
    ledger.end("FINISHED")
    assert time.monotonic() - started < 30, "only the first call waits"
    assert len(said) == 1 and "summary.py --sync" in said[0]
    assert undelivered(runs) == [folder.path]
    with pytest.raises(InputError, match="does not answer"):
        deliver(folder.path)

    server.start()
    assert deliver(folder.path) == 9
    assert not undelivered(runs)
    client = reach(server.uri)
    assert history(client, opened.run_id, "loss") == [(1, 0.5), (2, 0.25)]
    run = client.get_run(opened.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "3"}
    assert [f.path for f in client.list_artifacts(opened.run_id, "model")] == ["model/model.safetensors"]
    parents = f"tags.`mlflow.parentRunId` = '{opened.run_id}'"
    children = client.search_runs([opened.experiment_id], filter_string=parents)
    assert sorted((each.info.run_name, each.info.status) for each in children) == [
        ("trial 0", "FINISHED"),
        ("trial 1", "FINISHED"),
    ]
    assert registered_run(runs, "models:/vqvae-pictures@champion", server.uri) == folder.path


def test_a_delivery_that_is_cut_off_goes_on_where_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between making an MLflow run and noting that it was made: no run is made twice."""
    folder = RunFolder.create(tmp_path / "runs", "train_distil", "", "key")
    opened = open_ledger(tmp_path / "runs", "train_distil", folder.name, {}, None, server.uri)
    spool = Spool(folder.path, {"uri": server.uri, "experiment": opened.experiment_id}, lambda text: None)
    spool.add(opened.run_id, "tags", [{"first": "yes"}])  # as if it had not answered
    ledger = PatientLedger(opened, spool, opened.run_id)
    ledger.child("trial 0").metrics({"loss": 2.0}, step=1)
    (folder.path / "undelivered.jsonl").open("a").write('{"run": "torn')

    def cut_off(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.spool.MlflowLedger.metrics", cut_off)
        deliver(folder.path)
    state = folder.path / "delivered.json"
    state.write_text(state.read_text().replace('"done": 2', '"done": 1'))  # killed before it was noted
    assert deliver(folder.path) == 3
    client = reach(server.uri)
    children = client.search_runs([opened.experiment_id], filter_string="attributes.run_name = 'trial 0'")
    assert len(children) == 1 and history(client, children[0].info.run_id, "loss") == [(1, 2.0)]


def test_a_server_that_is_not_there_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer .*type --run\.mlflow false"):
        open_ledger(tmp_path / "runs", "train_vqvae", "a run", {}, None, "http://127.0.0.1:9")


def test_what_a_run_asks_wrongly_is_an_error_and_is_not_spooled(server: Server, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs", "train_mae", "", "key")
    opened = open_ledger(tmp_path / "runs", "train_mae", folder.name, {}, None, server.uri)
    ledger = PatientLedger(opened, Spool(folder.path, {}, lambda text: None), opened.run_id)
    with pytest.raises(Exception, match=r"(?i)invalid"):
        ledger.metrics({"no*such": 1.0}, step=0)
    assert not undelivered(tmp_path / "runs")
