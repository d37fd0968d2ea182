"""The measuring of `compare_priors.py`: ways to fill in the same masks, ways to invent pictures, what both are worth.

Letters: B batch, N tokens, F features. Pictures are float [-1, 1] in models, [0, 1] in what is measured. Masks are
bool, True = masked. Rows are dicts with the keys of INPAINTING_HEADER and SAMPLES_HEADER.
"""

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handoff.asking import Priors
from handoff.memory import HandedMemory
from handoff.priors import HandedPrior
from masking import masks_of
from measuring.study import Batch, batches_of, judge
from models.codes import Filling
from pipeline.configured import configured
from pipeline.machine import Stream, generator
from pipeline.metrics import Bootstrap, to_unit
from pipeline.progress import progress_bar
from pipeline.tables import Rows, mean_row
from priors.grids import describe_grids, frechet_distance, neighbours, shuffled
from recall.fillers import GANFiller, MaskedVQVAEFiller, PixelCNNFiller, Way, distil_filler
from recall.hole import Filler, Hole, dig, nothing_known
from recall.memory import Memory
from recall.simple_fillers import AsItIs, NotCompleted
from settings.compare_priors import ComparePriorsSection
from sources.splitting import spread

INPAINTING_HEADER = ("method", "mask", "percent", "measure", "mean", "low", "high", "pictures")
SAMPLES_HEADER = (
    "method", "samples", "frechet_distance", "class_accuracy", "distinct_codes", "real_pairs", "seconds_per_picture",
)  # fmt: skip
PIXELCNN, WHOLE_GRID = "PixelCNN, drawn", "PixelCNN, whole grid for each code"
EXPECTED = "DistilBERT, one pass, expected"
ONLY_TIMED = (WHOLE_GRID,)  # gives what PIXELCNN gives, slower; timed on one batch, at the middle percentage
SECONDS = "seconds_per_picture"


# --- filling in -------------------------------------------------------------------------------------------------------


def filling_ways(memory: Memory, priors: Priors, section: ComparePriorsSection) -> dict[str, Way]:
    """All ways to fill in, by name, the floor and the ceiling first."""
    pixelcnn, drawn = priors.pixelcnn.pixelcnn, Filling(temperature=section.temperature)
    one_pass = distil_filler(memory)
    in_passes = distil_filler(memory, Filling(section.passes, section.fill_order, section.temperature))
    found = [
        Way(AsItIs(), "argmax", AsItIs.name),
        Way(NotCompleted(memory.codebook, memory.blank), "expected", "not completed"),
        Way(PixelCNNFiller("PixelCNN", pixelcnn, drawn), "sample", PIXELCNN),
        Way(PixelCNNFiller("PixelCNN", pixelcnn), "argmax", "PixelCNN, likeliest"),
        Way(PixelCNNFiller("PixelCNN", pixelcnn, drawn, incremental=False), "sample", WHOLE_GRID),
        Way(GANFiller("GAN", priors.gan.generator, section.pool), "sample", f"GAN, best of {section.pool}"),
        Way(one_pass, "expected", EXPECTED),
        Way(one_pass, "argmax", "DistilBERT, one pass, likeliest"),
        Way(in_passes, "sample", f"DistilBERT, {section.passes} passes, drawn"),
    ]
    if priors.masked_vqvae is not None:
        masked = MaskedVQVAEFiller("VQ-VAE with masked components", priors.masked_vqvae.model)
        found.append(Way(masked, "argmax", masked.name))
    return {way.shown: way for way in found}


def one_pass_ways(ways: dict[str, Way]) -> list[str]:
    """The names of those that need one pass of a network for a whole picture."""
    return [name for name, way in ways.items() if way.filler.passes == 1]


def hole_for(way: Way, batch: Batch, mask: Tensor, stride: int) -> Hole:
    """What is known of a batch under a mask; to "nothing forgotten" everything is."""
    mask = torch.zeros_like(mask) if isinstance(way.filler, AsItIs) else mask
    return dig(batch.tokens, mask, pixels=batch.truth * 2 - 1, stride=stride)


def paint_way(memory: Memory, way: Way, hole: Hole, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The pictures (B, C, H, W) in [-1, 1] that a way paints, and the grids behind them (B, N)."""
    filled = way.fill(hole, draws)
    painted = memory.paint(filled)
    return painted, memory.grids_behind(filled, painted)


@torch.no_grad()
def measure_inpainting(
    memory: Memory, ways: dict[str, Way], batches: Callable[[], Iterator[Batch]], section: ComparePriorsSection,
    seed: int,
) -> Rows:  # fmt: skip
    """Rows of inpainting.csv. The masks of a cell (mask, percent) are the same for all ways."""
    values: dict[tuple[str, str, int, str], list[Tensor]] = {}
    for name, way in progress_bar(list(ways.items()), desc="filling in", unit="way"):
        timed_only = name in ONLY_TIMED
        percentages = [middle_percent(section)] if timed_only else sorted(set(section.percentages))
        for kind, percent in product(dict.fromkeys(section.masks), percentages):
            for number, batch in enumerate(batches()):
                if timed_only and number:
                    break
                mask = shared_mask(kind, percent, len(batch.tokens), memory, seed, batch.rows.start)
                hole = hole_for(way, batch, mask, memory.stride)
                place = (seed, Stream.COMPARED_FILLS, percent, batch.rows.start)
                if not number and not timed_only:
                    paint_way(memory, way, hole, generator(*place))  # warms up
                started = _now(memory)
                painted, grids = paint_way(memory, way, hole, generator(*place))
                measures = {SECONDS: torch.tensor([(_now(memory) - started) / len(batch.tokens)])}
                if not timed_only:
                    judged = judge(memory, batch, mask, painted, grids)
                    measures |= {key: value for key, value in judged.items() if not key.endswith("predicted")}
                for measure, value in measures.items():
                    values.setdefault((name, kind, percent, measure), []).append(value.float().cpu())
    bootstrap = Bootstrap(section.bootstrap, lambda: generator(seed, Stream.BOOTSTRAP))
    return [_inpainting_row(key, torch.cat(parts), bootstrap) for key, parts in values.items()]


def _inpainting_row(key: tuple[str, str, int, str], values: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    """Seconds: median, lowest and highest over batches. All else: mean over pictures and its interval."""
    start = dict(zip(INPAINTING_HEADER, key, strict=False))
    if key[3] != SECONDS:
        return mean_row(start, values, bootstrap)
    span = {"mean": float(values.median()), "low": float(values.min()), "high": float(values.max())}
    return start | span | {"pictures": len(values)}


def middle_percent(section: ComparePriorsSection) -> int:
    """The percentage that tables and figures show."""
    percentages = sorted(set(section.percentages))
    return percentages[len(percentages) // 2]


def shared_mask(kind: str, percent: int, count: int, memory: Memory, seed: int, start: int) -> Tensor:
    """(count, N) bool on the device: the same for every way, other ones in each batch."""
    draws = generator(seed, Stream.COMPARED_MASKS, start)
    return masks_of(kind, percent, count, memory.side, draws).to(memory.device)


def _now(memory: Memory) -> float:
    if memory.device.type == "cuda":
        torch.cuda.synchronize(memory.device)
    return time.perf_counter()


# --- inventing --------------------------------------------------------------------------------------------------------


class Inventor(NamedTuple):
    """Who makes new grids. prior: what it is told comes from its columns; None: the DistilBERT, which is told classes.
    told: whether it is asked for classes."""

    filler: Filler
    prior: HandedPrior | None
    told: bool

    def asked(self, labels: Tensor, classes: list[str]) -> Tensor | None:
        """Classes (B,) in the form that the filler takes; None tells nothing."""
        if not self.told:
            return None
        if self.prior is None:
            return labels
        columns = self.prior.columns
        return columns.facts(columns.tell([{"class": classes[label]} for label in labels])).to(labels.device)


def inventors(memory: Memory, priors: Priors, section: ComparePriorsSection, classes: list[str]) -> dict[str, Inventor]:
    """All priors by name. classes: of the split, to ask for where a prior can be told; may be empty."""
    pixelcnn, gan, told_distil = priors.pixelcnn, priors.gan, priors.told_distil
    filling = Filling(temperature=section.temperature, guidance_scale=section.guidance_scale)
    in_passes = configured(Filling, section)
    model = None if told_distil is None else told_distil.model
    tells, told = model is not None and bool(classes), bool(pixelcnn.columns) and bool(classes)
    return {
        "PixelCNN": Inventor(PixelCNNFiller("PixelCNN", pixelcnn.pixelcnn, filling), pixelcnn, told),
        "GAN": Inventor(GANFiller("GAN", gan.generator, section.pool), gan, bool(gan.columns) and bool(classes)),
        f"DistilBERT, {section.passes} passes": Inventor(distil_filler(memory, in_passes, model), None, tells),
        "DistilBERT, one pass": Inventor(distil_filler(memory, filling, model), None, tells),
    }


class Samples(NamedTuple):
    """Grids with their pictures, on the CPU. asked: whether they were asked for by class; seconds: per picture."""

    tokens: Tensor  # (B, N)
    pictures: Tensor  # (B, C, H, W) in [-1, 1]
    asked: bool = False
    seconds: float | None = None


@torch.no_grad()
def draw_samples(
    memory: Memory, inventor: Inventor, labels: Tensor, classes: list[str], batch_size: int, seed: int
) -> Samples:
    """One new picture for each label (B,), timed from the question to the painting."""
    parts, pictures, taken = [], [], 0.0
    for start in range(0, len(labels), batch_size):
        chosen = labels[start : start + batch_size].to(memory.device)
        asked = inventor.asked(chosen, classes)
        hole = nothing_known(len(chosen), memory.tokens, memory.device, asked)
        if not start:
            inventor.filler.fill(hole, "sample", generator(seed, Stream.COMPARED_SAMPLES, start))  # warms up
        started = _now(memory)
        filled = inventor.filler.fill(hole, "sample", generator(seed, Stream.COMPARED_SAMPLES, start))
        painted = memory.paint(filled)
        taken += _now(memory) - started
        parts.append(filled.tokens.cpu())
        pictures.append(painted.cpu())
    return Samples(torch.cat(parts), torch.cat(pictures), inventor.told, taken / len(labels))


@torch.no_grad()
def measure_samples(
    handed: HandedMemory, ways: dict[str, Inventor], count: int, batch_size: int, seed: int
) -> tuple[Rows, dict[str, Tensor]]:
    """Rows of samples.csv, and some pictures of each way in [0, 1].

    The Frechet distance is that to as many test pictures; validation pictures, the test pictures' own reconstructions
    and shuffled codes show what is good and what is bad. It depends on how many pictures are compared.
    """
    memory, split, indices = handed.memory, handed.split, handed.indices
    test, val = (spread(split.positions(part), count) for part in ("test", "val"))
    labels = torch.arange(count) % max(1, len(split.classes))
    real = Samples(indices.tokens(test), split.pictures(test))
    scale = Yardstick(memory, real, indices.tokens(split.positions("train")), batch_size)
    rows: Rows = []
    shown: dict[str, Tensor] = {}

    def add(name: str, samples: Samples) -> None:
        rows.append({"method": name, **scale.measure(samples, labels)})
        shown[name] = shown_samples(samples)

    for name, way in progress_bar(list(ways.items()), desc="sampling", unit="way"):
        add(name, draw_samples(memory, way, labels, split.classes, batch_size, seed))
    mixed = shuffled(real.tokens, generator(seed, Stream.COMPARED_SAMPLES))
    for name, grids in (("test pictures, from their codes", real.tokens), ("shuffled codes", mixed)):
        add(name, Samples(grids, _painted(memory, grids, batch_size)))
    add("validation pictures", Samples(indices.tokens(val), split.pictures(val)))
    return rows, shown


class Yardstick:
    """What samples are measured against: test pictures, and the neighbourhoods of training grids."""

    def __init__(self, memory: Memory, real: Samples, train_tokens: Tensor, batch_size: int) -> None:
        self.memory, self.batch_size, self.size = memory, batch_size, len(memory.codebook)
        self.known = neighbours(train_tokens, self.size).flatten().unique()
        self.real = features(memory, real.pictures, real.tokens, batch_size)

    def measure(self, samples: Samples, labels: Tensor) -> dict[str, Any]:
        """The columns of samples.csv. labels: (B,) the classes asked for."""
        memory, batch_size, tokens, pictures = self.memory, self.batch_size, samples.tokens, samples.pictures
        row: dict[str, Any] = {"samples": len(tokens)}
        if self.real is not None:
            found = features(memory, pictures, tokens, batch_size)
            row["frechet_distance"] = frechet_distance(self.real, found) if found is not None else None
        if samples.asked:
            row["class_accuracy"] = class_accuracy(memory, pictures, tokens, labels, batch_size)
        described = describe_grids(tokens, self.size, self.known)
        row |= {key: described[key] for key in ("distinct_codes", "real_pairs")}
        return row | ({} if samples.seconds is None else {SECONDS: samples.seconds})


def shown_samples(samples: Samples, most: int = 10) -> Tensor:
    """Some of the pictures in [0, 1]: the first, which are of all classes in turn, where classes were asked for."""
    everything = np.arange(len(samples.tokens))
    return to_unit(samples.pictures[everything[:most] if samples.asked else spread(everything, most)])


def _painted(memory: Memory, tokens: Tensor, batch_size: int) -> Tensor:
    parts = [
        memory.paint_tokens(tokens[start : start + batch_size].to(memory.device)).cpu()
        for start in range(0, len(tokens), batch_size)
    ]
    return torch.cat(parts)


def features(memory: Memory, pictures: Tensor, tokens: Tensor, batch_size: int) -> Tensor | None:
    """(B, F) on the CPU: what the last layer of the classifier gets; None without a classifier."""
    if memory.classifier is None:
        return None
    parts = []
    for start in range(0, len(pictures), batch_size):
        rows = slice(start, start + batch_size)
        seen = memory.grid(tokens[rows]) if memory.classifier.sees_codes else pictures[rows]
        parts.append(memory.classifier.features(seen.to(memory.device)).float().cpu())
    return torch.cat(parts)


def class_accuracy(memory: Memory, pictures: Tensor, tokens: Tensor, labels: Tensor, batch_size: int) -> float | None:
    """Share of the pictures in which the classifier sees the class that was asked for; None without a classifier."""
    right = []
    for start in range(0, len(pictures), batch_size):
        rows = slice(start, start + batch_size)
        seen = memory.class_probabilities(pictures[rows].to(memory.device), tokens[rows].to(memory.device))
        if seen is None:
            return None
        right.append(seen.argmax(1).cpu() == labels[rows])
    return float(torch.cat(right).float().mean())


def spread_batches(handed: HandedMemory, pictures: int | None, batch_size: int) -> Callable[[], Iterator[Batch]]:
    """Evenly spread test pictures, made anew each time."""
    test = handed.split.positions("test")
    positions = spread(test, pictures or len(test))
    return lambda: batches_of(handed.memory, handed.split, handed.indices, positions, batch_size)
