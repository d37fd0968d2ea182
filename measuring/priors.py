"""The measuring of `compare_priors.py`: ways to fill in the same masks, ways to invent pictures, what both are worth.

Letters: B batch, N tokens, F features. Pictures are float [-1, 1] in models, [0, 1] in what is measured. Masks are
bool, True = masked. Rows are dicts with the keys of INPAINTING_HEADER and SAMPLES_HEADER.
"""

import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handoff.asking import Priors
from handoff.priors import HandedPrior
from handoff.split import Split
from handoff.vqvae import HandedIndices
from masking import block_order, half_order, mask_first, masked_count, random_order, touched_pixels
from measuring.study import Batch, batches_of, judge
from models.codes import Filling
from pipeline.machine import generator
from pipeline.metrics import Bootstrap, to_unit
from pipeline.progress import progress_bar
from pipeline.tables import Rows
from priors.gan import Generator, generate
from priors.grids import describe_grids, frechet_distance, neighbours, shuffled, spread
from priors.pixelcnn import PixelCNN, draw
from recall.fillers import GANDrawer
from recall.memory import Memory
from settings.compare_priors import ComparePriorsSection
from vqvae import VQVAE

INPAINTING_HEADER = ("method", "mask", "percent", "measure", "mean", "low", "high", "pictures")
SAMPLES_HEADER = (
    "method", "samples", "frechet_distance", "class_accuracy", "distinct_codes", "real_pairs", "seconds_per_picture",
)  # fmt: skip
PIXELCNN, WHOLE_GRID = "PixelCNN, drawn", "PixelCNN, whole grid for each code"
#: Ways that need one pass of a network for a whole picture.
ONE_PASS = ("DistilBERT, one pass, expected", "DistilBERT, one pass, likeliest", "VQ-VAE with masked components")
ONLY_TIMED = (WHOLE_GRID,)  # gives what PIXELCNN gives, slower; timed on one batch, at the middle percentage
MASK_STREAM, FILL_STREAM, SAMPLE_STREAM = 411, 412, 413
SECONDS = "seconds_per_picture"

#: (batch, mask (B, N), draws) -> painted (B, C, H, W) in [-1, 1] and the grids behind it (B, N)
Filler = Callable[[Batch, Tensor, torch.Generator], tuple[Tensor, Tensor]]
#: (classes asked for (B,), draws) -> grids (B, N)
Sampler = Callable[[Tensor, torch.Generator], Tensor]


# --- filling in -------------------------------------------------------------------------------------------------------


def fillers(memory: Memory, priors: Priors, section: ComparePriorsSection) -> dict[str, Filler]:
    """All ways to fill in, by name, the floor and the ceiling first."""
    pixelcnn, gan = priors.pixelcnn.model, priors.gan.model
    assert isinstance(pixelcnn, PixelCNN) and isinstance(gan, Generator)
    drawn, likeliest = Filling(temperature=section.temperature), Filling()
    iterative = Filling(section.passes, section.fill_order, section.temperature)
    pool = GANDrawer(priors.gan.folder, gan, section.pool)

    def by_grid(fill: Callable[[Tensor, Tensor, torch.Generator], Tensor]) -> Filler:
        def filler(batch: Batch, mask: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
            grids = fill(batch.tokens, mask, draws)
            return memory.paint_indices(grids), grids

        return filler

    def expected(batch: Batch, mask: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        found = memory.complete(batch.tokens, mask)
        return memory.paint(found.expected), found.indices

    found: dict[str, Filler] = {
        "nothing forgotten": lambda batch, mask, draws: (memory.paint_indices(batch.tokens), batch.tokens),
        "not completed": lambda batch, mask, draws: (memory.paint_blank(batch.tokens, mask), batch.tokens),
        PIXELCNN: by_grid(lambda tokens, mask, draws: draw(pixelcnn, tokens, mask, drawn, draws)),
        "PixelCNN, likeliest": by_grid(lambda tokens, mask, draws: draw(pixelcnn, tokens, mask, likeliest, None)),
        WHOLE_GRID: by_grid(lambda tokens, mask, draws: draw(pixelcnn, tokens, mask, drawn, draws, incremental=False)),
        f"GAN, best of {section.pool}": by_grid(lambda tokens, mask, draws: pool.fill(tokens, mask, None, draws)),
        ONE_PASS[0]: expected,
        ONE_PASS[1]: by_grid(lambda tokens, mask, draws: memory.complete(tokens, mask, likeliest).indices),
        f"DistilBERT, {section.passes} passes, drawn": by_grid(
            lambda tokens, mask, draws: memory.complete(tokens, mask, iterative, draws).indices
        ),
    }
    if priors.masked_vqvae is not None:
        found[ONE_PASS[2]] = hidden_pixels(memory, priors.masked_vqvae)
    return found


def hidden_pixels(memory: Memory, masked: VQVAE) -> Filler:
    """A VQ-VAE trained to paint hidden components gets the picture with all components hidden in the masked cells: one
    pass, no prior. It was not trained on holes, only on missing components."""

    def filler(batch: Batch, mask: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        height, width = batch.truth.shape[2:]
        pixels = touched_pixels(mask, height, width, memory.stride)
        seen = (batch.truth * 2 - 1).masked_fill(pixels.unsqueeze(1), 0.0)
        painted = masked.decode_indices(masked.encode_indices(seen))
        return painted, batch.tokens

    return filler


@torch.no_grad()
def measure_inpainting(
    memory: Memory, ways: dict[str, Filler], batches: Callable[[], Iterator[Batch]], section: ComparePriorsSection,
    seed: int,
) -> Rows:  # fmt: skip
    """Rows of inpainting.csv. The masks of a cell (mask, percent) are the same for all ways."""
    values: dict[tuple[str, str, int, str], list[Tensor]] = {}
    for name, fill in progress_bar(list(ways.items()), desc="filling in", unit="way"):
        percentages = [middle_percent(section)] if name in ONLY_TIMED else section.percentages
        for kind, percent in product(section.masks, percentages):
            for number, batch in enumerate(batches()):
                if name in ONLY_TIMED and number:
                    break
                mask = masks(kind, percent, len(batch.tokens), memory, seed, batch.rows.start).to(memory.device)
                draws = generator(seed, FILL_STREAM, percent, batch.rows.start)
                if not number and name not in ONLY_TIMED:  # warms up
                    fill(batch, mask, generator(seed, FILL_STREAM, percent, batch.rows.start))
                started = _now(memory)
                painted, grids = fill(batch, mask, draws)
                taken = (_now(memory) - started) / len(batch.tokens)
                measures = {SECONDS: torch.tensor([taken])}
                if name not in ONLY_TIMED:
                    measures |= judged(memory, batch, mask, painted, grids, name)
                for measure, value in measures.items():
                    values.setdefault((name, kind, percent, measure), []).append(value.float().cpu())
    bootstrap = Bootstrap(section.bootstrap, lambda: generator(seed, 203))
    return [
        dict(zip(INPAINTING_HEADER, (*key, *_summary(torch.cat(parts), key[3], bootstrap)), strict=True))
        for key, parts in values.items()
    ]


def middle_percent(section: ComparePriorsSection) -> int:
    """The percentage that tables and figures show."""
    return section.percentages[len(section.percentages) // 2]


def judged(memory: Memory, batch: Batch, mask: Tensor, painted: Tensor, grids: Tensor, name: str) -> dict[str, Tensor]:
    """All measures of `study.judge`. A classifier of codes is shown what the memory's VQ-VAE makes of a picture that
    another one painted."""
    if name == ONE_PASS[2] and memory.classifier is not None and memory.classifier.sees_codes:
        grids = memory.encode(painted)
    found = judge(memory, batch, mask, painted, grids)
    return {key: value for key, value in found.items() if key != "predicted"}


def masks(kind: str, percent: int, count: int, memory: Memory, seed: int, start: int) -> Tensor:
    """(count, N) bool: the same for every way, other ones in each batch."""
    draws, side = generator(seed, MASK_STREAM, start), memory.side
    if kind == "random":
        order = random_order(count, memory.tokens, draws)
    else:
        order = block_order(count, side, side, draws) if kind == "block" else half_order(count, side, side)
    return mask_first(order, masked_count(percent / 100, memory.tokens))


def _summary(values: Tensor, measure: str, bootstrap: Bootstrap) -> tuple[float, float, float, int]:
    """mean, low, high, how many. Seconds: median, lowest and highest over batches."""
    if measure == SECONDS:
        return float(values.median()), float(values.min()), float(values.max()), len(values)
    values = values[~values.isnan()]
    if not len(values):
        return float("nan"), float("nan"), float("nan"), 0
    return float(values.mean()), *bootstrap.interval(values), len(values)


def _now(memory: Memory) -> float:
    if memory.device.type == "cuda":
        torch.cuda.synchronize(memory.device)
    return time.perf_counter()


# --- inventing --------------------------------------------------------------------------------------------------------


def samplers(memory: Memory, priors: Priors, section: ComparePriorsSection, classes: list[str]) -> dict[str, Sampler]:
    """All priors by name. classes: of the split, to ask for where a prior can be told; may be empty."""
    pixelcnn, gan = priors.pixelcnn, priors.gan
    assert isinstance(pixelcnn.model, PixelCNN) and isinstance(gan.model, Generator)
    filling = Filling(temperature=section.temperature, guidance_scale=section.guidance_scale)
    iterative = Filling(section.passes, section.fill_order, section.temperature, guidance_scale=section.guidance_scale)
    distil, tells = priors.told_distil or memory.distil, priors.told_distil is not None
    model, maker = pixelcnn.model, gan.model

    def facts(prior: HandedPrior, labels: Tensor) -> Tensor | None:
        if not prior.columns:
            return None
        return prior.columns.facts(prior.columns.tell([{"class": classes[label]} for label in labels])).to(
            labels.device
        )

    def blank(labels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(len(labels), memory.tokens, dtype=torch.long, device=memory.device)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)

    return {
        "PixelCNN": lambda labels, draws: draw(model, *blank(labels), filling, draws, facts(pixelcnn, labels)),
        "GAN": lambda labels, draws: generate(maker, len(labels), draws, facts(gan, labels)),
        f"DistilBERT, {section.passes} passes": lambda labels, draws: (
            memory.complete(*blank(labels), iterative, draws, labels if tells else None, distil).indices
        ),
        "DistilBERT, one pass": lambda labels, draws: (
            memory.complete(*blank(labels), filling, draws, labels if tells else None, distil).indices
        ),
    }


def asked_classes(name: str, priors: Priors, classes: int) -> bool:
    """Whether the samples of this prior were asked for by class."""
    if not classes:
        return False
    if name.startswith("DistilBERT"):
        return priors.told_distil is not None
    return bool((priors.pixelcnn if name == "PixelCNN" else priors.gan).columns)


@torch.no_grad()
def measure_samples(
    memory: Memory, ways: dict[str, Sampler], priors: Priors, split: Split, indices: HandedIndices, count: int,
    batch_size: int, seed: int,
) -> tuple[Rows, dict[str, Tensor]]:  # fmt: skip
    """Rows of samples.csv, and some pictures of each way in [0, 1].

    The Frechet distance is that to as many test pictures; validation pictures, the test pictures' own reconstructions
    and shuffled codes show what is good and what is bad. It depends on how many pictures are compared.
    """
    size = len(memory.codebook)
    test, val = (spread(split.positions(part), count) for part in ("test", "val"))
    known = neighbours(indices.tokens(split.positions("train")), size).flatten().unique()
    real = features(memory, split.pictures(test), indices.tokens(test), batch_size)
    labels = torch.arange(count) % max(1, len(split.classes))
    rows: Rows = []
    shown: dict[str, Tensor] = {}

    def add(name: str, pictures: Tensor, tokens: Tensor, asked: bool, seconds: float | None) -> None:
        described = describe_grids(tokens, size, known)
        row: dict[str, Any] = {"method": name, "samples": len(tokens)}
        if real is not None:
            found = features(memory, pictures, tokens, batch_size)
            row["frechet_distance"] = frechet_distance(real, found) if found is not None else None
        if asked:
            row["class_accuracy"] = class_accuracy(memory, pictures, tokens, labels, batch_size)
        row |= {key: described[key] for key in ("distinct_codes", "real_pairs")}
        rows.append(row | ({SECONDS: seconds} if seconds is not None else {}))
        picks = np.arange(min(10, count)) if asked else spread(np.arange(count), 10)
        shown[name] = to_unit(pictures[picks])

    for name, sampler in progress_bar(list(ways.items()), desc="sampling", unit="way"):
        parts, pictures, taken = [], [], 0.0
        for start in range(0, count, batch_size):
            chosen = labels[start : start + batch_size].to(memory.device)
            if not start:
                sampler(chosen, generator(seed, SAMPLE_STREAM, start))  # warms up
            started = _now(memory)
            tokens = sampler(chosen, generator(seed, SAMPLE_STREAM, start))
            painted = memory.paint_indices(tokens)
            taken += _now(memory) - started
            parts.append(tokens.cpu())
            pictures.append(painted.cpu())
        add(name, torch.cat(pictures), torch.cat(parts), asked_classes(name, priors, len(split.classes)), taken / count)
    tokens = indices.tokens(test)
    mixed = shuffled(tokens, generator(seed, SAMPLE_STREAM))
    for name, grids in (("test pictures, from their codes", tokens), ("shuffled codes", mixed)):
        add(name, _painted(memory, grids, batch_size), grids, False, None)
    add("validation pictures", split.pictures(val), indices.tokens(val), False, None)
    return rows, shown


def _painted(memory: Memory, tokens: Tensor, batch_size: int) -> Tensor:
    parts = [
        memory.paint_indices(tokens[start : start + batch_size].to(memory.device)).cpu()
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


def spread_batches(
    memory: Memory, split: Split, indices: HandedIndices, pictures: int | None, batch_size: int
) -> Callable[[], Iterator[Batch]]:
    """Evenly spread test pictures, made anew each time."""
    test = split.positions("test")
    positions = spread(test, pictures or len(test))
    return lambda: batches_of(memory, split, indices, positions, batch_size)
