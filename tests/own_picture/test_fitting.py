"""Masks on the sizes of the model, and the seam: no edge where painted and known pixels meet."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from masked_memory.own_picture import fitting
from masked_memory.own_picture.completing import Request, complete_picture
from masked_memory.own_picture.reading import box_mask
from toys import vivid_memory

SIDE, STRIDE, K = 16, 4, 12


def gradient(width: int, height: int) -> Image.Image:
    """Smooth, red grows to the right and green downwards."""
    red, green = np.meshgrid(np.linspace(30, 220, width), np.linspace(30, 220, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=2).astype(np.uint8))


def some(width: int, height: int, share: float = 0.2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


def test_a_pixel_of_the_model_is_missing_when_any_that_it_covers_is() -> None:
    for height, width, side in ((5, 9, 16), (16, 16, 16), (37, 50, 16), (1, 3, 4), (33, 7, 8)):
        missing = some(width, height)
        (covered,) = fitting.mask_to_tiles(missing, "resize", side)
        rows, columns = ([covered_by(band, count, side) for band in range(side)] for count in (height, width))
        for down, across in np.ndindex(side, side):
            assert covered[down, across] == missing[np.ix_(rows[down], columns[across])].any()


def covered_by(band: int, count: int, bands: int) -> list[int]:
    """Which of `count` pixels in a line lie, even in part, in one of equally many bands."""
    return [n for n in range(count) if n * bands < (band + 1) * count and (n + 1) * bands > band * count]


# The seam


CLASSES = ["cat", "dog", "emu"]


class Constant(nn.Module):
    """Paints every pixel with one byte."""

    def __init__(self, byte: int) -> None:
        super().__init__()
        self.value = byte / 255 * 2 - 1

    def forward(self, codes: torch.Tensor, told: object = None) -> torch.Tensor:
        batch, _, height, width = codes.shape
        return torch.full((batch, 3, 4 * height, 4 * width), self.value)


def steps(pasted: np.ndarray, original: np.ndarray, missing: np.ndarray) -> float:
    """Mean step from the border pixels of the hole to the known pixel beside each."""
    near = fitting.nearest_known(missing)
    border = missing & (near.distance < 1.5)
    return float(np.abs(pasted.astype(int) - original[near.rows, near.columns])[border].mean())


@pytest.mark.parametrize("size", [16, 64])
def test_there_is_no_edge_at_the_border_of_the_hole(size: int) -> None:
    """In a smooth picture the step into the hole is far smaller than without the seam; deep inside nothing changes."""
    original = np.asarray(gradient(size, size))
    missing = box_mask((size // 4, size // 4, 3 * size // 4, 3 * size // 4), (size, size))
    near = fitting.nearest_known(missing)
    painted = np.full((size, size, 3), 200, dtype=np.uint8)
    pasted = fitting.paste(original, painted, missing, near, cell=4.0)
    assert steps(pasted, original, missing) < 0.25 * steps(painted, original, missing)
    inside = near.distance > 4
    assert np.array_equal(pasted[inside], painted[inside]) and inside.any() == (size > 16)
    assert np.array_equal(pasted[~missing], original[~missing])


def test_there_is_no_edge_where_the_next_tile_is_not_painted() -> None:
    """The hole is one whole tile, so no known pixel was painted."""
    original = np.asarray(gradient(48, 48))
    missing = box_mask((16, 16, 32, 32), (48, 48))
    memory = vivid_memory()
    memory.vqvae.decoder = Constant(200)
    pasted = complete_picture(memory, Image.fromarray(original), missing, CLASSES, Request(fit="tile")).completed
    unseamed = np.where(missing[:, :, None], 200, original).astype(np.uint8)
    assert steps(pasted, original, missing) < 0.25 * steps(unseamed, original, missing)
    assert np.array_equal(pasted[~missing], original[~missing]) and (pasted[22:26, 22:26] == 200).all()


def test_the_seam_adds_what_the_painting_lacks() -> None:
    """A painting that is wrong by the same everywhere is right at the border, and itself a cell farther in."""
    original = np.full((9, 60, 1), 100, dtype=np.uint8)
    missing = np.zeros((9, 60), dtype=bool)
    missing[:, 20:] = True
    near = fitting.nearest_known(missing)
    pasted = fitting.paste(original, np.full_like(original, 60), missing, near, cell=16.0)[4, :, 0].astype(int)
    assert (pasted[:20] == 100).all() and pasted[20] >= 99 and (pasted[36:] == 60).all()
    assert (np.diff(pasted[19:37]) <= 0).all() and abs(pasted[27] - 80) <= 4
