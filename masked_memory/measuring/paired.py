"""Paired tests between strategies on the same pictures, corrected for many percentages.

Letters: P pictures, R random sign flips. Of a strategy that draws, the value of a picture is the mean over its draws.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masked_memory.measuring.study import ALL_FORGOTTEN, Study
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import read_safetensors, write_safetensors
from masked_memory.pipeline.metrics import Bootstrap
from masked_memory.pipeline.rows import Rows
from masked_memory.pipeline.stage import say
from masked_memory.settings.judges import JUDGES

PER_PICTURE = "per_picture.safetensors"  # in the run folder of a study
FLIPS = 10_000
BATCH_OF_FLIPS = 500
PAIRED_HEADER = (
    "strategy", "against", "percent", "decoding", "measure", "difference", "low", "high", "p", "p_holm", "pictures",
)  # fmt: skip
TESTED_MEASURES = (
    "mse_to_reconstruction",
    "mse_to_picture",
    *(f"{judge.prefix}{name}" for judge in JUDGES.values() for name in ("classification_error", "disagreement")),
)

#: (strategy, percent, decoding, measure) -> (P,): a value for each picture
PerPicture = dict[tuple[str, int, str, str], Tensor]


def per_picture(study: Study, decoding: str) -> PerPicture:
    """What is tested, of one decoding: the mean over the draws of a strategy. Pictures stay in the study's order."""
    return {
        (strategy, percent, each, measure): table[measure].mean(0)
        for (strategy, percent, each), table in study.cells.items()
        for measure in TESTED_MEASURES
        if each == decoding and measure in table
    }


def write_per_picture(file: Path, values: PerPicture, positions: np.ndarray, split_hash: str) -> None:
    """As safetensors: `strategy/percent/decoding/measure` -> (P,), `positions` -> (P,) of the split's manifest."""
    tensors = {"/".join(map(str, key)): value for key, value in values.items()}
    write_safetensors(file, tensors | {"positions": torch.from_numpy(positions)}, {"split_hash": split_hash})


def read_per_picture(file: Path) -> tuple[PerPicture, Tensor, str]:
    """The way back: values, positions and the hash of the split. Raises InputError when the file is missing or
    damaged."""
    tensors, metadata = read_safetensors(file, f"type: {command('reconstruct_masked')}")
    positions = tensors.pop("positions")
    values: PerPicture = {}
    for key, value in tensors.items():
        strategy, percent, decoding, measure = key.split("/")
        values[strategy, int(percent), decoding, measure] = value
    return values, positions, metadata["split_hash"]


def reference_of(strategies: Sequence[str]) -> str:
    """The strategy that the others are tested against: adaptive, or the last one."""
    return "adaptive" if "adaptive" in strategies else strategies[-1]


def paired_rows(
    values: Mapping[tuple[str, int, str, str], Tensor], reference: str, bootstrap: Bootstrap, draws: torch.Generator
) -> Rows:
    """Rows of paired.csv: each strategy minus the reference, percentage by percentage. A positive difference of an
    error says that the reference is better.

    p: two-sided, by sign flips of the differences of pictures, the same flips everywhere (Fisher 1935); p_holm: the
    same after Holm's correction (1979) over the percentages of a pair and measure. low, high: 95 % bootstrap interval.
    """
    wanted = [key for key in values if key[0] not in (reference, ALL_FORGOTTEN) and (reference, *key[1:]) in values]
    differences = {key: values[key].double() - values[reference, *key[1:]].double() for key in wanted}
    rows: Rows = []
    for count in sorted({len(each) for each in differences.values()}):
        alike = {key: each for key, each in differences.items() if len(each) == count and not each.isnan().any()}
        if not alike:
            continue
        chances = sign_flip_p(torch.stack(list(alike.values())), draws)
        for (key, each), p in zip(alike.items(), chances.tolist(), strict=True):
            strategy, percent, decoding, measure = key
            low, high = bootstrap.interval(each)
            cell = (strategy, reference, percent, decoding, measure, float(each.mean()), low, high, p, 1.0, count)
            rows.append(dict(zip(PAIRED_HEADER, cell, strict=True)))
    families: dict[tuple[str, str, str], Rows] = {}
    for row in rows:
        families.setdefault((row["strategy"], row["decoding"], row["measure"]), []).append(row)
    for family in families.values():
        for row, corrected in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = corrected
    return rows


def sign_flip_p(differences: Tensor, draws: torch.Generator, flips: int = FLIPS) -> Tensor:
    """(D, P) differences of pairs -> (D,) two-sided p: how often random signs give a mean as far from 0 as theirs. The
    observed signs count as one of the flips, so that p is never 0."""
    observed = differences.mean(1).abs()
    beyond = torch.zeros_like(observed)
    tolerance = 1e-12 * differences.abs().mean(1)
    for start in range(0, flips, BATCH_OF_FLIPS):
        count = min(BATCH_OF_FLIPS, flips - start)
        signs = torch.randint(0, 2, (count, differences.shape[1]), generator=draws).to(differences) * 2 - 1
        means = signs @ differences.T / differences.shape[1]  # (R, D)
        beyond += (means.abs() >= observed - tolerance).sum(0)
    return (beyond + 1) / (flips + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """p values of a family -> corrected ones, in the same order (Holm 1979): the k-th smallest of m times m - k + 1,
    never below a smaller one's."""
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    corrected, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, chances[place] * (len(chances) - rank)))
        corrected[place] = highest
    return corrected


def say_who_is_better(rows: Rows) -> None:
    """A line for each strategy and percentage that is significantly better than the reference, or one that none is.
    rows: of paired.csv, of one training seed or of several."""
    better = [row for row in rows if is_better(row)]
    for row in better:
        agreeing = f", {row['seeds_agreeing']} of {row['seeds']} seeds" if "seeds" in row else ""
        say(
            f"{row['strategy']} is better than {row['against']} at {row['percent']} %: {row['measure']} "
            f"{row['difference']:+.4g} (p {row['p_holm']:.2g} after Holm{agreeing})"
        )
    if rows and not better:
        say(f"no strategy is significantly better than {rows[0]['against']} at any percentage, by any measure")


def is_better(row: Mapping[str, object], level: float = 0.05) -> bool:
    """Whether the strategy of a row errs significantly less than the reference."""
    return float(str(row["difference"])) < 0 and float(str(row["p_holm"])) < level
