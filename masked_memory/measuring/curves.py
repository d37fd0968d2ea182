"""Tables of the study: curves over the percentage, and what is split from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from masked_memory.handoff.split import Split
from masked_memory.measuring.study import ALL_FORGOTTEN, Study
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import Bootstrap
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.memory import Memory
from masked_memory.settings.judges import JUDGES
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages.masking import masked_count, stored_bits

CURVES_HEADER = (
    "strategy", "percent", "decoding", "bits", "measure", "mean", "low", "high", "seed_sd", "seeds", "pictures",
)  # fmt: skip


def summarise(study: Study, resamples: int, seed: int, bits: Callable[[str, int], float]) -> Rows:
    """Rows of curves.csv: mean over seeds and pictures, its 95 % bootstrap interval over pictures (the same resamples
    everywhere), and the standard deviation of the mean over seeds. PSNR is that of each picture, averaged. SSIM within
    the mask is over the pictures that have a window there."""
    rows, bootstrap = [], Bootstrap(resamples, lambda: generator(seed, Stream.BOOTSTRAP))
    for (strategy, percent, decoding), table in study.cells.items():
        for name, values in table.items():
            if name.endswith("predicted"):
                continue
            per_picture = values.mean(0)
            per_picture = per_picture[~per_picture.isnan()]
            if not len(per_picture):
                continue
            low, high = bootstrap.interval(per_picture)
            spread = float(values.nanmean(1).std()) if len(values) > 1 else float("nan")
            rows.append(
                dict(zip(CURVES_HEADER, (
                    strategy, percent, decoding, round(bits(strategy, percent), 2), name,
                    float(per_picture.mean()), low, high, spread, len(values), len(per_picture),
                ), strict=True))
            )  # fmt: skip
    for (strategy, percent), error in study.calibration.items():
        cell = (strategy, percent, "tokens", round(bits(strategy, percent), 2), "calibration_error", error)
        rows.append(dict(zip(CURVES_HEADER, (*cell, np.nan, np.nan, np.nan, 1, len(study.positions)), strict=True)))
    return rows


@dataclass(frozen=True)
class Curve:
    """One measure against the percentage."""

    percentages: list[int]
    means: list[float]
    intervals: list[tuple[float, float]]


def curve(rows: Rows, strategy: str, decoding: str, measure: str) -> Curve:
    """The rows of one strategy and decoding; 100 % is the same for all strategies."""
    chosen = [
        row
        for row in rows
        if row["strategy"] in (strategy, ALL_FORGOTTEN) and row["decoding"] == decoding and row["measure"] == measure
    ]
    chosen.sort(key=lambda row: row["percent"])
    return Curve(
        [row["percent"] for row in chosen],
        [row["mean"] for row in chosen],
        [(row["low"], row["high"]) for row in chosen],
    )


def error_split(rows: Rows, quantisation: float, decoding: str) -> list[list[Any]]:
    """strategy, percent, MSE of quantisation (reconstruction against picture), of completion (recalled against
    reconstruction), their total (recalled against picture), and what the sum of the two is off by: the total is not
    their sum exactly, as a completion error can undo or repeat one of quantisation."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row["decoding"] == decoding and row["measure"] in ("mse_to_picture", "mse_to_reconstruction"):
            found.setdefault((row["strategy"], row["percent"]), {})[row["measure"]] = row["mean"]
    return [
        [strategy, percent, quantisation, each["mse_to_reconstruction"], each["mse_to_picture"],
         each["mse_to_picture"] - quantisation - each["mse_to_reconstruction"]]
        for (strategy, percent), each in found.items()
    ]  # fmt: skip


def context_rows(
    study: Study, split: Split, congruent: np.ndarray, expected_class: np.ndarray, decoding: str
) -> list[list[Any]]:
    """Congruent and incongruent pictures apart: strategy, percent, judge, group, pictures, classification error, and
    among the wrong recalls the share that the context suggests (for incongruent pictures; chance is 1 of 9 others).

    congruent: (P,) bool; expected_class: (P,) the class whose usual place this is.
    """
    labels = split.labels[study.positions]
    rows = []
    for (strategy, percent, each), table in study.cells.items():
        for judge in JUDGES if each == decoding else ():
            if f"{JUDGES[judge].prefix}predicted" not in table:
                continue
            predicted = table[f"{JUDGES[judge].prefix}predicted"].numpy()  # (S, P)
            for group, members in (("congruent", congruent), ("incongruent", ~congruent)):
                wrong = (predicted != labels)[:, members]
                suggested = (predicted == expected_class)[:, members] & wrong
                share = suggested.sum() / wrong.sum() if wrong.any() and group == "incongruent" else np.nan
                rows.append([strategy, percent, judge, group, int(members.sum()), float(wrong.mean()), float(share)])
    return rows


def is_placed(strategy: str) -> bool:
    """Whether positions cost nothing: the pattern is known beforehand, or follows from the kept codes."""
    return strategy == ALL_FORGOTTEN or STRATEGIES[strategy].free or STRATEGIES[strategy].replayed


def bits_of(memory: Memory) -> Callable[[str, int], float]:
    """(strategy, percent) -> bits stored per picture."""

    def bits(strategy: str, percent: int) -> float:
        kept = memory.tokens - masked_count(percent / 100, memory.tokens)
        return stored_bits(memory.tokens, kept, len(memory.codebook), is_placed(strategy))

    return bits
