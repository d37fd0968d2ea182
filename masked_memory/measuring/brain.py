"""Brain slices: which pixels are brain, and what a reconstruction's SSIM is worth.

A slice is largely black background, which any method paints well, and slices are smooth, so that a copy at half the
resolution already scores high. So SSIM is given beside that of a trivial copy, over the brain only, and as it would
look with the wrong data range. Pictures are float (B, C, H, W) in [0, 1], masks bool (B, H, W), True = brain.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_li
from skimage.measure import label
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.measuring.components import Painter
from masked_memory.pipeline.figures import show_picture
from masked_memory.pipeline.files import replacing, write_csv
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import bootstrap_interval, errors_within, mse, psnr, ssim, to_unit
from masked_memory.pipeline.stage import Stage, say
from masked_memory.sources.splitting import SPLITS, spread

WRONG_RANGE = 2.0  # of SSIM on [0, 1]: what a program assumes for float pictures, meant for [-1, 1]
WAYS = ("vqvae", "copy")
SLICE_MEASURES = ("mse", "psnr", "ssim", "ssim_brain", "ssim_wrong_range")
COLOURS = "nipy_spectral"


def brain_mask(grey: np.ndarray) -> np.ndarray:
    """(H, W) float in [0, 1] -> (H, W) bool: above the threshold of least cross-entropy (Li and Tam 1998),
    the largest connected component (8 neighbours), its holes filled. All False for a picture of one level.

    It is the brain where the skull was removed, as in OASIS; elsewhere it is the head with skull and scalp.
    """
    levels = np.round(grey * 255).astype(np.uint8)
    if levels.min() == levels.max():
        return np.zeros(grey.shape, dtype=bool)
    parts = label(levels > threshold_li(levels), connectivity=2)  # (H, W), 0 is background
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return binary_fill_holes(parts == largest)


def brain_masks(pictures: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, H, W) bool, from the mean over channels; see `brain_mask`."""
    grey = pictures.mean(1).cpu().double().numpy()
    return torch.from_numpy(np.stack([brain_mask(picture) for picture in grey])).to(pictures.device)


def half_and_back(pictures: Tensor) -> Tensor:
    """The trivial copy: bicubic to half the side (with antialiasing) and bicubic back, clamped to [0, 1]."""
    size = pictures.shape[-2:]
    half = (max(1, size[0] // 2), max(1, size[1] // 2))
    small = F.interpolate(pictures, half, mode="bicubic", antialias=True)
    return F.interpolate(small, size, mode="bicubic").clamp(0, 1)


def slice_errors(painted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """What `pipeline.metrics.picture_errors` leaves out, (B,) each: `ssim_brain` (windows whose centre is brain, the
    mask from `truth`), `ssim_wrong_range`, the same and all the rest for the trivial copy (`copy_...`), and
    `brain_share` of the pixels. Not a number where a picture has no brain. At least 11 pixels a side.
    """
    masks, copy = brain_masks(truth), half_and_back(truth)
    errors = mse(copy, truth)
    return {
        "ssim_brain": errors_within(painted, truth, masks)["ssim"],
        "ssim_wrong_range": ssim(painted, truth, WRONG_RANGE),
        "copy_mse": errors,
        "copy_psnr": psnr(errors),
        "copy_ssim": ssim(copy, truth),
        "copy_ssim_brain": errors_within(copy, truth, masks)["ssim"],
        "copy_ssim_wrong_range": ssim(copy, truth, WRONG_RANGE),
        "brain_share": masks.float().mean((1, 2)),
    }


def write_mri_csv(
    path: Path,
    errors: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
    resamples: int,
    draws: torch.Generator,
) -> None:
    """A row per part of the split, way (vqvae, copy) and measure: pictures, mean, 95 % bootstrap interval of the mean.

    errors: measure -> value of each picture, the copy's with copy_ before; parts: name -> positions. Pictures without
    brain are left out of what is measured there.
    """
    rows = []
    for part, positions in parts.items():
        for way in WAYS:
            for measure in SLICE_MEASURES:
                values = errors[measure if way == "vqvae" else f"copy_{measure}"][positions]
                values = values[~np.isnan(values)]
                if len(values):
                    low, high = bootstrap_interval(torch.from_numpy(values), resamples, draws)
                    numbers = [f"{number:.6g}" for number in (values.mean(), low, high)]
                    rows.append([part, way, measure, len(values), *numbers])
    write_csv(path, ("split", "way", "measure", "pictures", "mean", "low", "high"), rows)


def brain_figure(pictures: Tensor, grids: np.ndarray, painted: Tensor, codes: int) -> Figure:
    """input | brain | codes | output | five times the error, a row per picture. grids (B, h, w) in [0, codes)."""
    side, titles = 1.4, ("input", "brain", f"codes (of {codes})", "output", "error x 5")
    figure = Figure(figsize=(5 * side + 0.2, side * len(pictures) + 0.3), layout="constrained")
    axes = figure.subplots(len(pictures), 5, squeeze=False)
    masks, distance = brain_masks(pictures), (pictures - painted).abs().mean(1, keepdim=True) * 5
    for row in range(len(pictures)):
        show_picture(axes[row][0], pictures[row])
        show_picture(axes[row][1], pictures[row] * (0.35 + 0.65 * masks[row].float()))
        axes[row][2].imshow(grids[row], cmap=COLOURS, vmin=0, vmax=codes - 1, interpolation="nearest")
        show_picture(axes[row][3], painted[row])
        show_picture(axes[row][4], distance[row])
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def write_gif(path: Path, pictures: Tensor, grids: np.ndarray, painted: Tensor, codes: int, scale: int = 2) -> None:
    """A looping GIF, a frame per picture: input | codes | output side by side, `scale` screen pixels per pixel."""
    size = (pictures.shape[-1] * scale, pictures.shape[-2] * scale)
    frames = []
    for picture, grid, output in zip(pictures, grids, painted, strict=True):
        coloured = (colormaps[COLOURS](grid / max(1, codes - 1))[..., :3] * 255).round().astype(np.uint8)
        panels = [_bytes(picture), coloured, _bytes(output)]
        scaled = [np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.NEAREST)) for panel in panels]
        frames.append(Image.fromarray(np.concatenate(scaled, axis=1)))
    with replacing(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=700, loop=0)


def _bytes(picture: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3) uint8."""
    array = picture.detach().cpu().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]


BOOTSTRAP = 1000  # resamples behind the 95 % intervals of mri.csv


def mean_of(values: np.ndarray) -> float:
    """Over the pictures that have the measure (one without brain has none in the brain); nan when none has."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def report_brain(stage: Stage, split: Split, errors: dict[str, np.ndarray], seed: int) -> None:
    """mri.csv, and the test numbers side by side. Metrics without any picture are dropped."""
    parts = {part: split.positions(part) for part in SPLITS}
    write_mri_csv(stage.folder.path / "mri.csv", errors, parts, BOOTSTRAP, generator(seed, Stream.BRAIN_BOOTSTRAP))
    without = int(np.isnan(errors["ssim_brain"][parts["test"]]).sum())
    if without:
        say(f"{without} of {len(parts['test'])} test pictures have no brain (one value); left out of brain only")
    for key in [key for key, value in stage.metrics.items() if math.isnan(value)]:
        del stage.metrics[key]
    for name, prefix in (("VQ-VAE", ""), ("2x bicubic copy", "copy_")):
        found = {key: mean_of(errors[f"{prefix}{key}"][parts["test"]]) for key in ("ssim", "ssim_brain")}
        wrong = mean_of(errors[f"{prefix}ssim_wrong_range"][parts["test"]])
        say(
            f"test, {name}: SSIM {found['ssim']:.4f}, in the brain only {found['ssim_brain']:.4f}; "
            f"with the wrong data range 2 it would look like {wrong:.4f}"
        )


@torch.no_grad()
def draw_brain(stage: Stage, split: Split, painter: Painter, indices: np.ndarray) -> None:
    """brain.png: five test pictures; brain.gif: up to 24, input | codes | output."""
    test, size = split.positions("test"), painter.model.config.codebook_size
    shown = spread(test, 24)
    painted = to_unit(painter.decode(torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device), shown))
    painted = painted.cpu()
    pictures = to_unit(split.pictures(shown))
    write_gif(stage.folder.path / "figures" / "brain.gif", pictures, indices[shown], painted, size)
    few = spread(np.arange(len(shown)), 5)
    stage.figure("brain", brain_figure(pictures[few], indices[shown][few], painted[few], size))
