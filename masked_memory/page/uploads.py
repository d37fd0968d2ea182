"""What comes in through the page, checked before it is decoded: too much, or no picture, is refused in a sentence."""

import io
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from masked_memory.pipeline.files import InputError

MOST_PIXELS = 4_000_000
MOST_LAYERS = 8  # of paint over one picture
MOST_HELD = 16  # uploads of the editor that wait for the button
UPLOAD_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")

Source = Path | bytes


def check_picture(source: Source, what: str) -> None:
    """Raises InputError for what is no picture, is broken, or has more than MOST_PIXELS. what: "picture", "mask"."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=UPLOAD_FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"the {what} is no picture; expected PNG, JPEG, GIF, BMP, TIFF or WebP") from None
    except Image.DecompressionBombError:
        raise InputError(f"the {what} has far more than {MOST_PIXELS:,} pixels; make it smaller first") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise _broken(what, error) from error
    with opened:
        check_pixels(*opened.size, what)
        try:
            opened.load()
        except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
            raise _broken(what, error) from error


def _broken(what: str, error: Exception) -> InputError:
    found = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"the {what} is broken ({found}); save it anew, or take another")


def check_pixels(width: int, height: int, what: str) -> None:
    """Raises InputError for more than MOST_PIXELS."""
    if width * height > MOST_PIXELS:
        found = f"{width}x{height} = {width * height:,} pixels"
        raise InputError(f"the {what} has {found}; expected {MOST_PIXELS:,} or fewer: make it smaller first")


def number_in(value: Any, name: str, least: float, most: float) -> float:
    """The value. Raises InputError for what is no number from least to most; an empty field is none, NaN neither."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not least <= value <= most:
        found = "empty" if value is None else repr(value)[:40]
        raise InputError(f"{name} is {found}; expected a number from {least:.10g} to {most:.10g}")
    return float(value)


def check_control(control: Any, value: Any) -> None:
    """Raises InputError for what a control (of gradio) cannot hold: none of its choices, no number of its range."""
    name = str(control.label).partition(",")[0].partition(" –")[0]
    if getattr(control, "choices", None) is not None:
        choices = [choice for _, choice in control.choices]
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            expected = ", ".join(str(choice) for choice in choices[:20])
            raise InputError(f"{name} is {repr(value)[:40]}; expected one of: {expected}")
    elif getattr(control, "minimum", None) is not None:
        number_in(value, name, control.minimum, control.maximum)


def check_no_addresses(value: Any) -> None:
    """Raises InputError when a file is named by an address, which would be fetched from there."""
    for path in _named_files(value):
        if "://" in path:
            raise InputError(f"{path[:80]} is an address; upload the file itself")


def _named_files(value: Any) -> Iterator[str]:
    """The paths of all files that an input names, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        for each in value.values():
            yield from _named_files(each)
    elif isinstance(value, list):
        for each in value:
            yield from _named_files(each)


class FewHeld(OrderedDict[str, Any]):
    """The last MOST_HELD uploads, by their id; older ones are dropped."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > MOST_HELD:
            self.popitem(last=False)


def check_uploads(editor: Any) -> Any:
    """The editor (gradio's ImageMask), which from now on refuses what `check_picture` refuses, holds few uploads, and
    leaves aside the picture with its paint on it, which nobody asks for."""
    read, take = editor.preprocess, editor.accept_blobs
    editor.blob_storage = FewHeld()

    def preprocess(payload: Any) -> Any:
        if payload is None:
            return None
        held = payload if payload.id is None else editor.blob_storage.get(payload.id)
        if held is not None:
            layers = [layer for layer in held.layers or [] if layer is not None]
            if len(layers) > MOST_LAYERS:
                raise InputError(f"there are {len(layers)} layers of paint; expected {MOST_LAYERS} or fewer")
            for what, file in (("picture", held.background), *(("mask", layer) for layer in layers)):
                if file is not None:
                    check_picture(bytes(file) if isinstance(file, bytes | bytearray) else Path(file.path), what)
            held.composite = None
        return read(payload)

    def accept_blobs(data: Any) -> None:
        index = data.data.get("index")
        if index not in (None, "", "null") and not (str(index).isdecimal() and int(index) < MOST_LAYERS):
            raise InputError(f"layer {index} was sent; expected fewer than {MOST_LAYERS}")
        take(data)

    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]  # how gradio knows what a page may call
    editor.preprocess, editor.accept_blobs = preprocess, accept_blobs
    return editor
