"""Figures of the study, as matplotlib `Figure` objects. Colours are Okabe and Ito's; lines also differ in style and
marker, so that they can be told apart in print and by colour-blind readers."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from masked_memory.measuring.curves import Curve, curve
from masked_memory.measuring.study import ALL_FORGOTTEN, Batch, Findings, StudyPlan, recall_batch
from masked_memory.pipeline.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, component_rows, new_figure, picture_grid
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.memory import Memory
from masked_memory.settings.judges import DEGRADED, JUDGES
from masked_memory.settings.strategies import DECODINGS, STRATEGIES
from masked_memory.stages.masking import mask_first, masked_count, touched_pixels

RED, SKY, YELLOW, BLACK = "#D55E00", "#56B4E9", "#B8A800", "#000000"
RIGHT, WRONG = GREEN, RED  # frames of recognised and unrecognised pictures

#: colour, line style, marker of the strategies, the most telling first; the first eight that were measured are shown
PALETTE = (
    (RED, "-", "o"), (ORANGE, "--", "s"), (PURPLE, "-.", "^"), (BLUE, "-", "D"), (SKY, "--", "v"), (YELLOW, ":", "P"),
    (GREEN, "-.", "X"), (BLACK, "-", "."), (GREY, ":", "<"), (GREY, "--", ">"), (GREY, "-.", "1"), (GREY, "-", "2"),
    (PURPLE, ":", "d"),
)  # fmt: skip
OWN_PALETTE = (("#A0006B", "-", "*"), ("#5B3A00", "--", "h"), ("#003D3D", "-.", "p"))  # of a user's own strategies
DECODING_LOOKS = dict(zip(DECODINGS, ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^")), strict=True))
RIVAL_STYLES = ((":", "s"), ("-", "o"), ("--", "^"), ("-.", "v"), ((0, (5, 1, 1, 1, 1, 1)), "D"))
MOST_CURVES = 8
FEWEST_WRONG = 10  # wrong recalls below which their share says nothing
LABELS = {
    "mse_to_reconstruction": "MSE to the VQ-VAE's reconstruction",
    "mse_to_picture": "MSE to the picture",
    "ssim_to_reconstruction": "SSIM to the VQ-VAE's reconstruction",
    "masked_mse_to_reconstruction": "MSE within the forgotten part",
    "calibration_error": "expected calibration error",
    "cross_entropy": "cross-entropy (nats per forgotten token)",
    **{f"{judge.prefix}classification_error": f"classification error ({judge.says})" for judge in JUDGES.values()},
    **{f"{judge.prefix}disagreement": f"class other than before ({judge.says})" for judge in JUDGES.values()},
}


UNBANDED = ("calibration_error",)  # of all pictures at once, so without intervals


def compared_measures(rows: Rows, error: str) -> list[str]:
    """Of a figure of several panels: the error asked for, then the classification error of each judge, as far as the
    rows have them."""
    wanted = (error, *(f"{judge.prefix}classification_error" for judge in JUDGES.values()))
    found = {row["measure"] for row in rows}
    return [name for name in wanted if name in found]


def shown_strategies(plan: StudyPlan) -> list[str]:
    """The first eight, those of a user's own before all others."""
    found = [name for name in strategy_looks() if name in plan.strategies]
    return sorted(found, key=lambda name: not STRATEGIES[name].own)[:MOST_CURVES]


def strategy_looks() -> dict[str, tuple[str, Any, str]]:
    """strategy -> colour, line style, marker; the most telling first, those of a user's own last."""
    ordered = sorted(STRATEGIES, key=lambda name: (STRATEGIES[name].own, STRATEGIES[name].place))
    theirs = [name for name in ordered if STRATEGIES[name].own]
    return dict(zip(ordered, PALETTE, strict=False)) | dict(zip(theirs, cycle(OWN_PALETTE), strict=False))


def strategies_figure(rows: Rows, plan: StudyPlan, decoding: str, measure: str, pictures: int) -> Figure:
    """One measure against the percentage forgotten, a curve for each strategy."""
    figure, axes = new_figure(6.0, 4.2)
    axis = axes[0, 0]
    looks = strategy_looks()
    for name in shown_strategies(plan):
        found = curve(rows, name, decoding, measure)
        if found.percentages:
            _plot(axis, found, name, *looks[name])
    how = "" if decoding == "tokens" else f", decoding {decoding}"
    bands = "" if measure in UNBANDED else ", 95 % intervals"
    _finish(axis, "tokens forgotten (%)", LABELS.get(measure, measure), f"{pictures} pictures{bands}{how}")
    return figure


def _plot(axis: Any, found: Curve, label: str, colour: str, style: Any, marker: str, shade: float = 0.13) -> None:
    places = found.percentages
    axis.plot(
        places, found.means, linestyle=style, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label
    )
    low, high = zip(*found.intervals, strict=True)
    axis.fill_between(places, low, high, color=colour, alpha=shade, linewidth=0)


def _finish(axis: Any, xlabel: str, ylabel: str, title: str, legend: bool = True) -> None:
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.set_title(title, fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.5)
    if legend:
        axis.legend(fontsize=7, frameon=False)


def decodings_figure(rows: Rows, plan: StudyPlan, strategies: Sequence[str]) -> Figure:
    """MSE and classification errors for each decoding: what is faithful is not always what is recognised."""
    measures = compared_measures(rows, "mse_to_reconstruction")
    figure, axes = new_figure(3.6 * len(measures), 2.9 * len(strategies), len(strategies), len(measures))
    for line, strategy in zip(axes, strategies, strict=True):
        for axis, measure in zip(line, measures, strict=True):
            for decoding in plan.decodings:
                found = curve(rows, strategy, decoding, measure)
                if found.percentages:
                    _plot(axis, found, decoding, *DECODING_LOOKS[decoding])
            _finish(axis, "tokens forgotten (%)", LABELS[measure], strategy, legend=axis is line[0])
    return figure


def rival_looks(names: Sequence[str]) -> dict[str, tuple[str, Any, str]]:
    """A colour for each family, and in it a style and a marker for each: ours black, what completes nothing grey."""
    families = {"ours": BLACK, "published": BLUE, "masked autoencoder": ORANGE, "biharmonic": GREEN}
    taken = dict.fromkeys([*families.values(), GREY], 0)
    looks: dict[str, tuple[str, Any, str]] = {}
    for name in names:
        colour = next((colour for start, colour in families.items() if name.startswith(start)), GREY)
        looks[name] = (colour, *RIVAL_STYLES[taken[colour] % len(RIVAL_STYLES)])
        taken[colour] += 1
    return looks


def rivals_figure(rival_rows: Rows) -> Figure:
    """The same random masks, filled in by others. rival_rows: rival, percent, measure, mean, low, high, pictures."""
    measures = compared_measures(rival_rows, "mse_to_reconstruction")
    names = list(dict.fromkeys(row["rival"] for row in rival_rows))
    looks = rival_looks(names)
    figure, axes = new_figure(4.4 * len(measures), 4.6, 1, len(measures))
    for axis, measure in zip(axes[0], measures, strict=True):
        for name in names:
            chosen = sorted(
                (r for r in rival_rows if r["rival"] == name and r["measure"] == measure), key=lambda r: r["percent"]
            )
            found = Curve([r["percent"] for r in chosen], [r["mean"] for r in chosen],
                          [(r["low"], r["high"]) for r in chosen])  # fmt: skip
            if chosen:
                _plot(axis, found, name, *looks[name], shade=0.05)
        _finish(axis, "tokens forgotten (%)", LABELS[measure], "", legend=False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def context_figure(context: list[list[Any]], plan: StudyPlan) -> Figure:
    """Congruent against incongruent pictures; and how often a wrong recall is what the context suggests. As the judge
    sees it that was trained with blurred and grey cells; context.csv has all judges.

    context: rows of tables.context_rows."""
    context = [[*row[:2], *row[3:]] for row in context if row[2] == DEGRADED]
    telling = ("random", "selective", "adaptive")
    names = [name for name in plan.strategies if name in telling] or list(plan.strategies[:1])
    figure, axes = new_figure(8.8, 3.6, 1, 2)
    for name in names:
        colour, _, marker = strategy_looks()[name]
        for group, style in (("congruent", "-"), ("incongruent", "--")):
            points = sorted((r[1], r[4]) for r in context if r[0] in (name, ALL_FORGOTTEN) and r[2] == group)
            x, y = zip(*points, strict=True)
            looks = {"color": colour, "marker": marker, "markersize": 4, "clip_on": False}  # all wrong: at the edge
            axes[0, 0].plot(x, y, style, label=f"{name}, {group}", **looks)
        points = sorted(
            (r[1], r[5])
            for r in context
            if r[0] in (name, ALL_FORGOTTEN) and r[2] == "incongruent" and r[4] * r[3] >= FEWEST_WRONG
        )
        if points:
            x, y = zip(*points, strict=True)
            axes[0, 1].plot(x, y, "-", color=colour, marker=marker, markersize=4, label=name)
    axes[0, 1].set_xlim(axes[0, 0].get_xlim())  # also where no share is known
    axes[0, 1].axhline(1 / 9, color=GREY, linestyle=":", linewidth=1, label="chance, 1 of 9")
    _finish(axes[0, 0], "tokens forgotten (%)", "classification error", "digit where it usually is, and elsewhere")
    _finish(
        axes[0, 1],
        "tokens forgotten (%)",
        "share of wrong recalls",
        "wrong recalls that the context suggests (elsewhere)",
    )
    return figure


def split_figure(split_rows: list[list[Any]], names: Sequence[str]) -> Figure:
    """What quantisation costs and what completion costs. split_rows: rows of tables.error_split."""
    figure, axes = new_figure(3.4 * len(names), 3.2, 1, len(names))
    highest = max(max(row[2] + row[3], row[4]) for row in split_rows if row[0] in (*names, ALL_FORGOTTEN))
    for axis, name in zip(axes[0], names, strict=True):
        chosen = sorted((row for row in split_rows if row[0] in (name, ALL_FORGOTTEN)), key=lambda row: row[1])
        places = [str(row[1]) for row in chosen]
        axis.bar(places, [row[2] for row in chosen], color=GREY, label="quantisation")
        axis.bar(
            places, [row[3] for row in chosen], bottom=[row[2] for row in chosen], color=ORANGE, label="completion"
        )
        axis.plot(places, [row[4] for row in chosen], "k_", markersize=9, label="both together (no plain sum)")
        _finish(axis, "tokens forgotten (%)", "MSE", name, legend=axis is axes[0][0])
        axis.set_ylim(0, 1.05 * highest)
        axis.tick_params(axis="x", labelsize=7)
    return figure


@torch.no_grad()
def recall_grid(findings: Findings, batch: Batch, strategy: str, components: Sequence[str]) -> Figure:
    """One row per percentage: what is left (grey: forgotten) and what is recalled, for a few pictures; a green or red
    frame says whether it is recognised. batch: the pictures of the findings' orders."""
    memory, plan, decoding = findings.memory, findings.plan, findings.decoding
    rows, frames = [], []
    for percent in plan.percentages:
        mask = mask_first(findings.study.orders[strategy][0][batch.rows], masked_count(percent / 100, memory.tokens))
        mask = mask.to(memory.device)
        painted, grids = recall_batch(memory, batch, mask, plan, (decoding,), _no_draws()).painted[decoding]
        left = grey_out(batch.whole, mask, memory.stride)
        triples = torch.stack([left, to_unit(painted), batch.truth], dim=1).flatten(0, 1)
        rows.append((f"{percent} %", triples.cpu()))
        frames.append([f for right in recognised(memory, batch, painted, grids) for f in (None, right, None)])
    rows = component_rows(rows, components)
    return picture_grid(rows, ["kept", "recalled", "original"] * len(batch.tokens), scale=0.75, frames=frames)


@torch.no_grad()
def strategies_grid(findings: Findings, batch: Batch, percent: int, components: Sequence[str]) -> Figure:
    """The original and its unmasked reconstruction; then one row per strategy at one percentage: kept and recalled,
    framed by whether it is recognised."""
    memory, plan, decoding = findings.memory, findings.plan, findings.decoding
    rows = [("original,\nnot masked", torch.stack([batch.truth, batch.whole], dim=1).flatten(0, 1).cpu())]
    frames: list[list[str | None]] = [[None] * (2 * len(batch.tokens))]
    for name in plan.strategies:
        mask = mask_first(findings.study.orders[name][0][batch.rows], masked_count(percent / 100, memory.tokens))
        mask = mask.to(memory.device)
        painted, grids = recall_batch(memory, batch, mask, plan, (decoding,), _no_draws()).painted[decoding]
        left = grey_out(batch.whole, mask, memory.stride)
        rows.append((name, torch.stack([left, to_unit(painted)], dim=1).flatten(0, 1).cpu()))
        frames.append([f for right in recognised(memory, batch, painted, grids) for f in (None, right)])
    rows = component_rows(rows, components)
    return picture_grid(rows, ["kept", "recalled"] * len(batch.tokens), scale=0.75, frames=frames)


def recognised(memory: Memory, batch: Batch, painted: Tensor, grids: Tensor) -> list[str | None]:
    """The colour of each picture's frame; None without a classifier."""
    probabilities = memory.class_probabilities(painted, grids)
    if probabilities is None:
        return [None] * len(grids)
    return [RIGHT if right else WRONG for right in (probabilities.argmax(1) == batch.labels).tolist()]


def grey_out(pictures: Tensor, mask: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) in [0, 1] with the pixels of masked tokens (B, N) in mid grey."""
    pixels = touched_pixels(mask, pictures.shape[2], pictures.shape[3], stride)
    return pictures.masked_fill(pixels.unsqueeze(1), 0.5)


def _no_draws() -> torch.Generator:
    """For decodings that draw nothing, or one fixed draw in a figure."""
    return torch.Generator().manual_seed(0)
