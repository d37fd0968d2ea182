"""Everything the study writes beside curves.csv: tables, figures, grids."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from handoff.memory import HandedMemory
from handoff.split import Split
from measuring import figures
from measuring.bits import BITS_HEADER, frontiers, measure_bits
from measuring.rivals import RIVALS_HEADER, measure_rivals
from measuring.study import ALL_FORGOTTEN, Batch, Plan, Study, batches_of
from measuring.tables import context_rows, curve, error_split
from pipeline.files import write_csv
from pipeline.metrics import mse
from pipeline.stage import Stage, say
from pipeline.tables import Rows, write_rows
from settings.reconstruct_masked import ReconstructMaskedSection
from sources.embedded import EMBEDDED
from sources.splitting import spread

MAIN_MEASURES = ("mse_to_reconstruction", "mse_to_picture", "classification_error", "disagreement")


def report(stage: Stage, rows: Rows, plan: Plan) -> None:
    """The main measures of the last decoding to metrics.json and, as curves over the percentage, to MLflow; two of them
    as tables. curves.csv has all."""
    decoding = plan.decodings[-1]
    for percent in plan.percentages:
        points: dict[str, float] = {}
        for row in rows:
            if (row["percent"], row["decoding"]) == (percent, decoding) and row["measure"] in MAIN_MEASURES:
                stage.metrics[f"{row['strategy']}_{row['measure']}_at_{percent}"] = row["mean"]
                names = plan.strategies if row["strategy"] == ALL_FORGOTTEN else (row["strategy"],)
                points |= {f"{row['measure']}/{name}": row["mean"] for name in names}
        stage.ledger.metrics(points, step=percent)
    for measure_name in ("mse_to_reconstruction", "classification_error"):
        if any(row["measure"] == measure_name for row in rows):
            say(f"{figures.LABELS[measure_name]}, decoding {decoding}")
            say("forgotten         " + "".join(f"{percent:>7} %" for percent in plan.percentages))
            for strategy in plan.strategies:
                found = curve(rows, strategy, decoding, measure_name)
                say(f"{strategy:<18}" + "".join(f"{mean:9.4f}" for mean in found.means))


def study_files(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    rows: Rows,
    plan: Plan,
    section: ReconstructMaskedSection,
    published: Any,
) -> None:
    """Everything beside curves.csv: error split, context, rivals, equal bits, figures."""
    memory, decoding = handed.memory, plan.decodings[-1]

    def batches() -> Iterator[Batch]:
        return batches_of(memory, split, handed.indices, study.positions, plan.batch_size)

    for name in ("mse_to_reconstruction", "mse_to_picture", "ssim_to_reconstruction", "classification_error",
                 "disagreement"):  # fmt: skip
        if any(row["measure"] == name for row in rows):
            stage.figure(name, figures.strategies_figure(rows, plan, decoding, name, len(study.positions)))
    for name in ("calibration_error", "cross_entropy"):
        if any(row["measure"] == name for row in rows):
            stage.figure(name, figures.strategies_figure(rows, plan, "tokens", name, len(study.positions)))
    telling = [name for name in plan.strategies if name in ("random", "adaptive")] or [plan.strategies[-1]]
    stage.figure("decodings", figures.decodings_figure(rows, plan, telling))
    quantisation = float(torch.cat([mse(batch.whole, batch.truth) for batch in batches()]).mean())
    split_rows = error_split(rows, quantisation, decoding)
    header = ("strategy", "percent", "quantisation", "completion", "total", "total_minus_both")
    write_csv(stage.folder.path / "error_split.csv", header, split_rows)
    stage.figure("error_split", figures.split_figure(split_rows, telling))
    measure_context(stage, split, study, plan, decoding)
    if section.rivals:
        compare(stage, handed, split, study, rows, plan, section, published)
    picks = study.positions[np.linspace(0, len(study.positions) - 1, min(section.grid_pictures, len(study.positions)))
                            .astype(int)]  # fmt: skip
    draw_grids(stage, handed, split, study, plan, picks, telling, decoding)


def compare(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    rows: Rows,
    plan: Plan,
    section: ReconstructMaskedSection,
    published: Any,
) -> None:
    """rivals.csv and equal_bits.csv with their figures."""
    decoding = plan.decodings[-1]
    if "random" in study.orders:
        counts = (section.rival_pictures, section.slow_pictures)
        found = measure_rivals(handed, split, study, plan, published, *counts, section.bootstrap)
        write_rows(stage, "rivals.csv", RIVALS_HEADER, found)
        stage.figure("rivals", figures.rivals_figure(found))
    else:
        say("rivals.csv is skipped: it is made on the masks of strategy random, which is not among the strategies")

    def batches() -> Iterator[Batch]:
        some = study.positions[spread(len(study.positions), section.rival_pictures)]
        return batches_of(handed.memory, split, handed.indices, some, plan.batch_size)

    ours, others = measure_bits(handed.memory, batches, rows, plan, decoding)
    write_rows(stage, "equal_bits.csv", BITS_HEADER, ours + others)
    stage.figure("equal_bits", figures.bits_figure(rows, plan, frontiers(others), decoding))


def measure_context(stage: Stage, split: Split, study: Study, plan: Plan, decoding: str) -> None:
    """The demo's memory experiment: pictures whose digit is where it usually is, and others. Skipped for other data."""
    manifest = [split.manifest[position] for position in study.positions]
    if "congruent" not in manifest[0] or not split.classes or split.meta["source"] not in EMBEDDED:
        return
    from sources.digits_in_context import PLACES

    congruent = np.array([row["congruent"] in ("1", "True", "true") for row in manifest])
    suggested = np.array([split.classes.index(str(PLACES.index(row["place"]))) for row in manifest])
    context = context_rows(study, split, congruent, suggested, decoding)
    header = ("strategy", "percent", "group", "pictures", "classification_error", "wrong_as_context_suggests")
    write_rows(stage, "context.csv", header, [dict(zip(header, row, strict=True)) for row in context])
    if not congruent.all() and congruent.any():
        stage.figure("context", figures.context_figure(context, plan))


def draw_grids(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    plan: Plan,
    picks: np.ndarray,
    strategies: list[str],
    decoding: str,
) -> None:
    """A grid over the percentages for the telling strategies, and one over all strategies at about 75 %."""
    batch = next(batches_of(handed.memory, split, handed.indices, picks, len(picks)))
    places = np.searchsorted(study.positions, picks)
    shown = Study({}, {name: [order[places] for order in orders] for name, orders in study.orders.items()}, {}, picks)
    for name in strategies:
        figure = figures.recall_grid(handed.memory, shown, batch, plan, name, decoding, split.components)
        stage.figure(f"grid_{name}", figure)
    percent = min((p for p in plan.percentages if p < 100), key=lambda p: abs(p - 75), default=None)
    if percent is not None:
        figure = figures.strategies_grid(handed.memory, shown, batch, plan, percent, decoding, split.components)
        stage.figure("grid_strategies", figure)
