"""Finds the pictures of a data set on disk, in the layouts that people have.

- class folders: ROOT/CLASS/*.jpg (also nested deeper inside the class folder)
- a split tree: some of ROOT/train, ROOT/val or valid or validate or validation, ROOT/test, each with class folders or
  pictures
- Kaggle's ImageNet-100: ROOT/train.X1 ... train.X4 and ROOT/val.X, each with class folders
- the OASIS course set: ROOT/keras_png_slices_train, _validate, _test with pictures and no classes
- pictures without classes: ROOT/*.png
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from pipeline.files import InputError

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
PART = re.compile(r"^(?:keras_png_slices_)?(?P<name>[a-z]+)(?:\.X\d*)?$", re.IGNORECASE)
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
LITTER = {"thumbs.db", "desktop.ini"}  # left by operating systems; hidden files are passed over as well
NO_CLASS = ""


class Found(NamedTuple):
    """One file. `split`: the part that it lies in (train, val, test), empty in a folder without parts."""

    path: str  # relative to the root, with /
    class_name: str
    split: str


def find_pictures(root: Path) -> list[Found]:
    """All files that should be pictures, sorted by path.

    Raises InputError when the folder is missing, unreadable, empty, or mixes pictures with class folders.
    """
    if not root.is_dir():
        raise InputError(f"data.source {root} is not a folder; type --data.source PATH_TO_PICTURES")
    parts = _split_parts(root)
    found = [one for split, part in parts or [("", root)] for one in _scan_part(root, part, split)]
    if not found:
        raise InputError(f"{root} has no pictures; expected class folders with pictures in them, or pictures")
    return sorted(found)


def _split_parts(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) of each train/val/test part. Folders beside them are passed over when one part is for training.

    None when they are classes: a folder named `train` beside others that are no parts is a class of trains.
    """
    folders, files = _entries(root)
    if len(folders) == 1 and not files and not _part_of(folders[0].name):  # one wrapping folder, as zip files have
        return _split_parts(folders[0])
    parts = [(_part_of(folder.name), folder) for folder in folders]
    named = [(split, folder) for split, folder in parts if split]
    if len(named) == len(folders):
        return named
    is_class = len(named) == 1 and named[0][1].name.lower() in SPLIT_NAMES
    return named if any(split == "train" for split, _ in named) and not is_class else []


def _part_of(name: str) -> str:
    match = PART.match(name)
    return SPLIT_NAMES.get(match["name"].lower(), "") if match else ""


def _scan_part(root: Path, part: Path, split: str) -> list[Found]:
    folders, files = _entries(part)
    if folders:  # notes and lists beside class folders are no pictures, and no mistake
        files = [file for file in files if file.suffix.lower() in PICTURE_ENDINGS]
    if folders and files:
        raise InputError(
            f"{part} has {len(folders)} folders and {len(files)} pictures ({files[0].name}, ...); "
            "expected class folders only, or pictures only"
        )
    unclassed = [_found(root, file, NO_CLASS, split) for file in files]
    return unclassed + [_found(root, file, folder.name, split) for folder in folders for file in _all_files(folder)]


def _found(root: Path, file: Path, class_name: str, split: str) -> Found:
    return Found(file.relative_to(root).as_posix(), class_name, split)


def _all_files(folder: Path) -> list[Path]:
    folders, files = _entries(folder)
    return files + [file for inner in folders for file in _all_files(inner)]


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Subfolders and files of a folder in name order, without hidden ones. Raises InputError when unreadable."""
    try:
        with os.scandir(folder) as entries:
            seen = sorted((entry for entry in entries if not _is_litter(entry.name)), key=lambda entry: entry.name)
            folders = [Path(entry.path) for entry in seen if entry.is_dir()]
            return folders, [Path(entry.path) for entry in seen if not entry.is_dir()]
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER
