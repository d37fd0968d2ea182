"""Pictures as stacks of named components, from .npy, .npz and .tiff files.

- .npy: (C, H, W) or (H, W, C), whichever end has the right length (the last when both have), or (H, W)
- .npz: one (H, W) array for each component, under its name, in alphabetical order unless data.components says
  otherwise (it may also leave some out); or a single array as in .npy
- .tiff: pages, or samples of a page

Numbers become uint8 by a fixed range for each component: 0..255, 0..65535 and 0..1 for uint8, uint16 and bool, else
the smallest and the largest number in all files. The ranges are kept in split.json; what lies outside later is cut off.
"""

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from masked_memory.pipeline.files import InputError, replacing
from masked_memory.sources.places import MOST_BYTES, Place, read_place

NUMPY_ENDINGS, TIFF_ENDINGS = (".npy", ".npz"), (".tif", ".tiff")
FULL_RANGE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "bool": (0.0, 1.0)}
ORDINARY = (1, 3)  # components that PNG and JPEG have, too
LARGEST = 1e38  # what float32 can hold, also the difference of two
BROKEN = (  # what NumPy and tifffile raise for a file that is cut off or has wrong bytes
    OSError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    MemoryError,
    RuntimeError,
    AssertionError,
    ZeroDivisionError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class StackError(ValueError):
    """Why a file is no stack of the components that are asked for."""


@dataclass(frozen=True)
class Stacks:
    """How the stacks of a data set are read. `tiffs`: TIFF files are stacks, too, not pictures in grey or RGB."""

    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]
    tiffs: bool

    def describe(self) -> dict[str, Any]:
        """As plain values, the form that `from_meta` reads back."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "Stacks":
        return cls(tuple(meta["names"]), tuple((low, high) for low, high in meta["ranges"]), meta["tiffs"])


def default_names(channels: int) -> tuple[str, ...]:
    """grey; red, green, blue; else component0, component1, ..."""
    known = {1: ("grey",), 3: ("red", "green", "blue")}
    return known.get(channels, tuple(f"component{number}" for number in range(channels)))


def is_stack(path: str, tiffs: bool) -> bool:
    ending = PurePath(path).suffix.lower()
    return ending in NUMPY_ENDINGS or (tiffs and ending in TIFF_ENDINGS)


# --- reading one file -------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """A file as it is: arrays by name (.npz), or one array."""

    named: dict[str, np.ndarray] | None
    array: np.ndarray | None


def read_layers(path: str, content: bytes) -> Layers:
    """Raises StackError for a file that cannot be read."""
    ending = PurePath(path).suffix.lower()
    try:
        if ending in TIFF_ENDINGS:
            return Layers(None, _read_tiff(content))
        if ending == ".npz":
            with zipfile.ZipFile(io.BytesIO(content)) as opened:
                _check_unpacked(sum(member.file_size for member in opened.infolist()))
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if ending == ".npy":
            if not isinstance(found, np.ndarray):
                raise StackError("is an .npz file by its contents; name it so")
            return Layers(None, found)
        read = {name: found[name] for name in found.files}
    except StackError:
        raise
    except BROKEN as error:
        raise StackError(f"is broken: {' '.join(str(error).split()) or type(error).__name__}") from None
    arrays = {name: array for name, array in read.items() if isinstance(array, np.ndarray)}  # texts may lie beside
    if len(arrays) == 1 and next(iter(arrays.values())).ndim == 3:
        return Layers(None, next(iter(arrays.values())))
    return Layers(arrays, None)


def _read_tiff(content: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        _check_unpacked(opened.series[0].nbytes)
        return opened.asarray()


def _check_unpacked(size: int) -> None:
    if size > MOST_BYTES:
        raise StackError(f"unpacks to {size / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:.1f} GB")


def stack_of(layers: Layers, names: Sequence[str], count: int) -> np.ndarray:
    """(C, H, W) of the components `names` (.npz), or of all. Raises StackError when they are not there."""
    if layers.named is not None:
        missing = [name for name in names if name not in layers.named]
        if missing or not names:
            has = ", ".join(layers.named) or "none"
            raise StackError(f"has no component {', '.join(missing)}; it has {has}")
        shapes = {layers.named[name].shape for name in names}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise StackError(f"has components of shapes {sorted(shapes)}; expected one shape (height, width)")
        stack = np.stack([layers.named[name] for name in names])
    else:
        assert layers.array is not None
        stack = _components_first(layers.array, count)
    if stack.dtype.kind not in "buif":
        raise StackError(f"holds {stack.dtype}; expected numbers")
    if stack.dtype.kind == "f" and not np.isfinite(stack).all():
        raise StackError("has numbers that are not finite")
    if not stack.size:
        raise StackError(f"is empty: shape {stack.shape}")
    if stack.dtype.kind == "f" and float(np.abs(stack).max()) > LARGEST:
        raise StackError(f"has numbers larger than {LARGEST:g}")
    return stack


def _components_first(array: np.ndarray, count: int) -> np.ndarray:
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise StackError(f"has shape {array.shape}; expected (components, height, width)")
    if array.shape[-1] == count and array.shape[0] != 1:
        return np.moveaxis(array, -1, 0)
    if array.shape[0] != count:
        raise StackError(f"has {min(array.shape[0], array.shape[-1])} components, but data.channels is {count}")
    return array


def decode_stack(path: str, content: bytes, size: int, stacks: Stacks) -> np.ndarray:
    """(size, size, C) uint8: the largest central square of the file, resized, each component by its range.

    Raises StackError.
    """
    stack = stack_of(read_layers(path, content), stacks.names, len(stacks.names)).astype(np.float32)
    low, high = np.array(stacks.ranges, dtype=np.float32).T[..., None, None]
    scaled = (stack - low) / np.where(high > low, high - low, 1)
    fitted = np.stack([_square(component, size) for component in scaled], axis=-1)
    return (fitted.clip(0, 1) * 255).round().astype(np.uint8)


def _square(component: np.ndarray, size: int) -> np.ndarray:
    height, width = component.shape
    side = min(height, width)
    if (height, width) == (size, size):
        return component
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(component).resize((size, size), Image.Resampling.BICUBIC, box=box))


# --- a whole data set -------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one file says before it is known how to read it. components: how many, 0 when it cannot be read."""

    path: str
    components: int
    names: tuple[str, ...]
    dtype: str
    low: np.ndarray
    high: np.ndarray


def survey(places: Sequence[Place], channels: int, names: Sequence[str] | None, workers: int) -> Stacks | None:
    """How to read the stacks among the files: components, names and ranges that fit all. None when there is no stack.

    Reads every stack once. Files that are broken are passed over; decoding lists them.
    Raises InputError when counts or names of components differ between files, or are not those that are asked for.
    """
    tiffs = names is not None or channels not in ORDINARY
    chosen = [place for place in places if is_stack(str(place), tiffs)]
    if not chosen:
        return None
    with ThreadPoolExecutor(workers or None) as pool:
        seen = [one for one in pool.map(lambda place: _see(place, channels, names), chosen) if one.components]
    if not seen:
        return Stacks(tuple(names or default_names(channels)), ((0.0, 255.0),) * channels, tiffs)
    first = seen[0]
    for one in seen:
        if one.components != first.components:
            raise InputError(
                f"{one.path} has {one.components} components, {first.path} has {first.components}; "
                "expected the same in all files: mend or remove some"
            )
        if names is None and set(one.names) != set(first.names):
            raise InputError(
                f"{one.path} has components {', '.join(one.names)}, {first.path} has {', '.join(first.names)}; "
                "name those to take with --data.components"
            )
    if first.components != channels:
        raise InputError(
            f"{first.path} has {first.components} components, but data.channels is {channels}; "
            f"type --data.channels {first.components}"
        )
    found = tuple(names or first.names or default_names(channels))
    low, high = np.min([one.low for one in seen], axis=0), np.max([one.high for one in seen], axis=0)
    kinds = {one.dtype for one in seen}
    ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))
    if len(kinds) == 1 and first.dtype in FULL_RANGE:
        ranges = (FULL_RANGE[first.dtype],) * channels
    return Stacks(found, ranges, tiffs)


def _see(place: Place, channels: int, names: Sequence[str] | None) -> Seen:
    path, nothing = str(place), np.zeros(0)
    try:
        layers = read_layers(path, read_place(place))
        if layers.named is not None:
            lacking = [name for name in names or () if name not in layers.named]
            if lacking:
                raise InputError(
                    f"{path} has no component {', '.join(lacking)}; expected data.components out of: "
                    f"{', '.join(sorted(layers.named))}"
                )
            own = tuple(sorted(layers.named) if names is None else names)
            stack, own_names = stack_of(layers, own, len(own)), own
        else:
            assert layers.array is not None
            array, own_names = layers.array, ()
            fits = array.ndim == 3 and channels in (array.shape[0], array.shape[-1])
            ends = (array.shape[0], array.shape[-1]) if array.ndim == 3 else (1,)
            stack = stack_of(layers, (), channels if fits else min(ends))
    except (StackError, OSError):
        return Seen(path, 0, (), "", nothing, nothing)
    flat = stack.reshape(len(stack), -1)
    return Seen(path, len(stack), own_names, str(stack.dtype), flat.min(1).astype(float), flat.max(1).astype(float))


def write_stack(path: Path, pixels: np.ndarray, stacks: Stacks) -> None:
    """(H, W, C) uint8 -> .npz with a float32 array for each component, in the units of the data."""
    arrays = {
        name: pixels[:, :, place].astype(np.float32) / 255 * (high - low) + low
        for place, (name, (low, high)) in enumerate(zip(stacks.names, stacks.ranges, strict=True))
    }
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **{name: array.astype(np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]
