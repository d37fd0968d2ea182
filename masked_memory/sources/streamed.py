"""Pictures that are read once and in order, from where they lie, into a cache of pixels: nothing else of them is kept,
so they may be larger than the disk.

- tars, compressed or not, at any address that fsspec opens (https, s3, gs, file, ...), one or many: `*` and
  `{000..127}` stand for several. Layouts as in `sources/archives.py`; the .cls of a picture stands beside it in the tar
- data sets of Hugging Face: hf://OWNER/NAME, or a folder written by `save_to_disk` or full of .parquet files. The first
  column of pictures is taken, and the first of classes
"""

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from masked_memory.pipeline.files import InputError
from masked_memory.sources.archives import LONGEST_CLASS, PICTURES, TAR, Shard, found_in, splits_of
from masked_memory.sources.folders import NO_CLASS, SPLIT_NAMES, Found, check_name, is_litter
from masked_memory.sources.places import MOST_BYTES, Place

COUNTED = re.compile(r"\{(\d+)\.\.(\d+)\}")
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")
EXAMPLES_OF_A_PART = 5_000  # of a data set that is not in shards


class Sample(NamedTuple):
    """A picture's file. `class_name`: what stands beside it, empty without."""

    path: str
    class_name: str
    content: bytes

    def __str__(self) -> str:
        return self.path

    def read_bytes(self) -> bytes:
        return self.content


class StreamedPart(NamedTuple):
    """A tar, or a part of a data set. `split`: the part of the data set that it says it is, or empty."""

    name: str
    split: str
    samples: Callable[[], Iterator[Sample]]


class CachedRow(NamedTuple):
    """Where a picture lies in the cache; as text its path."""

    path: str
    row: int

    def __str__(self) -> str:
        return self.path

    def read_bytes(self) -> bytes:
        raise OSError(0, "was read from a stream, and is in the cache only")


def is_streamed(source: str) -> bool:
    return "://" in source or _is_saved(Path(source))


def _is_saved(folder: Path) -> bool:
    """Whether a folder holds a data set of Hugging Face."""
    return any((folder / name).is_file() for name in SAVED) or _holds_parquet(folder)


def _holds_parquet(folder: Path) -> bool:
    """At any depth, but not behind links; folders that cannot be read are told of when they are searched."""
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".parquet"):
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue
    return False


def open_parts(source: str) -> list[StreamedPart]:
    """What is read, one part after the other. Raises InputError when there is nothing, or a package is missing."""
    parts = _data_set_parts(source) if _is_data_set(source) else _tar_parts(source)
    if not parts:
        raise InputError(f"data.source {source} has nothing in it; expected tars, or a data set of Hugging Face")
    return parts


def _is_data_set(source: str) -> bool:
    return _is_saved(Path(source)) if "://" not in source else bool(re.fullmatch(r"hf://[^/*{]+/[^/*{]+", source))


def arranged(source: str, parts: list[StreamedPart], rows: list[list[tuple[str, str, int]]], say: Any) -> list[Found]:
    """The pictures of all parts with their classes and splits. rows: of each part (path, class beside it, row).

    Raises InputError for layouts that `find_in_tars` refuses.
    """
    if _is_data_set(source):
        return [
            Found(path, class_name, part.split, CachedRow(path, row))
            for part, own in zip(parts, rows, strict=True)
            for path, class_name, row in own
        ]
    shards = []
    for part, own in zip(parts, rows, strict=True):
        members: dict[str, Place] = {path: CachedRow(path, row) for path, _, row in own}
        shards.append(Shard(part.name, part.split, members, {path: class_name for path, class_name, _ in own}))
    return found_in(shards, source, [], say)


# --- tars -------------------------------------------------------------------------------------------------------------


def counted(source: str) -> list[str]:
    """a-{00..02}.tar -> a-00.tar, a-01.tar, a-02.tar, as WebDataset writes it."""
    match = COUNTED.search(source)
    if match is None:
        return [source]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [each for number in numbers for each in counted(source[: match.start()] + number + source[match.end() :])]


def _tar_parts(source: str) -> list[StreamedPart]:
    import fsspec

    try:
        files = [file for each in counted(source) for file in fsspec.open_files(each, "rb")]
    except ImportError as error:
        raise InputError(f"data.source {_shown(source)} needs a package: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"data.source {_shown(source)} cannot be opened: {error}") from error
    addresses = sorted(file.path for file in files)
    strange = [each for each in addresses if not TAR.search(urlsplit(each).path)]
    if strange:
        raise InputError(
            f"data.source {_shown(source)}: {_shown(strange[0])} is no tar; expected .tar, .tar.gz and so on"
        )
    opened = {file.path: file for file in files}
    names = _without_common_folder(addresses)
    return [
        StreamedPart(name, split, partial(_samples_of_tar, opened[address]))
        for name, split, address in zip(names, splits_of(names), addresses, strict=True)
    ]


def _without_common_folder(addresses: list[str]) -> list[str]:
    """Paths below the folder that all share."""
    folders = [address.split("/")[:-1] for address in addresses]
    shared = 0
    while folders and all(len(each) > shared and each[shared] == folders[0][shared] for each in folders):
        shared += 1
    return ["/".join(address.split("/")[shared:]) for address in addresses]


def _samples_of_tar(file: Any) -> Iterator[Sample]:
    """Pictures in order; a .cls counts for the pictures beside it with its key. Raises InputError for a tar that is
    damaged, or whose .cls holds no class."""
    try:
        with file as opened, tarfile.open(fileobj=opened, mode="r|*") as tar:
            waiting: dict[str, bytes] = {}
            key = ""
            for info in tar:
                path = "/".join(part for part in info.name.split("/") if part not in ("", "."))
                if not info.isreg() or any(is_litter(part) for part in path.split("/")):
                    continue
                check_name(path, _shown(file.path))
                folder, slash, name = path.rpartition("/")
                found = folder + slash + name.partition(".")[0]
                if found != key:
                    yield from _of_one_key(key, waiting)
                    waiting, key = {}, found
                if path.endswith(".cls") or path[path.rfind(".") :].lower() in PICTURES:
                    if info.size > MOST_BYTES:
                        raise InputError(
                            f"{path} has {info.size / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:.1f} GB"
                        )
                    extracted = tar.extractfile(info)
                    assert extracted is not None
                    waiting[path] = extracted.read()
            yield from _of_one_key(key, waiting)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{_shown(file.path)} is cut off or damaged: {error}; copy it again") from error
    except OSError as error:
        why = " ".join(str(error).replace(file.path, _shown(file.path)).split())
        raise InputError(f"cannot read {_shown(file.path)}: {why}; type the same command with --resume") from error


def _of_one_key(key: str, files: dict[str, bytes]) -> Iterator[Sample]:
    """KEY.seg.png is left out where there is a KEY.jpg with a class."""
    class_name = _class_in(f"{key}.cls", files[f"{key}.cls"]) if f"{key}.cls" in files else NO_CLASS
    pictures = {path: content for path, content in files.items() if not path.endswith(".cls")}
    whole = {path: content for path, content in pictures.items() if path.rpartition(".")[0] == key}
    if class_name and whole:
        pictures = whole
    for path, content in pictures.items():
        yield Sample(path, class_name, content)


def _class_in(path: str, content: bytes) -> str:
    text = content[: LONGEST_CLASS + 1].decode("utf-8", "replace").strip()
    if not text or len(text) > LONGEST_CLASS or "\ufffd" in text or len(text.splitlines()) > 1:
        raise InputError(f"{path} holds no class; expected a number or a name")
    return text


def _shown(address: str) -> str:
    """Without a password, and without what stands behind a question mark, which may be a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path


# --- data sets of Hugging Face ----------------------------------------------------------------------------------------


def _data_set_parts(source: str) -> list[StreamedPart]:
    try:
        import datasets
    except ImportError:
        raise InputError(f"data.source {source} needs the package datasets; type: pip install datasets") from None
    try:
        found = _load(datasets, source)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"data.source {source} cannot be opened: {' '.join(str(error).split())[:200]}") from error
    parts = []
    for said, rows in found.items():
        split = SPLIT_NAMES.get(said.lower(), "")
        if rows.features is None:
            rows = rows._resolve_features()
        image, label = _columns(datasets, rows.features, source)
        rows = rows.cast_column(image, datasets.Image(decode=False))
        if not isinstance(rows, datasets.IterableDataset):
            rows = rows.to_iterable_dataset(num_shards=max(1, len(rows) // EXAMPLES_OF_A_PART))
        for number in range(rows.num_shards):
            name = f"{said}-{number:05}"
            own = rows.shard(num_shards=rows.num_shards, index=number)
            parts.append(StreamedPart(name, split, partial(_samples_of, own, name, image, label)))
    return parts


def _load(datasets: Any, source: str) -> dict[str, Any]:
    """split -> rows."""
    if "://" in source:
        return dict(datasets.load_dataset(source.removeprefix("hf://"), streaming=True))
    if any((Path(source) / name).is_file() for name in SAVED):
        found = datasets.load_from_disk(source)
        return dict(found) if isinstance(found, datasets.DatasetDict) else {"all": found}
    return dict(datasets.load_dataset(source, streaming=True))


def _columns(datasets: Any, features: Any, source: str) -> tuple[str, tuple[str, list[str]] | None]:
    """The column of pictures; the column of classes and their names, None without."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [(name, list(kind.names)) for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images:
        raise InputError(f"data.source {source} has no column of pictures; it has {', '.join(features)}")
    return images[0], labels[0] if labels else None


def _samples_of(rows: Any, name: str, image: str, label: tuple[str, list[str]] | None) -> Iterator[Sample]:
    for number, row in enumerate(rows):
        number_of_class = -1 if label is None or row[label[0]] is None else row[label[0]]  # also -1 where it is unknown
        class_name = NO_CLASS if label is None or number_of_class < 0 else label[1][number_of_class]
        content = row[image]["bytes"] or Path(row[image]["path"]).read_bytes()
        yield Sample(f"{name}/{number:06}", class_name.replace("/", "_"), content)
