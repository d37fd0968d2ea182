"""Stages that are killed, or asked to end, at random moments and resumed: they end with the numbers of one that was
never killed, and leave nothing running. Those that are asked say what to type, without a traceback."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient

from benchmarks.same_numbers import differences
from campaigns.outcomes import Outcome
from masked_memory.pipeline.files import TEMPORARY, read_json
from masked_memory.pipeline.tracking import database_uri
from masked_memory.stages import data_split, train_distil, train_vqvae, vqvae_reconstruction
from toys import ROOT, copied, draw_classes, tiny, words_of

CAMPAIGN = "killed or asked to end, and resumed"
EARLIER = ("data_split", "train_vqvae", "vqvae_reconstruction", "train_distil")
TRAININGS = ("train_vqvae", "train_classifier", "train_distil", "train_prior", "train_mae", "train_painter")
MOST_SECONDS = 600
SENT = ("SIGKILL", "SIGTERM", "SIGINT")
STATUS = {"SIGTERM": 143, "SIGINT": 130}  # of a run that was asked to end


class World(NamedTuple):
    """Pictures, and finished runs of the stages that others read."""

    runs: Path
    source: Path


class Whole(NamedTuple):
    """A run that nobody killed."""

    folder: Path
    seconds: float


def make_world(folder: Path) -> World:
    world = World(folder / "runs", draw_classes(folder / "pictures"))
    for stage in (data_split, train_vqvae, vqvae_reconstruction, train_distil):
        stage.run(tiny(world.runs, world.source, run__mlflow=False))
    return world


def of_its_own(world: World, stage: str, folder: Path) -> Path:
    """A copy of the finished runs in which the stage has none."""
    return copied(world.runs, folder / "runs", *(name for name in EARLIER if name != stage))


def words(stage: str, runs: Path, world: World, *more: str) -> list[str]:
    return [sys.executable, *words_of(stage, runs, world.source, "--run.mlflow", "true", *more)]


def run_whole(world: World, stage: str, folder: Path) -> Whole:
    """Raises CalledProcessError when the stage fails."""
    began = time.monotonic()
    typed = words(stage, of_its_own(world, stage, folder), world)
    done = subprocess.run(typed, cwd=ROOT, check=True, capture_output=True, text=True, timeout=MOST_SECONDS)
    return Whole(Path(done.stdout.splitlines()[-1]), time.monotonic() - began)


def try_kill(world: World, stage: str, whole: Whole, at: float, folder: Path, sent: str = "SIGKILL") -> Outcome:
    """Send the signal at a share in (0, 1) of its time, resume it, and compare it with one that nobody killed."""
    what, runs = f"{stage}.py, {sent} after {at:.0%} of its time", of_its_own(world, stage, folder)
    with (folder / "errors.txt").open("w+b") as errors:
        started = subprocess.Popen(
            words(stage, runs, world), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=_heed_ctrl_c
        )
        try:
            started.wait(at * whole.seconds)
        except subprocess.TimeoutExpired:
            started.send_signal(getattr(signal, sent))
        started.wait()
    found = not_said(runs / stage, sent, started.returncode, (folder / "errors.txt").read_text(encoding="utf-8"))
    typed = words(stage, runs, world, "--resume")
    again = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS)
    if again.returncode:
        return Outcome(CAMPAIGN, what, "wrong", again.stderr[-300:])
    found += [*differences(Path(again.stdout.splitlines()[-1]), whole.folder), *left_behind(runs, stage)]
    return Outcome(CAMPAIGN, what, "wrong" if found else "survived", "; ".join(found))


def _heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def not_said(stage: Path, sent: str, status: int, errors: str) -> list[str]:
    """What is wrong with the end of a run that was asked to, unless it was none yet or had finished."""
    statuses = [read_json(file)["status"] for file in stage.glob("*/run.json")]
    if sent not in STATUS or status == 0 or all(each == "finished" for each in statuses):
        return []
    found = [f"run.json says {each}" for each in statuses if each != "killed"]
    if status != STATUS[sent]:
        found.append(f"status {status}, not {STATUS[sent]}")
    if "Traceback" in errors or not errors.rstrip().endswith("--resume"):
        found.append(f"said {errors[-200:]}")
    return found


def left_behind(runs: Path, stage: str) -> list[str]:
    """What still seems to run, and files that are half written."""
    found = [
        f"{file.parent.name} is {status}"
        for file in (runs / stage).glob("*/run.json")
        if (status := read_json(file)["status"]) == "running"
    ]
    found += [f"{path.name} is left" for path in runs.rglob(".*") if TEMPORARY.fullmatch(path.name)]
    client = MlflowClient(database_uri(runs), database_uri(runs))
    experiments = [each.experiment_id for each in client.search_experiments()]
    running = client.search_runs(experiments, filter_string="attributes.status = 'RUNNING'")
    return [*found, *(f"{run.info.run_name} is RUNNING in MLflow" for run in running)]


def kill_stages(folder: Path, tries: int, seed: int, stages: Sequence[str] = TRAININGS) -> list[Outcome]:
    """`tries` at random moments, over all stages in turn, with one signal after another."""
    world, draws = make_world(folder / "world"), random.Random(seed)
    wholes: dict[str, Whole] = {}
    outcomes = []
    for number in range(tries):
        stage = stages[number % len(stages)]
        if stage not in wholes:
            wholes[stage] = run_whole(world, stage, folder / f"whole {stage}")
        at, sent = draws.uniform(0.3, 0.98), SENT[(number + number // len(stages)) % len(SENT)]
        outcomes.append(try_kill(world, stage, wholes[stage], at, folder / f"kill {number}", sent))
    return outcomes
