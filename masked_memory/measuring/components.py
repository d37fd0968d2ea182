"""Inpainting of components: some components of a picture are shown, one forward pass paints them all.

Letters: B batch, C components (channels). Pictures are float [-1, 1] in models, [0, 1] in what is measured. A mask of
components is (C,) bool, True = masked, set to 0. Encode, quantise, decode: no prior, no loop.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from masked_memory.handoff.split import Split, mask_of
from masked_memory.models.conditioning import Told
from masked_memory.pipeline.figures import (
    BLUE,
    component_error_figure,
    index_map_figure,
    is_shown_plain,
    picture_grid,
    strips,
)
from masked_memory.pipeline.files import replacing
from masked_memory.pipeline.metrics import SSIM_WINDOW, mse, ssim, to_unit
from masked_memory.pipeline.rows import write_rows
from masked_memory.pipeline.stage import Stage, say
from masked_memory.sources.splitting import spread
from masked_memory.sources.stacks import write_stack
from masked_memory.stages.masking import hide_components
from masked_memory.stages.vqvae import VQVAE

ALL = "all"  # nothing is masked
HEADER = ("model", "shown", "component", "mse", "ssim", "pictures", "batch_size", "seconds_per_picture")
TIMED_PASSES = 5


@dataclass(frozen=True)
class Painter:
    """A VQ-VAE, what it is called in tables, and what it is told. told: of all pictures of the manifest."""

    name: str
    model: VQVAE
    told: Told | None = None
    guidance_scale: float = 1.0

    def decode(self, indices: Tensor, positions: Any) -> Tensor:
        """(B, h, w) -> (B, C, H, W) in [-1, 1]; positions: those pictures' in the manifest."""
        told = None if self.told is None else self.told.rows(positions).to(indices.device)
        return self.model.decode_indices(indices, told, self.guidance_scale)

    def paint(self, pictures: Tensor, mask: Tensor, positions: Any) -> Tensor:
        """(B, C, H, W) in [-1, 1], of which the components of `mask` (C,) are hidden -> all components, painted."""
        return self.decode(self.model.encode_indices(hide_components(pictures, mask)), positions)


def component_errors(painted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """mse and ssim (B, C) of each component, pictures in [0, 1]; SSIM is left out below its window's size."""
    b, c, height, width = truth.shape
    one, other = (pictures.reshape(b * c, 1, height, width) for pictures in (painted, truth))
    errors = {"mse": mse(one, other).view(b, c)}
    if min(height, width) >= SSIM_WINDOW:
        errors["ssim"] = ssim(one, other).view(b, c)
    return errors


@torch.no_grad()
def measure_components(
    painter: Painter, split: Split, positions: np.ndarray, device: torch.device, batch_size: int
) -> list[dict[str, Any]]:
    """Rows of components.csv: every component painted from each single one, and from all of them."""
    rows: list[dict[str, Any]] = []
    names = split.components
    for shown in (*names, ALL):
        mask = mask_of(names, names if shown == ALL else [shown])
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(positions), batch_size):
            chosen = positions[start : start + batch_size]
            x = split.pictures(chosen).to(device)
            for measured, values in component_errors(to_unit(painter.paint(x, mask, chosen)), to_unit(x)).items():
                parts.setdefault(measured, []).append(values.cpu())
        means = {measured: torch.cat(values).mean(0).tolist() for measured, values in parts.items()}
        seconds = seconds_per_picture(painter, split, positions[:batch_size], mask, device)
        cost = {"batch_size": min(batch_size, len(positions)), "seconds_per_picture": seconds}
        for place, component in enumerate(names):
            row = {"model": painter.name, "shown": shown, "component": component, "pictures": len(positions)}
            rows.append(row | {measured: values[place] for measured, values in means.items()} | cost)
    return rows


def seconds_per_picture(
    painter: Painter, split: Split, positions: np.ndarray, mask: Tensor, device: torch.device
) -> float:
    """Median over TIMED_PASSES of encode, quantise and decode of one batch, by its pictures."""
    x = split.pictures(positions).to(device)
    taken = []
    for _ in range(TIMED_PASSES + 1):  # the first one warms up
        started = time.perf_counter()
        painter.paint(x, mask, positions).cpu()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:])) / len(positions)


def measure_mean(split: Split, positions: np.ndarray, batch_size: int) -> list[dict[str, Any]]:
    """The floor: each component painted as its mean over the training pictures, whatever is shown."""
    names = split.components
    parts: dict[str, list[Tensor]] = {}
    mean = torch.tensor(split.meta["mean"], dtype=torch.float32)[:, None, None]
    for start in range(0, len(positions), batch_size):
        truth = to_unit(split.pictures(positions[start : start + batch_size]))
        for measured, values in component_errors(mean.expand_as(truth), truth).items():
            parts.setdefault(measured, []).append(values)
    means = {measured: torch.cat(values).mean(0).tolist() for measured, values in parts.items()}
    return [
        {"model": "mean", "shown": "none", "component": component, "pictures": len(positions)}
        | {measured: values[place] for measured, values in means.items()}
        for place, component in enumerate(names)
    ]


def mean_of_others(rows: Sequence[dict[str, Any]], model: str, measured: str) -> float | None:
    """Mean over all pairs of one component shown and another painted; None when it was not measured."""
    values = [
        row[measured]
        for row in rows
        if row["model"] == model and row["shown"] not in (ALL, "none", row["component"]) and measured in row
    ]
    return float(np.mean(values)) if values else None


def errors_figure(rows: Sequence[dict[str, Any]], model: str, names: Sequence[str]) -> Figure:
    """MSE of each component (columns) painted from what was shown (rows); below, the mean of training as a floor."""
    kept = [*names, ALL]
    value = {(row["model"], row["shown"], row["component"]): row["mse"] for row in rows}
    table = [[value[model, shown, component] for component in names] for shown in kept]
    table.append([value["mean", "none", component] for component in names])
    title = f"MSE on {rows[0]['pictures']} test pictures, {model}"
    return component_error_figure(np.array(table), [*kept, "nothing (training mean)"], names, title)


@torch.no_grad()
def pictures_figure(painter: Painter, split: Split, positions: np.ndarray, device: torch.device) -> Figure:
    """Rows: what was shown; columns: the components of a few pictures, one after the other; blue: as it was given."""
    names, x = split.components, split.pictures(positions).to(device)
    rows = [("original", _panels(to_unit(x)))]
    frames: list[list[str | None]] = [[None] * (len(names) * len(positions))]
    for place, shown in enumerate(names):
        painted = to_unit(painter.paint(x, mask_of(names, [shown]), positions))
        rows.append((f"from {shown}", _panels(painted)))
        frames.append([BLUE if column == place else None for _ in positions for column in range(len(names))])
    return picture_grid(rows, list(names) * len(positions), scale=0.8, frames=frames)


def _panels(pictures: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * C, 1, H, W), each component a picture of its own."""
    return pictures.flatten(0, 1).unsqueeze(1).cpu()


def write_picture(path: Path, pixels: np.ndarray, split: Split) -> None:
    """(H, W, C) uint8 -> NAME.png; of stacks also NAME.npz with a float32 array for each component in the units of the
    data. Components that are not grey or RGB stand side by side in the PNG."""
    flat = pixels
    if not is_shown_plain(split.components):
        flat = np.hstack(list(np.moveaxis(pixels, 2, 0)))[:, :, None]
    with replacing(path.with_name(f"{path.name}.png")) as temporary:
        Image.fromarray(flat[:, :, 0] if flat.shape[2] == 1 else flat).save(temporary, format="PNG")
    if split.stacks is not None:
        write_stack(path.with_name(f"{path.name}.npz"), pixels, split.stacks)


def usage(indices: np.ndarray, codebook_size: int) -> Tensor:
    """(K,) how often each code occurs."""
    return torch.from_numpy(np.bincount(indices.ravel(), minlength=codebook_size))


def report_components(stage: Stage, split: Split, painters: list[Painter], batch_size: int) -> None:
    """components.csv and figures: each component painted from each other one, for one VQ-VAE or two."""
    test, device = split.positions("test"), stage.machine.device
    rows = measure_mean(split, test, batch_size)
    for number, painter in enumerate(painters):
        rows += measure_components(painter, split, test, device, batch_size)
        prefix = "rival_" if number else ""
        stage.figure(f"{prefix}component_errors", errors_figure(rows, painter.name, split.components))
        shown = spread(test, 3)
        stage.figure(f"{prefix}components", pictures_figure(painter, split, shown, device))
        for measured in ("mse", "ssim"):
            value = mean_of_others(rows, painter.name, measured)
            if value is not None:
                stage.metrics[f"{prefix}test_inpainting_{measured}"] = value
        seconds = float(np.median([row["seconds_per_picture"] for row in rows if row["model"] == painter.name]))
        stage.metrics[f"{prefix}seconds_per_picture"] = seconds
        error = stage.metrics.get(f"{prefix}test_inpainting_mse")
        others = "" if error is None else f"other components from one, MSE {error:.4f}, "
        say(f"{painter.name}: {others}{seconds * 1000:.2f} ms per picture")
    write_rows(stage.folder.path / "components.csv", HEADER, rows)


def index_maps(split: Split, pictures: Tensor, grids: np.ndarray, painted: Tensor, codes: int) -> Any:
    """pictures, painted: (B, C, H, W) in [-1, 1]."""
    shown = [to_unit(pictures), to_unit(painted)]
    if not is_shown_plain(split.components):
        shown = [strips(part) for part in shown]
    return index_map_figure(shown[0], grids, shown[1], codes)
