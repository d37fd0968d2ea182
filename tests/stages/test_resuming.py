"""The same seed, the same numbers; killed and resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_memory.pipeline.files import read_json
from toys import ROOT, STAGES, copied, newest, numbers, tiny, words_of

pytestmark = pytest.mark.system


@pytest.mark.usefixtures("without_drawing")
def test_same_seed_gives_bit_identical_metrics(ran, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[:3])
    cfg = tiny(runs, ran.source, run__mlflow=False)
    for stage in ("train_vqvae", "train_classifier", "train_distil"):
        STAGES[stage].run(cfg)
        assert numbers(newest(runs, stage)) == numbers(ran.folders[stage]), stage


@pytest.mark.usefixtures("without_drawing")
def test_the_same_command_gives_the_same_tables_byte_by_byte(ran, typed, tmp_path):
    """Whatever was drawn before from generators that all share."""
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (it is what must not count)
    status, out, err = typed("reconstruct_masked", runs, ran.source)
    assert status == 0, err
    again, first = Path(out.splitlines()[-1]), ran.folders["reconstruct_masked"]
    assert again.parent == runs / "reconstruct_masked" and again.name != first.name
    for name in ("curves.csv", "error_split.csv", "rivals.csv"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert numbers(again) == numbers(first)


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


#: Ends the process with SIGKILL: in the middle of the fourth epoch of the final fit or a later one, at the latest after
#: the ninth
KILLED = """
import os, signal, sys, threading
import {stage} as stage
from masked_memory.pipeline.runs import RunFolder
write = RunFolder.write_history

def write_and_be_killed(folder, history):
    write(folder, history)
    if len(history) == 3:
        threading.Timer(0.004, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if len(history) == 9:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.write_history = write_and_be_killed
sys.exit(stage.main())
"""


def long(stage: str) -> list[str]:
    return [f"--{stage}.epochs", "12", f"--{stage}.patience", "12", f"--{stage}.retrain", "false"]


@pytest.fixture(scope="module")
def killed(ran, tmp_path_factory) -> dict[str, Path]:
    """stage -> the run folder of a process that was killed. Both at once, as they mostly load libraries."""
    processes, found = {}, {}
    for stage in ("train_vqvae", "train_distil"):
        handed = [name for name in ("data_split", "train_vqvae", "vqvae_reconstruction") if name != stage]
        runs = copied(ran.runs, tmp_path_factory.mktemp(f"killed_{stage}") / "runs", *handed)
        words = words_of(stage, runs, ran.source, *long(stage))[1:]
        processes[stage] = runs, start(["-c", KILLED.format(stage=stage), *words], runs.parent)
    for stage, (runs, process) in processes.items():
        _, err = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, err
        found[stage] = newest(runs, stage)
    return found


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("stage", ["train_vqvae", "train_distil"])
def test_killed_and_resumed_equals_never_killed(ran, killed, typed, stage):
    """SIGKILL in the middle of the final fit; weights, history and test numbers end bit-equal."""
    folder = killed[stage]
    runs = folder.parent.parent
    assert read_json(folder / "run.json")["status"] == "running" and not (folder / "model").exists()
    assert 3 <= len((folder / "metrics.jsonl").read_text().splitlines()) < 12
    status, out, err = typed(stage, runs, ran.source, *long(stage), "--resume")
    assert status == 0, err
    assert f"resuming {folder}" in out and out.splitlines()[-1] == str(folder)
    status, out, err = typed(stage, runs, ran.source, *long(stage))
    assert status == 0, err
    whole = Path(out.splitlines()[-1])
    assert whole != folder
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 12
    assert numbers(folder) == numbers(whole)
    assert (folder / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize(
    ("stage", "counted", "tables"),
    [
        (
            "reconstruct_masked",
            "masked_memory.measuring.study.choose_order",
            ("curves.csv", "paired.csv", "per_picture.safetensors"),
        ),
        (
            "vqvae_reconstruction",
            "masked_memory.stages.vqvae_reconstruction.picture_errors",
            ("pictures.csv", "indices/indices.npy"),
        ),
    ],
)
def test_what_was_measured_before_a_stage_ended_is_not_measured_again(
    ran, typed, tmp_path, monkeypatch, stage, counted, tables
):
    """Ended in its second half; resumed, it does the rest, and ends with the tables of one that was never ended."""
    runs = copied(ran.runs, tmp_path / "runs", *(name for name in STAGES if name != stage))
    small = ["--reconstruct_masked.batch_size", 2, "--vqvae_reconstruction.batch_size", 4]
    small += ["--reconstruct_masked.pictures", 4, "--reconstruct_masked.rivals", "false"]
    module, _, name = counted.rpartition(".")
    whole, calls = getattr(sys.modules[module], name), []

    def counting(*given, **named):
        calls.append(len(calls))
        if len(calls) == ends_at:
            raise KeyboardInterrupt
        return whole(*given, **named)

    monkeypatch.setattr(counted, counting)
    ends_at = 0
    status, out, err = typed(stage, runs, ran.source, *small)
    assert status == 0, err
    first, every = Path(out.splitlines()[-1]), len(calls)
    assert not (first / "last").exists() or not list((first / "last").iterdir())
    calls, ends_at = [], every - 1
    assert typed(stage, runs, ran.source, *small)[0] == 130
    calls, ends_at = [], 0
    status, out, err = typed(stage, runs, ran.source, *small, "--resume")
    again = Path(out.splitlines()[-1])
    assert status == 0 and again != first, err
    assert 2 <= len(calls) < every, "only what was missing"
    for table in tables:
        assert (again / table).read_bytes() == (first / table).read_bytes(), table
