"""The final numbers of a run in order: those that come in front, and those over percentages as a cross table."""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

#: Names with a percentage in them: test_loss_at_50_most_frequent_code, random 50 percent forgotten mse_to_picture.
OVER_PERCENT = (
    re.compile(r"(?P<start>.+)_at_(?P<percent>\d+)(?P<end>_.+)?"),
    re.compile(r"(?P<start>.+) (?P<percent>\d+) percent forgotten (?P<end>.+)"),
)
FEW = 16
#: Of runs that have many numbers and none of a test set by name.
TELLING = ("_mse_to_reconstruction_at_", "_clean_classification_error_at_", "_classification_error_at_")


class CrossTable(NamedTuple):
    """Rows by name, columns by percentage; a cell without a number is None."""

    percents: list[int]
    rows: dict[str, list[float | None]]


def in_front(metrics: Iterable[str], main: Collection[str]) -> list[str]:
    """The names that are shown before the others: those on the test set, or where no name says so, a few that tell
    most; and those among the main numbers."""
    names = list(metrics)
    tests = [name for name in names if name.startswith("test_")]
    telling = [name for name in names if any(words in name for words in TELLING)]
    chosen = tests or (names if len(names) <= FEW else telling)
    wanted = set(chosen) | set(main)
    return sorted((name for name in names if name in wanted), key=_place)


def _place(name: str) -> int:
    """One measure after the other; names of no such measure stay where they are, in front."""
    return next((place for place, words in enumerate(TELLING, 1) if words in name), 0)


def crossed(metrics: dict[str, float]) -> tuple[dict[str, float], CrossTable]:
    """Numbers that stand alone, and those over percentages as a table."""
    alone: dict[str, float] = {}
    cells: dict[str, dict[int, float]] = {}
    for name, value in metrics.items():
        found = next((match for form in OVER_PERCENT if (match := form.fullmatch(name))), None)
        if found is None:
            alone[name] = value
            continue
        end = found["end"] or ""
        row = f"{found['start']}{end if end.startswith('_') or not end else f' {end}'}"
        cells.setdefault(row, {})[int(found["percent"])] = value
    percents = sorted({percent for row in cells.values() for percent in row})
    return alone, CrossTable(percents, {name: [row.get(one) for one in percents] for name, row in cells.items()})
