"""Pictures per second from JPEG files in folders, from tar shards and from the cache, beside torchvision's reader; and
the share of a training epoch that waits for pictures.

Claims: an epoch from the cache of `data_split.py` takes at most a twentieth of the time of one that decodes files with
ImageFolder and a DataLoader; a training step waits for pictures less than a twentieth of its time.

Pictures are smooth noise, drawn anew: they decode about as fast as photographs. All are brought to the same square and
to float in [-1, 1], in batches of 64. Ways take turns, each is warmed up once.

    python benchmarks/reading.py
    python benchmarks/reading.py --pictures 200 --side 64 --size 32 --rounds 1 --save reading.csv
"""

import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from masked_memory.stages.train_vqvae import VQVAELearner
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.growth import shape_of
from benchmarks.measured import add_numbers, benchmark_parser, save_table, show_columns
from masked_memory.handoff.split import Split
from masked_memory.pipeline.engine import FitPlan, fit
from masked_memory.pipeline.machine import Machine, prepare_machine, versions
from masked_memory.settings.common import RunSection
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.sources.archives import find_in_tars
from masked_memory.sources.folders import Found, find_pictures
from masked_memory.sources.pictures import decode_all
from masked_memory.sources.pixels import as_pictures

READING_HEADER = ("way", "pictures_per_second", "lowest", "highest", "times_torchvision")
BATCH_READ = 64
SHARDS, CLASSES = 4, 10
QUALITY = 90


def draw_folders(folder: Path, count: int, side: int) -> Path:
    """JPEG files of smooth noise in class folders, wider than high as most photographs."""
    draws = np.random.default_rng(0)
    for number in range(count):
        rough = draws.integers(0, 256, (side // 16, side // 12, 3), dtype=np.uint8)
        picture = Image.fromarray(rough).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        fine = np.asarray(picture, dtype=np.int16) + draws.integers(-8, 9, (side, side * 4 // 3, 1))
        file = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(file, quality=QUALITY)
    return folder


def pack(folder: Path, shards: Path) -> str:
    """The same files in tars, class folders inside; their pattern."""
    shards.mkdir()
    files = sorted(folder.rglob("*.jpg"))
    for number in range(SHARDS):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for file in files[number::SHARDS]:
                tar.add(file, file.relative_to(folder).as_posix())
    return str(shards / "*.tar")


def by_torchvision(folder: Path, size: int, workers: int) -> Iterable[Tensor]:
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    data = ImageFolder(str(folder), transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)]))
    return (pictures for pictures, _ in DataLoader(data, BATCH_READ, num_workers=workers))


def decoded(found: Sequence[Found], size: int, workers: int) -> Iterator[Tensor]:
    """As data_split.py decodes files once."""
    results = decode_all([one.place for one in found], size, 3, workers)
    while part := [one.pixels for one in islice(results, BATCH_READ) if one.pixels is not None]:
        yield as_pictures(torch.from_numpy(np.stack(part)))


def from_cache(split: Split) -> Iterator[Tensor]:
    """As trainings read them, in another order each time."""
    rows = np.random.default_rng().permutation(len(split.rows))
    for start in range(0, len(rows), BATCH_READ):
        yield split.pictures(rows[start : start + BATCH_READ])


def cache_in(folder: Path, found: Sequence[Found], size: int, workers: int) -> Split:
    """The pictures, decoded once into a file, all but eight of them for training."""
    shape = (len(found), size, size, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", "u1", shape)
    for row, one in enumerate(decode_all([one.place for one in found], size, 3, workers)):
        images[row] = one.pixels
    images.flush()
    manifest = [{"split": "train" if row >= 8 else "val"} for row in range(len(found))]
    meta = {"classes": [], "image_size": size, "channels": 3}
    rows = np.arange(len(found))
    return Split(folder, meta, manifest, np.load(folder / "images.npy", mmap_mode="r"), rows, np.full(len(rows), -1))


def seconds_of_a_pass(way: Callable[[], Iterable[Tensor]], count: int) -> float:
    began, seen = time.perf_counter(), 0
    for pictures in way():
        seen += len(pictures)
    if seen != count:
        raise SystemExit(f"error: a way read {seen} pictures; expected {count}")
    return time.perf_counter() - began


def measure_ways(ways: dict[str, Callable[[], Iterable[Tensor]]], count: int, rounds: int) -> list[list[str]]:
    """A row for each way; ways take turns. The first is what others are compared with."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            taken[name].append(seconds_of_a_pass(way, count))
    rows, first = [], statistics.median(next(iter(taken.values()))[1:])
    for name, (_, *seconds) in taken.items():
        median = statistics.median(seconds)
        rates = (count / median, count / max(seconds), count / min(seconds))
        rows.append([name, *(f"{rate:.0f}" for rate in rates), f"{first / median:.2f}"])
    return rows


def share_waited(split: Split, machine: Machine) -> float:
    """Of an epoch of the VQ-VAE of config.yaml: waiting for pictures, and turning them into floats."""
    learner: Any = VQVAELearner(TrainVQVAESection(), split, machine, False)
    take, waited = learner.reader.take, 0.0

    def timed(rows: Tensor) -> Tensor:
        nonlocal waited
        began = time.perf_counter()
        pictures = take(rows)
        waited += time.perf_counter() - began
        return pictures

    learner.reader.take = timed
    plan = FitPlan(
        epochs=1, horizon=1, batch_size=16, learning_rate=1e-3, weight_decay=1e-4, warmup=0.05, clip_norm=1.0,
        patience=None, monitor="loss", lower_is_better=True, seed=0,
    )  # fmt: skip
    began = time.perf_counter()
    fit(learner, plan, machine, "epoch")
    return waited / (time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("reading", __doc__)
    add_numbers(
        parser,
        ("pictures", 2000, "how many"),
        ("side", 384, "of the files, the shorter one, pixels"),
        ("size", 64, "side of the squares that are read, pixels"),
        ("workers", 2, "that decode"),
        ("rounds", 5, "turns of each way"),
        ("threads", 0, "CPU threads of the epoch, 0: all cores"),
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    given = parser.parse_args(argv)
    machine = prepare_machine(RunSection(threads=given.threads), lambda text: None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = draw_folders(Path(temporary) / "pictures", given.pictures, given.side)
        pattern = pack(folder, Path(temporary) / "shards")
        in_folders, in_tars = find_pictures(folder), find_in_tars(pattern, lambda text: None)
        split = cache_in(Path(temporary), in_folders, given.size, given.workers)
        ways = {
            "ImageFolder and DataLoader": lambda: by_torchvision(folder, given.size, given.workers),
            "folders, decoded": lambda: decoded(in_folders, given.size, given.workers),
            "tar shards, decoded": lambda: decoded(in_tars, given.size, given.workers),
            "cache": lambda: from_cache(split),
        }
        rows = measure_ways(ways, given.pictures, given.rounds)
        waited = share_waited(split, machine)
    print(f"{machine.describe().split(',')[0]}, {given.workers} workers, torch {versions()['torch']}")
    show_columns(READING_HEADER, rows)
    print(f"{waited:.1%} of an epoch of the VQ-VAE ({shape_of().hidden} channels) waits for pictures")
    if given.save:
        save_table(given.save, READING_HEADER, rows, machine, "python benchmarks/reading.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
