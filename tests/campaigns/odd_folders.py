"""Folders and tars as strangers have them: read whole, or refused with words that say why."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from campaigns.outcomes import Outcome
from masked_memory.pipeline.files import InputError
from masked_memory.sources.archives import find_in_tars
from masked_memory.sources.folders import find_pictures
from masked_memory.sources.pictures import Decoded, decode, decode_all
from masked_memory.sources.stacks import survey
from masked_memory.sources.streamed import open_parts
from strange_folders import Folder, Tar, folders, tars, write_tar
from strangers import SIDE
from toys import make_split

CAMPAIGN = "strange folders"
TARS_CAMPAIGN = "strange tars"


class NotHere(Exception):
    """Such a folder cannot be made on this system, or means nothing there; says why."""


def make_folder(root: Path, folder: Folder) -> Path:
    """Raises NotHere."""
    if folder.needs == "user" and os.geteuid() == 0:
        raise NotHere("root may read every file")
    if folder.needs == "fifo" and not hasattr(os, "mkfifo"):
        raise NotHere("no fifos on this system")
    if folder.needs == "device" and not Path("/dev/zero").exists():
        raise NotHere("no /dev/zero on this system")
    source = root / "in" / "set"
    source.mkdir(parents=True)
    try:
        folder.make(source)
    except (OSError, UnicodeError) as error:
        raise NotHere(f"this disk does not take such names: {error}") from error
    return source


def remove_folder(root: Path) -> None:
    """By `rm`, as Python cannot remove very deep folders."""
    if shutil.which("rm"):
        subprocess.run(["rm", "-rf", root / "in"], check=True)


def judge_folder(kind: str, folder: Folder, source: Path, place: Path) -> Outcome:
    """What becomes of a folder, and whether it may. place: for a split, where there is one class only."""

    def ended(fine: bool, ending: str, why: str) -> Outcome:
        return Outcome(CAMPAIGN, kind, ending if fine else "wrong", why)  # type: ignore[arg-type]

    try:
        found = find_pictures(source)
        if len({one.class_name for one in found}) == 1:
            make_split(place, source)
        survey([one.place for one in found], 3, None, 1)
    except InputError as error:
        said = str(error)
        return ended(bool(folder.refused and folder.refused in said and str(source)[:100] in said), "refused", said)
    if folder.refused is not None:
        return ended(False, "survived", f"expected a refusal: {folder.refused}")
    problems = [one for one in decode_all([one.place for one in found], SIDE, 3, 1) if one.problem]
    if folder.broken is not None:
        said = "; ".join(f"{one.path} {one.problem}" for one in problems)
        fine = len(problems) == 1 and Path(problems[0].path).name.startswith("z") and folder.broken in said
        return ended(fine, "refused", said)
    classes = Counter(one.class_name for one in found)
    return ended(not problems and classes == folder.classes, "survived", f"found {dict(classes)}, broken: {problems}")


def judge_tar(kind: str, tar: Tar, folder: Path, streamed: bool) -> Outcome:
    """What becomes of a tar that is read whole or as a stream; nothing may be written beside it."""
    (folder / "in").mkdir()
    file = write_tar(folder / "in" / "x.tar", tar.entries)
    there, what = set(folder.rglob("*")), f"{kind}, {'streamed' if streamed else 'read'}"
    try:
        decoded = _streamed(file) if streamed else _read(file)
    except InputError as error:
        said = str(error)
        fine = tar.refused is not None and tar.refused in said and "\n" not in said
        return Outcome(TARS_CAMPAIGN, what, "refused" if fine else "wrong", said)
    good = [one.path.removeprefix(f"{file}/") for one in decoded if not one.problem]
    problems = [one.problem for one in decoded if one.problem]
    fine = set(folder.rglob("*")) == there and not any(".." in path.split("/") for path in good)
    if not streamed:
        expected = tar.found or []
        fine = fine and len(good) - 12 == len(expected) and set(good) >= set(expected) and tar.refused is None
        fine = fine and [str(tar.broken) in problem for problem in problems] == [True] * (tar.broken is not None)
    return Outcome(TARS_CAMPAIGN, what, "survived" if fine else "wrong", f"found {good}, broken: {problems}")


def _read(file: Path) -> list[Decoded]:
    return list(decode_all([one.place for one in find_in_tars(str(file), str)], SIDE, 3, 1))


def _streamed(file: Path) -> list[Decoded]:
    return [decode(sample, SIDE, 3) for part in open_parts(f"file://{file}") for sample in part.samples()]


def read_strange_folders(folder: Path, tries: int, seed: int) -> list[Outcome]:
    """At most `tries`, from the first on; those that cannot be made here are left out."""
    outcomes = []
    for number, (kind, strange) in enumerate(list(folders().items())[:tries]):
        place = folder / str(number)
        try:
            outcomes.append(_tried(kind, lambda p=place, s=strange, k=kind: judge_folder(k, s, make_folder(p, s), p)))
        except NotHere as error:
            print(f"left out: {kind}: {error}", flush=True)
        finally:
            remove_folder(place)
    for kind, tar in list(tars().items())[: tries - len(outcomes)]:
        for streamed in (False, True):
            place = folder / f"{kind.replace('/', ' ')} {streamed}"
            place.mkdir()
            outcomes.append(_tried(kind, lambda p=place, t=tar, k=kind, s=streamed: judge_tar(k, t, p, s)))
    return outcomes


def _tried(kind: str, judge: Callable[[], Outcome]) -> Outcome:
    """Whatever else is raised is wrong."""
    try:
        return judge()
    except NotHere:
        raise
    except Exception as error:
        return Outcome(CAMPAIGN, kind, "wrong", f"{type(error).__name__}: {error}")
