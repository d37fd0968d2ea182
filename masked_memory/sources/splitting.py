"""Who stands on which side: the seeded, stratified split by picture, and what a given split lacks. Pure functions."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from masked_memory.pipeline.files import InputError

SPLITS = ("train", "val", "test")


def split_counts(total: int, ratios: Sequence[float], owed: Sequence[float] = (0.0, 0.0, 0.0)) -> list[int]:
    """Whole numbers that sum to `total`, each within one of its share; what is left over goes where most is due.

    owed: by how much each split fell short of its share before.
    """
    shares = [total * ratio for ratio in ratios]
    counts = [int(share + 1e-9) for share in shares]
    due = [share - count + before for share, count, before in zip(shares, counts, owed, strict=True)]
    by_need = sorted(range(len(ratios)), key=lambda i: -due[i])
    for i in by_need[: total - sum(counts)]:
        counts[i] += 1
    return counts


def assign_splits(
    classes: Sequence[str],
    hashes: Sequence[str],
    ratios: Sequence[float],
    seed: int,
    unit: str = "pictures",
    sides: Sequence[str] = SPLITS,
) -> list[str]:
    """Seeded, stratified split by picture; what has the same name in `hashes` always lands on the same side:
    byte-identical pictures, or slices of one patient. `unit` says in the error what the names stand for.

    Rounding is carried from class to class, so that the totals keep the ratios too. Does not depend on the order of
    the input. `sides`: what is split into, a ratio for each. Raises InputError when a class has fewer different ones
    than there are sides.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(hashes):
        members[name].append(position)
    strata: dict[str, list[str]] = defaultdict(list)
    for name in sorted(members):
        strata[min(classes[position] for position in members[name])].append(name)
    result = [""] * len(hashes)
    seen, placed = 0, [0] * len(sides)
    for number, stratum in enumerate(sorted(strata)):
        groups = strata[stratum]
        if len(groups) < len(sides):
            label = f"class {stratum}" if stratum else "the data set"
            raise InputError(
                f"{label} has {len(groups)} different {unit}; "
                f"a split into {in_words(sides)} needs at least {len(sides)}"
            )
        total = sum(len(members[name]) for name in groups)
        owed = [seen * ratio - have for ratio, have in zip(ratios, placed, strict=True)]
        want = at_least_one(split_counts(total, ratios, owed))
        seen += total
        order = np.random.default_rng((seed, number)).permutation(len(groups))
        for name in sorted((groups[i] for i in order), key=lambda name: -len(members[name])):
            side = max(range(len(sides)), key=lambda i: want[i])
            for position in members[name]:
                result[position] = sides[side]
            want[side] -= len(members[name])
            placed[side] += len(members[name])
    return result


def complete_split(
    given: Sequence[str], classes: Sequence[str], hashes: Sequence[str], share: float, seed: int, unit: str = "pictures"
) -> list[str]:
    """A split into train and one of val and test, with the third cut from train: `share` of it, as in `assign_splits`.

    All others stay where they are. Raises InputError when a class has one picture in train only.
    """
    (missing,) = set(SPLITS) - set(given)
    train = [position for position, side in enumerate(given) if side == "train"]
    cut = assign_splits(
        [classes[position] for position in train],
        [hashes[position] for position in train],
        (1 - share, share),
        seed,
        f"{unit} in train",
        ("train", missing),
    )
    result = list(given)
    for position, side in zip(train, cut, strict=True):
        result[position] = side
    return result


def in_words(names: Sequence[str]) -> str:
    """train, val and test."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def at_least_one(want: list[int]) -> list[int]:
    """Each split gets one at least, at the cost of the largest."""
    want = list(want)
    for i in range(len(want)):
        while want[i] < 1:
            want[want.index(max(want))] -= 1
            want[i] += 1
    return want


def shared_with_later(hashes: Sequence[str], sides: Sequence[str]) -> list[bool]:
    """For a given split: which pictures also stand in a later split (test is later than val, val than train)."""
    last: dict[str, str] = {}
    for name, side in zip(hashes, sides, strict=True):
        last[name] = max(last.get(name, ""), side, key=("", *SPLITS).index)
    return [side != last[name] for name, side in zip(hashes, sides, strict=True)]


def spread(positions: np.ndarray, most: int | None) -> np.ndarray:
    """At most `most` of the positions, evenly spread, as pictures lie class by class; None: all."""
    count = len(positions) if most is None else min(most, len(positions))
    return positions[np.arange(count) * len(positions) // max(1, count)]
