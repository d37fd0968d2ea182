"""Stages in processes of their own, with so little to do that each takes a second or two.

They are forked, so that nothing has to be imported again.
"""

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from campaigns.outcomes import Ending
from masked_memory.pipeline.files import write_json
from masked_memory.settings import loading
from masked_memory.stages import (
    data_split,
    train_classifier,
    train_distil,
    train_prior,
    train_vqvae,
    vqvae_reconstruction,
)
from toys import QUICK_TUNE, ROOT, TINY, TINY_PRIORS, changed, draw_classes, merged

GIGA = 10**9
ONE_TRIAL = {"trials": 1, "epochs": 1, "space": {"learning_rate": [0.01]}}
MEMORY = 6 * GIGA  # that a try may take

#: So little that a stage takes a second or two.
LITTLE = merged(merged(TINY, TINY_PRIORS), {
    "run": {"mlflow": False},
    "train_vqvae": {"epochs": 1, "retrain": False, "tune": QUICK_TUNE},
    "train_classifier": {"epochs": 1, "least_steps": 0, "tune": QUICK_TUNE},
    "train_distil": {"epochs": 1, "percentages": [50], "tune": QUICK_TUNE},
    "train_painter": {"epochs": 1, "percentages": [50], "tune": QUICK_TUNE},
    "train_mae": {"epochs": 1, "percentages": [50], "tune": QUICK_TUNE},
    "train_prior": {"epochs": 1},
    "reconstruct_masked": {"strategies": ["random", "adaptive"], "percentages": [50], "seeds": 1, "pictures": 4},
    "compare_priors": {
        "pictures": 4, "masks": ["block"], "percentages": [50], "samples": 4, "pool": 4, "passes": 2, "bootstrap": 100,
        "draws": 2, "sweep_passes": [1, 2], "timed_pictures": 2, "told": False,
    },
    "compare_bits": {
        "pictures": 3, "strategies": ["random"], "percentages": [50], "coding_passes": 2, "bootstrap": 100,
    },
})  # fmt: skip


class World(NamedTuple):
    """Finished runs, their pictures, and the settings that make all stages quick."""

    runs: Path
    source: Path
    overlay: Path


class Ended(NamedTuple):
    """How a process ended. status: that of its exit, negative for a signal, None when it had to be stopped after
    `seconds`; said: on both streams."""

    status: int | None
    said: str
    seconds: float


def make_little_world(folder: Path, tracked: bool = False, base: dict[str, Any] = LITTLE) -> World:
    """Pictures, and runs of all stages whose results others read. tracked: there are an mlflow.db and an optuna.db.
    base: the settings."""
    world = World(folder / "runs", draw_classes(folder / "pictures"), folder / "little.yaml")
    write_json(world.overlay, LITTLE)  # JSON is YAML
    here = {"run__dir": str(world.runs), "data__source": str(world.source)}
    for stage, changes in (
        (data_split, {}),
        (train_vqvae, {"run__mlflow": True, "train_vqvae__tune": ONE_TRIAL} if tracked else {}),
        (vqvae_reconstruction, {}),
        (train_classifier, {}),
        (train_distil, {}),
        (train_prior, {}),
        (train_prior, {"train_prior__kind": "gan"}),
    ):
        stage.run(loading.check(changed(base, here | changes)))
    return world


def copy_of(world: World, folder: Path) -> Path:
    """The finished runs once more, to be changed."""
    return Path(shutil.copytree(world.runs, folder / "runs"))


def words_for(stage: str, world: World, runs: Path, *words: str) -> list[str]:
    """What is typed behind `python`."""
    places = ["--run.dir", str(runs), "--data.source", str(world.source)]
    return [str(ROOT / f"{stage}.py"), "--config", str(world.overlay), *places, *words]


def run_forked(main: object, words: list[str], seconds: float, limit: Callable[[], None] = lambda: None) -> Ended:
    """`main` of a stage, as if these words were typed. limit: called first, in the process of the stage."""
    return wait_for(start_forked(main, words, limit), seconds)


class Child(NamedTuple):
    """A process that was started, and what hears it: nothing that it says goes to a disk."""

    number: int
    heard: list[bytes]
    listener: threading.Thread


def start_forked(main: object, words: list[str], limit: Callable[[], None] = lambda: None) -> Child:
    mouth, ear = os.pipe()[::-1]
    child = os.fork()
    if child == 0:
        os.close(ear)
        _become(main, words, mouth, limit)
    os.close(mouth)
    heard: list[bytes] = []
    listener = threading.Thread(target=_listen, args=(ear, heard), daemon=True)
    listener.start()
    return Child(child, heard, listener)


def _listen(ear: int, heard: list[bytes]) -> None:
    with os.fdopen(ear, "rb", buffering=0) as stream:
        while part := stream.read(2**16):
            heard.append(part)


def wait_for(child: Child, seconds: float) -> Ended:
    """Stops it after so many, with all that it started."""
    status, began = None, time.monotonic()
    while status is None and time.monotonic() - began < seconds:
        ended, found = os.waitpid(child.number, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(found)
        time.sleep(0.02)
    if status is None:
        os.killpg(child.number, signal.SIGKILL)
        os.waitpid(child.number, 0)
    child.listener.join(timeout=5)
    return Ended(status, b"".join(child.heard).decode("utf-8", "replace"), seconds)


def judge_ended(ended: Ended) -> tuple[Ending, str]:
    """Its work done, or refused in a line."""
    last = [line for line in ended.said.splitlines() if line.startswith(("error: ", "usage: "))]
    if "Traceback" in ended.said:
        return "wrong", ended.said[-400:]
    if ended.status is None:
        return "wrong", f"not done after {ended.seconds:.0f} s"
    if ended.status == 0:
        return "survived", ""
    if ended.status == 2 and last:
        return "refused", last[-1]
    return "wrong", f"status {ended.status}: {ended.said[-300:]}"


def _become(main: object, words: list[str], mouth: int, limit: Callable[[], None]) -> None:
    """The rest of this process is the stage."""
    status = 70
    try:
        _prepare(words, mouth)
        limit()
        status = main()  # type: ignore[operator]
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(status)


def _prepare(words: list[str], mouth: int) -> None:
    """A session of its own, less memory than there is, and one stream for what is said."""
    import resource  # not on Windows, where nothing can be forked either

    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + MEMORY,) * 2)
    for stream in (1, 2):
        os.dup2(mouth, stream)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.argv = words
