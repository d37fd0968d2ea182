"""The measuring of recall: every strategy, percentage and decoding over many pictures.

Letters: B batch, P pictures, N tokens, S seeds. Pictures are float [-1, 1] in models and [0, 1] in what is measured.
Masks are bool, True = masked. The DistilBERT is asked in the precision of the memory, as in choosing; whatever is
compared here is painted and judged in float32.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory
from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.models.codes import Filling
from masked_memory.pipeline.batch_cache import remembering
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import calibration_gaps, errors_and_within, picture_errors, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.fillers import Prediction, distil_filler
from masked_memory.recall.hole import Filled, dig, joined
from masked_memory.recall.memory import Memory
from masked_memory.settings.judges import JUDGES
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages.masking import mask_first, masked_count, touched_pixels

CALIBRATION_BINS = 15
ALL_FORGOTTEN = "any"  # at 100 % nothing is kept, so all strategies are the same


@dataclass(frozen=True)
class StudyPlan:
    """What to measure. `filling`: passes, fill order, temperature and truncation of drawn codes, guidance."""

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
    seen: dict[str, Tensor]  # judge -> (B,) the class that it sees in `whole`


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


@dataclass(frozen=True)
class Findings:
    """A study with all that it was made from; rows: those of curves.csv."""

    handed: HandedMemory
    plan: StudyPlan
    study: Study
    rows: Rows

    @property
    def memory(self) -> Memory:
        return self.handed.memory

    @property
    def decoding(self) -> str:
        """The one that figures and metrics show: the last of the plan."""
        return self.plan.decodings[-1]

    def has(self, measure: str) -> bool:
        """Whether it was measured; without a classifier some are not."""
        return any(row["measure"] == measure for row in self.rows)

    def batches(self, positions: np.ndarray) -> Iterator[Batch]:
        """Those pictures with all that they are compared with, made anew: all at once may not fit into memory."""
        return batches_of(self.memory, self.handed.split, self.handed.indices, positions, self.plan.batch_size)


def make_orders(memory: Memory, tokens: Tensor, plan: StudyPlan, notes: Path | None = None) -> dict[str, list[Tensor]]:
    """strategy -> a (P, N) order for each seed; strategies that draw nothing have one. notes: see `measure_recall`."""
    orders: dict[str, list[Tensor]] = {}
    jobs = [(name, seed) for name in plan.strategies for seed in range(plan.seeds if STRATEGIES[name].drawn else 1)]
    bar = progress_bar(total=len(jobs), desc="choosing what to keep", unit="order")

    def order_of(number: int) -> list[Tensor]:
        name, seed = jobs[number]
        draws = generator(plan.seed, Stream.ORDERS, seed)
        return [choose_order(name, memory, tokens, draws, plan.choosing).cpu()]

    work = remembering(notes and notes / "orders", order_of, lambda found: list(found))
    with bar:
        for (name, _), order in zip(jobs, memory.world.map(work, range(len(jobs))), strict=True):
            orders.setdefault(name, []).extend(order)
            bar.update()
    return orders


@torch.no_grad()
def measure_recall(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    plan: StudyPlan,
    notes: Path | None = None,
) -> Study:
    """Choose, forget, complete, paint and judge. positions: (P,) the pictures. notes: a folder for what was found,
    from which a second call goes on; None: nothing is noted."""
    with torch.autocast(memory.device.type, enabled=False):  # around all: weights are cast to bfloat16 once
        orders = make_orders(memory, indices.tokens(positions).to(memory.device), plan, notes)
        return _recall_all(memory, split, indices, positions, plan, orders, notes)


def _recall_all(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    plan: StudyPlan,
    orders: dict[str, list[Tensor]],
    notes: Path | None,
) -> Study:
    """orders: see `make_orders`; notes: see `measure_recall`."""
    cells: dict[tuple[str, int, str], Cell] = {}
    calibration: dict[tuple[str, int], Calibration] = {}
    jobs = list(_jobs(orders, plan))
    starts = range(0, len(positions), plan.batch_size)
    bar = progress_bar(total=-(-len(starts) // memory.world.size) * len(jobs), desc="recalling", unit="batch")

    def of_batch(start: int) -> list[Measured]:
        """All jobs on the pictures from `start` on."""
        batch = batch_at(start, memory, split, indices, positions, plan.batch_size)
        found = []
        for name, percent, seed in jobs:
            order = orders[plan.strategies[0] if name == ALL_FORGOTTEN else name][seed]
            found.append(_measure(memory, batch, order, plan, percent, seed))
            bar.update()
        return found

    work = remembering(notes and notes / "batches", of_batch, lambda found: [as_measured(*each) for each in found])

    def shown(start: int) -> list[Measured]:
        """A batch that is remembered moves the bar, too."""
        before, found = bar.n, work(start)
        bar.update(before + len(jobs) - bar.n)
        return found

    with bar:
        for start, found in zip(starts, memory.world.map(shown, starts), strict=True):
            rows = slice(start, start + plan.batch_size)
            for (name, percent, seed), measured in zip(jobs, found, strict=True):
                seeds = 1 if name == ALL_FORGOTTEN else len(orders[name])
                for decoding, values in measured.judged.items():
                    drawn = seeds if decoding in (plan.decodings[-1], "tokens") else 1
                    cells.setdefault((name, percent, decoding), Cell(drawn, len(positions))).add(seed, rows, values)
                if "tokens" in measured.judged:
                    calibration.setdefault((name, percent), Calibration()).add(*measured.answers)
    errors = {key: gathered.error() for key, gathered in calibration.items()}
    return Study({key: cell.table for key, cell in cells.items()}, orders, errors, positions)


class Measured(NamedTuple):
    """One job on one batch, on the CPU. judged: decoding -> measure -> (B,); decoding "tokens" holds what is about the
    predictions themselves. answers: as in `Recalled`."""

    judged: dict[str, dict[str, Tensor]]
    answers: tuple[Tensor, Tensor]


def as_measured(judged: dict[str, dict[str, Tensor]], answers: Sequence[Tensor]) -> Measured:
    """From what was noted."""
    confidence, right = answers
    return Measured(judged, (confidence, right))


def _measure(memory: Memory, batch: Batch, order: Tensor, plan: StudyPlan, percent: int, seed: int) -> Measured:
    """order: (P, N) of one strategy and seed."""
    mask = mask_first(order[batch.rows], masked_count(percent / 100, memory.tokens)).to(memory.device)
    draws = generator(plan.seed, Stream.DRAWN_CODES, percent, seed, batch.rows.start)
    recalled = recall_batch(memory, batch, mask, plan, plan.decodings if seed == 0 else plan.decodings[-1:], draws)
    judged = {
        decoding: judge(memory, batch, mask, painted, grids) for decoding, (painted, grids) in recalled.painted.items()
    }
    if recalled.tokens is not None:
        judged["tokens"] = recalled.tokens
    measured = {
        decoding: {name: value.float().cpu() for name, value in values.items()} for decoding, values in judged.items()
    }
    confidence, right = recalled.answers
    return Measured(measured, (confidence.cpu(), right.cpu()))


def _jobs(orders: dict[str, list[Tensor]], plan: StudyPlan) -> Iterator[tuple[str, int, int]]:
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
        yield batch_at(start, memory, split, indices, positions, batch_size)


def batch_at(
    start: int, memory: Memory, split: Split, indices: HandedIndices, positions: np.ndarray, batch_size: int
) -> Batch:
    """The pictures at positions[start : start + batch_size]."""
    chosen = positions[start : start + batch_size]
    tokens = indices.tokens(chosen).to(memory.device)
    whole = memory.paint_tokens(tokens)
    return Batch(
        rows=slice(start, start + batch_size),
        truth=to_unit(split.pictures(chosen).to(memory.device)),
        whole=to_unit(whole),
        tokens=tokens,
        labels=torch.from_numpy(split.labels[chosen]).to(memory.device),
        seen=memory.classes_seen(whole, tokens),
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
    memory: Memory, batch: Batch, mask: Tensor, plan: StudyPlan, decodings: tuple[str, ...], draws: torch.Generator
) -> Recalled:
    """Complete one batch under one mask, all decodings from the same predictions when one pass fills everything."""
    tokens, answers = None, (torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    if not mask.any():
        filled = dict.fromkeys(decodings, Filled(batch.tokens))
    else:
        filler = distil_filler(memory, plan.filling)
        hole = dig(batch.tokens, mask, batch.labels if plan.tell_class else None)
        if filler.passes > 1:
            filled = filler.fill_all(hole, decodings, draws)
        else:
            parts, judged = [], []
            for prediction, true in zip(filler.predictions(hole), batch.tokens.split(filler.at_once), strict=True):
                parts.append(prediction.decode_all(decodings, draws))
                judged.append(judge_prediction(prediction, true))
            filled = {decoding: joined([part[decoding] for part in parts]) for decoding in decodings}
            tokens = {name: torch.cat([measures[name] for measures, _ in judged]) for name in judged[0][0]}
            answers = (torch.cat([each[0] for _, each in judged]), torch.cat([each[1] for _, each in judged]))
    painted = {decoding: (memory.paint(answer), answer.tokens) for decoding, answer in filled.items()}
    return Recalled(painted, tokens, answers)


def judge_prediction(prediction: Prediction, true: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """true: (B, N) codes -> cross-entropy in nats and accuracy, means over the masked tokens of each picture (B,); and
    of each masked token the confidence and whether its likeliest code is right, (M,) each."""
    mask = prediction.hole.mask
    targets = true[mask]
    confidence, likeliest = prediction.probabilities.max(1)
    right = likeliest == targets

    def mean_per_picture(values: Tensor) -> Tensor:
        spread = torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values.float())
        return spread.sum(1) / mask.sum(1)

    losses = F.cross_entropy(prediction.logits, targets, reduction="none")
    return {"cross_entropy": mean_per_picture(losses), "accuracy": mean_per_picture(right)}, (confidence, right)


def judge(memory: Memory, batch: Batch, mask: Tensor, painted: Tensor, grids: Tensor) -> dict[str, Tensor]:
    """All measures of painted pictures (B, C, H, W) in [-1, 1], (B,) each."""
    unit = to_unit(painted)
    values = {f"{name}_to_picture": score for name, score in picture_errors(unit, batch.truth).items()}
    pixels = touched_pixels(mask, unit.shape[2], unit.shape[3], memory.stride)
    errors, within = errors_and_within(unit, batch.whole, pixels)
    values |= {f"{name}_to_reconstruction": score for name, score in errors.items()}
    if mask.any():
        values |= {f"masked_{name}_to_reconstruction": score for name, score in within.items()}
    return values | judge_classes(memory, batch, painted, grids)


def judge_classes(memory: Memory, batch: Batch, painted: Tensor, grids: Tensor) -> dict[str, Tensor]:
    """What each judge says of painted pictures: whether it names another class than the true one, another than before
    anything was forgotten, and which; (B,) each, under the prefix of the judge. Nothing without judges."""
    values: dict[str, Tensor] = {}
    for name, predicted in memory.classes_seen(painted, grids).items():
        prefix = JUDGES[name].prefix
        values[f"{prefix}classification_error"] = predicted != batch.labels
        values[f"{prefix}disagreement"] = predicted != batch.seen[name]
        values[f"{prefix}predicted"] = predicted
    return values
