"""What MLflow is told while its server is there, away, and back again: a real server on loopback, with artifacts."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.files import InputError, sqlite_url, write_text
from masked_memory.pipeline.runs import RunFolder
from masked_memory.pipeline.tracking import MlflowLedger, client_of, open_ledger, reach, registered_run
from masked_memory.pipeline.undelivered import PatientLedger, Spool, deliver, undelivered

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


@pytest.mark.system
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
        patch.setattr("masked_memory.pipeline.undelivered.MlflowLedger.metrics", cut_off)
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


def test_a_server_on_this_machine_is_reached_past_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "Default" in {experiment.name for experiment in reach(server.uri).search_experiments()}


# --- the database beside the runs -------------------------------------------------------------------------------------


class Waiting:
    """A finished run with a model, of which nothing has arrived."""

    def __init__(self, runs: Path) -> None:
        self.folder = RunFolder.create(runs, "train_vqvae", "", "key")
        self.folder.update(status="finished")
        self.folder.model.mkdir()
        (self.folder.model / "weights").write_bytes(b"weights")
        self.said: list[str] = []
        opened = open_ledger(runs, "train_vqvae", self.folder.name, {}, None)
        self.run_id, self.where = opened.run_id, {"uri": None, "experiment": opened.experiment_id}
        self.opened, self.file = opened, self.folder.path / "undelivered.jsonl"

    def ledger(self, inner: MlflowLedger | None = None) -> PatientLedger:
        return PatientLedger(inner, Spool(self.folder.path, self.where, self.said.append), self.run_id)

    def add_all(self) -> None:
        told = self.ledger()
        told.tags({"told": "late"})
        told.artifacts(self.folder.model, "model")
        told.dataset("digits", "abc", self.folder.path.parent.parent / "data_split" / "a")


@pytest.fixture
def waiting(mlflow_runs: Path, tmp_path: Path) -> Waiting:
    open_ledger(mlflow_runs, "train_vqvae", "x", {}, None).end("FINISHED")
    shutil.copytree(mlflow_runs, tmp_path / "runs")
    return Waiting(tmp_path / "runs")


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "moved"])
@pytest.mark.parametrize("earlier", [True, False], ids=["whole paths", "paths from the run folder on"])
def test_what_waits_is_delivered_where_the_project_is_now(
    waiting: Waiting, tmp_path: Path, copied: bool, earlier: bool
) -> None:
    old, new = tmp_path / "runs", tmp_path / "else where" / "runs"
    waiting.add_all()
    if earlier:  # as spools were written before
        lines = [json.loads(line) for line in waiting.file.read_text().splitlines()]
        lines[0]["where"]["uri"] = sqlite_url(old / "mlflow.db")
        lines[2]["arguments"][0] = str(waiting.folder.model)
        waiting.file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        assert str(tmp_path) not in waiting.file.read_text()
    shutil.copytree(old, new) if copied else shutil.move(old, new)
    assert deliver(new / "train_vqvae" / waiting.folder.name) == 3
    client = client_of(new)
    assert client.get_run(waiting.run_id).data.tags["told"] == "late"
    assert Path(client.download_artifacts(waiting.run_id, "model/weights")).read_bytes() == b"weights"
    if not earlier:
        (used,) = client.get_run(waiting.run_id).inputs.dataset_inputs
        assert json.loads(used.dataset.source)["uri"] == str(new / "data_split" / "a")
    if copied:
        assert "told" not in client_of(old).get_run(waiting.run_id).data.tags and waiting.file.is_file()


def test_a_folder_that_cannot_be_written_is_named_and_the_rest_waits(waiting: Waiting, tmp_path: Path) -> None:
    taken = tmp_path / "runs" / "artifacts" / waiting.run_id
    taken.parent.mkdir(exist_ok=True)
    taken.write_text("a file in the place of the folder")
    ledger = waiting.ledger(waiting.opened)
    ledger.artifacts(waiting.folder.model, "model")
    ledger.end("FINISHED")
    assert waiting.said[0].startswith(f"cannot write {taken}") and "does not answer" not in waiting.said[0]
    with pytest.raises(InputError, match="0 of 2 entries have arrived, the rest waits") as refused:
        deliver(waiting.folder.path)
    assert str(refused.value).startswith(f"cannot write {taken}")
    taken.unlink()
    assert deliver(waiting.folder.path) == 2
    assert client_of(tmp_path / "runs").get_run(waiting.run_id).info.status == "FINISHED"


def delete_the_run(waiting: Waiting) -> None:
    client_of(waiting.folder.path.parent.parent).delete_run(waiting.run_id)


def forget_the_run(waiting: Waiting) -> None:
    waiting.file.write_text(waiting.file.read_text().replace(waiting.run_id, "0" * 32))


def delete_the_experiment(waiting: Waiting) -> None:
    waiting.file.unlink()
    waiting.ledger().child("trial 0")
    client_of(waiting.folder.path.parent.parent).delete_experiment(waiting.where["experiment"])


def lose_the_model(waiting: Waiting) -> None:
    shutil.rmtree(waiting.folder.model)


def write_state(text: str) -> Callable[[Waiting], None]:
    return lambda waiting: write_text(waiting.folder.path / "delivered.json", text)


def damage(number: int, text: str) -> Callable[[Waiting], None]:
    def work(waiting: Waiting) -> None:
        lines = waiting.file.read_text().splitlines()
        lines[number] = text
        waiting.file.write_text("\n".join(lines) + "\n")

    return work


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (delete_the_run, r"line 2 of .* cannot be delivered \(.*must be in the 'active' state"),
        (forget_the_run, r"line 2 of .* cannot be delivered \(.*Run with id=0+ not found"),
        (delete_the_experiment, r"line 2 of .* cannot be delivered \(.*'active' state"),
        (lose_the_model, r"line 3 of .* cannot be delivered \(\S+model is missing\)"),
        (damage(2, '{"run": "to'), "line 3 of .* is damaged; delete it to go on without it"),
        (damage(2, '["run"]'), "line 3 of .* is damaged"),
        (damage(0, '{"run": "to'), "line 1 of .* is damaged; delete the file"),
        (damage(1, '{"run": "x", "call": "nothing", "arguments": []}'), r"line 2 of .* cannot be delivered \(Attri"),
        (damage(1, '{"run": 3, "call": "tags", "arguments": 4}'), "line 2 of .* cannot be delivered"),
        (lambda waiting: waiting.file.write_text(""), "undelivered.jsonl is empty; delete it"),
        (write_state("[]"), "delivered.json is damaged; delete it"),
        (write_state("{"), "delivered.json is not JSON"),
    ],
)
def test_what_cannot_be_delivered_is_one_line_and_stays(
    waiting: Waiting, harm: Callable[[Waiting], None], words: str
) -> None:
    waiting.add_all()
    harm(waiting)
    there = waiting.file.read_bytes()
    with pytest.raises(InputError, match=words) as refused:
        deliver(waiting.folder.path)
    assert "\n" not in str(refused.value) and waiting.file.read_bytes() == there
