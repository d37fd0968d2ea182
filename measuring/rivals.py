"""The study beside others: rivals on the same masks, and other ways to spend the same bits.

Rows are dicts with the keys of RIVALS_HEADER and BITS_HEADER. Pictures are float [-1, 1] in models, [0, 1] in measures.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from handoff.memory import HandedMemory
from handoff.split import Split
from masking import mask_first, masked_count
from measuring.study import ALL_FORGOTTEN, Plan, Study, batches_of, judge, measure
from measuring.tables import bits_of, summarise
from models.codes import Filling
from pipeline.machine import generator
from pipeline.metrics import bootstrap_interval
from pipeline.progress import progress_bar
from pipeline.tables import Rows
from recall import simple_fillers
from recall.memory import Memory
from sources.splitting import spread

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


RIVALS_HEADER = ("rival", "percent", "measure", "mean", "low", "high", "pictures")


def measure_rivals(
    handed: HandedMemory,
    split: Split,
    study: Study,
    plan: Plan,
    published: "DistilBertForMaskedLM | None",
    most_pictures: int,
    slow_pictures: int,
    resamples: int,
) -> Rows:
    """The random masks of the study filled in by others and by ours; the published recipe also with its own way to
    choose what to keep. The study must have the strategy random."""
    order = study.orders["random"][0]
    ladder = simple_fillers.Ladder(handed.memory, mean_picture(split), published)
    names = [name for name in simple_fillers.RIVALS if name != "published recipe" or published is not None]
    found: Rows = []
    for name in progress_bar(names, desc="rivals", unit="rival"):
        picks = spread(len(order), slow_pictures if name in simple_fillers.SLOW else most_pictures)
        found += rival_rows(name, ladder, handed, split, study.positions[picks], order[picks], plan, resamples)
    if published is not None:
        positions = study.positions[spread(len(order), most_pictures)]
        found += published_selection(handed, split, positions, plan, resamples, published)
    return found


def rival_rows(
    name: str,
    ladder: simple_fillers.Ladder,
    handed: HandedMemory,
    split: Split,
    positions: np.ndarray,
    order: Tensor,
    plan: Plan,
    resamples: int,
) -> Rows:
    """One rival at all percentages: rows of rivals.csv."""
    memory = ladder.memory
    values: dict[tuple[int, str], list[Tensor]] = {}
    for batch in batches_of(memory, split, handed.indices, positions, plan.batch_size):
        for percent in plan.percentages:
            mask = mask_first(order[batch.rows], masked_count(percent / 100, memory.tokens))
            mask = mask.to(memory.device)
            painted = simple_fillers.fill(name, ladder, batch.tokens, mask, batch.whole * 2 - 1)
            grids = memory.encode(painted) if memory.classifier and memory.classifier.sees_codes else batch.tokens
            for key, value in judge(memory, batch, mask, painted, grids).items():
                values.setdefault((percent, key), []).append(value.float().cpu())
    return [
        _mean_row({"rival": name, "percent": percent, "measure": key}, torch.cat(parts), resamples, plan.seed)
        for (percent, key), parts in values.items()
        if key != "predicted"
    ]


def _mean_row(start: dict[str, Any], values: Tensor, resamples: int, seed: int) -> dict[str, Any]:
    values = values[~values.isnan()]
    if not len(values):
        return {**start, "mean": float("nan"), "low": float("nan"), "high": float("nan"), "pictures": 0}
    low, high = bootstrap_interval(values, resamples, generator(seed, 203))
    return {**start, "mean": float(values.mean()), "low": low, "high": high, "pictures": len(values)}


def published_selection(
    handed: HandedMemory,
    split: Split,
    positions: np.ndarray,
    plan: Plan,
    resamples: int,
    published: "DistilBertForMaskedLM",
) -> Rows:
    """The published study as a whole: its model, its selection, the likeliest codes in one pass."""
    ours = handed.memory
    theirs = Memory(
        ours.vqvae, published, ours.classifier, ours.position_shares, ours.device, ours.bf16, ours.batch_size
    )
    strategies = tuple(name for name in ("selective", "additive") if name in plan.strategies)
    if not strategies:
        return []
    their_plan = Plan(
        strategies, plan.percentages, ("argmax",), 1, plan.seed, plan.choosing, Filling(), False, plan.batch_size
    )
    found = measure(theirs, split, handed.indices, positions, their_plan)
    rows = summarise(found, resamples, plan.seed, bits_of(theirs))
    return [
        {"rival": f"published recipe, {row['strategy']}", **{key: row[key] for key in RIVALS_HEADER[1:]}}
        for row in rows
        if row["decoding"] == "argmax" and row["strategy"] != ALL_FORGOTTEN
    ]


def mean_picture(split: Split, most: int = 2000) -> Tensor:
    """(C, H, W) in [-1, 1]: the mean of the training pictures, of `most` evenly spread ones when there are more."""
    train = split.positions("train")
    return split.pictures(train[:: max(1, len(train) // most)]).mean(0)
