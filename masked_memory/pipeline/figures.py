"""Figures as matplotlib `Figure` objects (no pyplot, no global state). Pictures here are float (B, C, H, W) in [0, 1].

Colours: Okabe and Ito's palette, which colour-blind readers can tell apart; lines also differ in style.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from masked_memory.pipeline.files import replacing

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#666666"
DPI = 130
RGB = ("red", "green", "blue")


def save_png(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, facecolor="white", format="png")


def as_it_is(text: str) -> str:
    """A name that matplotlib shows as it is: between two dollars it would read mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of the size in inches and its axes (rows, columns), without the upper and right frame."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, which="both")
    return figure, axes


def history_figure(history: Sequence[Mapping[str, float]], best_epoch: int, seconds: float) -> Figure:
    """One panel per metric over the epochs, train and validation together; the best epoch is marked. seconds: of an
    epoch."""
    names = {key.split("_", 1)[1]: None for epoch in history for key in epoch if key != "epoch"}
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = new_figure(3.0 * columns, 2.3 * rows, rows, columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    epochs = [epoch["epoch"] for epoch in history]
    for axis, name in zip(axes.flat, names, strict=False):
        for part, colour, style in (("train", BLUE, "-"), ("val", ORANGE, "--")):
            values = [epoch.get(f"{part}_{name}", math.nan) for epoch in history]
            if not all(math.isnan(value) for value in values):
                marker = "o" if len(values) < 3 else None
                axis.plot(epochs, values, style, color=colour, marker=marker, markersize=4, label=part)
        axis.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle=":", label="best epoch")
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_xlabel(f"epoch of {seconds:.3g} s", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    axes.flat[0].legend(handles.values(), handles.keys(), fontsize=7, frameon=False)
    return figure


def picture_grid(
    rows: Sequence[tuple[str, Tensor]],
    titles: Sequence[str] = (),
    scale: float = 0.85,
    frames: Sequence[Sequence[str | None]] = (),
) -> Figure:
    """Rows of pictures with a label at the left: [(label, (B, C, H, W)), ...]; `titles` stand over the columns.

    frames: for each row and picture the colour of a frame around it, None for none. Pictures of neither one nor three
    channels are shown as grey panels, one below the other.
    """
    columns = max(len(pictures) for _, pictures in rows)
    rows = [
        (as_it_is(label), pictures if is_plain(pictures.shape[1]) else strips(pictures)) for label, pictures in rows
    ]
    height = scale * sum(min(6.0, pictures.shape[2] / pictures.shape[3]) for _, pictures in rows)
    margin = max(1.1, 0.075 * max(len(label) for label, _ in rows))  # inches, for the labels
    titles = [
        textwrap.fill(as_it_is(title).replace("_", " "), max(4, int(scale / 0.065))) for title in titles
    ]  # inches a letter
    above = 0.18 + 0.12 * max(title.count("\n") + 1 for title in titles) if titles else 0.1
    figure = Figure(figsize=(scale * columns + margin, height + above), layout="constrained")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, pictures) in enumerate(rows):
        for column, axis in enumerate(axes[row]):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if column < len(pictures):
                show_picture(axis, pictures[column])
            if row < len(frames) and column < len(frames[row]) and frames[row][column]:
                axis.spines[:].set(visible=True, color=frames[row][column], linewidth=2.5)
            if row == 0 and column < len(titles):
                axis.set_title(titles[column], fontsize=8)
        axes[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def is_plain(channels: int) -> bool:
    """Whether pictures with this many channels can be shown as they are, in grey or in colour."""
    return channels in (1, 3)


def strips(pictures: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, 1, C * (H + 1) - 1, W): the channels in grey below each other, white between."""
    b, _, _, width = pictures.shape
    parts = [channel.unsqueeze(1) for channel in pictures.unbind(1)]
    gap = pictures.new_ones(b, 1, 1, width)
    return torch.cat([part for channel in parts for part in (channel, gap)][:-1], dim=2)


def is_shown_plain(components: Sequence[str]) -> bool:
    """Whether these components are shown as one picture: a single one in grey; red, green and blue in colour."""
    return len(components) == 1 or tuple(components) == RGB


def component_rows(rows: Sequence[tuple[str, Tensor]], components: Sequence[str]) -> list[tuple[str, Tensor]]:
    """Rows for `picture_grid`: pictures stay as they are when they are grey or red, green and blue; else a grey panel
    for each component."""
    if is_shown_plain(components):
        return list(rows)
    return [(label, strips(pictures)) for label, pictures in rows]


def show_picture(axis: Any, picture: Tensor) -> None:
    """One (C, H, W) picture in [0, 1]: one channel in grey, three in colour, others as grey panels below each other."""
    if not is_plain(len(picture)):
        picture = strips(picture.unsqueeze(0))[0]
    array = picture.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        axis.imshow(array[:, :, 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axis.imshow(array, interpolation="nearest")


def index_map_figure(pictures: Tensor, grids: np.ndarray, reconstructions: Tensor, codes: int) -> Figure:
    """original | index map | reconstruction, one row per picture. grids: (B, h, w) integers in [0, codes)."""
    side = 1.5
    if not is_plain(pictures.shape[1]):
        pictures, reconstructions = strips(pictures), strips(reconstructions)
    tall = min(6.0, pictures.shape[2] / pictures.shape[3])
    figure = Figure(figsize=(3 * side + 0.2, side * tall * len(pictures) + 0.3), layout="constrained")
    axes = figure.subplots(len(pictures), 3, squeeze=False)
    for row in range(len(pictures)):
        show_picture(axes[row][0], pictures[row])
        axes[row][1].imshow(grids[row], cmap="nipy_spectral", vmin=0, vmax=codes - 1, interpolation="nearest")
        show_picture(axes[row][2], reconstructions[row])
    for axis, title in zip(axes[0], ("original", f"indices (of {codes})", "reconstruction"), strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def usage_figure(counts: np.ndarray, perplexity: float) -> Figure:
    """How often each code is used, most used first, on a logarithmic scale."""
    figure, axes = new_figure(6, 3)
    axis = axes[0, 0]
    shares = np.sort(counts)[::-1] / counts.sum()
    axis.bar(np.arange(len(shares)), shares, width=1.0, color=BLUE)
    axis.axhline(1 / len(shares), color=ORANGE, linestyle="--", linewidth=1, label="all codes used equally")
    if (shares > 0).any():
        axis.set_yscale("log")
    axis.set_xlabel("codes, most used first", fontsize=9)
    axis.set_ylabel("share of all tokens", fontsize=9)
    found = f"{(counts > 0).sum()} of {len(counts)} codes in use, perplexity {perplexity:.1f}"
    axis.set_title(f"{found}, over all pictures", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    return figure


def component_error_figure(errors: np.ndarray, kept: Sequence[str], components: Sequence[str], title: str) -> Figure:
    """Rows: what was shown; columns: the component that was painted; the error is written in. errors: (rows, C)."""
    figure, axes = new_figure(1.1 * len(components) + 2.2, 0.45 * len(kept) + 1.6)
    axis = axes[0, 0]
    picture = axis.imshow(errors, cmap="Blues", vmin=0, aspect="auto")
    for row, column in np.ndindex(*errors.shape):
        colour = "white" if errors[row, column] > 0.6 * errors.max() else "black"
        axis.text(column, row, f"{errors[row, column]:.4f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(components)), map(as_it_is, components), fontsize=8, rotation=20, ha="right")
    axis.set_yticks(range(len(kept)), map(as_it_is, kept), fontsize=8)
    axis.set_xlabel("component painted", fontsize=9)
    axis.set_ylabel("shown", fontsize=9)
    axis.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.02)
    return figure


def confusion_figure(confusion: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Rows: true class, columns: predicted; shares of the true class. Counts are written in while they are readable."""
    count = len(names)
    side = min(9.0, max(3.6, 0.42 * count + 1.6))
    figure, axes = new_figure(side + 0.7, side)
    axis = axes[0, 0]
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 20:
        for true, predicted in np.ndindex(count, count):
            if confusion[true, predicted]:
                colour = "white" if shares[true, predicted] > 0.5 else "black"
                text = str(int(confusion[true, predicted]))
                axis.text(predicted, true, text, ha="center", va="center", fontsize=7, color=colour)
    size = 8 if count <= 20 else max(3, 8 - count // 25)
    axis.set_xticks(range(count), map(as_it_is, names), rotation=90, fontsize=size)
    axis.set_yticks(range(count), map(as_it_is, names), fontsize=size)
    axis.set_xlabel("predicted", fontsize=9)
    axis.set_ylabel("true", fontsize=9)
    axis.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.02, label="share of the true class")
    return figure


def curves_figure(
    percentages: Sequence[float],
    curves: Sequence[tuple[str, str, str, Sequence[float], Sequence[tuple[float, float]] | None]],
    xlabel: str,
    ylabel: str,
    title: str,
) -> Figure:
    """Curves (label, colour, line style, values, 95 % intervals or None) over percentages, bands behind them."""
    figure, axes = new_figure(5.6, 3.8)
    axis = axes[0, 0]
    for label, colour, style, values, bands in curves:
        axis.plot(percentages, values, style, color=colour, marker="o", markersize=3, label=label)
        if bands is not None:
            low, high = zip(*bands, strict=True)
            axis.fill_between(percentages, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.set_title(title, fontsize=10)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.legend(fontsize=8, frameon=False)
    return figure


def study_history_figure(trials: Sequence[int], scores: Sequence[float], lower_is_better: bool) -> Figure:
    """The score of each completed trial and the best so far."""
    figure, axes = new_figure(5.2, 3.2)
    axis = axes[0, 0]
    best = (np.minimum if lower_is_better else np.maximum).accumulate(np.asarray(scores, dtype=float))
    axis.step(trials, best, where="post", color=ORANGE, label="best so far")
    axis.plot(trials, scores, "o", color=BLUE, markersize=5, label="trial")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trial", fontsize=9)
    axis.set_ylabel(_score_label(lower_is_better), fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    return figure


def study_slice_figure(slices: Mapping[str, Sequence[tuple[Any, float]]], lower_is_better: bool) -> Figure:
    """The score against each setting: name -> (value, score) of each trial. Choices stand side by side."""
    columns = max(1, min(3, len(slices)))
    rows = max(1, math.ceil(len(slices) / columns))
    figure, axes = new_figure(2.7 * columns + 0.6, 2.4 * rows, rows, columns)
    for number, (axis, (name, points)) in enumerate(zip(axes.flat, slices.items(), strict=False)):
        taken, scores = [value for value, _ in points], [score for _, score in points]
        best = int(np.argmin(scores) if lower_is_better else np.argmax(scores))
        places: list[float] = list(taken)
        if not all(isinstance(value, float) for value in taken):
            choices = sorted(set(taken), key=lambda value: (str(type(value)), value))
            places = [choices.index(value) for value in taken]
            axis.set_xticks(range(len(choices)), [str(choice) for choice in choices])
            axis.set_xlim(-0.5, len(choices) - 0.5)
        axis.plot(places, scores, "o", color=BLUE, markersize=5)
        axis.plot(places[best], scores[best], "*", color=ORANGE, markersize=11, label="best")
        axis.set_xlabel(name.replace("_", " "), fontsize=9)
        axis.locator_params(axis="y", nbins=5)
        if all(isinstance(value, float) for value in taken):
            axis.locator_params(axis="x", nbins=4)
        if number % columns == 0:
            axis.set_ylabel(_score_label(lower_is_better), fontsize=8)
    for axis in axes.flat[len(slices) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=7, frameon=False)
    return figure


def study_importance_figure(importance: Mapping[str, float], trials: int) -> Figure:
    """How much of the spread of the scores each setting accounts for (PED-ANOVA)."""
    figure, axes = new_figure(5.2, 0.4 * len(importance) + 1.2)
    axis = axes[0, 0]
    names = list(importance)[::-1]
    axis.barh([name.replace("_", " ") for name in names], [importance[name] for name in names], color=BLUE)
    axis.set_xlim(0, 1)
    axis.set_xlabel("importance (PED-ANOVA)", fontsize=9)
    axis.set_title(f"{trials} completed trials" + (": too few to be sure" if trials < 20 else ""), fontsize=9)
    return figure


def _score_label(lower_is_better: bool) -> str:
    return f"validation score ({'lower' if lower_is_better else 'higher'} is better)"
