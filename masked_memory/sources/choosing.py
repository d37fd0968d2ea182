"""Which of the pictures found are taken. What does not go together is refused before anything is decoded: pictures with
a class beside pictures without, classes that cannot be learnt, and folders of notes or wrappers in place of classes.
"""

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.stage import say
from masked_memory.settings.common import DataSection
from masked_memory.settings.loading import as_typed
from masked_memory.sources.archives import PICTURES
from masked_memory.sources.folders import NO_CLASS, Found
from masked_memory.sources.splitting import SPLITS, in_words

MOST_TYPED = 20  # classes that a message names one by one to be typed


def choose(found: list[Found], data: DataSection) -> tuple[list[Found], list[str]]:
    """The pictures that the settings ask for, and those of train, val and test that are kept as the folder has them.

    Raises InputError when the folder holds something else than classes, or the classes do not fit the settings or each
    other.
    """
    check_folders(found, data.source)
    found = labelled(in_one_form(found), data)
    parts, chosen = kept_parts(found, data), found
    for asked in (data.replace({"images_per_class": None}), data):
        chosen = of_classes(found, asked)
        check_learnt(((one.class_name, one.split) for one in chosen if parts), asked)
    return chosen, parts


def check_folders(found: list[Found], source: str) -> None:
    """Raises InputError when all pictures lie in one class folder. Files that do not look like pictures make no class:
    beside ILSVRC/Data lie Annotations and ImageSets."""
    pictures = [one for one in found if os.path.splitext(one.path)[1].lower() in {*PICTURES, ""}] or found  # noqa: PTH122
    names = {one.class_name for one in pictures}
    if len(names) != 1 or NO_CLASS in names:
        return
    message, top = f"{source} has one class only ({names.pop()}) with pictures in it", _folder_around(pictures)
    inside = [one.path.removeprefix(f"{top}/").rpartition("/")[0].partition("/")[0] for one in pictures]
    if any(one.split for one in pictures) or not _on_disk(pictures) or ("" in inside and any(inside)):
        raise InputError(f"{message}; expected at least 2, or pictures in no class folder")
    holds = f"folders {some(inside)}" if any(inside) else f"{len(pictures)} pictures in no class folder"
    below = _typed_folder(pictures, top)
    raise InputError(f"{message}; {below} holds {holds}; to take these, type --data.source {below}")


def in_one_form(found: list[Found]) -> list[Found]:
    """Names of classes in one Unicode form (NFC), whatever system wrote them. A lone folder of val or test that train
    lacks, such as val/images, is no class."""
    found = [one._replace(class_name=normalize("NFC", one.class_name)) for one in found]
    names = _by_part((one.class_name, one.split) for one in found)
    lone = {part: names[part] - names["train"] for part in SPLITS[1:] if "train" in names and len(names[part]) == 1}
    return [one._replace(class_name=NO_CLASS) if one.class_name in lone.get(one.split, ()) else one for one in found]


def labelled(found: list[Found], data: DataSection) -> list[Found]:
    """Pictures that all have a class, or none of which has one.

    Raises InputError for a mixture; where data.classes asks for classes, the pictures without are left out.
    """
    rest = [one for one in found if one.class_name != NO_CLASS]
    if len(rest) in (0, len(found)):
        return found
    bare = [one for one in found if one.class_name == NO_CLASS]
    count, total = Counter(one.split for one in bare), Counter(one.split for one in found)
    said = [f"{count[part]} of {total[part]} pictures{part and f' of {part}'}" for part in ("", *SPLITS) if count[part]]
    if data.classes is not None:
        say(f"leaving out {in_words(said)} that have no class, as data.classes is set")
        return rest
    ways, names = [], {one.class_name for one in rest}
    if len(names) > 1:
        anew = "" if {"train", ""} & {one.split for one in rest} else " --data.given_split false"
        ways.append(f"--data.classes {len(names)}{anew} to leave them out")
    train, others = ([one for one in found if (one.split == "train") is side] for side in (True, False))
    top = _folder_around(train)
    if top and _on_disk(train) and not any(one.path.startswith(f"{top}/") for one in others):
        ways.append(f"--data.source {_typed_folder(train, top)} to split the pictures of train alone")
    raise InputError(
        f"{data.source}: {in_words(said)} have no class (such as {bare[0].path}), but others have; "
        + (f"type {', or '.join(ways)}" if ways else "expected class folders for all of them, or for none")
    )


def kept_parts(found: list[Found], data: DataSection) -> list[str]:
    """Which of train, val and test the folder has and the settings keep; none when all of it is split anew.

    Raises InputError when there are parts, but none to train on.
    """
    parts = [split for split in SPLITS if any(one.split == split for one in found)]
    if parts in ([], ["train"]):
        if not data.given_split:
            say(f"without effect: data.given_split, as {data.source} has no train, val and test of its own")
        return []
    if not data.given_split:
        say(f"pooling the data set's own {in_words(parts)}, as data.given_split is false")
        return []
    if "train" not in parts:
        raise InputError(
            f"{data.source} has {in_words(parts)}, but no train; add it, or type --data.given_split false to split anew"
        )
    return parts


def of_classes(found: list[Found], data: DataSection) -> list[Found]:
    """The classes and the number of pictures of each that the settings ask for."""
    by_class: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        by_class[one.class_name].append(one)
    names = sorted(by_class)
    if NO_CLASS in by_class and data.classes is not None:
        raise InputError(f"{data.source} has no class folders, so data.classes must be null; found {data.classes}")
    if isinstance(data.classes, list):
        asked = sorted({normalize("NFC", name) for name in data.classes})
        missing = [name for name in asked if name not in by_class]
        if missing:
            raise InputError(f"{data.source} has no class {', '.join(missing)}; it has {', '.join(names[:20])}")
        names = asked
    elif data.classes is not None:
        if len(names) < data.classes:
            raise InputError(f"data.classes is {data.classes}, but {data.source} has {len(names)} class folders")
        names = names[: data.classes]
    return [one for number, name in enumerate(names) for one in _sample(by_class[name], data, number)]


def _sample(pictures: list[Found], data: DataSection, number: int) -> list[Found]:
    if data.images_per_class is None or len(pictures) <= data.images_per_class:
        return pictures
    chosen = np.random.default_rng((data.seed, number)).permutation(len(pictures))[: data.images_per_class]
    return [pictures[i] for i in sorted(chosen)]


def check_learnt(pictures: Iterable[tuple[str, str]], data: DataSection) -> None:
    """(class, part) of the pictures of a split that is kept. Raises InputError when val or test has classes that train
    lacks."""
    names = _by_part(pictures)
    train = names["train"]
    lacking = {part: names[part] - train for part in SPLITS[1:] if names[part] - train}
    if not lacking:
        return
    way = "--data.given_split false to split all of it anew"
    if data.images_per_class is not None:
        way = "a larger --data.images_per_class, or null for all"
    elif 2 <= len(train) <= MOST_TYPED and all(names[part] & train for part in names):
        way = f"--data.classes {shlex.quote(as_typed(sorted(train)))} for the classes of train, or {way}"
    said = in_words([f"{part} has ({some(lacking[part])})" for part in lacking])
    raise InputError(f"{data.source}: train has no pictures of classes that {said}; type {way}")


def classes_left_out(pictures: Iterable[tuple[str, str]]) -> list[str]:
    """(class, part) of the pictures of a split that is kept: a line for each part that lacks classes of train."""
    names = _by_part(pictures)
    lacking = {part: names["train"] - names[part] for part in SPLITS if part in names}
    return [f"{part} has no pictures of class {some(own)}, which train has" for part, own in lacking.items() if own]


def _by_part(pictures: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """(class, part) of pictures -> the classes of each part."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, part in pictures:
        found[part].add(name)
    return found


def some(names: Iterable[str], most: int = 5) -> str:
    """a, b and c; of more than `most` some, and how many more there are."""
    names = sorted(set(names))
    return in_words(names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"])


def _folder_around(found: Sequence[Found]) -> str:
    """The innermost folder that all pictures lie in, below the root."""
    return os.path.commonpath([one.path.rpartition("/")[0] for one in found]) if found else ""


def _on_disk(found: Sequence[Found]) -> bool:
    return isinstance(found[0].place, Path)


def _typed_folder(found: Sequence[Found], folder: str) -> str:
    """A folder below the root of these pictures, as it is typed."""
    return shlex.quote(str(found[0].place).removesuffix(found[0].path) + folder)
