"""Any size to the model's size and back: tiles, masks over tiles, and a seam that does not show."""

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, uniform_filter

from masked_memory.sources.pixels import plain_image

SEAM = 4.0  # pixels over which detail at the border of a hole fades


# --- fitting to the model's size and back -----------------------------------------------------------------------------


def to_tiles(pixels: np.ndarray, fit: str, side: int) -> np.ndarray:
    """(H, W, C) uint8 -> (T, side, side, C): the whole picture resized (T = 1), or cut."""
    return cut(pixels, side) if fit == "tile" else resize(pixels, side, side)[None]


def mask_to_tiles(missing: np.ndarray, fit: str, side: int) -> np.ndarray:
    """(H, W) bool -> (T, side, side). Resized, a pixel is missing when any pixel that it covers is."""
    if fit == "tile":
        return cut(missing, side)
    return _any_covered(_any_covered(missing, side).T, side).T[None].copy()


def mask_from_tiles(missing: np.ndarray, fit: str, height: int, width: int) -> np.ndarray:
    """(T, side, side) bool -> (height, width): a pixel is missing when the one at its centre is."""
    if fit == "tile":
        return join(missing, height, width)
    side = missing.shape[1]
    rows, columns = ((2 * np.arange(count) + 1) * side // (2 * count) for count in (height, width))
    return missing[0][rows][:, columns]


def _any_covered(missing: np.ndarray, count: int) -> np.ndarray:
    """(rows, columns) bool -> (count, columns): whether any of the rows is True that fall, even in part, in each of
    `count` equal bands."""
    rows = len(missing)
    places = np.arange(count)
    first, last = places * rows // count, -((places + 1) * -rows // count)
    seen = np.concatenate([np.zeros((1, missing.shape[1]), dtype=np.int64), missing.cumsum(0)])
    return seen[last] > seen[first]


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, C) uint8 -> (height, width, C), antialiased (Lanczos); the same array when it has that size."""
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = plain_image(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.array(resized).reshape(height, width, pixels.shape[2])


def cut(array: np.ndarray, side: int, padding: Literal["reflect", "constant"] = "reflect") -> np.ndarray:
    """(H, W, ...) -> (T, side, side, ...), row by row, padded at the right and below to whole tiles."""
    height, width, *rest = array.shape
    pads = [(0, -height % side), (0, -width % side), *((0, 0) for _ in rest)]
    padded = np.pad(array, pads, mode=padding)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side, *rest).swapaxes(1, 2).reshape(rows * columns, side, side, *rest)


def join(tiles: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, side, side, ...) -> (height, width, ...), the way back of `cut`."""
    _, side, _, *rest = tiles.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = tiles.reshape(rows, columns, side, side, *rest).swapaxes(1, 2)
    return padded.reshape(rows * side, columns * side, *rest)[:height, :width]


def assemble(tiles: np.ndarray, painted: np.ndarray, fit: str, height: int, width: int) -> np.ndarray:
    """(T, S, S, C) uint8, which of them are painted (T,) -> (height, width, C). Tiles that are not painted continue
    their neighbours, so that the step from painted to known is known at their borders, too."""
    if fit == "resize":
        return resize(tiles[0], width, height)
    side = tiles.shape[1]
    blank = join(np.broadcast_to(~painted[:, None, None], (len(tiles), side, side)), height, width)
    near = nearest_known(blank)
    return join(tiles, height, width)[near.rows, near.columns]


# --- pasting ----------------------------------------------------------------------------------------------------------


class NearestKnown(NamedTuple):
    """For each pixel the nearest known one: its distance in pixels, row and column, (H, W) each."""

    distance: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def nearest_known(missing: np.ndarray) -> NearestKnown:
    """Known pixels are their own nearest, at distance 0. Where none is known, each is its own at infinite distance."""
    if missing.all():
        places = np.indices(missing.shape)
        return NearestKnown(np.full(missing.shape, np.inf), places[0], places[1])
    distance, places = distance_transform_edt(missing, return_indices=True)
    return NearestKnown(distance, places[0], places[1])


def paste(
    original: np.ndarray, painted: np.ndarray, missing: np.ndarray, near: NearestKnown, cell: float
) -> np.ndarray:
    """`original` with painted pixels where they are missing, all (H, W, C) uint8.

    Painted pixels are moved by what the painting lacks at the nearest known pixel, so that there is no edge and known
    pixels stay as they are. Its tone (the mean over half a cell) fades to nothing over `cell` pixels; the rest over
    SEAM pixels, as detail that is carried farther shows as streaks.
    """
    lacking = original[near.rows, near.columns].astype(np.float32) - painted[near.rows, near.columns]
    tone = uniform_filter(lacking, size=(max(1, round(cell / 2)),) * 2 + (1,), mode="nearest")[missing]
    distance = near.distance[missing][:, None]
    moved = painted[missing] + _fade(distance, cell) * tone + _fade(distance, SEAM) * (lacking[missing] - tone)
    completed = original.copy()
    completed[missing] = np.rint(moved).clip(0, 255).astype(np.uint8)
    return completed


def _fade(distance: np.ndarray, over: float) -> np.ndarray:
    """1 at distance 0, 0 from `over` (at least SEAM) pixels on: half a cosine."""
    return (1 + np.cos(np.pi * np.minimum(distance / max(over, SEAM), 1))) / 2


def diversity_of(samples: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) float32 in [0, 0.5]: standard deviation over the samples in [0, 1] pixel units, mean over channels. Exact
    zeros where all samples agree, and for fewer than two."""
    if len(samples) < 2:
        return np.zeros(shape, dtype=np.float32)
    count = len(samples)
    total = np.zeros(samples[0].shape, dtype=np.int64)
    squares = np.zeros_like(total)
    for sample in samples:
        total += sample
        squares += sample.astype(np.int64) ** 2
    deviation = np.sqrt(count * squares - total**2) / (count * 255)
    return deviation.mean(2).astype(np.float32)
