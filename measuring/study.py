"""The measuring of recall: every strategy, percentage and decoding over many pictures.

Letters: B batch, P pictures, N tokens, S seeds. Pictures are float [-1, 1] in models and [0, 1] in what is measured.
Masks are bool, True = masked. The DistilBERT is asked in the precision of the memory, as in choosing; whatever is
compared here is painted and judged in float32.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from handoff.split import Split
from handoff.vqvae import HandedIndices
from masking import mask_first, masked_count, touched_pixels
from models.codes import Filling, choose_codes
from models.distilbert import guided_logits
from pipeline.machine import generator
from pipeline.metrics import calibration_gaps, errors_and_within, picture_errors, to_unit
from pipeline.progress import progress_bar
from recall.choosing import Choosing, choose_order
from recall.memory import Memory
from settings.strategies import STRATEGIES

CALIBRATION_BINS = 15
ALL_FORGOTTEN = "any"  # at 100 % nothing is kept, so all strategies are the same


@dataclass(frozen=True)
class Plan:
    """What to measure. `filling`: passes, order, temperature and truncation of drawn codes, guidance."""

    strategies: tuple[str, ...]
    percentages: tuple[int, ...]
    decodings: tuple[str, ...]
    seeds: int
    seed: int
    choosing: Choosing
    filling: Filling
    tell_class: bool
    batch_size: int


@dataclass
class Batch:
    """Some pictures with all that they are compared with, on the device."""

    rows: slice  # of the pictures measured
    truth: Tensor  # (B, C, H, W) in [0, 1]
    whole: Tensor  # (B, C, H, W) in [0, 1]: painted from all tokens
    tokens: Tensor  # (B, N)
    labels: Tensor  # (B,)
    seen: Tensor | None  # (B,) the class seen in `whole`


class Cell:
    """One strategy, percentage and decoding: measure -> (S, P), not a number where nothing was measured.

    The tables are made at once and filled in: many small tensors kept between large short-lived ones would scatter over
    the heap, which then grows by gigabytes.
    """

    def __init__(self, seeds: int, pictures: int) -> None:
        self.shape = (seeds, pictures)
        self.table: dict[str, Tensor] = {}

    def add(self, seed: int, rows: slice, measures: dict[str, Tensor]) -> None:
        for name, value in measures.items():
            if name not in self.table:
                self.table[name] = torch.full(self.shape, math.nan)
            self.table[name][seed, rows] = value.float().cpu()


class Calibration:
    """How far confidence and accuracy are apart, gathered over batches; see `metrics.calibration_gaps`."""

    def __init__(self) -> None:
        self.gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
        self.answers = 0

    def add(self, confidence: Tensor, right: Tensor) -> None:
        self.gaps += calibration_gaps(confidence, right, CALIBRATION_BINS).cpu()
        self.answers += len(confidence)

    def error(self) -> float:
        return float(self.gaps.abs().sum() / max(1, self.answers))


@dataclass
class Study:
    """All that was measured. Keys are (strategy, percent, decoding); decoding "tokens" holds what is about tokens.

    orders: strategy -> one (P, N) order per seed. calibration: (strategy, percent) -> expected calibration error.
    """

    cells: dict[tuple[str, int, str], dict[str, Tensor]]
    orders: dict[str, list[Tensor]]
    calibration: dict[tuple[str, int], float]
    positions: np.ndarray


def make_orders(memory: Memory, tokens: Tensor, plan: Plan) -> dict[str, list[Tensor]]:
    """strategy -> a (P, N) order for each seed; strategies that draw nothing have one."""
    orders: dict[str, list[Tensor]] = {}
    jobs = [(name, seed) for name in plan.strategies for seed in range(plan.seeds if STRATEGIES[name].drawn else 1)]
    for name, seed in progress_bar(jobs, desc="choosing what to keep", unit="order"):
        draws = generator(plan.seed, 201, seed)
        orders.setdefault(name, []).append(choose_order(name, memory, tokens, draws, plan.choosing).cpu())
    return orders


@torch.no_grad()
def measure(memory: Memory, split: Split, indices: HandedIndices, positions: np.ndarray, plan: Plan) -> Study:
    """Choose, forget, complete, paint and judge. positions: (P,) the pictures."""
    with torch.autocast(memory.device.type, enabled=False):  # around all: weights are cast to bfloat16 once
        orders = make_orders(memory, indices.tokens(positions).to(memory.device), plan)
        return _recall_all(memory, split, indices, positions, plan, orders)


def _recall_all(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    plan: Plan,
    orders: dict[str, list[Tensor]],
) -> Study:
    """orders: see `make_orders`."""
    cells: dict[tuple[str, int, str], Cell] = {}
    calibration: dict[tuple[str, int], Calibration] = {}
    jobs = list(_jobs(orders, plan))
    batches = -(-len(positions) // plan.batch_size)
    with progress_bar(total=batches * len(jobs), desc="recalling", unit="batch") as bar:
        for batch in batches_of(memory, split, indices, positions, plan.batch_size):
            for name, percent, seed in jobs:
                count = masked_count(percent / 100, memory.tokens)
                order = orders[plan.strategies[0] if name == ALL_FORGOTTEN else name]
                mask = mask_first(order[seed][batch.rows], count).to(memory.device)
                draws = generator(plan.seed, 202, percent, seed, batch.rows.start)
                wanted = plan.decodings if seed == 0 else plan.decodings[-1:]
                seeds = 1 if name == ALL_FORGOTTEN else len(order)
                recalled = recall_batch(memory, batch, mask, plan, wanted, draws)
                for decoding, (painted, grids) in recalled.painted.items():
                    shape = (seeds if decoding == plan.decodings[-1] else 1, len(positions))
                    cell = cells.setdefault((name, percent, decoding), Cell(*shape))
                    cell.add(seed, batch.rows, judge(memory, batch, mask, painted, grids))
                if recalled.tokens is not None:
                    cell = cells.setdefault((name, percent, "tokens"), Cell(seeds, len(positions)))
                    cell.add(seed, batch.rows, recalled.tokens)
                    calibration.setdefault((name, percent), Calibration()).add(*recalled.answers)
                bar.update()
    errors = {key: gathered.error() for key, gathered in calibration.items()}
    return Study({key: cell.table for key, cell in cells.items()}, orders, errors, positions)


def _jobs(orders: dict[str, list[Tensor]], plan: Plan) -> Iterator[tuple[str, int, int]]:
    """(strategy, percent, number of the seed); 100 % only once."""
    for percent in plan.percentages:
        if percent == 100:
            yield ALL_FORGOTTEN, percent, 0
            continue
        for name in plan.strategies:
            for seed in range(len(orders[name])):
                yield name, percent, seed


def batches_of(
    memory: Memory, split: Split, indices: HandedIndices, positions: np.ndarray, batch_size: int
) -> Iterator[Batch]:
    for start in range(0, len(positions), batch_size):
        chosen = positions[start : start + batch_size]
        tokens = indices.tokens(chosen).to(memory.device)
        whole = memory.paint_indices(tokens)
        seen = memory.class_probabilities(whole, tokens)
        yield Batch(
            rows=slice(start, start + batch_size),
            truth=to_unit(split.pictures(chosen).to(memory.device)),
            whole=to_unit(whole),
            tokens=tokens,
            labels=torch.from_numpy(split.labels[chosen]).to(memory.device),
            seen=None if seen is None else seen.argmax(1),
        )


@dataclass
class Recalled:
    """painted: decoding -> pictures (B, C, H, W) in [-1, 1] and the grids (B, N) that stand for them. tokens: measures
    (B,) of the predictions themselves, None with nothing masked or several passes; answers: confidence and whether
    right, (M,) each."""

    painted: dict[str, tuple[Tensor, Tensor]]
    tokens: dict[str, Tensor] | None
    answers: tuple[Tensor, Tensor]


def recall_batch(
    memory: Memory, batch: Batch, mask: Tensor, plan: Plan, decodings: tuple[str, ...], draws: torch.Generator
) -> Recalled:
    """Complete one batch under one mask, all decodings from the same predictions when one pass fills everything."""
    labels = batch.labels if plan.tell_class else None
    empty = torch.zeros(0, device=memory.device)
    if not mask.any():
        whole = memory.paint_indices(batch.tokens)
        return Recalled(dict.fromkeys(decodings, (whole, batch.tokens)), None, (empty, empty.bool()))
    if plan.filling.passes > 1:
        return Recalled(_in_passes(memory, batch, mask, plan, decodings, draws, labels), None, (empty, empty.bool()))
    with memory.autocast():
        logits = guided_logits(memory.distil, batch.tokens, mask, labels, plan.filling.guidance_scale)  # (M, K)
    probabilities = logits.softmax(1)
    confidence, likeliest = probabilities.max(1)
    filled = batch.tokens.masked_scatter(mask, likeliest)
    painted: dict[str, tuple[Tensor, Tensor]] = {}
    for decoding in decodings:
        if decoding == "expected":
            vectors = memory.codebook[batch.tokens]
            vectors[mask] = probabilities @ memory.codebook
            painted[decoding] = (memory.paint(vectors), filled)
        else:
            codes = likeliest if decoding == "argmax" else choose_codes(logits, plan.filling, draws)
            grids = batch.tokens.masked_scatter(mask, codes)
            painted[decoding] = (memory.paint_indices(grids), grids)
    true = batch.tokens[mask]
    right = likeliest == true
    per_picture = mask.sum(1)

    def mean_per_picture(values: Tensor) -> Tensor:
        spread = torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values.float())
        return spread.sum(1) / per_picture

    tokens = {
        "cross_entropy": mean_per_picture(F.cross_entropy(logits, true, reduction="none")),
        "accuracy": mean_per_picture(right),
    }
    return Recalled(painted, tokens, (confidence, right))


def _in_passes(
    memory: Memory,
    batch: Batch,
    mask: Tensor,
    plan: Plan,
    decodings: tuple[str, ...],
    draws: torch.Generator,
    labels: Tensor | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Filled in several passes: argmax and expected from one filling, drawn codes from another."""
    likeliest = memory.complete(batch.tokens, mask, _undrawn(plan.filling), labels=labels)
    painted = {
        "argmax": lambda: (memory.paint_indices(likeliest.indices), likeliest.indices),
        "expected": lambda: (memory.paint(likeliest.expected), likeliest.indices),
    }
    found = {}
    for decoding in decodings:
        if decoding == "sample":
            drawn = memory.complete(batch.tokens, mask, plan.filling, draws, labels).indices
            found[decoding] = (memory.paint_indices(drawn), drawn)
        else:
            found[decoding] = painted[decoding]()
    return found


def _undrawn(filling: Filling) -> Filling:
    return Filling(filling.passes, filling.order, 0.0, guidance_scale=filling.guidance_scale)


def judge(memory: Memory, batch: Batch, mask: Tensor, painted: Tensor, grids: Tensor) -> dict[str, Tensor]:
    """All measures of painted pictures (B, C, H, W) in [-1, 1], (B,) each."""
    unit = to_unit(painted)
    values = {f"{name}_to_picture": score for name, score in picture_errors(unit, batch.truth).items()}
    pixels = touched_pixels(mask, unit.shape[2], unit.shape[3], memory.stride)
    errors, within = errors_and_within(unit, batch.whole, pixels)
    values |= {f"{name}_to_reconstruction": score for name, score in errors.items()}
    if mask.any():
        values |= {f"masked_{name}_to_reconstruction": score for name, score in within.items()}
    probabilities = memory.class_probabilities(painted, grids)
    if probabilities is not None and batch.seen is not None:
        predicted = probabilities.argmax(1)
        values |= {"classification_error": predicted != batch.labels, "disagreement": predicted != batch.seen}
        values["predicted"] = predicted
    return values
