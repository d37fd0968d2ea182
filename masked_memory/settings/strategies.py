"""What can be chosen when a picture is forgotten and recalled: strategies, decodings, kinds of masks.

One registry each, read by settings, help, figures, the page and the documentation. What a strategy does stands in
`recall/choosing.py`, under the same name in ORDERS; what a decoding does in `recall/fillers.py`. No torch here.
A user's own strategies come in through `recall.choosing.strategy`.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator


class Strategy(NamedTuple):
    """A way to choose what to keep. A strategy is an order in which tokens are forgotten."""

    says: str  # in a few words: help, error messages, the page
    keeps: str  # in a table of the documentation
    asks: str  # what it looks at
    place: int  # in figures, the most telling first; they show the first eight that were measured
    free: bool = False  # the pattern does not depend on the picture: both sides know it, positions cost no bits
    drawn: bool = False  # the pattern is drawn: several seeds say more
    replayed: bool = False  # the order follows from the kept codes: who has the model replays it, no position bits
    own: bool = False  # registered by a user; in figures before all others


_CONFIDENCE, _TRUTH = "the model's confidence", "the model and the true codes"

STRATEGIES: dict[str, Strategy] = {
    "random": Strategy("tokens at random", "tokens at random", "nothing", 7, free=True, drawn=True),
    "block": Strategy(
        "rectangles that grow from random places", "what growing rectangles leave", "nothing", 9, free=True, drawn=True
    ),
    "half": Strategy("rows from the bottom", "the upper rows", "nothing", 8, free=True),
    "outpaint": Strategy("from the border inwards", "the middle", "nothing", 6, free=True),
    "direct": Strategy(
        "the surest first, ranked once",
        "what the model is least sure of given (nearly) all other tokens; ranked once",
        _CONFIDENCE,
        10,
    ),
    "selective": Strategy(
        "keep the least sure one by one, from the centre on",
        "what the model is least sure of given what is kept; one by one (a few on large grids), from the centre on",
        _CONFIDENCE,
        3,
        replayed=True,
    ),
    "additive": Strategy(
        "keep the least sure, a few at a time",
        "what the model is least sure of given what is kept; a few at a time",
        _CONFIDENCE,
        4,
        replayed=True,
    ),
    "surprisal": Strategy(
        "keep the most surprising, ranked once",
        "what is improbable given (nearly) all other tokens; ranked once",
        _TRUTH,
        5,
    ),
    "greedy-surprisal": Strategy(
        "keep the most surprising, given what is kept",
        "what is improbable given what is kept; a few at a time",
        _TRUTH,
        2,
    ),
    "distortion": Strategy(
        "keep what is farthest from what is expected",
        "the token whose code vector lies farthest from the one to expect",
        _TRUTH,
        1,
    ),
    "painted": Strategy(
        "keep what would be painted most wrong", "the token whose pixels would be painted most wrong", _TRUTH, 11
    ),
    "adaptive": Strategy(
        "keep what helps most to paint the whole picture",
        "what helps most to paint the whole picture, in pixels and code vectors; it looks ahead while few are kept",
        _TRUTH,
        0,
    ),
    "distortion-per-bit": Strategy(
        "keep what takes away most distortion for each bit it costs",
        "what takes away most of the error that `adaptive` looks at, for each bit of its code and position",
        _TRUTH,
        12,
    ),
}


class Decoding(NamedTuple):
    """A way to paint what was forgotten."""

    says: str  # in a few words: help and the page
    paints: str  # in a table of the documentation


DECODINGS: dict[str, Decoding] = {
    "argmax": Decoding("the likeliest codes: sharp and possibly wrong", "the likeliest code of each token"),
    "sample": Decoding("drawn codes: sharp and possibly wrong", "a code drawn by its probability"),
    "expected": Decoding(
        "faithful, blurred where it is unsure", "the mean of all code vectors, each weighted by its probability"
    ),
}

#: Masks that follow from a seed alone, of the stages that fill in test pictures.
MASKS = ("random", "block", "half")


class OneOf:
    """Beside the type of a key: the names that it may have, which may grow."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = names

    def __str__(self) -> str:
        return " | ".join(self.names)


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        raise ValueError(f"expected {' | '.join(STRATEGIES)}")
    return name


StrategyName = Annotated[str, AfterValidator(_known_strategy), OneOf(STRATEGIES)]

if TYPE_CHECKING:
    DecodingName = str
    MaskName = Literal["random", "block", "half"]
else:
    DecodingName = Literal[tuple(DECODINGS)]
    MaskName = Literal[MASKS]
