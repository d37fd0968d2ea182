"""Finds pictures inside uncompressed tar files. They are read where they lie; nothing is unpacked, no link is followed.

- one tar, with a layout of `sources/folders.py` inside, or all of that in one folder
- several tars (shards) by a pattern, such as shards/*.tar: one tree. Where their names say train, val or test, as in
  train-000.tar, they are these parts
- WebDataset (https://github.com/webdataset/webdataset), in one tar or in shards: KEY.jpg with its class in KEY.cls, a
  number or a name. What else belongs to KEY is passed over, such as KEY.txt and KEY.json
"""

import glob
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from masked_memory.pipeline.files import InputError
from masked_memory.sources.folders import PICTURE_ENDINGS, SPLIT_NAMES, Found, Listing, arrange, check_name, is_litter
from masked_memory.sources.places import Member, Place, check_ordinary
from masked_memory.sources.splitting import SPLITS
from masked_memory.sources.stacks import NUMPY_ENDINGS

TAR = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz)$", re.IGNORECASE)
UNPACKERS = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\0": "unxz", b"(\xb5/\xfd": "unzstd"}
PICTURES = {*PICTURE_ENDINGS, *NUMPY_ENDINGS}
LONGEST_CLASS = 200  # bytes of a .cls file


class Shard(NamedTuple):
    """One tar. `name`: its path below the folder that all shards share; `split`: the part that its name says, or empty;
    `members`: its files by their path inside; `classes`: of each picture among them what its .cls holds, empty without.
    """

    name: str
    split: str
    members: Mapping[str, Place]
    classes: dict[str, str]


def is_archive(source: str) -> bool:
    """Whether data.source names tars: by its ending, or as a pattern."""
    return not Path(source).is_dir() and bool(TAR.search(source) or glob.has_magic(source))


def find_in_tars(source: str, say: Callable[[str], None]) -> list[Found]:
    """All files of a tar, or of the tars of a pattern, that should be pictures, sorted by path.

    The path of a picture is that inside the tar, with several tars SHARD.tar/inside. Raises InputError when there is no
    such tar, one is compressed or cut off, a picture lacks the .cls that others have, or there are no pictures.
    """
    passed: list[str] = []
    return found_in(_open_shards(source, passed), source, passed, say)


def found_in(shards: Sequence[Shard], source: str, passed: list[str], say: Callable[[str], None]) -> list[Found]:
    """The pictures of all shards, with their classes and splits. passed: what was left out; grows."""
    labelled = any(any(shard.classes.values()) for shard in shards)
    found = []
    for split in sorted({shard.split for shard in shards}):
        tree: dict[str, list[Shard]] = defaultdict(list)
        for shard in shards:
            for path in _chosen(shard, labelled, passed) if shard.split == split else ():
                tree[path].append(shard)
        for path, folder, part in arrange(listing_of(tree), source, wrapped=True):
            for shard in tree[path]:
                name = f"{shard.name}/{path}" if len(shards) > 1 else path
                class_name = shard.classes[path] if labelled else folder
                side = max(part, split, key=("", *SPLITS).index)  # what either name keeps apart is not trained on
                found.append(Found(name, class_name, side, shard.members[path]))
    if passed:
        say(f"passing over {len(passed)} links and files beside pictures, such as {passed[0]}")
    if not found or not any(shard.classes for shard in shards):
        raise InputError(f"{source} has no pictures; expected class folders with pictures in them, or pictures")
    return sorted(found)


def _open_shards(source: str, passed: list[str]) -> list[Shard]:
    matching = [source] if Path(source).is_file() else glob.glob(source)  # noqa: PTH207 (it may start anywhere)
    files = sorted(Path(name) for name in matching)
    if not files:
        raise InputError(f"data.source {source} does not exist; expected a .tar, or a pattern such as 'shards/*.tar'")
    base = os.path.commonpath([file.parent for file in files])
    names = [file.relative_to(base).as_posix() for file in files]
    shards = []
    for name, split, file in zip(names, splits_of(names), files, strict=True):
        members = index_tar(file, passed)
        shards.append(Shard(name, split, members, _classes(members)))
    return shards


def splits_of(names: Sequence[str]) -> list[str]:
    """The part that each name says: train for train-000.tar. All are empty when all say the same, as test.tar alone.

    Raises InputError when some say a part and others none.
    """
    splits = []
    for name in names:
        words = re.findall("[a-z]+", name.rpartition("/")[2].lower())
        said = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        splits.append(said.pop() if len(said) == 1 else "")
    if len(set(splits)) == 1:
        return [""] * len(names)
    if "" in splits:
        named = next(name for name, split in zip(names, splits, strict=True) if split)
        raise InputError(
            f"{named} names a part, but {names[splits.index('')]} does not; "
            "expected train, val or test in the names of all shards, or of none"
        )
    return splits


# --- one tar ----------------------------------------------------------------------------------------------------------


def index_tar(file: Path, passed: list[str]) -> dict[str, Member]:
    """The files of an uncompressed tar by their path inside; of two with the same path the later, as unpacking has it.

    Links and devices are added to `passed`. Raises InputError when the file is no tar, compressed or cut off.
    """
    members: dict[str, Member] = {}
    try:
        check_ordinary(file)
        with file.open("rb") as opened:
            start = opened.read(8)
            for magic, tool in UNPACKERS.items():
                if start.startswith(magic):
                    raise InputError(f"{file} is compressed, so single pictures cannot be read; type: {tool} {file}")
            opened.seek(0)
            with _as_tar(file, opened) as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
                    _note(info, file, members, passed)
                opened.seek(tar.offset)  # where tarfile saw the end; a wrong header looks the same to it
                if opened.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError
    except InputError:
        raise
    except (tarfile.TarError, ValueError, OverflowError):  # the latter two for heads that are damaged
        raise InputError(f"{file} is cut off or damaged after {len(members)} files; copy it again") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    return members


def _as_tar(file: Path, opened: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=opened, mode="r:")
    except tarfile.ReadError:
        raise InputError(f"{file} is not a tar file") from None


def _note(info: tarfile.TarInfo, file: Path, members: dict[str, Member], passed: list[str]) -> None:
    parts = [part for part in info.name.split("/") if part not in ("", ".")]
    check_name(info.name, file)
    if info.isdir() or any(is_litter(part) for part in parts):
        return
    inside = "/".join(parts)
    if info.issparse():
        raise InputError(f"{file} leaves out the holes of {inside}; make it again without --sparse")
    if info.isreg():
        members[inside] = Member(str(file), inside, info.offset_data, info.size)
    else:
        passed.append(f"{file}/{inside}")


def listing_of(paths: Iterable[str]) -> Listing:
    """The tree of some paths, as `arrange` reads it."""
    folders: dict[str, dict[str, None]] = defaultdict(dict)
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        folder = path.rpartition("/")[0]
        files[folder].append(path)
        while folder:
            above = folder.rpartition("/")[0]
            folders[above][folder] = None
            folder = above
    return lambda folder: (sorted(folders[folder]), files[folder])


# --- samples of several files -----------------------------------------------------------------------------------------


def _is_picture(path: str) -> bool:
    return path[path.rfind(".") :].lower() in PICTURES


def _key(path: str) -> str:
    """What the files of a sample share: the path up to the first dot of the file name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _classes(members: dict[str, Member]) -> dict[str, str]:
    """Of each picture what KEY.cls holds, empty without. KEY.seg.png is left out where there is a KEY.jpg with a class.

    Raises InputError when a .cls holds no class.
    """
    classes = {}
    whole = {path.rpartition(".")[0] for path in members if _is_picture(path)}
    for path in members:
        if _is_picture(path):
            key = path.rpartition(".")[0]
            if key + ".cls" not in members and _key(path) + ".cls" in members:
                if _key(path) in whole:
                    continue
                key = _key(path)
            label = members.get(key + ".cls")
            classes[path] = _read_class(label) if label else ""
    return classes


def _read_class(member: Member) -> str:
    try:
        text = member.read_bytes()[: LONGEST_CLASS + 1].decode().strip()
    except (UnicodeDecodeError, OSError):  # the latter for one that is far too large
        text = ""
    if not text or len(text) > LONGEST_CLASS or len(text.splitlines()) > 1:
        raise InputError(f"{member} holds no class; expected a number or a name")
    return text


def _chosen(shard: Shard, labelled: bool, passed: list[str]) -> list[str]:
    """Paths of what should be pictures: with classes by .cls the pictures only, else all but what belongs to one.

    What is left out is added to `passed`. Raises InputError when a picture lacks the .cls that others of the tar have.
    """
    for path, class_name in shard.classes.items():
        if not class_name and any(shard.classes.values()):
            raise InputError(f"{shard.members[path]} has no .cls, but other pictures have; add it, or remove all .cls")
    keys = {_key(path) for path in shard.classes}
    chosen = list(shard.classes)
    for path, member in shard.members.items():
        is_class_of_one = path.endswith(".cls") and _key(path) in keys
        if path in shard.classes or is_class_of_one:
            continue
        if labelled or _is_picture(path) or path.endswith(".cls") or _key(path) in keys:
            passed.append(str(member))
        else:
            chosen.append(path)
    return chosen
