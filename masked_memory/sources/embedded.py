"""The embedded data sets by name: what they hold, and what may be asked of them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from masked_memory.pipeline.files import InputError
from masked_memory.settings.common import DataSection
from masked_memory.sources.digits_in_context import PLACES, SIZE, describe_places, make_digits_in_context
from masked_memory.sources.five_components import COMPONENTS, make_five_components
from masked_memory.sources.splitting import SPLITS
from masked_memory.sources.stacks import Stacks


class Kind(NamedTuple):
    """channels and what they are called in messages; how files of one's own are read as stacks."""

    channels: int
    described: str
    stacks: Stacks | None


DRAWN = "in blocks"  # how the embedded sets are drawn; another word, and splits of before are made anew
EMBEDDED = {
    "digits_in_context": Kind(3, "RGB", None),
    "five_components": Kind(
        5, f"with 5 components ({', '.join(COMPONENTS)})", Stacks(COMPONENTS, ((0.0, 255.0),) * 5, True)
    ),
}


@dataclass(frozen=True)
class Made:
    """images (pictures, 32, 32, C) uint8, and for each picture a name, a class, its side of the split and columns of
    metadata."""

    images: np.ndarray
    paths: list[str]
    classes: list[str]
    sides: list[str]
    metadata: list[dict[str, str]]


def check_embedded(data: DataSection) -> None:
    """Raises InputError for settings that an embedded data set cannot have."""
    source, kind = data.source, EMBEDDED[data.source]
    if (data.image_size, data.channels) != (SIZE, kind.channels):
        raise InputError(
            f"{source} is {SIZE}x{SIZE} {kind.described}; found data.image_size {data.image_size}, "
            f"data.channels {data.channels}; type --data.image_size {SIZE} --data.channels {kind.channels}"
        )
    if data.components is not None and kind.stacks and tuple(data.components) != kind.stacks.names:
        raise InputError(f"{source} has the components {', '.join(kind.stacks.names)}; leave data.components null")
    if data.metadata is not None:
        raise InputError(f"{source} has metadata of its own; leave data.metadata null (found {data.metadata})")
    if isinstance(data.classes, list):
        raise InputError(f"{source} has the classes 0 to 9 by number; give data.classes as a number or null")
    if data.images_per_class is not None and data.images_per_class < len(SPLITS):
        raise InputError(
            f"data.images_per_class is {data.images_per_class}; a split into train, val and test needs at least "
            f"{len(SPLITS)}"
        )
    if data.classes is not None and data.classes > len(PLACES):
        raise InputError(f"data.classes is {data.classes}, but {source} has {len(PLACES)}")


def make_embedded(data: DataSection) -> Made:
    """The pictures of data.source, a class a digit; the same data.seed and shares give the same pixels."""
    per_digit, ratios = min(500, data.images_per_class or 500), (data.train, data.val, data.test)
    if data.source == "digits_in_context":
        demo = make_digits_in_context(data.seed, per_digit, ratios)
        images, digits, sides, metadata = demo.images, demo.digits, demo.sides, describe_places(demo)
    else:
        five = make_five_components(data.seed, per_digit, ratios)
        images, digits, sides, metadata = five.images, five.digits, five.sides, five.metadata
    classes = data.classes if isinstance(data.classes, int) else len(PLACES)
    kept = np.flatnonzero(digits < classes)
    return Made(
        images[kept],
        [f"{data.source}/{digits[source]}/{source:04d}" for source in kept],
        [str(digits[source]) for source in kept],
        [sides[source] for source in kept],
        [metadata[source] for source in kept],
    )
