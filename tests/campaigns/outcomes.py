"""How a try ended, and the table over many."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Ending = Literal["survived", "refused", "wrong"]


class Outcome(NamedTuple):
    """survived: done right; refused: in one line, with nothing left behind; wrong: anything else, with what it was."""

    campaign: str
    what: str
    ending: Ending
    said: str = ""


TABLE_HEADER = ("campaign", "tried", "survived", "refused", "wrong")


def table_of(outcomes: Iterable[Outcome]) -> list[list[object]]:
    """A row for each campaign, and one for all."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for name in (outcome.campaign, "all"):
            counts.setdefault(name, Counter())[outcome.ending] += 1
    names = [name for name in counts if name != "all"] + (["all"] if counts else [])
    return [[name, counts[name].total(), *(counts[name][end] for end in TABLE_HEADER[2:])] for name in names]


def wrong_of(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.ending == "wrong"]
