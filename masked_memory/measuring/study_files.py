"""Everything the study writes beside curves.csv: tables, figures, grids."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from masked_memory.measuring import figures
from masked_memory.measuring.curves import context_rows, curve, error_split
from masked_memory.measuring.paired import (
    PAIRED_HEADER,
    PER_PICTURE,
    TESTED_MEASURES,
    paired_rows,
    per_picture,
    reference_of,
    say_who_is_better,
    write_per_picture,
)
from masked_memory.measuring.study import ALL_FORGOTTEN, Findings, Study, StudyPlan
from masked_memory.pipeline.files import write_csv
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import Bootstrap, mse
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import Stage, say
from masked_memory.settings.reconstruct_masked import ReconstructMaskedSection
from masked_memory.sources.embedded import EMBEDDED
from masked_memory.sources.splitting import spread


def report_study(stage: Stage, rows: Rows, plan: StudyPlan) -> None:
    """The main measures of the last decoding to metrics.json and, as curves over the percentage, to MLflow; some as
    tables. curves.csv has all."""
    decoding = plan.decodings[-1]
    for percent in plan.percentages:
        points: dict[str, float] = {}
        for row in rows:
            if (row["percent"], row["decoding"]) == (percent, decoding) and row["measure"] in TESTED_MEASURES:
                stage.metrics[f"{row['strategy']}_{row['measure']}_at_{percent}"] = row["mean"]
                names = plan.strategies if row["strategy"] == ALL_FORGOTTEN else (row["strategy"],)
                points |= {f"{row['measure']}/{name}": row["mean"] for name in names}
        stage.ledger.metrics(points, step=percent)
    for measure_name in figures.compared_measures(rows, "mse_to_reconstruction"):
        say(f"{figures.LABELS[measure_name]}, decoding {decoding}")
        say("forgotten         " + "".join(f"{percent:>7} %" for percent in plan.percentages))
        for strategy in plan.strategies:
            found = curve(rows, strategy, decoding, measure_name)
            say(f"{strategy:<18}" + "".join(f"{mean:9.4f}" for mean in found.means))


SHOWN_MEASURES = (
    "mse_to_reconstruction",
    "mse_to_picture",
    "ssim_to_reconstruction",
    *TESTED_MEASURES[2:],
)


def study_files(
    stage: Stage,
    findings: Findings,
    section: ReconstructMaskedSection,
    compare: Callable[[Stage, Findings], None] | None,
) -> None:
    """Everything beside curves.csv: error split, context, paired tests, figures. compare: measures and draws what
    stands beside the study, such as rivals; None for nothing."""
    plan, positions = findings.plan, findings.study.positions
    draw_curves(stage, findings)
    telling = [name for name in plan.strategies if name in ("random", "adaptive")] or [plan.strategies[-1]]
    stage.figure("decodings", figures.decodings_figure(findings.rows, plan, telling))
    quantisation = float(torch.cat([mse(batch.whole, batch.truth) for batch in findings.batches(positions)]).mean())
    split_rows = error_split(findings.rows, quantisation, findings.decoding)
    header = ("strategy", "percent", "quantisation", "completion", "total", "total_minus_both")
    write_csv(stage.folder.path / "error_split.csv", header, split_rows)
    stage.figure("error_split", figures.split_figure(split_rows, telling))
    measure_context(stage, findings)
    compare_strategies(stage, findings, section.bootstrap)
    if compare is not None:
        compare(stage, findings)
    draw_grids(stage, findings, spread(positions, section.grid_pictures), telling)


def compare_strategies(stage: Stage, findings: Findings, resamples: int) -> None:
    """paired.csv: every strategy against the reference on the same pictures; and the values of each picture."""
    study, seed, strategies = findings.study, findings.plan.seed, findings.plan.strategies
    values, folder = per_picture(study, findings.decoding), stage.folder.path
    write_per_picture(folder / PER_PICTURE, values, study.positions, findings.handed.split.hash)
    bootstrap = Bootstrap(resamples, lambda: generator(seed, Stream.BOOTSTRAP))
    rows = paired_rows(values, reference_of(strategies), bootstrap, generator(seed, Stream.SIGN_FLIPS))
    write_rows(folder / "paired.csv", PAIRED_HEADER, rows)
    say_who_is_better(rows)


def draw_curves(stage: Stage, findings: Findings) -> None:
    """A figure of each main measure against the percentage forgotten."""
    rows, plan, count = findings.rows, findings.plan, len(findings.study.positions)
    shown = [(name, findings.decoding) for name in SHOWN_MEASURES]
    shown += [(name, "tokens") for name in ("calibration_error", "cross_entropy")]
    for name, decoding in shown:
        if findings.has(name):
            stage.figure(name, figures.strategies_figure(rows, plan, decoding, name, count))


def measure_context(stage: Stage, findings: Findings) -> None:
    """The demo's memory experiment: pictures whose digit is where it usually is, and others. Skipped for other data."""
    split, study = findings.handed.split, findings.study
    manifest = [split.manifest[position] for position in study.positions]
    if "congruent" not in manifest[0] or not split.classes or split.meta["source"] not in EMBEDDED:
        return
    from masked_memory.sources.digits_in_context import PLACES

    congruent = np.array([row["congruent"] in ("1", "True", "true") for row in manifest])
    suggested = np.array([split.classes.index(str(PLACES.index(row["place"]))) for row in manifest])
    context = context_rows(study, split, congruent, suggested, findings.decoding)
    header = ("strategy", "percent", "judge", "group", "pictures", "classification_error", "wrong_as_context_suggests")
    rows = [dict(zip(header, row, strict=True)) for row in context]
    write_rows(stage.folder.path / "context.csv", header, rows)
    if not congruent.all() and congruent.any():
        stage.figure("context", figures.context_figure(context, findings.plan))


def draw_grids(stage: Stage, findings: Findings, picks: np.ndarray, strategies: list[str]) -> None:
    """A grid over the percentages for the telling strategies, and one over all strategies at about 75 %."""
    study, plan, components = findings.study, findings.plan, findings.handed.split.components
    batch = next(findings.batches(picks))
    places = np.searchsorted(study.positions, picks)
    shown = Study({}, {name: [order[places] for order in orders] for name, orders in study.orders.items()}, {}, picks)
    some = replace(findings, study=shown)
    for name in strategies:
        stage.figure(f"grid_{name}", figures.recall_grid(some, batch, name, components))
    percent = min((p for p in plan.percentages if p < 100), key=lambda p: abs(p - 75), default=None)
    if percent is not None:
        stage.figure("grid_strategies", figures.strategies_grid(some, batch, percent, components))
