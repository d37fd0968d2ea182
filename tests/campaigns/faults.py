"""What happens to disks, databases and clocks while stages run: the stage does its work, or says in a line what is
wrong, and whatever lay there before is still whole.

Full and read-only disks are small file systems in memory, which few may mount; elsewhere these tries are left
out, and files may not grow beyond a limit instead.
"""

import importlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import NamedTuple

from campaigns.forked import (
    World,
    copy_of,
    judge_ended,
    make_little_world,
    run_forked,
    start_forked,
    wait_for,
    words_for,
)
from campaigns.outcomes import Ending, Outcome
from masked_memory.pipeline.commands import module_of
from masked_memory.pipeline.files import digest

CAMPAIGN = "disks and databases"
SECONDS = 90.0
STAGES = (
    "data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil", "reconstruct_masked",
    "train_prior", "train_mae", "sample", "compare_bits",
)  # fmt: skip
ROOMS = (0, 20_000, 100_000, 400_000)  # bytes that are left on a disk
LONGEST = (1_000, 30_000, 200_000)  # bytes that a file may have
DISK = 64 * 2**20
TRACKED = ("--run.mlflow", "true")
TUNED = ("--train_vqvae.tune.trials", "1", "--train_vqvae.tune.space", "{learning_rate: [0.01]}")


class Fault(NamedTuple):
    """around: entered with the folder of runs before the stage starts, left when it has ended; limit: called in its
    process; may: how it may end."""

    what: str
    stage: str
    around: Callable[[Path], AbstractContextManager[object]] = nullcontext
    limit: Callable[[], None] = lambda: None
    words: tuple[str, ...] = ()
    may: tuple[Ending, ...] = ("survived", "refused")


@cache
def mounts() -> bool:
    """Whether this process may mount file systems, which root of a container mostly may not."""
    if shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder], capture_output=True)
        return tried.returncode == 0 and subprocess.run(["umount", folder]).returncode == 0


@contextmanager
def disk_with(room: int | None, runs: Path) -> Iterator[None]:
    """The runs lie on a disk with so many bytes left; None: that takes no writing at all."""
    aside = runs.with_name("aside")
    runs.rename(aside)
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", runs], check=True)
    try:
        shutil.copytree(aside, runs, dirs_exist_ok=True)
        if room is None:
            subprocess.run(["mount", "-o", "remount,ro", runs], check=True)
        else:
            state = os.statvfs(runs)
            (runs / "ballast").write_bytes(bytes(state.f_bavail * state.f_frsize - room))
        yield
    finally:
        subprocess.run(["umount", runs], check=True)


def longest_file(size: int) -> Callable[[], None]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _database(name: str, harm: Callable[[Path], object]) -> Callable[[Path], AbstractContextManager[object]]:
    def around(runs: Path) -> AbstractContextManager[object]:
        harm(runs / name)
        return nullcontext()

    return around


def _garbage(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(random.Random(0).randbytes(200) + content[200:])


def _holed(file: Path) -> None:
    """Pages in the middle are zeros."""
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // 4096, 2):
        content[page * 4096 : (page + 1) * 4096] = bytes(4096)
    file.write_bytes(content)


def _halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _emptied(file: Path) -> None:
    file.write_bytes(b"")


def _made_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _made_text(file: Path) -> None:
    file.write_text("not a database\n" * 300, encoding="utf-8")


def _locked(name: str) -> Callable[[Path], AbstractContextManager[object]]:
    """Another program holds the database for as long as the stage runs."""

    @contextmanager
    def around(runs: Path) -> Iterator[None]:
        held = sqlite3.connect(runs / name)
        held.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            held.close()

    return around


@contextmanager
def _from_the_future(runs: Path) -> Iterator[None]:
    """The clock was set back: what is there was written in 2099."""
    for file in sorted(runs.rglob("*"), key=lambda path: -len(path.parts)):
        os.utime(file, (4_070_908_800, 4_070_908_800))
    yield


DATABASE_HARMS = (_garbage, _holed, _halved, _emptied, _made_folder, _made_text)


def faults() -> list[Fault]:
    found = []
    for stage in STAGES:
        found += [Fault(f"files of at most {most:,} bytes", stage, limit=longest_file(most)) for most in LONGEST]
        found.append(Fault("clock set back", stage, _from_the_future, may=("survived",)))
        if mounts():
            found.append(Fault("a disk that takes no writing", stage, _disk(None), may=("refused",)))
            found += [Fault(f"a disk with {room:,} bytes left", stage, _disk(room)) for room in ROOMS]
    for name, stage, words in (("mlflow.db", "vqvae_reconstruction", TRACKED), ("optuna.db", "train_vqvae", TUNED)):
        for harm in DATABASE_HARMS:
            what = f"{name} {harm.__name__.strip('_').replace('_', ' ')}"
            found.append(Fault(what, stage, _database(name, harm), words=words))
        found.append(Fault(f"{name} locked", stage, _locked(name), words=words))
    return found


def _disk(room: int | None) -> Callable[[Path], AbstractContextManager[object]]:
    return lambda runs: disk_with(room, runs)


def digests(runs: Path) -> dict[str, str]:
    """Of what a stage must leave as it is: no databases, and no list of the best runs, which stages add to."""
    added_to = ("best.json", ".best.json.lock")
    return {
        str(file.relative_to(runs)): digest(file.read_bytes())
        for file in runs.rglob("*")
        if file.is_file() and ".db" not in file.name and file.name not in added_to
    }


def try_fault(fault: Fault, world: World, folder: Path) -> Outcome:
    runs, main = copy_of(world, folder), importlib.import_module(module_of(fault.stage)).main
    words = words_for(fault.stage, world, runs, *fault.words)
    with fault.around(runs):
        before = digests(runs)
        ended = run_forked(main, words, SECONDS, fault.limit)
        after = digests(runs)
    ending, why = judge_ended(ended)
    if ending not in fault.may:
        ending, why = "wrong", why or "it worked on"
    if changed := [name for name, before_it in before.items() if after.get(name) != before_it]:
        ending, why = "wrong", f"{why}; changed: {', '.join(changed[:3])}"
    return Outcome(CAMPAIGN, f"{fault.stage}.py, {fault.what}", ending, why)


def try_two_at_once(stage: str, world: World, folder: Path, words: tuple[str, ...] = TRACKED) -> Outcome:
    """Two of a stage start at the same moment, in runs that have no database yet; both do their work."""
    runs, main = copy_of(world, folder), importlib.import_module(module_of(stage)).main
    for file in runs.glob("*.db*"):
        file.unlink()
    children = [start_forked(main, words_for(stage, world, runs, *words)) for _ in range(2)]
    both = [wait_for(child, SECONDS) for child in children]
    bad = [why for ending, why in map(judge_ended, both) if ending != "survived"]
    folders = {ended.said.splitlines()[-1] for ended in both if ended.said}
    if not bad and len(folders) < 2:
        bad = ["both wrote into one run folder"]
    return Outcome(CAMPAIGN, f"two of {stage}.py at once", "wrong" if bad else "survived", "; ".join(bad))


def meet_faults(folder: Path, tries: int, seed: int) -> list[Outcome]:
    """`tries` of them drawn by the seed, or all there are."""
    world = make_little_world(folder / "world", tracked=True)
    every: list[Fault | str] = [*faults(), *(stage for stage in STAGES if stage.startswith("train_"))]
    chosen = every if tries >= len(every) else random.Random(seed).sample(every, tries)
    outcomes = []
    for number, one in enumerate(chosen):
        own = folder / str(number)
        own.mkdir()
        outcomes.append(try_two_at_once(one, world, own) if isinstance(one, str) else try_fault(one, world, own))
    return outcomes
