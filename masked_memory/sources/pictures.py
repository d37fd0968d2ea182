"""Any picture file -> a square uint8 array.

What a file can cost is bounded before it is decoded: bytes, pixels, and passes over them; only the formats below are
read, as others start programs (PostScript) or are seldom tried.
"""

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from masked_memory.pipeline.processes import cores
from masked_memory.sources.pixels import MAX_PIXELS, MEASURE, PictureError, plain_mode
from masked_memory.sources.places import Place, read_place
from masked_memory.sources.stacks import BROKEN, ORDINARY, StackError, Stacks, decode_stack, is_stack

READ_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
MOST_PASSES = 100  # of a JPEG over all of its pixels; a usual progressive one takes ten
SCAN, END_OF_SCAN = b"\xff\xda", re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
BITS, NEGATIVE, SIGNS = 258, 262, 339  # tags of TIFF
DEPTHS = (1, 2, 4, 8, 16)
IN_HAND = "in_hand"  # beside the notes of how far a run has come
SLOT = 2048  # bytes of a path that are noted while its file is decoded


class Decoded(NamedTuple):
    """`pixels` (size, size, channels) uint8 and the SHA-256 of the file, or what was wrong with it."""

    path: str
    hash: str
    pixels: np.ndarray | None
    problem: str | None


def decode_all(
    places: Sequence[Place],
    size: int,
    channels: int,
    workers: int,
    stacks: Stacks | None = None,
    in_hand: Path | None = None,
) -> Iterator[Decoded]:
    """Decode files on `workers` threads (0: all cores), in order; Pillow decodes outside Python's lock.

    in_hand: a file that says which files are being decoded; it stays only when the process dies, see `last_in_hand`.
    """
    with warnings.catch_warnings(), _noting(in_hand) as note:
        warnings.simplefilter("error", Image.DecompressionBombWarning)

        def decode_one(place: Place) -> Decoded:
            note(str(place))
            decoded = decode(place, size, channels, stacks)
            note("")
            return decoded

        with ThreadPoolExecutor(workers or cores()) as pool:
            yield from pool.map(decode_one, places)


@contextmanager
def _noting(file: Path | None) -> Iterator[Callable[[str], None]]:
    """What notes the text of each thread in a slot of the file. The system keeps it when the process is killed."""
    if file is None:
        yield lambda text: None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    slots: dict[int, int] = {}  # thread -> its place in the file
    lock = threading.Lock()
    try:
        with file.open("wb", buffering=0) as opened:

            def note(text: str) -> None:
                with lock:
                    opened.seek(SLOT * slots.setdefault(threading.get_ident(), len(slots)))
                    opened.write(text.encode("utf-8", "replace")[:SLOT].ljust(SLOT, b"\0"))

            yield note
    finally:
        file.unlink(missing_ok=True)


def last_in_hand(file: Path) -> list[str]:
    """The files that a process had in hand when it was killed or crashed; empty when it ended by itself."""
    content = file.read_bytes() if file.is_file() else b""
    slots = [content[start : start + SLOT] for start in range(0, len(content), SLOT)]
    return [text for slot in slots if (text := slot.rstrip(b"\0").decode("utf-8", "replace"))]


def decode(place: Place, size: int, channels: int, stacks: Stacks | None = None) -> Decoded:
    """Read a file once: hash its bytes, decode, turn upright, fit to size x size. Never raises for a bad file.

    stacks: how .npy, .npz and .tiff files are read as stacks of components; their hash also names components and
    ranges, as another choice of them makes another picture.
    """
    path = str(place)
    try:
        content = read_place(place)
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
        with opened(content) as picture:
            return Decoded(path, name, fit_square(picture, size, channels), None)
    except PictureError as error:
        return Decoded(path, name, None, str(error))


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """The picture in a file, not yet decoded. Raises PictureError, also for what goes wrong with it in the block."""
    try:
        with Image.open(io.BytesIO(content), formats=READ_FORMATS) as picture:
            _check(picture, content)
            yield picture
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError("is not a picture; expected PNG, JPEG, GIF, BMP, TIFF, WebP, PPM or PGM") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(
            f"has more than {MAX_PIXELS:,} pixels (decompression bomb?); make it smaller first"
        ) from None
    except (*BROKEN, SyntaxError, ArithmeticError, AttributeError) as error:
        raise PictureError(f"is broken: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check(picture: Image.Image, content: bytes) -> None:
    """Raises PictureError for what would take too long, or be read as other shades than it has."""
    if picture.width * picture.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if content.startswith(b"\xff\xd8") and content.count(SCAN) > MOST_PASSES and _passes(content) > MOST_PASSES:
        raise PictureError(f"is a JPEG of {_passes(content):,} passes; expected at most {MOST_PASSES}")
    if (picture.format, picture.mode) == ("PNG", "P") and picture.palette is None:
        raise PictureError("is broken: it has no palette")
    if picture.format == "TIFF":
        _check_tiff(picture)


def _check_tiff(picture: Image.Image) -> None:
    """Floats are looked at when they are decoded."""
    tags: dict[int, tuple[int, ...]] = dict(picture.tag_v2)  # type: ignore[attr-defined]
    if picture.mode == "F":
        return
    bits, signs = np.atleast_1d(tags.get(BITS, 1)), np.atleast_1d(tags.get(SIGNS, 1))
    if not np.isin(bits, DEPTHS).all():
        raise PictureError(f"has numbers of {bits.max()} bits; expected 8 or 16; {MEASURE}")
    if (signs == 2).any():
        raise PictureError(f"has signed numbers; expected from 0 on; {MEASURE}")
    if picture.mode.startswith("I;16") and tags.get(NEGATIVE) == 0:
        raise PictureError("is a negative of 16 bits (white is 0); expected black to be 0")


def _passes(jpeg: bytes) -> int:
    """Scans of a JPEG, up to its end; what looks like one in a comment, or behind the end, does not count."""
    passes, place = 0, 2
    while (found := END_OF_SCAN.search(jpeg, place)) is not None and found[0] != b"\xff\xd9":
        passes += found[0] == SCAN
        place = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
    return passes


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
