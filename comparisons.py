"""The study beside others: rivals on the same masks, and other ways to spend the same bits.

Rows are dicts with the keys of RIVALS_HEADER and BITS_HEADER. Pictures are float [-1, 1] in models, [0, 1] in measures.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import compressors
import rivals
from completion import Filling
from data_split import Split, from_model, to_model
from handoff import HandedMemory
from masking import mask_first, masked_count
from pipeline.machine import generator
from pipeline.metrics import bootstrap_interval, to_unit
from pipeline.progress import progress_bar
from pipeline.stage import say
from recall import Memory
from sources.stacks import ORDINARY
from study import ALL_FORGOTTEN, Batch, Plan, Rows, Study, batches_of, bits_of, judge, measure, summarise

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
    ladder = rivals.Ladder(handed.memory, mean_picture(split), published)
    names = [name for name in rivals.RIVALS if name != "published recipe" or published is not None]
    found: Rows = []
    for name in progress_bar(names, desc="rivals", unit="rival"):
        picks = spread(len(order), slow_pictures if name in rivals.SLOW else most_pictures)
        found += rival_rows(name, ladder, handed, split, study.positions[picks], order[picks], plan, resamples)
    if published is not None:
        positions = study.positions[spread(len(order), most_pictures)]
        found += published_selection(handed, split, positions, plan, resamples, published)
    return found


def spread(count: int, most: int) -> np.ndarray:
    """Which of `count` pictures to take when at most `most` are: evenly spread, as they lie class by class."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def rival_rows(
    name: str,
    ladder: rivals.Ladder,
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
            painted = rivals.fill(name, ladder, batch.tokens, mask, batch.whole * 2 - 1)
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


#: Makes the pictures of the study anew, batch by batch: all at once may not fit into memory.
Batches = Callable[[], Iterator[Batch]]
BITS_HEADER = ("method", "setting", "bits", "mse_to_picture", "classification_error", "disagreement", "pictures")


def measure_bits(memory: Memory, batches: Batches, rows: Rows, plan: Plan, decoding: str) -> tuple[Rows, Rows]:
    """Error against bits: our strategies; and JPEG, WebP and the VQ-VAE with fewer codes."""
    found: Rows = []
    for strategy in (*plan.strategies, ALL_FORGOTTEN):
        for percent in plan.percentages:
            chosen = {
                row["measure"]: row
                for row in rows
                if row["strategy"] == strategy and row["percent"] == percent and row["decoding"] == decoding
            }
            if chosen:
                row: dict[str, Any] = {"method": strategy, "setting": f"{percent} % forgotten"}
                row |= {key: chosen[key]["mean"] for key in BITS_HEADER[3:6] if key in chosen}
                found.append(row | {key: chosen["mse_to_picture"][key] for key in ("bits", "pictures")})
    if memory.vqvae.config.channels not in ORDINARY:
        say(f"no JPEG and WebP of pictures with {memory.vqvae.config.channels} components")
        return found, reduced_rows(memory, batches, plan.seed)
    return found, format_rows(memory, batches) + reduced_rows(memory, batches, plan.seed)


def format_rows(memory: Memory, batches: Batches) -> Rows:
    """JPEG and WebP at all settings, whole files and data only."""
    found: dict[tuple[str, str], Means] = {}
    for batch in progress_bar(batches(), desc="JPEG and WebP", unit="batch"):
        pixels = from_model(batch.truth.cpu() * 2 - 1)
        for setting in compressors.SETTINGS:
            back = compressors.compress(pixels, setting.kind, setting.quality, setting.reduce)
            judged = _judge_stored(memory, batch, to_model(back.pictures).to(memory.device))
            kind = {"jpeg": "JPEG", "webp": "WebP"}[setting.kind]
            described = f"quality {setting.quality}, side / {setting.reduce}"
            for method, bits in ((kind, back.bits), (f"{kind}, data only", back.payload_bits)):
                means = found.setdefault((method, described), Means())
                means.add(judged | {"bits": torch.from_numpy(bits)})
    return [{"method": method, "setting": described, **means.row()} for (method, described), means in found.items()]


def reduced_rows(memory: Memory, batches: Batches, seed: int) -> Rows:
    """The VQ-VAE with its codes merged to fewer; all tokens kept."""
    shares = memory.position_shares.sum(0).cpu()
    found: dict[int, Means] = {}
    reduced: dict[int, tuple[Tensor, Tensor]] = {}
    size = len(memory.codebook) // 2
    while size >= 2:
        draws = generator(seed, 205)
        centres, assignment = compressors.reduced_codebook(memory.codebook.cpu(), shares, size, draws)
        reduced[size] = (centres.to(memory.device), assignment.to(memory.device))
        size //= 2
    for batch in batches():
        for size, (centres, assignment) in reduced.items():
            painted = compressors.paint_reduced(memory, batch.tokens, centres, assignment)
            bits = compressors.stored_bits(memory.tokens, memory.tokens, size, fixed=True)
            judged = _judge_stored(memory, batch, painted) | {"bits": torch.full((len(painted),), bits)}
            found.setdefault(size, Means()).add(judged)
    return [
        {"method": "VQ-VAE, fewer codes", "setting": f"{size} codes", **means.row()} for size, means in found.items()
    ]


class Means:
    """Means over pictures, gathered batch by batch."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pictures = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """(B,) each."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.double().sum())
        self.pictures += len(next(iter(values.values())))

    def row(self) -> dict[str, Any]:
        return {name: total / self.pictures for name, total in self.sums.items()} | {"pictures": self.pictures}


def _judge_stored(memory: Memory, batch: Batch, pictures: Tensor) -> dict[str, Tensor]:
    """mse_to_picture, and with a classifier of pictures its two measures."""
    values = {"mse_to_picture": ((to_unit(pictures) - batch.truth) ** 2).flatten(1).mean(1).cpu()}
    if memory.classifier is None or batch.seen is None:
        return values
    grids = memory.encode(pictures) if memory.classifier.sees_codes else batch.tokens
    probabilities = memory.class_probabilities(pictures, grids)
    if probabilities is not None:
        predicted = probabilities.argmax(1)
        values["classification_error"] = (predicted != batch.labels).float().cpu()
        values["disagreement"] = (predicted != batch.seen).float().cpu()
    return values


def frontiers(others: Rows) -> Rows:
    """For the figure: of each method and measure only the settings that no other beats in both bits and error."""
    found: Rows = []
    for method in dict.fromkeys(row["method"] for row in others):
        for name in ("mse_to_picture", "classification_error"):
            points = [(row["bits"], row[name]) for row in others if row["method"] == method and name in row]
            found += [{"method": method, "bits": bits, name: error} for bits, error in compressors.frontier(points)]
    return found
