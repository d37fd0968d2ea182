"""Several training seeds of the same study: how far they lie apart, and what holds for all of them.

Letters: S training seeds, P pictures. All seeds measure the same pictures of the same split.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from masked_memory.measuring.figures import LABELS, compared_measures, strategy_looks
from masked_memory.measuring.paired import (
    PAIRED_HEADER,
    PER_PICTURE,
    PerPicture,
    paired_rows,
    read_per_picture,
    reference_of,
)
from masked_memory.measuring.study import ALL_FORGOTTEN
from masked_memory.pipeline.figures import new_figure
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.pipeline.metrics import Bootstrap
from masked_memory.pipeline.rows import Rows

SEEDS_HEADER = (
    "strategy", "percent", "decoding", "measure", "mean", "low", "high", "seed_sd", "lowest", "highest", "seeds",
    "pictures",
)  # fmt: skip
SEED_PAIRS_HEADER = (*PAIRED_HEADER[:-1], "seed_sd", "seeds_agreeing", "seeds", "pictures")
MODELS_HEADER = ("stage", "metric", "mean", "seed_sd", "lowest", "highest", "seeds")
STUDY = "reconstruct_masked"


class SeedRun(NamedTuple):
    """One training seed: the run folder of its study, and those of the stages behind it."""

    runs: Path
    study: Path
    stages: dict[str, Path]  # name among the study's inputs -> run folder


def find_seeds(pattern: str) -> list[SeedRun]:
    """The newest finished study in each runs folder. Raises InputError for fewer than two of them."""
    found = []
    for runs in sorted(Path().glob(pattern) if not Path(pattern).is_absolute() else Path("/").glob(pattern[1:])):
        studies = [file.parent for file in (runs / STUDY).glob(f"*/{PER_PICTURE}")]
        studies = [folder for folder in studies if read_json(folder / "run.json")["status"] == "finished"]
        if studies:
            study = max(studies, key=lambda folder: folder.name)
            inputs = read_json(study / "run.json")["inputs"]
            found.append(SeedRun(runs, study, {name: Path(folder) for name, folder in inputs.items()}))
    if len(found) < 2:
        raise InputError(
            f"{pattern} has {len(found)} runs folders with a finished study; expected at least 2; type: make seeds"
        )
    return found


def stacked_values(seeds: list[SeedRun]) -> tuple[PerPicture, str]:
    """What every seed measured, (S, P) each, and the hash of the split. Raises InputError when splits or pictures
    differ between them."""
    read = [read_per_picture(seed.study / PER_PICTURE) for seed in seeds]
    for seed, (_, positions, split_hash) in zip(seeds, read, strict=True):
        if split_hash != read[0][2]:
            raise InputError(f"{seed.study} is of split {split_hash}, {seeds[0].study} of {read[0][2]}; expected one")
        if not torch.equal(positions, read[0][1]):
            raise InputError(f"{seed.study} measures other pictures than {seeds[0].study}; expected the same")
    common = [key for key in read[0][0] if all(key in values for values, _, _ in read)]
    return {key: torch.stack([values[key] for values, _, _ in read]) for key in common}, read[0][2]


def seed_rows(values: PerPicture, bootstrap: Bootstrap) -> Rows:
    """Rows of seeds.csv. low, high: 95 % bootstrap interval over pictures of the mean over seeds; seed_sd, lowest,
    highest: of the seeds' own means."""
    rows: Rows = []
    for key, each in values.items():
        kept = each[:, ~each.isnan().any(0)]
        means = kept.double().mean(1)
        low, high = bootstrap.interval(kept.mean(0))
        cell = (*key, float(means.mean()), low, high, *_spread(means), *kept.shape)
        rows.append(dict(zip(SEEDS_HEADER, cell, strict=True)))
    return rows


def _spread(means: Tensor) -> tuple[float, float, float]:
    """Standard deviation, lowest and highest of (S,)."""
    return float(means.std()), float(means.min()), float(means.max())


def seed_pairs(values: PerPicture, bootstrap: Bootstrap, draws: torch.Generator) -> Rows:
    """Rows of paired.csv: the test is over pictures, of the means over seeds; seeds_agreeing: how many seeds have a
    difference of the same sign."""
    strategies = list(dict.fromkeys(key[0] for key in values if key[0] != ALL_FORGOTTEN))
    reference = reference_of(strategies)
    rows = paired_rows({key: each.mean(0) for key, each in values.items()}, reference, bootstrap, draws)
    for row in rows:
        asked = (row["percent"], row["decoding"], row["measure"])
        apart = (values[row["strategy"], *asked] - values[reference, *asked]).double().mean(1)
        agreeing = int((apart.sign() == apart.mean().sign()).sum())
        row |= {"seed_sd": float(apart.std()), "seeds_agreeing": agreeing, "seeds": len(apart)}
    return rows


def model_rows(seeds: list[SeedRun]) -> Rows:
    """Rows of models.csv: the metrics of every model behind the studies, over the seeds."""
    rows: Rows = []
    for stage in seeds[0].stages:
        read: list[dict[str, Any]] = [
            read_json(seed.stages[stage] / "metrics.json") for seed in seeds if stage in seed.stages
        ]
        for metric in read[0]:
            if len(read) == len(seeds) and all(metric in each for each in read):
                found = torch.tensor([float(each[metric]) for each in read], dtype=torch.float64)
                cell = (stage, metric, float(found.mean()), *_spread(found), len(found))
                rows.append(dict(zip(MODELS_HEADER, cell, strict=True)))
    return rows


def seeds_figure(rows: Rows, error: str = "mse_to_reconstruction") -> Figure:
    """Error and classification errors against the percentage: the mean over seeds, and each seed's lowest and highest.
    rows: those of seeds.csv."""
    measures = compared_measures(rows, error)
    figure, axes = new_figure(4.4 * len(measures), 4.4, 1, len(measures))
    looks = strategy_looks()
    names = [name for name in looks if any(row["strategy"] == name for row in rows)][:8]
    for axis, measure in zip(axes[0], measures, strict=True):
        for name in names:
            chosen = [row for row in rows if row["strategy"] in (name, ALL_FORGOTTEN) and row["measure"] == measure]
            chosen.sort(key=lambda row: row["percent"])
            x, colour, style, marker = [row["percent"] for row in chosen], *looks[name]
            low, high = ([row[column] for row in chosen] for column in ("lowest", "highest"))
            means = [row["mean"] for row in chosen]
            axis.plot(x, means, style, color=colour, marker=marker, markersize=4, linewidth=1.3, label=name)
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel("tokens forgotten (%)", fontsize=9)
        axis.set_ylabel(LABELS[measure], fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25, linewidth=0.5)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure
