"""Ways to fill in the same masks, side by side, and how long each takes.

Letters: B batch, N tokens. Pictures are float [-1, 1] in models, [0, 1] in what is measured. Masks are bool, True =
masked. Rows are dicts with the keys of INPAINTING_HEADER and SPEED_HEADER. Everything that is compared is asked in
float32; speeds are also taken with all of them in bfloat16.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory
from masked_memory.measuring.study import Batch, batches_of, judge
from masked_memory.models.codes import Filling
from masked_memory.pipeline.batch_cache import remembering
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import Bootstrap, mse, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.rows import Rows, mean_row
from masked_memory.recall.fillers import MeanOfDraws, Way, distil_filler
from masked_memory.recall.hole import Filler, Hole, dig
from masked_memory.recall.memory import Memory
from masked_memory.recall.simple_fillers import AsItIs, NotCompleted
from masked_memory.rivals.fillers import GANFiller, MaskedVQVAEFiller, PixelCNNFiller
from masked_memory.rivals.handoff.prior_requests import Priors
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import masks_of

INPAINTING_HEADER = (
    "method", "decoding", "passes", "mask", "percent", "measure", "mean", "low", "high", "pictures",
)  # fmt: skip
SPEED_HEADER = ("method", "precision", "mask", "percent", "seconds_per_picture", "low", "high", "rounds", "pictures")
WHOLE_GRID = "PixelCNN, whole grid for each code"  # gives what PixelCNN gives when drawn, slower; only timed
DIVERSITY = "diversity"  # mean squared error between two draws for the same hole
SHOWN_DECODING = {"argmax": "likeliest", "sample": "drawn", "expected": "expected"}


# --- who fills in -----------------------------------------------------------------------------------------------------


def filling_ways(memory: Memory, priors: Priors, section: ComparePriorsSection) -> dict[str, Way]:
    """All ways to fill in, by name, the floor and the ceiling first. Each filler has every decoding that it can have;
    one that can only draw is also painted by the mean of `section.draws` draws."""
    fillers: list[Filler] = [
        PixelCNNFiller("PixelCNN", priors.untold_pixelcnn.pixelcnn, Filling(temperature=section.temperature)),
        GANFiller(f"GAN, best of {section.pool}", priors.untold_gan.generator, section.pool),
        distil_filler(memory, Filling(temperature=section.temperature), name="DistilBERT, one pass"),
        distil_filler(memory, configured(Filling, section), name=f"DistilBERT, {section.passes} passes"),
    ]
    found = [
        Way(AsItIs(), "argmax", AsItIs.name),
        Way(NotCompleted(memory.codebook, memory.blank), "expected", "not completed"),
    ]
    for filler in fillers:
        found += [Way(filler, each, f"{filler.name}, {SHOWN_DECODING[each]}") for each in filler.decodings]
        if "expected" not in filler.decodings or filler.passes > 1:
            mean = MeanOfDraws(filler, memory.codebook, section.draws)
            found.append(Way(mean, "expected", mean.name))
    if priors.masked_vqvae is not None:
        masked = MaskedVQVAEFiller("VQ-VAE with masked components", priors.masked_vqvae.model)
        found.append(Way(masked, "argmax", masked.name))
    return {way.shown: way for way in found}


def timed_ways(memory: Memory, priors: Priors, section: ComparePriorsSection, bf16: bool) -> dict[str, Way]:
    """Those whose speed is told, the DistilBERT in the precision asked for, and a PixelCNN that computes the whole grid
    for each code."""
    ways = filling_ways(replace(memory, bf16=bf16), priors, section)
    pixelcnn = priors.untold_pixelcnn.pixelcnn
    whole = PixelCNNFiller("PixelCNN", pixelcnn, Filling(temperature=section.temperature), incremental=False)
    return ways | {WHOLE_GRID: Way(whole, "sample", WHOLE_GRID)}


# --- what it is worth -------------------------------------------------------------------------------------------------


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
    memory: Memory, ways: Mapping[str, Way], batches: Callable[[], Iterator[Batch]], section: ComparePriorsSection,
    seed: int, notes: Path | None = None,
) -> Rows:  # fmt: skip
    """Rows of inpainting.csv. The masks of a cell (mask, percent) are the same for all ways. Of what is drawn there is
    also the diversity: how far two draws for the same hole are apart. notes: where finished ways are remembered."""

    def of_way(name: str) -> list[list[Any]]:
        """Mask, percent, measure, and its values of all pictures."""
        way = ways[name]
        values: dict[tuple[str, int, str], list[Tensor]] = {}
        for kind, percent in product(dict.fromkeys(section.masks), sorted(set(section.percentages))):
            for batch in batches():
                mask = shared_mask(kind, percent, len(batch.tokens), memory, seed, batch.rows.start)
                hole = hole_for(way, batch, mask, memory.stride)
                draws = generator(seed, Stream.COMPARED_FILLS, percent, batch.rows.start)
                painted, grids = paint_way(memory, way, hole, draws)
                judged = judge(memory, batch, mask, painted, grids)
                measures = {key: value for key, value in judged.items() if not key.endswith("predicted")}
                if way.decoding == "sample":
                    again, _ = paint_way(memory, way, hole, draws)
                    measures[DIVERSITY] = mse(to_unit(painted), to_unit(again))
                for measure, value in measures.items():
                    values.setdefault((kind, percent, measure), []).append(value.float().cpu())
        return [[*cell, torch.cat(parts)] for cell, parts in values.items()]

    work = remembering(notes, of_way)
    bootstrap = Bootstrap(section.bootstrap, lambda: generator(seed, Stream.BOOTSTRAP))
    return [
        _inpainting_row(ways[name], (name, kind, percent, measure), values, bootstrap)
        for name in progress_bar(list(ways), desc="filling in", unit="way")
        for kind, percent, measure, values in work(name)
    ]


def _inpainting_row(way: Way, key: tuple[str, str, int, str], values: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    """Mean over pictures and its interval."""
    asked = (key[0], way.decoding, way.filler.passes, *key[1:])
    return mean_row(dict(zip(INPAINTING_HEADER, asked, strict=False)), values, bootstrap)


def middle_percent(section: ComparePriorsSection) -> int:
    """The percentage that tables and figures show."""
    percentages = sorted(set(section.percentages))
    return percentages[len(percentages) // 2]


def shared_mask(kind: str, percent: int, count: int, memory: Memory, seed: int, start: int) -> Tensor:
    """(count, N) bool on the device: the same for every way, other ones in each batch."""
    draws = generator(seed, Stream.COMPARED_MASKS, start)
    return masks_of(kind, percent, count, memory.side, draws).to(memory.device)


def spread_batches(handed: HandedMemory, pictures: int | None, batch_size: int) -> Callable[[], Iterator[Batch]]:
    """Evenly spread test pictures, made anew each time."""
    test = handed.split.positions("test")
    positions = spread(test, pictures or len(test))
    return lambda: batches_of(handed.memory, handed.split, handed.indices, positions, batch_size)


# --- how long it takes ------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure_speed(memory: Memory, priors: Priors, batch: Batch, section: ComparePriorsSection, seed: int) -> Rows:
    """Rows of speed.csv: seconds per picture of filling and painting one batch, at the middle percentage. Every way is
    warmed once, then all take turns for `section.rounds` rounds: median, lowest and highest. All in float32, and where
    the machine has it all in bfloat16."""
    percent, kind = middle_percent(section), section.masks[0]
    mask = shared_mask(kind, percent, len(batch.tokens), memory, seed, batch.rows.start)
    rows: Rows = []
    for bf16 in (False, True) if memory.bf16 else (False,):
        ways = timed_ways(memory, priors, section, bf16)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in progress_bar(range(section.rounds + 1), desc=f"timing in {_named(bf16)}", unit="round"):
            for name, way in ways.items():
                hole, draws = hole_for(way, batch, mask, memory.stride), generator(seed, Stream.COMPARED_FILLS, percent)
                started = now(memory.device)
                with torch.autocast(memory.device.type, torch.bfloat16, enabled=bf16):
                    paint_way(memory, way, hole, draws)
                if number:
                    taken[name].append((now(memory.device) - started) / len(batch.tokens))
        for name, seconds in taken.items():
            found = torch.tensor(seconds)
            cell = (name, _named(bf16), kind, percent, float(found.median()), float(found.min()), float(found.max()))
            rows.append(dict(zip(SPEED_HEADER, (*cell, section.rounds, len(batch.tokens)), strict=True)))
    return rows


def _named(bf16: bool) -> str:
    return "bf16" if bf16 else "fp32"


def now(device: torch.device) -> float:
    """Seconds, after all that the device was asked to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
