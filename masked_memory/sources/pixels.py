"""Pixels: uint8 in files and the cache, [-1, 1] in models; any mode to grey or RGB; PNG."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from masked_memory.pipeline.files import replacing
from masked_memory.pipeline.metrics import to_unit


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W, C) uint8."""
    with replacing(path) as temporary:
        plain_image(pixels).save(temporary, format="PNG")


def plain_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 -> L or RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def to_model(images: np.ndarray) -> Tensor:
    """uint8 (B, H, W, C) in [0, 255] -> float (B, C, H, W) in [-1, 1]."""
    return as_pictures(torch.from_numpy(np.ascontiguousarray(images)))


def as_pictures(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, C) in [0, 255] -> float (B, C, H, W) in [-1, 1], on the same device, channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def from_model(pictures: Tensor) -> np.ndarray:
    """float (B, C, H, W) in [-1, 1] -> uint8 (B, H, W, C) in [0, 255], the way back of `to_model`."""
    return to_unit(pictures).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
MEASURE = "to take their range over all files, name the components (--data.components)"


class PictureError(ValueError):
    """Why a file is no picture that can be used."""


def check_values(picture: Image.Image) -> None:
    """Raises PictureError for floats that are no shades from black (0) to white (1)."""
    if picture.mode == "F":
        values = np.asarray(picture)
        if not np.isfinite(values).all():
            raise PictureError("has numbers that are not finite")
        if values.min() < 0 or values.max() > 1:
            raise PictureError(f"has floats from {values.min():g} to {values.max():g}; expected from 0 to 1; {MEASURE}")


def plain_mode(picture: Image.Image, channels: int) -> Image.Image:
    """Any mode -> L or RGB. 16-bit pictures keep their upper 8 bits, transparent ones are laid on white.

    Raises PictureError for floats outside [0, 1].
    """
    check_values(picture)
    if picture.mode in SIXTEEN_BIT or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        clear = picture.info.get("transparency")
        shades = (values.clip(0, 65535) >> 8).astype(np.uint8)
        picture = Image.fromarray(np.where(values == clear, 255, shades).astype(np.uint8) if clear else shades)
    elif picture.mode == "F":
        picture = Image.fromarray((np.asarray(picture).clip(0, 1) * 255).round().astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "white")
        picture.alpha_composite(layer)
    return picture.convert("RGB" if channels == 3 else "L")
