"""Any picture file -> a square uint8 array."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sources.pixels import MAX_PIXELS, plain_mode
from sources.places import Place
from sources.stacks import ORDINARY, StackError, Stacks, decode_stack, is_stack


class Decoded(NamedTuple):
    """`pixels` (size, size, channels) uint8 and the SHA-256 of the file, or what was wrong with it."""

    path: str
    hash: str
    pixels: np.ndarray | None
    problem: str | None


def decode_all(
    places: Sequence[Place], size: int, channels: int, workers: int, stacks: Stacks | None = None
) -> Iterator[Decoded]:
    """Decode files on `workers` threads (0: all cores), in order; Pillow decodes outside Python's lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield from pool.map(lambda place: decode(place, size, channels, stacks), places)


def decode(place: Place, size: int, channels: int, stacks: Stacks | None = None) -> Decoded:
    """Read a file once: hash its bytes, decode, turn upright, fit to size x size. Never raises for a bad file.

    stacks: how .npy, .npz and .tiff files are read as stacks of components; their hash also names components and
    ranges, as another choice of them makes another picture.
    """
    path = str(place)
    try:
        content = place.read_bytes()
    except OSError as error:
        return Decoded(path, "", None, f"cannot be read: {error.strerror}")
    name = hashlib.sha256(content).hexdigest()
    if not content:
        return Decoded(path, name, None, "is empty (0 bytes)")
    if stacks is not None and is_stack(path, stacks.tiffs):
        name = hashlib.sha256(content + repr((stacks.names, stacks.ranges)).encode()).hexdigest()
        try:
            return Decoded(path, name, decode_stack(path, content, size, stacks), None)
        except StackError as error:
            return Decoded(path, name, None, str(error))
    if channels not in ORDINARY:
        return Decoded(path, name, None, f"is no stack of {channels} components; expected .npy, .npz or .tiff")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return Decoded(path, name, fit_square(picture, size, channels), None)
    except UnidentifiedImageError:
        return Decoded(path, name, None, "is not a picture")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return Decoded(path, name, None, f"has more than {MAX_PIXELS:,} pixels (decompression bomb?)")
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        return Decoded(path, name, None, f"is broken: {' '.join(str(error).split())}")


def fit_square(picture: Image.Image, size: int, channels: int) -> np.ndarray:
    """(size, size, channels) uint8: upright (EXIF), shorter side to `size`, centre crop, on white where transparent."""
    if picture.format == "JPEG":  # decode at a coarser scale when the picture is much larger than needed
        picture.draft("RGB" if channels == 3 else "L", (2 * size, 2 * size))
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    plain = plain_mode(upright, channels)
    return np.asarray(_square(plain, size)).reshape(size, size, channels)


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The largest central square, resized with antialiasing; untouched when it already has that size."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if (width, height) == (size, size):
        return picture
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
