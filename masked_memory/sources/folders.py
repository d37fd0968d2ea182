"""Finds the pictures of a data set on disk, in the layouts that people have. `arrange` knows the layouts, of any tree.

- class folders: ROOT/CLASS/*.jpg (also nested deeper inside the class folder)
- a split tree: some of ROOT/train, ROOT/val or valid or validate or validation, ROOT/test, each with class folders or
  pictures
- Kaggle's ImageNet-100: ROOT/train.X1 ... train.X4 and ROOT/val.X, each with class folders
- the OASIS course set: ROOT/keras_png_slices_train, _validate, _test with pictures and no classes
- pictures without classes: ROOT/*.png

One more folder around a split tree or around class folders is passed through.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from masked_memory.pipeline.files import InputError
from masked_memory.sources.places import Place

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
PART = re.compile(r"^(?:keras_png_slices_)?(?P<name>[a-z]+)(?:\.X\d*)?$", re.IGNORECASE)
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
LITTER = {"thumbs.db", "desktop.ini"}  # left by operating systems; hidden files are passed over as well
NO_CLASS = ""
MOST_WAYS = 500  # that lead to one folder by links; a few more links would make them endless


#: Lists a folder below the root ('' is the root): the paths of its subfolders and of its files below the root, with /,
#: in order and without litter.
Listing = Callable[[str], tuple[list[str], list[str]]]


class Found(NamedTuple):
    """One file. `split`: the part that it lies in (train, val, test), empty in a tree without parts."""

    path: str  # relative to the root, with /
    class_name: str
    split: str
    place: Place


def find_pictures(root: Path) -> list[Found]:
    """All files that should be pictures, sorted by path.

    Raises InputError when the folder is missing, unreadable, empty, or mixes pictures with class folders.
    """
    if not root.is_dir():
        raise InputError(f"data.source {root} is not a folder; type --data.source PATH_TO_PICTURES, or to a .tar")
    found = arrange(_Tree(root).entries, str(root))
    if not found:
        raise InputError(f"{root} has no pictures; expected class folders with pictures in them, or pictures")
    return [Found(path, class_name, split, root / path) for path, class_name, split in sorted(found)]


def arrange(listing: Listing, where: str, wrapped: bool = False) -> list[tuple[str, str, str]]:
    """(path, class, part) of each file of a tree, by its layout.

    where: what the root is called in messages; wrapped: a lone folder at the top is no class, even with pictures in it.
    Raises InputError when pictures are mixed with class folders.
    """
    top = _within(listing, "", wrapped)
    parts = _split_parts(listing, top) or [("", top)]
    return [one for split, part in parts for one in _scan_part(listing, where, part, split)]


def _within(listing: Listing, folder: str, wrapped: bool) -> str:
    """The folder itself, or the innermost of those that only wrap another one, as zip files have."""
    folders, files = listing(folder)
    while len(folders) == 1 and not files and not _part_of(folders[0]):
        inner = listing(folders[0])
        if not wrapped and not inner[0]:
            break
        folder, (folders, files) = folders[0], inner
    return folder


def _split_parts(listing: Listing, top: str) -> list[tuple[str, str]]:
    """(split, folder) of each train/val/test part. Folders beside them are passed over when one part is for training.

    None when they are classes: a folder named `train` beside others that are no parts is a class of trains.
    """
    folders, _ = listing(top)
    parts = [(_part_of(folder), folder) for folder in folders]
    named = [(split, folder) for split, folder in parts if split]
    if len(named) == len(folders):
        return named
    is_class = len(named) == 1 and _name(named[0][1]).lower() in SPLIT_NAMES
    return named if any(split == "train" for split, _ in named) and not is_class else []


def _part_of(folder: str) -> str:
    match = PART.match(_name(folder))
    return SPLIT_NAMES.get(match["name"].lower(), "") if match else ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _scan_part(listing: Listing, where: str, part: str, split: str) -> list[tuple[str, str, str]]:
    folders, files = listing(part)
    if folders:  # notes and lists beside class folders are no pictures, and no mistake
        files = [file for file in files if Path(file).suffix.lower() in PICTURE_ENDINGS]
    if folders and files:
        raise InputError(
            f"{Path(where) / part} has {len(folders)} folders and {len(files)} pictures ({_name(files[0])}, ...); "
            "expected class folders only, or pictures only"
        )
    unclassed = [(file, NO_CLASS, split) for file in files]
    return unclassed + [(file, _name(folder), split) for folder in folders for file in _all_files(listing, folder)]


def _all_files(listing: Listing, folder: str) -> list[str]:
    """In the order of a walk that takes a folder's files before its folders."""
    found, waiting = [], [folder]
    while waiting:
        folders, files = listing(waiting.pop())
        found += files
        waiting += reversed(folders)
    return found


class _Tree:
    """The folders below a root, also by links, as long as none leads back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lies_at = {"": os.path.realpath(root)}  # the root and folders that are links
        self._ways: Counter[str] = Counter()  # how many links lead to a folder

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Raises InputError when the folder is unreadable, or a name or a link in it cannot be used."""
        kinds: tuple[list[str], list[str]] = [], []
        try:
            with os.scandir(self.root / folder) as entries:
                seen = sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)
                for entry in seen:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    check_name(entry.name, self.root / folder)
                    is_folder = _is_folder(entry)
                    if is_folder and entry.is_symlink():
                        self._note_link(path)
                    kinds[not is_folder].append(path)
        except OSError as error:
            raise InputError(f"cannot read folder {shortened(self.root / folder)}: {error.strerror}") from error
        return kinds

    def _note_link(self, path: str) -> None:
        """Raises InputError when the link at `path` leads to a folder that it lies in, or too many ways lead there."""
        above = [self._real(folder) for folder in _and_above(path)[1:]]
        target = os.path.realpath(f"{above[0]}/{path.rpartition('/')[2]}")
        if any(_holds(target, folder) for folder in above):
            raise InputError(
                f"{shortened(self.root / path)} is a link that leads back to a folder it lies in; remove it"
            )
        self._ways[target] += path not in self._lies_at
        self._lies_at[path] = target
        if self._ways[target] > MOST_WAYS:
            raise InputError(f"{shortened(self.root / path)} leads to {target}, as links do over and over; remove some")

    def _real(self, folder: str) -> str:
        """Where a folder lies when no link is followed any more."""
        known = next(part for part in _and_above(folder) if part in self._lies_at)
        return f"{self._lies_at[known]}/{folder[len(known) :].lstrip('/')}".rstrip("/")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """False for a link that leads to itself, which is found out when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _and_above(path: str) -> list[str]:
    """'a/b' -> 'a/b', 'a', ''."""
    found = [path]
    while path:
        path = path.rpartition("/")[0]
        found.append(path)
    return found


def _holds(folder: str, place: str) -> bool:
    """Whether `place` is the folder or lies in it; both without links."""
    return os.path.commonpath([folder, place]) == folder


def shortened(path: object, most: int = 300) -> str:
    """A path in a message, with its middle left out when it is very long."""
    text = str(path)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def check_name(name: str, where: object) -> None:
    """Raises InputError for a name, of a file at `where`, that no text can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = f"{where}/{name}".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise InputError(f"the name {shown} is not in UTF-8; rename it") from None


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden or left by an operating system."""
    return name.startswith(".") or name.lower() in LITTER
