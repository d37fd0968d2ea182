"""The split as later stages open it: pictures, manifest, and the command that makes it."""

import math
import shlex
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.manifest import Manifest, column_of
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError, check_digests, digest, read_json, read_rows
from masked_memory.pipeline.runs import Sought, finished_runs, resolve_run, run_settings
from masked_memory.pipeline.stage import Stage
from masked_memory.pipeline.world import is_first
from masked_memory.settings.common import DataSection
from masked_memory.settings.config import READS, Config
from masked_memory.settings.loading import as_typed, changed_keys
from masked_memory.sources.embedded import DRAWN, EMBEDDED
from masked_memory.sources.pixels import as_pictures, to_model
from masked_memory.sources.splitting import SPLITS, in_words, spread
from masked_memory.sources.stacks import Stacks, default_names
from masked_memory.stages.masking import all_but


def mask_of(names: Sequence[str], shown: Sequence[str]) -> Tensor:
    """(C,) bool, True = masked: all but the components `shown`. Raises InputError for unknown names, or none."""
    unknown = [name for name in shown if name not in names]
    if unknown or not shown:
        found = f"component {', '.join(unknown)} is unknown" if unknown else "no component is named"
        raise InputError(f"{found}; expected some of: {', '.join(names)}")
    return all_but(len(names), [list(names).index(name) for name in shown])


# --- the split as others see it ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """A finished split. Pictures are addressed by their position in the manifest."""

    folder: Path
    meta: dict[str, Any]
    manifest: Sequence[Mapping[str, str]]
    images: np.ndarray  # (rows, H, W, C) uint8, memory-mapped
    rows: np.ndarray  # position -> row of `images`
    labels: np.ndarray  # position -> class number, -1 without classes
    share: float = 1.0  # of the pictures of each part that `positions` gives

    @property
    def stage(self) -> str:
        return "data_split"

    @property
    def hash(self) -> str:
        return str(self.meta["split_hash"])

    @property
    def key(self) -> str:
        """Names the split and its picture format in best.json and in the model registry."""
        return f"{self.hash}-{self.meta['image_size']}px-{self.meta['channels']}ch"

    @property
    def identity(self) -> dict[str, Any]:
        """What a model made on this split must agree on."""
        return {name: self.meta[name] for name in ("split_hash", "image_size", "channels")}

    @property
    def classes(self) -> list[str]:
        return list(self.meta["classes"])

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(self.meta.get("components", default_names(self.meta["channels"])))

    @property
    def stacks(self) -> Stacks | None:
        """How .npy, .npz and .tiff files of this data are read; None when it has none."""
        found = self.meta.get("stacks")
        return Stacks.from_meta(found) if found else None

    def positions(self, *splits: str) -> np.ndarray:
        """Positions of the pictures of the splits, in manifest order."""
        found = np.flatnonzero([side in splits for side in column_of(self.manifest, "split")])
        return spread(found, math.ceil(self.share * len(found)))

    def thinned(self, share: float) -> "Split":
        """The same split with a share in (0, 1] of the pictures of each part, evenly spread; positions stay."""
        return replace(self, share=share)

    def pictures(self, positions: np.ndarray | Tensor) -> Tensor:
        """(B, C, H, W) float in [-1, 1]."""
        return to_model(self.pixels(positions))

    def pixels(self, positions: np.ndarray | Tensor) -> np.ndarray:
        """(B, H, W, C) uint8, as they lie in the file."""
        rows = self.rows[np.asarray(positions)]
        return read_rows(self.images, rows) if isinstance(self.images, np.memmap) else self.images[rows]


class PictureReader:
    """Batches of training pictures on their device. The next batch is read on a thread while the model computes; what
    travels is uint8, from pinned memory where there is a GPU."""

    def __init__(self, split: Split, positions: np.ndarray, device: torch.device) -> None:
        self.split, self.positions, self.device = split, positions, device
        self._asked: deque[tuple[Tensor, Future[Tensor]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")

    def ask(self, rows: Tensor) -> None:
        """Begin to read the pictures at `rows` of the positions; `take` must be called with the same tensor."""
        self._asked.append((rows, self._thread.submit(self._read, rows)))

    def take(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) float in [-1, 1] on the device, channels last; read now where they were not asked for."""
        if any(asked is rows for asked, _ in self._asked):
            while self._asked[0][0] is not rows:
                self._asked.popleft()[1].cancel()
            pixels = self._asked.popleft()[1].result()
        else:
            pixels = self._read(rows)
        return as_pictures(pixels.to(self.device, non_blocking=True))

    def _read(self, rows: Tensor) -> Tensor:
        """(B, H, W, C) uint8."""
        pixels = torch.from_numpy(self.split.pixels(self.positions[rows.numpy()]))
        return pixels.pin_memory() if self.device.type == "cuda" else pixels


def data_key(data: DataSection) -> str:
    """Names the settings that decide which pictures are where."""
    unset = {name for name in ("components", "metadata") if getattr(data, name) is None}
    settings = data.model_dump_json(exclude={"workers", "skip_broken", "download_dir", *unset})
    return digest(settings, DRAWN) if data.source in EMBEDDED else digest(settings)


def note_data(stage: Stage, cfg: Config, split: Split) -> None:
    """Tell MLflow which data the run is about: source, split hash, folder."""
    stage.ledger.dataset(Path(cfg.data.source).name, split.hash, split.folder)


def open_split(cfg: Config) -> Split:
    """The newest finished split of these data settings. Raises InputError that says how to make it, also when its files
    are damaged; of several processes the first reads them all through for that."""
    runs = Path(cfg.run.dir)
    wanted = f"data.source {cfg.data.source}, data.image_size {cfg.data.image_size}, data.seed {cfg.data.seed}"
    wanted += _unlike_newest(runs, cfg.data)
    command = mend("data_split", cfg)
    folder = resolve_run(runs, "best", Sought("data_split", data_key(cfg.data), wanted, command))
    if is_first():
        check_digests(folder, read_json(folder / "split.json").get("files", {}), make_again(folder, "data_split"))
    split = open_split_folder(folder)
    if manifest_hash(hashed(split.manifest)) != split.hash:
        again = make_again(folder, "data_split")
        raise InputError(f"{folder / 'manifest.csv'} was changed after the split; type: {again}")
    return split


def _unlike_newest(runs: Path, data: DataSection) -> str:
    """What the newest split was made with instead, in words; nothing where there is none, or one as set."""
    found = finished_runs(runs, "data_split")
    if not found or any(one.key == data_key(data) for one in found):
        return ""
    made, mine = run_settings(found[0].folder).get("data", {}), data.model_dump(mode="json")
    other = [f"data.{key} {as_typed(value)}" for key, value in made.items() if value != mine.get(key, value)]
    return f" (the newest there has {', '.join(other)})" if other else ""


def open_split_folder(folder: Path) -> Split:
    """The split in a run folder of this stage, as it is."""
    meta = read_json(folder / "split.json")
    manifest = Manifest.read(folder / "manifest.csv")
    images = np.load(folder / "images.npy", mmap_mode="r")
    rows = np.array([int(row) for row in column_of(manifest, "row")])
    labels = np.array([int(label) for label in column_of(manifest, "label")])
    return Split(folder, meta, manifest, images, rows, labels)


def check_labels(split: Split, again: str) -> None:
    """Raises InputError when some pictures have a class and others none, as in splits that earlier versions made.
    again: the command that makes the split anew."""
    sides = zip(column_of(split.manifest, "split"), split.labels, strict=True)
    bare = Counter(side for side, label in sides if label < 0)
    if split.classes and bare:
        counts = in_words([f"{bare[side]} pictures of {side}" for side in SPLITS if bare[side]])
        option = f" --data.classes {len(split.classes)}" if len(split.classes) > 1 else ""
        raise InputError(
            f"{split.folder}: {counts} have no class, but others have; to leave them out, type: {again}{option}"
            + (f" and then this stage with{option}, too" if option else "")
        )


def mend(stage: str, cfg: Config, presets: Sequence[str] = ()) -> str:
    """The command that makes what is missing, as it can be typed: with the overlays and options of this one that
    matter to the stage. presets: laid over all of them."""
    files, changed = cfg.typed.overlays, cfg.typed.values if cfg.typed.known else changed_keys(cfg)
    overlays = f" --config {shlex.join([*files, *presets])}" if files or presets else ""
    sections = ("data", "run", stage, *READS.get(stage, ())) if cfg.typed.known else ("data",)
    kept = {key: value for key, value in changed.items() if key == "run.dir" or key.split(".")[0] in sections}
    kept.pop("run.dry_run", None)
    options = "".join(f" --{key} {shlex.quote(as_typed(value))}" for key, value in kept.items())
    return f"{command(stage)}{overlays}{options}"


def make_again(folder: Path, stage: str) -> str:
    """The command that makes a run anew whose files are damaged, with all its settings, beside it."""
    runs = f" --run.dir {shlex.quote(str(folder.parent.parent))}" if folder.parent.name == stage else ""
    return f"{command(stage)} --config {shlex.quote(str(folder / 'config.yaml'))}{runs}"


# --- the split itself -------------------------------------------------------------------------------------------------

HASHED = ("path", "class", "split", "hash")


def hashed(manifest: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """What names a split, of each picture."""
    return list(zip(*(column_of(manifest, name) for name in HASHED), strict=True))


def manifest_hash(rows: Sequence[tuple[str, ...]]) -> str:
    """Of (path, class, split, hash) of all pictures, in any order."""
    return digest(*("\t".join(row) for row in sorted(rows)))
