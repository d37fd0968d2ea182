"""One click: from the editor and the controls to the memory, and back to what the page shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from masked_memory.own_picture.completing import OwnResult, Request, complete_picture
from masked_memory.page.uploads import check_pixels
from masked_memory.pipeline.files import InputError
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import STRATEGIES

NOT_TOLD = -1
MOST_SAMPLES = 8
MOST_TILES, MOST_CHOSEN_TILES = 256, 16  # the second: where the memory asks a network what to keep of each


def read_editor(value: dict[str, Any] | None) -> tuple[Image.Image, np.ndarray | None]:
    """What the editor holds -> the picture (RGBA) and the painted pixels (H, W) bool, None when nothing was painted.

    value: {"background": uint8 (H, W, 4) or None, "layers": a list of such}. Raises InputError without a picture, for
    one that is too large, and for a layer of another size.
    """
    if value is None or value["background"] is None:
        raise InputError("there is no picture; drop one into the editor or click an example")
    picture = Image.fromarray(value["background"])
    check_pixels(*picture.size, "picture")
    painted = np.zeros((picture.height, picture.width), dtype=bool)
    for layer in value["layers"]:
        if layer.shape[:2] != painted.shape:
            found = f"{layer.shape[1]}x{layer.shape[0]}"
            raise InputError(f"the mask is {found} pixels; expected {picture.width}x{picture.height} as the picture")
        painted |= layer[..., 3] > 127
    return picture, painted if painted.any() else None


def diversity_picture(diversity: np.ndarray) -> np.ndarray:
    """(H, W) >= 0 -> (H, W, 3) uint8: black where samples agree, brightest at the largest value."""
    scaled = diversity / max(float(diversity.max()), 1e-8)
    return np.round(colormaps["inferno"](scaled)[..., :3] * 255).astype(np.uint8)


def plain(picture: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W) for one channel, otherwise as it is."""
    return picture[..., 0] if picture.shape[-1] == 1 else picture


@dataclass(frozen=True)
class Shown:
    """A result as the page shows it, in the order of its outputs."""

    masked: np.ndarray
    completed: np.ndarray
    before: dict[str, float] | None
    after: dict[str, float] | None
    samples: list[np.ndarray]
    diversity: np.ndarray | None
    caption: str
    note: str


def show(result: OwnResult) -> Shown:
    dropped, tokens = int(result.dropped.sum()), result.dropped.size
    note = f"{dropped} of {tokens} tokens were dropped ({dropped / tokens:.0%})"
    comparable = len(result.samples) > 1
    return Shown(
        masked=plain(result.masked),
        completed=plain(result.completed),
        before=dict(result.before) or None,
        after=dict(result.after) or None,
        samples=[plain(sample) for sample in result.samples],
        diversity=diversity_picture(result.diversity) if comparable else None,
        caption=describe_diversity(result.diversity) if comparable else "Needs two samples or more.",
        note=f"{note}; {result.note}." if result.note else f"{note}.",
    )


def describe_diversity(diversity: np.ndarray) -> str:
    largest = float(diversity.max())
    return f"Brightest: a standard deviation of {largest:.3f} over the samples (0.5 is the most there can be)."


class Controls(NamedTuple):
    """What the controls of the page hold, in their order. label: a class number, NOT_TOLD for none."""

    percent: float
    strategy: str
    decoding: Any
    samples: int
    fit: Any
    label: int
    seed: int


def check_tiles(size: tuple[int, int], side: int, missing: np.ndarray | None, request: Request) -> None:
    """Raises InputError when a picture of the size (width, height) would be cut into more tiles than a click takes."""
    if request.fit != "tile":
        return
    tiles = math.ceil(size[0] / side) * math.ceil(size[1] / side)
    chosen = missing is None and not STRATEGIES[request.strategy].free
    most = MOST_CHOSEN_TILES if chosen else MOST_TILES
    if tiles > most:
        how = f" where {request.strategy} chooses what to keep" if chosen else ""
        raise InputError(f"the picture would be {tiles} tiles; expected {most} or fewer{how}: resize it instead")


def answer(
    memory: Memory, classes: Sequence[str], start: Request, editor: dict[str, Any] | None, controls: Controls
) -> Shown:
    """One click. start: the settings that are not on the page. Raises InputError for what the person can mend."""
    picture, missing = read_editor(editor)
    request = replace(
        start,
        percent=controls.percent,
        strategy=controls.strategy,
        decoding=controls.decoding,
        samples=int(controls.samples),
        fit=controls.fit,
        label=None if controls.label == NOT_TOLD else controls.label,
        seed=int(controls.seed),
    )
    check_tiles(picture.size, memory.vqvae.config.image_size, missing, request)
    return show(complete_picture(memory, picture, missing, classes, request))
