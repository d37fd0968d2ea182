"""Reading pictures, masks and boxes, each mistake in one line."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.progress import progress_bar
from masked_memory.settings.reconstruct_masked import OwnPicture
from masked_memory.sources.folders import PICTURE_ENDINGS
from masked_memory.sources.pictures import opened
from masked_memory.sources.pixels import PictureError, check_values, plain_mode
from masked_memory.sources.places import read_place
from masked_memory.sources.stacks import ORDINARY

NAME_LENGTH = 60


# --- reading ----------------------------------------------------------------------------------------------------------


def read_picture(path: Path, option: str = "--image") -> Image.Image:
    """The picture in a file, loaded and upright, in its own mode. Raises InputError when there is none."""
    try:
        content = read_place(path)
    except FileNotFoundError:
        raise InputError(f"{option} {path} does not exist; expected a picture file") from None
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with opened(content) as picture:
                upright = ImageOps.exif_transpose(picture)
                check_values(upright)
                return upright
    except PictureError as error:
        raise InputError(f"{option} {path} {error}") from error


def upright_pixels(picture: Image.Image, channels: int) -> np.ndarray:
    """Any mode -> (H, W, channels) uint8; turned as its EXIF says, on white where transparent."""
    plain = plain_mode(ImageOps.exif_transpose(picture), channels)
    return np.array(plain).reshape(plain.height, plain.width, channels)


def read_mask(path: Path | str, size: tuple[int, int]) -> np.ndarray:
    """The picture in a file -> (H, W) bool, True where it is white: at least half bright; transparent is not white.

    size: (width, height) of the picture it is for. Raises InputError when the file is no picture, has another size, or
    says that nothing or everything is missing.
    """
    return mask_of_picture(read_picture(Path(path), "--mask"), f"--mask {path}", size)


def mask_of_picture(picture: Image.Image, name: str, size: tuple[int, int]) -> np.ndarray:
    """A picture -> (H, W) bool, as `read_mask` reads one. name: what it is called in messages."""
    check_size(name, picture.size, size)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "black")
        picture.alpha_composite(layer)
    values = np.asarray(plain_mode(picture, 1))
    missing = values >= 128
    if not missing.any():
        raise InputError(
            f"{name} has no white pixel (the brightest is {values.max()} of 255), so nothing is missing; "
            "paint what is missing white"
        )
    return _checked_not_all(missing, f"{name} is white all over")


def box_mask(box: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """x0 y0 x1 y1 in pixels, x1 and y1 not included -> (H, W) bool; size: (width, height).

    Raises InputError for a box that is empty, reaches outside, or takes the whole picture.
    """
    x0, y0, x1, y1 = box
    width, height = size
    asked = f"--box {x0} {y0} {x1} {y1}"
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{asked} is empty; expected x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        raise InputError(f"{asked} reaches outside the picture; expected at most 0 0 {width} {height}")
    missing = np.zeros((height, width), dtype=bool)
    missing[y0:y1, x0:x1] = True
    return _checked_not_all(missing, f"{asked} takes the whole picture of {width}x{height}")


def _checked_not_all(missing: np.ndarray, found: str) -> np.ndarray:
    if missing.all():
        raise InputError(f"{found}, so nothing is known; leave some pixels, or type --percent 100 instead")
    return missing


def check_size(name: str, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(found) != tuple(expected):
        sizes = f"{'x'.join(map(str, found))}; expected {expected[0]}x{expected[1]}"
        raise InputError(f"{name} is {sizes}, the size of the picture")


def check_own(own: OwnPicture, channels: int) -> list[Path]:
    """The picture file, or the picture files of the folder, each of them tried out with the mask that is asked for.

    Raises InputError when there is none, and one that lists those that cannot be used.
    """
    if channels not in ORDINARY:
        raise InputError(
            f"--image takes grey and RGB pictures, these models have {channels} components; type "
            f"{command('vqvae_reconstruction')} --input STACK --components NAMES"
        )
    if own.mask is not None and own.box is not None:
        raise InputError("--mask and --box exclude each other; give one of them")
    files, problems = own_files(own), []
    for file in progress_bar(files, "checking", "picture") if len(files) > 1 else files:
        try:
            picture = read_picture(file)
            upright_pixels(picture, channels)
            asked_mask(own, picture.size)
        except InputError as error:
            problems.append(str(error))
    if problems and len(files) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "; ".join(list(dict.fromkeys(problems))[:5])
        raise InputError(f"{len(problems)} of {len(files)} pictures cannot be used: {listed}")
    return files


def own_files(own: OwnPicture) -> list[Path]:
    """Raises InputError when the setting names neither a file nor a folder with pictures in it."""
    if own.image is None:
        raise InputError("no picture is named; type --image PICTURE_OR_FOLDER")
    source = Path(own.image)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--image {source} does not exist; expected a picture or a folder with pictures in it")
    visible = (file for file in source.iterdir() if file.is_file() and not file.name.startswith("."))
    files = sorted(file for file in visible if file.suffix.lower() in PICTURE_ENDINGS)
    if not files:
        raise InputError(f"--image {source} has no pictures; expected files such as {source / 'a.png'}")
    return files


def has_mask(own: OwnPicture) -> bool:
    """Whether the settings say what is missing, so that no strategy chooses."""
    return own.mask is not None or own.box is not None


def asked_mask(own: OwnPicture, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) bool of the mask or box of the settings; None when the strategy is to choose. size: (width, height)."""
    if own.mask is not None:
        return read_mask(own.mask, size)
    return None if own.box is None else box_mask(own.box, size)


def unique_names(files: Sequence[Path]) -> list[str]:
    """The files' names without endings, cut to a length that any disk takes; equal ones are numbered."""
    taken: dict[str, str] = {}  # some disks do not tell a from A
    for file in files:
        name, number = file.stem[:NAME_LENGTH], 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem[:NAME_LENGTH]}_{number}"
        taken[name.lower()] = name
    return list(taken.values())
