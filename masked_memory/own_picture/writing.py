"""The own-picture mode of the stage: every file completed, written and drawn."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from masked_memory.own_picture.completing import OwnResult, Request, complete_picture
from masked_memory.own_picture.reading import asked_mask, check_own, has_mask, read_picture, unique_names
from masked_memory.pipeline.figures import as_it_is, new_figure, show_picture
from masked_memory.pipeline.files import write_csv
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.stage import Stage, say
from masked_memory.recall.memory import Memory
from masked_memory.settings.reconstruct_masked import OwnPicture
from masked_memory.sources.pixels import plain_image, write_png

FIGURES = 8  # pictures that get a figure
FIGURE_SAMPLES = 4
FIGURE_SIDE = 512  # pixels; larger pictures are shown smaller


# --- the stage's own-picture mode -------------------------------------------------------------------------------------

PICTURES_HEADER = (
    "path",
    "class_before",
    "probability_before",
    "class_after",
    "probability_after",
    "pixels_missing",
    "share_missing",
    "tokens_dropped",
    "tokens",
    "note",
)


def complete_own(stage: Stage, memory: Memory, own: OwnPicture, request: Request, classes: Sequence[str]) -> float:
    """Complete the picture or folder of the settings into own/ of the run folder; returns the share of missing pixels.

    Raises InputError, before anything is written, for all that `check_own` refuses.
    """
    files = check_own(own, memory.vqvae.config.channels)
    folder = stage.folder.path / "own"
    rows, missing, pixels = [], 0, 0
    bar = progress_bar(zip(files, unique_names(files), strict=True), "own pictures", "picture", total=len(files))
    for number, (file, name) in enumerate(bar):
        picture = read_picture(file)
        result = complete_picture(memory, picture, asked_mask(own, picture.size), classes, request)
        write_result(folder, name, result)
        if number < FIGURES:
            stage.figure(f"own_{name}", result_figure(result))
        rows.append(_row(file, result))
        missing, pixels = missing + int(result.missing.sum()), pixels + result.missing.size
        say(_sentence(file, result, None if has_mask(own) else request))
    write_csv(folder / "pictures.csv", PICTURES_HEADER, rows)
    stage.metrics |= {"own_pictures": len(files), "own_missing_share": missing / pixels}
    stage.finish(None, extra_artifacts=("own",))
    return missing / pixels


def write_result(folder: Path, name: str, result: OwnResult) -> None:
    """NAME_completed.png, NAME_masked.png, NAME_sample_1.png ..., NAME_diversity.png (black 0, white 0.5, the most
    there can be) and NAME_dropped.csv (tile, row and column of each token that was predicted)."""
    write_png(folder / f"{name}_completed.png", result.completed)
    write_png(folder / f"{name}_masked.png", result.masked)
    for number, sample in enumerate(result.samples, start=1):
        write_png(folder / f"{name}_sample_{number}.png", sample)
    if result.samples:
        write_png(folder / f"{name}_diversity.png", np.rint(result.diversity * 510).astype(np.uint8)[:, :, None])
    write_csv(folder / f"{name}_dropped.csv", ("tile", "row", "column"), np.argwhere(result.dropped).tolist())


def _row(file: Path, result: OwnResult) -> list[Any]:
    """A line of pictures.csv."""
    before, after = (ranked[0] if ranked else ("", math.nan) for ranked in (result.before, result.after))
    classes = [before[0], f"{before[1]:.6g}", after[0], f"{after[1]:.6g}"] if result.before else [""] * 4
    missing = [int(result.missing.sum()), f"{result.missing.mean():.6g}"]
    return [str(file), *classes, *missing, int(result.dropped.sum()), result.dropped.size, result.note]


def _sentence(file: Path, result: OwnResult, chosen: Request | None) -> str:
    """What happened to a picture, in one line. chosen: how, where no mask says what is missing."""
    tokens = f"{int(result.dropped.sum())} of {result.dropped.size} tokens predicted"
    if chosen is not None:
        tokens += f" ({chosen.percent:g} %, chosen by {chosen.strategy}; --percent, --strategy or --mask change that)"
    parts = [f"{file}: {result.missing.mean():.1%} of the pixels missing, {tokens}"]
    parts += [f"class {_likeliest(result.before)} before, {_likeliest(result.after)} after"] if result.before else []
    parts += [result.note] if result.note else []
    return "; ".join(parts)


def _likeliest(ranked: list[tuple[str, float]]) -> str:
    return f"{ranked[0][0]} ({ranked[0][1]:.0%})" if ranked else ""


def result_figure(result: OwnResult) -> Figure:
    """original | masked | completed | samples | diversity, with the class and its probability above."""
    panels = [
        (f"original\n{as_it_is(_likeliest(result.before))}", result.original),
        ("masked\n", result.masked),
        (f"completed\n{as_it_is(_likeliest(result.after))}", result.completed),
    ]
    panels += [(f"sample {n}\n", sample) for n, sample in enumerate(result.samples[:FIGURE_SAMPLES], start=1)]
    height, width = result.missing.shape
    columns = len(panels) + (1 if result.samples else 0)
    figure, axes = new_figure(1.9 * columns, 0.5 + 1.8 * min(3.0, max(0.4, height / width)), 1, columns)
    for axis, (title, pixels) in zip(axes[0], panels, strict=False):
        show_picture(axis, torch.from_numpy(_smaller(pixels)).permute(2, 0, 1) / 255)
        axis.set_title(title, fontsize=8)
    if result.samples:
        shown = _smaller(np.rint(result.diversity * 510).astype(np.uint8)[:, :, None])[:, :, 0] / 510
        axes[0][-1].imshow(shown, cmap="magma", vmin=0, vmax=max(0.05, float(shown.max())), interpolation="nearest")
        axes[0][-1].set_title("diversity\n", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 with no side longer than FIGURE_SIDE."""
    image = plain_image(pixels)
    image.thumbnail((FIGURE_SIDE, FIGURE_SIDE))
    return np.array(image).reshape(image.height, image.width, pixels.shape[2])
