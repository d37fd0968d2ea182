"""Pictures as they are given in Python: a path, a PIL picture, an array, a tensor, or a sequence of these.

Arrays are (H, W), (H, W, C) or (B, H, W, C), tensors (H, W), (C, H, W) or (B, C, H, W): whole numbers of 8 bits from 0
to 255, or floats from 0 to 1. Letters: B pictures, H W pixels, C channels, S side of the model's pictures.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from masked_memory.own_picture.fitting import resize
from masked_memory.own_picture.reading import read_picture, upright_pixels
from masked_memory.pipeline.files import InputError
from masked_memory.sources.pixels import PictureError, plain_image
from masked_memory.sources.stacks import ORDINARY


def given_pictures(given: Any, side: int, channels: int) -> np.ndarray:
    """(B, side, side, channels) uint8. Raises InputError for what is no picture, and for none at all."""
    found: list[np.ndarray] = []
    for each in _each(given):
        pixels = _pixels(each, channels)
        found += [resized(one, side, side) for one in (pixels if pixels.ndim == 4 else pixels[None])]
    if not found:
        raise InputError("no pictures are given; expected at least one")
    return np.stack(found)


def given_picture(given: Any, channels: int) -> Image.Image:
    """One picture of any size, upright. Raises InputError for what is none, for several, and for components."""
    if channels not in ORDINARY:
        raise InputError(f"grey and RGB pictures can be completed; these models have {channels} components")
    (one, *more) = [*_each(given)] or [None]
    pixels = _pixels(one, channels)
    if more or (pixels.ndim == 4 and len(pixels) != 1):
        raise InputError("several pictures are given; expected one")
    return plain_image(pixels[0] if pixels.ndim == 4 else pixels)


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """`resize`, of components each on its own."""
    layers = [pixels] if pixels.shape[2] in ORDINARY else [pixels[:, :, [n]] for n in range(pixels.shape[2])]
    return np.concatenate([resize(layer, width, height) for layer in layers], axis=2)


def _each(given: Any) -> Sequence[Any]:
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return given if several else [given]


def _pixels(given: Any, channels: int) -> np.ndarray:
    """(H, W, channels) or (B, H, W, channels) uint8."""
    if isinstance(given, str | os.PathLike):
        given = read_picture(Path(given), "picture")
    if isinstance(given, Image.Image):
        if channels not in ORDINARY:
            raise InputError(f"a picture file has one channel or three; expected arrays (H, W, {channels})")
        try:
            return upright_pixels(given, channels)
        except PictureError as error:
            raise InputError(f"a picture {error}") from None
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
        given = given if given.ndim < 3 else np.moveaxis(given, -3, -1)
    if not isinstance(given, np.ndarray):
        raise InputError(f"a picture is a {type(given).__name__}; expected a path, a PIL picture, an array or a tensor")
    if given.ndim not in (2, 3, 4) or 0 in given.shape[-3:]:
        raise InputError(f"a picture is an array of shape {given.shape}; expected (H, W), (H, W, C) or (B, H, W, C)")
    return _of_channels(_bytes(given[:, :, None] if given.ndim == 2 else given), channels)


def _bytes(values: np.ndarray) -> np.ndarray:
    """uint8 as they are, floats from 0 to 1 as uint8."""
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"a picture holds {values.dtype}; expected 8 bits from 0 to 255, or floats from 0 to 1")
    if not np.isfinite(values).all():
        raise InputError("a picture has numbers that are not finite; expected floats from 0 to 1")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise InputError(f"a picture has floats from {values.min():g} to {values.max():g}; expected from 0 to 1")
    return np.rint(values * 255).astype(np.uint8)


def _of_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey, RGB and RGBA become what the model has, as pictures in files do; components must be as many."""
    found = pixels.shape[-1]
    if found == channels:
        return pixels
    if channels not in ORDINARY or found not in (1, 3, 4):
        raise InputError(f"a picture has {found} channels; expected {channels}, the last side of an array")
    if pixels.ndim == 4:
        return np.array([_of_channels(one, channels) for one in pixels]).reshape(*pixels.shape[:3], channels)
    return upright_pixels(Image.fromarray(pixels, "RGBA") if found == 4 else plain_image(pixels), channels)
