"""New pictures: who makes them, and how far they are from real ones.

Letters: B batch, N tokens, F features. Pictures are float [-1, 1]. Rows are dicts with the keys of SAMPLES_HEADER and
SWEEP_HEADER.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory
from masked_memory.models.classifier import Classifier
from masked_memory.models.codes import Filling, FillOrder
from masked_memory.pipeline.batch_cache import remembering
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import Filler, nothing_known
from masked_memory.recall.memory import Memory
from masked_memory.rivals.fillers import GANFiller, PixelCNNFiller
from masked_memory.rivals.handoff.prior_requests import Priors
from masked_memory.rivals.handoff.priors import HandedPrior
from masked_memory.rivals.measuring.priors import now
from masked_memory.rivals.priors.grids import describe_grids, frechet_distance, neighbours, pairwise_distance, shuffled
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.settings.judges import ELSEWHERE, JUDGES
from masked_memory.sources.splitting import spread

ACCURACIES = tuple(f"{judge.prefix}class_accuracy" for judge in JUDGES.values())
DISTANCES = tuple(f"{judge.prefix}frechet_distance" for name, judge in JUDGES.items() if name != ELSEWHERE)
SAMPLES_HEADER = ("method", "samples", *DISTANCES, *ACCURACIES, "distinct_codes", "real_pairs", "seconds_per_picture")
SWEEP_HEADER = ("order", "passes", *SAMPLES_HEADER[1:-3], "pairwise_distance", *SAMPLES_HEADER[-3:])
#: The orders of the sweep, by name: fill order, and whether there is noise on the confidence.
SWEPT: dict[str, tuple[FillOrder, bool]] = {
    "Halton": ("halton", False),
    "confidence": ("confidence", False),
    "confidence with noise": ("confidence", True),
}


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
    pixelcnn, gan = priors.pixelcnn, priors.gan
    filling = Filling(temperature=section.temperature, guidance_scale=section.guidance_scale)
    told = bool(pixelcnn.columns) and bool(classes)
    return {
        "PixelCNN": Inventor(PixelCNNFiller("PixelCNN", pixelcnn.pixelcnn, filling), pixelcnn, told),
        "GAN": Inventor(GANFiller("GAN", gan.generator, section.pool), gan, bool(gan.columns) and bool(classes)),
        f"DistilBERT, {section.passes} passes": _distil(memory, priors, configured(Filling, section), classes),
        "DistilBERT, one pass": _distil(memory, priors, filling, classes),
    }


def _distil(memory: Memory, priors: Priors, filling: Filling, classes: list[str]) -> Inventor:
    model = None if priors.told_distil is None else priors.told_distil.model
    return Inventor(distil_filler(memory, filling, model), None, model is not None and bool(classes))


class Samples(NamedTuple):
    """Grids with their pictures, on the CPU. labels: (B,) the classes that they are of or were asked for, None where
    none is known; seconds: per picture."""

    tokens: Tensor  # (B, N)
    pictures: Tensor  # (B, C, H, W) in [-1, 1]
    labels: Tensor | None = None
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
        started = now(memory.device)
        filled = inventor.filler.fill(hole, "sample", generator(seed, Stream.COMPARED_SAMPLES, start))
        painted = memory.paint(filled)
        taken += now(memory.device) - started
        parts.append(filled.tokens.cpu())
        pictures.append(painted.cpu())
    told = labels if inventor.told else None
    return Samples(torch.cat(parts), torch.cat(pictures), told, taken / len(labels))


class Halves(NamedTuple):
    """Test pictures in two disjoint halves: what samples are compared with, and what stands for perfect samples."""

    compared: np.ndarray
    perfect: np.ndarray


def halves(test: np.ndarray, count: int) -> Halves:
    """Positions of at most `count` test pictures each, taken by turns, so that both halves have all classes."""
    return Halves(spread(test[::2], count), spread(test[1::2], count))


@torch.no_grad()
def measure_samples(
    handed: HandedMemory, ways: dict[str, Inventor], count: int, batch_size: int, seed: int, notes: Path | None = None
) -> tuple[Rows, dict[str, Tensor]]:
    """Rows of samples.csv, and some pictures of each way in [0, 1].

    The Frechet distance is that to one half of the test pictures. Of the other half it is the floor, and the class
    accuracy of these pictures is the ceiling; their codes painted, validation pictures and shuffled codes show what is
    good and what is bad. It depends on how many pictures are compared, so all are as many. notes: where finished
    ways are remembered.
    """
    memory, split, indices = handed.memory, handed.split, handed.indices
    half, val = halves(split.positions("test"), count), spread(split.positions("val"), count)
    scale, labels = yardstick(handed, half.compared, batch_size), asked_labels(handed, count)
    rows: Rows = []
    shown: dict[str, Tensor] = {}

    def measured(name: str, samples: Samples) -> tuple[dict[str, Any], Tensor]:
        return {"method": name, **scale.measure(samples)}, shown_samples(samples)

    def of_way(name: str) -> tuple[dict[str, Any], Tensor]:
        return measured(name, draw_samples(memory, ways[name], labels, split.classes, batch_size, seed))

    def add(row: dict[str, Any], some: Tensor) -> None:
        rows.append(row)
        shown[row["method"]] = some

    work = remembering(notes, of_way)
    for name in progress_bar(list(ways), desc="sampling", unit="way"):
        add(*work(name))
    tokens = indices.tokens(half.perfect)
    mixed, known = shuffled(tokens, generator(seed, Stream.SHUFFLED_CODES)), true_labels(handed, half.perfect)
    add(*measured("other test pictures", Samples(tokens, split.pictures(half.perfect), known)))
    add(
        *measured("other test pictures, from their codes", Samples(tokens, _painted(memory, tokens, batch_size), known))
    )
    add(*measured("shuffled codes", Samples(mixed, _painted(memory, mixed, batch_size))))
    add(*measured("validation pictures", Samples(indices.tokens(val), split.pictures(val), true_labels(handed, val))))
    return rows, shown


@torch.no_grad()
def measure_sweep(
    handed: HandedMemory, priors: Priors, section: ComparePriorsSection, count: int, seed: int,
    notes: Path | None = None,
) -> Rows:  # fmt: skip
    """Rows of sweep.csv: the DistilBERT's new pictures for each order of filling and number of passes. notes: where
    finished settings are remembered."""
    half = halves(handed.split.positions("test"), count)
    scale, labels = yardstick(handed, half.compared, section.batch_size), asked_labels(handed, count)
    jobs = {f"{name} {n}": (name, n) for name in SWEPT for n in sorted(set(section.sweep_passes))}

    def of_setting(job: str) -> dict[str, Any]:
        name, passes = jobs[job]
        order, noise = SWEPT[name]
        filling = replace(configured(Filling, section), passes=passes, fill_order=order)
        filling = replace(filling, choice_noise=section.choice_noise if noise else 0.0)
        way = _distil(handed.memory, priors, filling, handed.split.classes)
        samples = draw_samples(handed.memory, way, labels, handed.split.classes, section.batch_size, seed)
        apart = {"pairwise_distance": pairwise_distance(samples.tokens)}
        return {"order": name, "passes": passes, **scale.measure(samples), **apart}

    work = remembering(notes, of_setting)
    return [work(job) for job in progress_bar(list(jobs), desc="sweeping", unit="setting")]


def asked_labels(handed: HandedMemory, count: int) -> Tensor:
    """(count,) all classes in turn."""
    return torch.arange(count) % max(1, len(handed.split.classes))


def true_labels(handed: HandedMemory, positions: np.ndarray) -> Tensor | None:
    """(B,) the classes of pictures; None where there are none."""
    return torch.from_numpy(handed.split.labels[positions]) if handed.split.classes else None


def yardstick(handed: HandedMemory, positions: np.ndarray, batch_size: int) -> "Yardstick":
    """What samples are measured against: the test pictures at these positions."""
    split, indices = handed.split, handed.indices
    real = Samples(indices.tokens(positions), split.pictures(positions))
    return Yardstick(handed.memory, real, indices.tokens(split.positions("train")), batch_size)


class Yardstick:
    """What samples are measured against: test pictures, and the neighbourhoods of training grids."""

    def __init__(self, memory: Memory, real: Samples, train_tokens: Tensor, batch_size: int) -> None:
        self.memory, self.batch_size, self.size = memory, batch_size, len(memory.codebook)
        self.known = neighbours(train_tokens, self.size).flatten().unique()
        self.real = features(memory, real, batch_size)

    def measure(self, samples: Samples) -> dict[str, Any]:
        """The columns of samples.csv."""
        row: dict[str, Any] = {"samples": len(samples.tokens)}
        for prefix, found in features(self.memory, samples, self.batch_size).items():
            row[f"{prefix}frechet_distance"] = frechet_distance(self.real[prefix], found)
        row |= class_accuracy(self.memory, samples, self.batch_size)
        described = describe_grids(samples.tokens, self.size, self.known)
        row |= {key: described[key] for key in ("distinct_codes", "real_pairs")}
        return row | ({} if samples.seconds is None else {"seconds_per_picture": samples.seconds})


def shown_samples(samples: Samples, most: int = 10) -> Tensor:
    """Some of the pictures in [0, 1]: the first, which are of all classes in turn, where classes were asked for."""
    everything = np.arange(len(samples.tokens))
    drawn = samples.seconds is not None and samples.labels is not None
    return to_unit(samples.pictures[everything[:most] if drawn else spread(everything, most)])


def _painted(memory: Memory, tokens: Tensor, batch_size: int) -> Tensor:
    parts = [
        memory.paint_tokens(tokens[start : start + batch_size].to(memory.device)).cpu()
        for start in range(0, len(tokens), batch_size)
    ]
    return torch.cat(parts)


def features(memory: Memory, samples: Samples, batch_size: int) -> dict[str, Tensor]:
    """prefix of a judge -> (B, F) on the CPU, what its last layer gets. Only of judges of this project."""
    found: dict[str, Tensor] = {}
    for name, judge in memory.judges.items():
        if not isinstance(judge, Classifier):
            continue
        parts = []
        for start in range(0, len(samples.tokens), batch_size):
            rows = slice(start, start + batch_size)
            seen = memory.grid(samples.tokens[rows]) if judge.sees_codes else samples.pictures[rows]
            parts.append(judge.features(seen.to(memory.device)).float().cpu())
        found[JUDGES[name].prefix] = torch.cat(parts)
    return found


def class_accuracy(memory: Memory, samples: Samples, batch_size: int) -> dict[str, float]:
    """column -> share of the pictures in which a judge sees the class that they are of or were asked for; nothing
    without classes."""
    if samples.labels is None:
        return {}
    right: dict[str, list[Tensor]] = {}
    for start in range(0, len(samples.tokens), batch_size):
        rows = slice(start, start + batch_size)
        pictures, tokens = samples.pictures[rows].to(memory.device), samples.tokens[rows].to(memory.device)
        for name, seen in memory.classes_seen(pictures, tokens).items():
            right.setdefault(name, []).append(seen.cpu() == samples.labels[rows])
    return {
        f"{JUDGES[name].prefix}class_accuracy": float(torch.cat(parts).float().mean()) for name, parts in right.items()
    }
