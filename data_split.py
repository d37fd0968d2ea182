"""Stage 1: find pictures, decode each once into a uint8 cache, split them 70/15/15 or as the folder does.

Reads:  data.source (the embedded demo, a folder of pictures, tars, or imagenette)
Writes: runs/data_split/<run>/ with manifest.csv, images.npy (uint8, N x H x W x C), split.json

    python data_split.py
    python data_split.py --data.source PATH --data.image_size 64 --data.classes 100

As a module: `open_split` gives the pictures of a finished split as tensors. The one transform of the project,
uint8 [0, 255] -> float [-1, 1], is `to_model`.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from masked_memory.handoff.manifest import Manifest, column_of
from masked_memory.handoff.split import data_key, hashed, manifest_hash, note_data, open_split_folder
from masked_memory.pipeline.figures import component_rows, picture_grid
from masked_memory.pipeline.files import (
    InputError,
    digest,
    file_digests,
    one_line,
    reach_disk,
    read_json,
    reserve,
    write_csv,
    write_json,
)
from masked_memory.pipeline.machine import prepare_machine
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.stage import Stage, open_stage, say
from masked_memory.settings.command import stage_main
from masked_memory.settings.common import DataSection
from masked_memory.settings.config import Config
from masked_memory.sources.archives import find_in_tars, is_archive
from masked_memory.sources.caching import GrowingCache, cache_parts
from masked_memory.sources.choosing import check_learnt, choose, classes_left_out
from masked_memory.sources.embedded import EMBEDDED, check_embedded, make_embedded
from masked_memory.sources.folders import NO_CLASS, Found, find_pictures
from masked_memory.sources.imagenette import check_download, imagenette_folder
from masked_memory.sources.metadata import is_notes, read_metadata
from masked_memory.sources.patients import describe_patients, on_two_sides, patient_of, together
from masked_memory.sources.pictures import IN_HAND, decode_all, last_in_hand
from masked_memory.sources.pixels import to_model
from masked_memory.sources.splitting import SPLITS, assign_splits, complete_split, in_words, shared_with_later
from masked_memory.sources.stacks import ORDINARY, Stacks, default_names, survey
from masked_memory.sources.streamed import CachedRow, StreamedPart, arranged, is_streamed, open_parts

CHECKPOINT_EVERY = 2000  # pictures between two notes of how far decoding has come


class Item(NamedTuple):
    """A picture before the split. `given`: the part of the folder that it lies in, or empty; `row`: its place in
    images.npy; `patient`: the case number of a slice, empty where there is none; `extra`: columns of metadata."""

    row: int
    path: str
    class_name: str
    hash: str
    given: str = ""
    extra: Mapping[str, str] = MappingProxyType({})
    patient: str = ""


# --- the stage --------------------------------------------------------------------------------------------------------


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """Make the split. Returns the number of pictures in it. (`trial`: there is nothing to tune here.)"""
    machine = prepare_machine(cfg.run, say)
    identity, found, extra = data_key(cfg.data), [], []
    parts: list[str] = []
    stacks, streamed = None, open_parts(cfg.data.source) if is_streamed(cfg.data.source) else []
    if streamed:
        check_streamed(cfg.data)
    elif cfg.data.source in EMBEDDED:  # what cannot be used is refused before there is a run folder
        check_embedded(cfg.data)
        if not cfg.data.given_split:
            say(f"without effect: data.given_split, as {cfg.data.source} is split while it is drawn")
        stacks = EMBEDDED[cfg.data.source].stacks
    else:
        check_download(cfg.data, cfg.run.dry_run)
        found = [one for one in find_files(cfg.data) if not is_notes(one.place, cfg.data.metadata)]
        found, parts = choose(found, cfg.data)
        extra = read_metadata(Path(cfg.data.metadata), [one.path for one in found]) if cfg.data.metadata else []
        stacks = survey([one.place for one in found], cfg.data.channels, cfg.data.components, cfg.data.workers)
    with open_stage("data_split", cfg, {}, machine, resume, identity) as stage:
        if streamed:
            items, parts = cache_streamed(stage, cfg.data, streamed)
        else:
            items = cache_found(stage, cfg.data, found, stacks, extra) if found else cache_embedded(stage, cfg.data)
        embedded = not (found or streamed)
        items, sides = (items, [item.given for item in items]) if embedded else settle(stage, items, cfg.data, parts)
        report_patients(stage, items, sides)
        manifest = write_manifest(stage, items, sides)
        meta = describe(stage, manifest, cfg.data, stacks)
        folder = stage.folder.path
        reach_disk(folder / "images.partial.npy")
        (folder / "images.partial.npy").replace(folder / "images.npy")
        write_json(folder / "split.json", meta | {"files": file_digests(folder, ("images.npy", "manifest.csv"))})
        note_data(stage, cfg, open_split_folder(stage.folder.path))
        stage.figure("examples", examples_figure(stage.folder.path, manifest, meta))
        report(stage, meta)
        stage.finish(identity, extra_artifacts=("manifest.csv", "split.json", "broken.csv", "dropped.csv"))
        return float(len(manifest))


def find_files(data: DataSection) -> list[Found]:
    """What should be pictures, in a folder or in tars; downloads imagenette when it is asked for and not there."""
    if data.source == "imagenette":
        return find_pictures(imagenette_folder(Path(data.download_dir)))
    return find_in_tars(data.source, say) if is_archive(data.source) else find_pictures(Path(data.source))


def cache_embedded(stage: Stage, data: DataSection) -> list[Item]:
    """An embedded data set -> images.partial.npy. It comes with its sides: they share no pixel of a photograph."""
    say(f"drawing {data.source.replace('_', ' ')}")
    made = make_embedded(data)
    cache = _create_cache(stage.folder.path, len(made.images), data)
    items = []
    for row, image in enumerate(progress_bar(made.images, desc="caching", unit="picture")):
        cache[row] = image
        name = digest(image.tobytes(), length=64)
        items.append(Item(row, made.paths[row], made.classes[row], name, made.sides[row], made.metadata[row]))
    cache.flush()
    return items


def cache_found(
    stage: Stage, data: DataSection, found: list[Found], stacks: Stacks | None, extra: list[dict[str, str]]
) -> list[Item]:
    """Files of pictures -> images.partial.npy; broken files are listed, and end the run unless data.skip_broken.

    extra: metadata of each file, or empty.
    """
    say(f"{len(found)} files in {len({one.class_name for one in found})} classes under {data.source}")
    notes, in_hand = stage.folder.last / "decoded.json", stage.folder.last / IN_HAND
    report_in_hand(in_hand)
    scan = digest(*(one.path for one in found), *([repr(stacks)] if stacks else []))  # one range for all pictures
    earlier = read_json(notes) if notes.is_file() else {}
    done: list[list[str | None]] = earlier["done"] if earlier.get("scan") == scan else []
    if done:
        cache = np.lib.format.open_memmap(stage.folder.path / "images.partial.npy", mode="r+")
    else:
        cache = _create_cache(stage.folder.path, len(found), data)
    places = [one.place for one in found]
    with progress_bar(total=len(places), initial=len(done), desc="decoding", unit="picture") as bar:
        for start in range(len(done), len(places), CHECKPOINT_EVERY):
            chunk = places[start : start + CHECKPOINT_EVERY]
            for decoded in decode_all(chunk, data.image_size, data.channels, data.workers, stacks, in_hand):
                if decoded.pixels is not None:
                    cache[len(done)] = decoded.pixels
                done.append([decoded.hash, decoded.problem])
                bar.update()
            cache.flush()
            write_json(notes, {"scan": scan, "done": done})
    pairs = zip(places, done, strict=True)
    _report_broken(stage, [(str(place), problem) for place, (_, problem) in pairs if problem], data)
    return [
        Item(row, one.path, one.class_name, str(name), one.split, extra[row] if extra else {}, patient_of(one.path))
        for row, (one, (name, problem)) in enumerate(zip(found, done, strict=True))
        if not problem
    ]


def report_in_hand(file: Path) -> None:
    """One line about the files that the run before was decoding when it was killed or crashed; one may have done it."""
    found = last_in_hand(file)
    if found:
        say(
            one_line(
                f"the run before was killed or crashed while it decoded {', '.join(found)}; if that happens again, "
                "type --data.workers 1 to see at which, and remove it"
            )
        )


def check_streamed(data: DataSection) -> None:
    """Raises InputError for what only files on a disk can be."""
    if data.channels not in ORDINARY:
        raise InputError(
            f"data.channels is {data.channels}, but {data.source} is read as a stream, which has pictures of "
            "1 or 3 channels; copy stacks to a folder first"
        )


def cache_streamed(stage: Stage, data: DataSection, parts: list[StreamedPart]) -> tuple[list[Item], list[str]]:
    """Pictures read once and in order -> images.partial.npy. Returns the chosen ones, and the parts that are kept."""
    say(f"reading {data.source} in {len(parts)} parts")
    notes = stage.folder.last / "streamed.jsonl"
    notes.parent.mkdir(parents=True, exist_ok=True)
    report_in_hand(notes.with_name(IN_HAND))
    cache = GrowingCache(stage.folder.path / "images.partial.npy", notes, data.image_size, data.channels)
    with progress_bar(total=None, initial=cache.rows, desc="reading", unit="picture") as bar:
        read = cache_parts(cache, parts, data.workers, bar.update)
    cache.finish()
    problems = [(each.path, each.problem) for own in read for each in own if each.problem]
    _report_broken(stage, problems, data)
    rows = [[(each.path, each.class_name, each.row) for each in own if not each.problem] for own in read]
    chosen, kept = choose(arranged(data.source, parts, rows, say), data)
    extra = read_metadata(Path(data.metadata), [one.path for one in chosen]) if data.metadata else [{}] * len(chosen)
    hashes = {each.row: each.hash for own in read for each in own}
    items = []
    for one, columns in zip(chosen, extra, strict=True):
        assert isinstance(one.place, CachedRow)
        name = hashes[one.place.row]
        items.append(Item(one.place.row, one.path, one.class_name, name, one.split, columns, patient_of(one.path)))
    return items, kept


def _create_cache(folder: Path, count: int, data: DataSection) -> np.memmap:
    shape = (count, data.image_size, data.image_size, data.channels)
    file = folder / "images.partial.npy"
    free = _free_bytes(folder)
    if free < np.prod(shape):
        raise InputError(f"{folder} has {free / 1e9:.1f} GB free; the cache needs {np.prod(shape) / 1e9:.1f} GB")
    cache = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    reserve(file)
    return cache


def _free_bytes(folder: Path) -> int:
    import shutil

    return shutil.disk_usage(folder).free


def _report_broken(stage: Stage, broken: list[tuple[str, str]], data: DataSection) -> None:
    if not broken:
        return
    write_csv(stage.folder.path / "broken.csv", ("path", "problem"), broken)
    for path, problem in broken[:20]:
        say(one_line(f"{path} {problem}"))
    if len(broken) > 20:
        say(f"... and {len(broken) - 20} more in {stage.folder.path / 'broken.csv'}")
    if not data.skip_broken:
        raise InputError(
            f"{len(broken)} of the files cannot be used (listed above); "
            "mend or remove them, or type --data.skip_broken true"
        )
    say(f"going on without {len(broken)} files, as data.skip_broken is true")


def settle(stage: Stage, items: list[Item], data: DataSection, parts: list[str]) -> tuple[list[Item], list[str]]:
    """Which item is on which side. `parts`: those of the folder that are kept, with what is missing cut from train;
    without them all is split anew."""
    if not items:
        raise InputError(f"{data.source} has no picture that can be used")
    if parts:
        items = drop_shared(stage, items, data, parts)
        for line in classes_left_out((item.class_name, item.given) for item in items):
            say(line)
    ratios = dict(zip(SPLITS, (data.train, data.val, data.test), strict=True))
    classes, patients = [item.class_name for item in items], [item.patient for item in items]
    groups, unit = together([item.hash for item in items], patients), "patients" if any(patients) else "pictures"
    if not parts:
        return items, assign_splits(classes, groups, tuple(ratios.values()), data.seed, unit)
    sides, line = [item.given for item in items], f"keeping the data set's own {in_words(parts)}"
    for missing in set(SPLITS) - set(parts):
        share = ratios[missing] / (ratios["train"] + ratios[missing])
        sides = complete_split(sides, classes, groups, share, data.seed, unit)
        name = {"val": "validation", "test": "test"}[missing]
        line += f"; {100 * share:.3g} % of train become {name} pictures, chosen by data.seed"
    say(line)
    return items, sides


def drop_shared(stage: Stage, items: list[Item], data: DataSection, parts: list[str]) -> list[Item]:
    """Without the pictures that also stand in a later part; they are listed.

    Raises InputError when a part is empty, or no picture is left to train on of a class that val or test has.
    """
    shared = shared_with_later([item.hash for item in items], [item.given for item in items])
    dropped = [item for item, is_shared in zip(items, shared, strict=True) if is_shared]
    items = [item for item, is_shared in zip(items, shared, strict=True) if not is_shared]
    if dropped:
        write_csv(stage.folder.path / "dropped.csv", ("path", "split"), [(item.path, item.given) for item in dropped])
        say(f"{len(dropped)} pictures are also in a later split and were dropped (dropped.csv)")
    empty = [part for part in parts if not any(item.given == part for item in items)]
    if empty:
        raise InputError(f"{data.source}: nothing is left in {in_words(empty)}; type --data.given_split false")
    check_learnt(((item.class_name, item.given) for item in items), data)
    return items


def report_patients(stage: Stage, items: list[Item], sides: list[str]) -> None:
    """Of slices: how many patients there are and whether one is on two sides, or that patients are not known."""
    patients = [item.patient for item in items]
    line = describe_patients([item.path for item in items], patients, sides)
    if line:
        say(line)
    if any(patients):
        stage.metrics["patients"] = len(set(patients) - {""})
        stage.metrics["patients_on_two_sides"] = len(on_two_sides(patients, sides))


def write_manifest(stage: Stage, items: list[Item], sides: list[str]) -> Manifest:
    """manifest.csv: one line per picture."""
    names = sorted({item.class_name for item in items} - {NO_CLASS})
    label = {name: number for number, name in enumerate(names)} | {NO_CLASS: -1}
    header = ["position", "row", "path", "class", "label", "split", "hash"]
    header += list(items[0].extra)
    with_patients = any(item.patient for item in items) and "patient" not in items[0].extra
    header += ["patient"] if with_patients else []
    rows = [
        [n, item.row, item.path, item.class_name, label[item.class_name], side, item.hash, *item.extra.values()]
        + ([item.patient] if with_patients else [])
        for n, (item, side) in enumerate(zip(items, sides, strict=True))
    ]
    write_csv(stage.folder.path / "manifest.csv", header, rows)
    return Manifest.read(stage.folder.path / "manifest.csv")


def describe(stage: Stage, manifest: Manifest, data: DataSection, stacks: Stacks | None) -> dict[str, Any]:
    """split.json: hash, format, classes, counts, mean and standard deviation of the training pictures in [0, 1];
    names of the components, and how their numbers became uint8."""
    images = np.load(stage.folder.path / "images.partial.npy", mmap_mode="r")
    sides, rows = list(column_of(manifest, "split")), column_of(manifest, "row")
    train = np.array([int(row) for row, side in zip(rows, sides, strict=True) if side == "train"])
    total, squares = np.zeros(data.channels), np.zeros(data.channels)
    for start in progress_bar(range(0, len(train), 1000), desc="measuring"):
        pixels = images[train[start : start + 1000]].astype(np.float64) / 255
        total += pixels.mean((1, 2)).sum(0)
        squares += (pixels**2).mean((1, 2)).sum(0)
    mean = total / len(train)
    return {
        "split_hash": manifest_hash(hashed(manifest)),
        "source": data.source,
        "image_size": data.image_size,
        "channels": data.channels,
        "components": stacks.names if stacks else data.components or default_names(data.channels),
        "stacks": stacks.describe() if stacks else None,
        "classes": sorted({*column_of(manifest, "class")} - {NO_CLASS}),
        "counts": {split: sides.count(split) for split in SPLITS},
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(squares / len(train) - mean**2, 1e-12)).tolist(),
    }


def examples_figure(folder: Path, manifest: Manifest, meta: dict[str, Any]) -> Any:
    """Eight pictures of each of up to ten classes."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    rows, of_class = [], defaultdict(list)
    for row, name, side in zip(*(column_of(manifest, name) for name in ("row", "class", "split")), strict=True):
        if side == "train":
            of_class[name].append(int(row))
    for name in (meta["classes"] or [NO_CLASS])[:10]:
        chosen = of_class[name][:8]
        rows.append((name or "train", to_unit(to_model(images[chosen]))))
    return picture_grid(component_rows(rows, meta["components"]))


def report(stage: Stage, meta: dict[str, Any]) -> None:
    stage.metrics |= {f"pictures_{split}": count for split, count in meta["counts"].items()}
    stage.metrics["classes"] = len(meta["classes"])
    counts = ", ".join(f"{count} {split}" for split, count in meta["counts"].items())
    say(f"{counts}; {len(meta['classes']) or 'no'} classes; split {meta['split_hash']}")


def main() -> int:
    return stage_main("data_split", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
