"""Several workers on one study, over SQLite and over a real PostgreSQL: exactly the budget, also when one is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from masked_memory import tune
from masked_memory.pipeline import tuning
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.settings.loading import ConfigError, load
from masked_memory.stages import train_vqvae
from toys import ROOT, Ran, copied, newest, tiny

pytestmark = pytest.mark.system

#: A worker on a study of toys. Notes each trial that it begins and each that it ends. "hang": it hangs in its second.
WORKER = """
import json, sys, time
from pathlib import Path
from masked_memory.pipeline import processes
from masked_memory.pipeline import tuning
from masked_memory.pipeline import workers
workers.BEAT_SECONDS, workers.GRACE_SECONDS, tuning.POLL_SECONDS = 0.2, 1.5, 0.1
url, runs, name, notes, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5]
if mode == "elsewhere":
    processes.platform.node = lambda: "another machine"
storage = tuning.Storage.of(runs, url or None)
study = tuning.open_study(storage, "shared", True, 2)
begun = []
def note(**values):
    with notes.open("a") as file:
        file.write(json.dumps({"worker": name, **values}) + "\\n")
def objective(trial, values):
    begun.append(trial.number)
    note(begun=trial.number, params=values)
    if mode in ("hang", "elsewhere") and len(begun) == 2:
        time.sleep(600)
    time.sleep(0.1)
    note(ended=trial.number)
    return values["x"] ** 2
space = {"x": {"low": -1.0, "high": 1.0}}
tuning.optimize(study, storage, tuning.Search(space, {"x": 0.5}), 12, 0, objective, lambda text: None)
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own on a socket in a temporary folder."""
    places = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])  # Debian's
    initdb, server = shutil.which("initdb", path=places), shutil.which("postgres", path=places)
    if not initdb or not server:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("postgres")
    if os.geteuid() == 0:
        pytest.importorskip("pwd").getpwnam("postgres")
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    as_user = {"user": "postgres"} if os.geteuid() == 0 else {}
    subprocess.run(
        [initdb, "-D", folder / "data", "-U", "tuner", "--auth=trust"], check=True, capture_output=True, **as_user
    )
    process = subprocess.Popen(
        [server, "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user,
    )  # fmt: skip
    try:
        for _ in range(100):
            if (folder / ".s.PGSQL.5432").exists():
                break
            time.sleep(0.1)
        yield f"postgresql+psycopg://tuner@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def start(url: str, runs: Path, name: str, notes: Path, mode: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, url, str(runs), name, str(notes), mode], cwd=ROOT)


def noted(notes: Path) -> list[dict]:
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.is_file() else []


def until(notes: Path, worker: str, begun: int) -> None:
    for _ in range(600):
        if sum(line["worker"] == worker and "begun" in line for line in noted(notes)) >= begun:
            return
        time.sleep(0.1)
    raise AssertionError(f"{worker} did not begin {begun} trials")


@pytest.mark.parametrize("mode", ["hang", "elsewhere"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_three_workers_of_which_one_is_killed_end_exactly_the_budget(
    kind: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of this machine, where the process is missed at once, and of another, whose beats stop."""
    url = request.getfixturevalue("postgres") if kind == "postgres" else ""
    runs, notes = tmp_path / "runs", tmp_path / "notes.jsonl"
    storage = tuning.Storage.of(runs, url or None)
    study = tuning.open_study(storage, "shared", True, 2)
    killed = start(url, runs, "killed", notes, mode)
    until(notes, "killed", 2)
    others = [start(url, runs, name, notes) for name in ("a", "b")]
    time.sleep(0.5)
    killed.kill()
    killed.wait()
    assert [worker.wait(timeout=120) for worker in others] == [0, 0]
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 12
    assert not {TrialState.RUNNING, TrialState.WAITING} & set(states)
    lost = [line for line in noted(notes) if line["worker"] == "killed" and "begun" in line][1]
    assert sum(line.get("params") == lost["params"] for line in noted(notes)) == 2, "its setting was run again"
    ended = [line["ended"] for line in noted(notes) if "ended" in line]
    assert len(ended) == len(set(ended)) == 12
    values = [trial.params["x"] for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(set(values)) == 12, "no two workers draw alike"
    optuna.delete_study(study_name="shared", storage=storage.url)


def test_what_is_missing_is_said_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert tune.main(["vqvae"]) == 2
    assert "'vqvae' is not a training stage; expected one of: train_vqvae, " in capsys.readouterr().err
    assert tune.main([]) == 2 and "no stage is named" in capsys.readouterr().err
    assert tune.main(["train_vqvae", "--run.dir", str(tmp_path)]) == 2
    assert "workers need a common study; type --train_vqvae.tune.study NAME" in capsys.readouterr().err


def test_a_database_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path) -> None:
    storage = tuning.Storage.of(tmp_path, f"sqlite:///{tmp_path}/no/such/folder/studies.db")
    with pytest.raises(InputError, match=r"the study cannot be opened at sqlite:.*; check tune\.storage"):
        tuning.open_study(storage, "shared", True, 2)


def test_a_database_that_breaks_amid_a_study_is_said_in_one_line(tmp_path: Path) -> None:
    storage = tuning.Storage.of(tmp_path, None)
    study = tuning.open_study(storage, "broken", True, 2)

    def breaks(trial: optuna.Trial, values: dict[str, float]) -> float:
        (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
        return 1.0

    search = tuning.Search({"x": {"low": 0.0, "high": 1.0}}, {"x": 0.5})
    with (
        pytest.raises(InputError, match=r"the study cannot be continued at sqlite:.*; check tune\.storage"),
        tuning.answering(storage, "continued"),
    ):
        tuning.optimize(study, storage, search, 2, 0, breaks, print)


@pytest.mark.parametrize(
    ("url", "message"),
    [("postgresql://me:secret@host/optuna", "holds a password"), ("optuna.db", "expected a database URL")],
)
def test_passwords_and_paths_are_refused_as_storage(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load([], {"train_vqvae.tune.storage": url})
    assert "secret" not in str(caught.value)


def test_workers_run_the_trials_of_a_stage(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a run folder; the fit that follows takes the best of them and runs none itself."""
    runs = copied(ran.runs, tmp_path / "runs", "data_split")
    asked = {"trials": 2, "epochs": 1, "study": "shared", "space": {"learning_rate": [0.001, 0.004]}}
    cfg = tiny(runs, ran.source, run__mlflow=False, train_vqvae={"tune": asked})
    best = tune.work("train_vqvae", cfg)
    assert not (runs / "train_vqvae").exists()
    study = optuna.load_study(study_name="shared", storage=tuning.Storage.of(runs, None).url)
    assert len(study.trials) == 2 and study.best_value == best
    train_vqvae.run(cfg)
    assert len(study.trials) == 2
    chosen = read_json(newest(runs, "train_vqvae") / "metrics.json")
    assert "best_val_mse" in chosen and "as set" in (out := capsys.readouterr().out) and "taken" in out
