"""Files of earlier runs that are torn: any of them with a byte flipped, cut, emptied, lengthened or gone.

A stage that reads them refuses in a line, or works on with the numbers that it has with whole files.
"""

import importlib
import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.same_numbers import differences
from campaigns.forked import World, copy_of, judge_ended, make_little_world, run_forked, words_for
from campaigns.outcomes import Outcome
from masked_memory.pipeline.commands import module_of

CAMPAIGN = "torn files"
SECONDS = 60.0
READERS = (
    "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil", "reconstruct_masked", "train_prior",
    "sample", "compare_bits",
)  # fmt: skip
UNREAD = (".db", ".png", ".pdf")  # databases have tries of their own; figures are for eyes


def flipped(file: Path, draws: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    file.write_bytes(content)


def cut(file: Path, draws: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draws.randrange(len(content) or 1)])


def emptied(file: Path, draws: random.Random) -> None:
    file.write_bytes(b"")


def lengthened(file: Path, draws: random.Random) -> None:
    file.write_bytes(file.read_bytes() + draws.randbytes(draws.randrange(1, 100)))


def gone(file: Path, draws: random.Random) -> None:
    file.unlink()


def a_folder(file: Path, draws: random.Random) -> None:
    file.unlink()
    file.mkdir()


HARMS: tuple[Callable[[Path, random.Random], None], ...] = (flipped, flipped, cut, emptied, lengthened, gone, a_folder)


def try_torn(stage: str, name: Path, harm: Callable[[Path], None], world: World, whole: Path, folder: Path) -> Outcome:
    """name: of the file in the folder of runs; whole: the stage's run with whole files."""
    runs = copy_of(world, folder)
    harm(runs / name)
    main = importlib.import_module(module_of(stage)).main
    ended = run_forked(main, words_for(stage, world, runs), SECONDS)
    ending, why = judge_ended(ended)
    if ending == "survived":
        found = list(differences(Path(ended.said.splitlines()[-1]), whole))
        ending, why = ("wrong", f"other numbers: {'; '.join(found[:3])}") if found else (ending, why)
    return Outcome(CAMPAIGN, f"{stage}.py, {name} {getattr(harm, '__name__', '')}", ending, why)


def whole_run(stage: str, world: World, folder: Path) -> Path:
    """Raises RuntimeError where the stage does not end well."""
    main = importlib.import_module(module_of(stage)).main
    ended = run_forked(main, words_for(stage, world, copy_of(world, folder)), SECONDS)
    if ended.status != 0:
        raise RuntimeError(f"{stage} with whole files: {ended}")
    return Path(ended.said.splitlines()[-1])


def tear_files(folder: Path, tries: int, seed: int) -> list[Outcome]:
    """`tries` times another file, harm and stage."""
    world, draws = make_little_world(folder / "world"), random.Random(seed)
    names = sorted(
        file.relative_to(world.runs)
        for file in world.runs.rglob("*")
        if file.is_file() and file.suffix not in UNREAD and "last" not in file.relative_to(world.runs).parts
    )
    wholes: dict[str, Path] = {}
    outcomes = []
    for number in range(tries):
        stage, name, harm = READERS[number % len(READERS)], draws.choice(names), draws.choice(HARMS)
        if stage not in wholes:
            (folder / f"whole {stage}").mkdir()
            wholes[stage] = whole_run(stage, world, folder / f"whole {stage}")
        own = folder / str(number)
        own.mkdir()
        outcomes.append(try_torn(stage, name, Harm(harm, draws.randrange(2**32)), world, wholes[stage], own))
    return outcomes


class Harm:
    """A harm with its own draws."""

    def __init__(self, harm: Callable[[Path, random.Random], None], seed: int) -> None:
        self.harm, self.seed, self.__name__ = harm, seed, harm.__name__

    def __call__(self, file: Path) -> None:
        self.harm(file, random.Random(self.seed))
