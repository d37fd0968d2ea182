"""A stage that is asked to end: a plain kill, a closed terminal, Ctrl-C."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.files import read_json
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.stage import open_stage
from masked_memory.pipeline.tracking import database_uri
from masked_memory.stages import data_split
from toys import ROOT, draw_classes, newest, refused_in_one_line, tiny, words_of

pytestmark = pytest.mark.system


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("sent", "status"), [("SIGTERM", 143), ("SIGHUP", 143), ("SIGINT", 130)])
def test_a_stage_that_is_asked_to_end_is_noted_as_killed_and_resumes(sent: str, status: int, tmp_path: Path) -> None:
    runs, source = tmp_path / "runs", draw_classes(tmp_path / "pictures")
    data_split.run(tiny(runs, source, run__mlflow=False))
    long = {"epochs": 6, "least_steps": 300, "patience": 6, "tune.trials": 0}
    words = words_of("train_vqvae", runs, source, "--run.mlflow", sent == "SIGTERM")
    words += [word for key, value in long.items() for word in (f"--train_vqvae.{key}", str(value))]
    started = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(getattr(signal, sent), signal.SIG_DFL),  # tests in the background ignore some
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list((runs / "train_vqvae").glob("*/last/fit.safetensors")):
        assert time.monotonic() < until and started.poll() is None
        time.sleep(0.02)
    started.send_signal(getattr(signal, sent))
    _, errors = started.communicate(timeout=30)
    assert started.returncode == status
    last = errors.decode().splitlines()[-1]
    go_on = shlex.join(["python", "train_vqvae.py", *words[1:], "--resume"])
    assert last.endswith(f"interrupted; to go on, type: {go_on}"), last
    assert "Traceback" not in errors.decode()
    record = read_json(newest(runs, "train_vqvae") / "run.json")
    assert record["status"] == "killed"
    if sent == "SIGTERM":
        client = MlflowClient(database_uri(runs), database_uri(runs))
        assert client.get_run(record["mlflow_run"]).info.status == "KILLED"
        again = [sys.executable, *words, "--resume"]
        ended = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0 and "resuming" in ended.stdout, ended.stderr[-2000:]
        assert read_json(newest(runs, "train_vqvae") / "run.json")["status"] == "finished"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_what_a_sudden_end_leaves_is_cleared_by_the_next_start(
    tmp_path: Path, typed: Callable[..., tuple[int, str, str]], machine: Machine
) -> None:
    """SIGKILL amid a study: its run, a trial and half a checkpoint are left. While it ran nobody could take it over."""
    runs, source = tmp_path / "runs", draw_classes(tmp_path / "pictures")
    data_split.run(tiny(runs, source, run__mlflow=False))
    slow = {"tune.trials": 2, "tune.epochs": 200, "tune.patience": 200, "least_steps": 4000, "epochs": 200}
    long = ["--run.mlflow", "true"]
    long += [word for key, value in slow.items() for word in (f"--train_vqvae.{key}", str(value))]
    words = words_of("train_vqvae", runs, source, *long)
    started = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    client, left = MlflowClient(database_uri(runs), database_uri(runs)), []
    until = time.monotonic() + 90
    while len(left) < 2:  # the run, and a trial under it
        assert time.monotonic() < until and started.poll() is None
        time.sleep(0.1)
        if (runs / "train_vqvae").is_dir() and (runs / "optuna.db").is_file():
            found = [each.experiment_id for each in client.search_experiments()]
            left = [each.info.run_id for each in client.search_runs(found)]
    status, _, err = typed("train_vqvae", runs, source, *long, "--resume")
    refused_in_one_line(status, err, f"is being run by process {started.pid}")
    started.kill()
    started.communicate()
    killed = newest(runs, "train_vqvae")
    (killed / "last").mkdir(exist_ok=True)
    half = killed / "last" / ".fit.safetensors.0123abcd.safetensors"
    half.write_bytes(b"half")
    assert [client.get_run(each).info.status for each in left] == ["RUNNING"] * len(left)
    with open_stage("train_vqvae", tiny(runs, source), {}, machine, resume=False):
        assert [client.get_run(each).info.status for each in left] == ["KILLED"] * len(left)
    assert read_json(killed / "run.json")["status"] == "killed" and not half.exists()
