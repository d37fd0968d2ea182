"""New pictures from a prior, of a class if wanted; or test pictures with a part filled in by it.

Reads:  the best VQ-VAE, its indices, and a prior: runs/train_prior/<best> (pixelcnn, gan) or runs/train_distil/<best>
Writes: runs/sample/<run>/ with pictures/, indices.npy, samples.csv, figures/grid.png

    python sample.py
    python sample.py --mode conditional --class 3 --guidance-scale 2 --num-samples 32
    python sample.py --mode inpainting --prior distil --sample.mask block --sample.percent 50
    python sample.py --config presets/components.yaml --mode inpainting --components luminance,edges

The PixelCNN draws code after code, the GAN makes all codes at once, the DistilBERT fills an empty grid in several
passes. With --components a VQ-VAE that was trained with component masking fills in by itself. Masks: True = masked, to
be drawn.
"""

import math
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handoff.asking import Asked, check_request, take_drawer
from handoff.split import Split, mask_of, mend, note_data, open_split
from handoff.vqvae import HandedIndices, HandedVQVAE, take_indices, take_vqvae
from masking import block_order, half_order, mask_first, masked_count, random_order
from measuring.components import Painter, component_errors, write_picture
from measuring.nearest import nearest_training
from pipeline.figures import component_rows, picture_grid
from pipeline.files import InputError, write_array, write_csv
from pipeline.machine import Machine, generator, prepare_machine
from pipeline.metrics import picture_errors, to_unit
from pipeline.stage import Stage, open_stage, say
from recall.completing import blank_out
from recall.fillers import Drawer
from settings.command import Shortcut, stage_main
from settings.config import Config
from settings.sample import SampleSection
from sources.pixels import from_model

SHORTCUTS: dict[str, Shortcut] = {
    "--mode": "sample.mode",
    "--prior": "sample.prior",
    "--num-samples": "sample.num_samples",
    "--temperature": "sample.temperature",
    "--top-k": "sample.top_k",
    "--guidance-scale": "sample.guidance_scale",
    "--components": "sample.components",
    "--class": "sample.label",
    "--values": "sample.values",
    "--seed": "run.seed",
}
DRAW_STREAM, MASK_STREAM = 401, 402


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns seconds per picture for drawing the codes."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.sample, open_split(cfg)
    check_request(section, split)
    if section.components is not None:
        return paint_components(cfg, split, machine, resume)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    drawer, asked = take_drawer(cfg, split, vqvae, machine)
    inputs = {
        "data_split": str(split.folder),
        "train_vqvae": str(vqvae.folder),
        "vqvae_reconstruction": str(indices.folder),
        "prior": str(drawer.folder),
    }
    identity = f"{cfg.run.seed} {section.model_dump_json()}"
    with open_stage("sample", cfg, inputs, identity, machine, resume) as stage, torch.no_grad():
        note_data(stage, cfg, split)
        if section.mode == "inpainting":
            inpaint(stage, section, drawer, asked, split, indices, vqvae, cfg.run.seed)
        else:
            invent(stage, section, drawer, asked, split, vqvae, cfg.run.seed)
        stage.finish(None, extra_artifacts=("pictures", "indices.npy", "samples.csv"))
        return stage.metrics["seconds_per_picture"]


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw_all(
    stage: Stage, drawer: Drawer, asked: Asked, tokens: Tensor, mask: Tensor, batch_size: int, seed: int
) -> Tensor:
    """(B, N) -> (B, N) on the CPU, in batches; notes the seconds per picture."""
    device, parts = stage.machine.device, []
    started = time.perf_counter()
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, start + batch_size)
        told = None if asked.told is None else asked.told[: len(tokens)][rows]
        draws = generator(seed, DRAW_STREAM, start)
        parts.append(drawer.fill(tokens[rows].to(device), mask[rows].to(device), told, draws).cpu())
    stage.metrics["seconds_per_picture"] = (time.perf_counter() - started) / len(tokens)
    stage.metrics["batch_size"] = min(batch_size, len(tokens))
    say(f"{1000 * stage.metrics['seconds_per_picture']:.3g} ms per picture in batches of {batch_size}")
    return torch.cat(parts)


def invent(
    stage: Stage, section: SampleSection, drawer: Drawer, asked: Asked, split: Split, vqvae: HandedVQVAE, seed: int
) -> None:
    """New pictures, and the training picture that is nearest to each."""
    blank = torch.zeros(section.num_samples, vqvae.model.config.tokens, dtype=torch.long)
    tokens = draw_all(stage, drawer, asked, blank, torch.ones_like(blank, dtype=torch.bool), section.batch_size, seed)
    painted = vqvae.paint(tokens, section.batch_size)
    nearest = nearest_training(painted, split)
    names = write_pictures(stage, painted, split)
    write_grids(stage, tokens)
    classes = asked.classes or [""] * len(tokens)
    rows = [
        [number, name, label, split.manifest[position]["path"], f"{error:.6g}"]
        for number, (name, label, position, error) in enumerate(
            zip(names, classes, nearest.positions, nearest.errors.tolist(), strict=True)
        )
    ]
    header = ("sample", "file", "class", "nearest_training_picture", "mse_to_it")
    write_csv(stage.folder.path / "samples.csv", header, rows)
    stage.metrics["nearest_training_mse"] = float(nearest.errors.mean())
    shown = range(0, min(64, len(painted)), 8)
    grid = [("", to_unit(painted[start : start + 8])) for start in shown]
    stage.figure("grid", picture_grid(component_rows(grid, split.components)))


def inpaint(
    stage: Stage, section: SampleSection, drawer: Drawer, asked: Asked, split: Split, indices: HandedIndices,
    vqvae: HandedVQVAE, seed: int,
) -> None:  # fmt: skip
    """Test pictures with a part of their tokens drawn again, given the others."""
    test, device = split.positions("test"), stage.machine.device
    count = min(section.num_samples, len(test))
    positions = test[np.arange(count) * len(test) // count]
    tokens, side = indices.tokens(positions), vqvae.model.config.grid
    mask = missing_tokens(section, count, side, seed)
    drawn = draw_all(stage, drawer, asked, tokens, mask, section.batch_size, seed)
    painted = vqvae.paint(drawn, section.batch_size)
    pictures, whole = split.pictures(positions), vqvae.paint(tokens, section.batch_size)
    errors = picture_errors(to_unit(painted), to_unit(pictures)) | {
        f"{name}_to_reconstruction": values for name, values in picture_errors(to_unit(painted), to_unit(whole)).items()
    }
    names = write_pictures(stage, painted, split)
    write_grids(stage, drawn)
    right = ((drawn == tokens) & mask).sum(1) / mask.sum(1).clamp(min=1)
    rows = [
        [
            number,
            names[number],
            split.manifest[position]["path"],
            int(mask[number].sum()),
            f"{float(right[number]):.6g}",
        ]
        + [f"{float(values[number]):.6g}" for values in errors.values()]
        for number, position in enumerate(positions)
    ]
    header = ("sample", "file", "path", "missing_tokens", "right_codes", *errors)
    write_csv(stage.folder.path / "samples.csv", header, rows)
    stage.metrics |= {name: float(values.mean()) for name, values in errors.items()}
    stage.metrics["right_codes"] = float(right.mean())
    say(f"{count} test pictures: MSE {stage.metrics['mse']:.4f}, right codes {stage.metrics['right_codes']:.1%}")
    codebook = vqvae.model.codebook_vectors()
    codes = vqvae.model.embed_indices(tokens[:8].view(-1, side, side).to(device))
    left = vqvae.model.decode_codes(blank_out(codes, mask[:8].to(device), codebook.mean(0)))
    grid = [("original", to_unit(pictures[:8])), ("what is left", to_unit(left)), ("filled in", to_unit(painted[:8]))]
    stage.figure("grid", picture_grid(component_rows(grid, split.components)))


@torch.no_grad()
def paint_components(cfg: Config, split: Split, machine: Machine, resume: bool) -> float:
    """Test pictures of which some components are shown, all of them painted in one pass of the VQ-VAE. Returns seconds
    per picture."""
    section, names = cfg.sample, split.components
    mask = mask_of(names, section.components or [])
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device, masked=True)
    if not vqvae.component_masking:
        raise InputError(
            f"{vqvae.folder} was trained without component masking; type: "
            f"{mend('train_vqvae', cfg)} --train_vqvae.component_masking.enabled true"
        )
    say("the VQ-VAE paints the other components by itself; no prior is asked")
    inputs = {"data_split": str(split.folder), "train_vqvae": str(vqvae.folder)}
    with open_stage("sample", cfg, inputs, f"{cfg.run.seed} {section.model_dump_json()}", machine, resume) as stage:
        note_data(stage, cfg, split)
        test = split.positions("test")
        count = min(section.num_samples, len(test))
        positions = test[np.arange(count) * len(test) // count]
        painter, parts, started = Painter(vqvae.folder.name, vqvae.model), [], time.perf_counter()
        for start in range(0, count, section.batch_size):
            chosen = positions[start : start + section.batch_size]
            parts.append(painter.paint(split.pictures(chosen).to(machine.device), mask, chosen).cpu())
        stage.metrics["seconds_per_picture"] = (time.perf_counter() - started) / count
        painted, truth = torch.cat(parts), to_unit(split.pictures(positions))
        errors = component_errors(to_unit(painted), truth)
        header = [f"{measure}_{name}" for measure in errors for name in names]
        values = torch.cat(list(errors.values()), dim=1).tolist()
        files = write_pictures(stage, painted, split)
        rows = [
            [number, files[number], split.manifest[position]["path"], *(f"{value:.6g}" for value in values[number])]
            for number, position in enumerate(positions)
        ]
        write_csv(stage.folder.path / "samples.csv", ("sample", "file", "path", *header), rows)
        stage.metrics |= dict(zip(header, torch.tensor(values).mean(0).tolist(), strict=True))
        seen = truth.masked_fill(mask[:, None, None], 0.5)
        rows_shown = [("original", truth[:8]), ("shown", seen[:8]), ("painted", to_unit(painted[:8]))]
        stage.figure("grid", picture_grid(component_rows(rows_shown, names)))
        stage.finish(None, extra_artifacts=("pictures", "samples.csv"))
        return stage.metrics["seconds_per_picture"]


def missing_tokens(section: SampleSection, count: int, side: int, seed: int) -> Tensor:
    """(count, N) bool, True = missing: the same for every prior."""
    draws = generator(seed, MASK_STREAM)
    if section.mask == "random":
        order = random_order(count, side * side, draws)
    else:
        order = block_order(count, side, side, draws) if section.mask == "block" else half_order(count, side, side)
    return mask_first(order, masked_count(section.percent / 100, side * side))


def write_pictures(stage: Stage, painted: Tensor, split: Split) -> list[str]:
    """pictures/NNNNN.png (of stacks also .npz). Returns the names of the files."""
    names = [f"pictures/{number:05d}" for number in range(len(painted))]
    for name, pixels in zip(names, from_model(painted), strict=True):
        write_picture(stage.folder.path / name, pixels, split)
    return [f"{name}.png" for name in names]


def write_grids(stage: Stage, tokens: Tensor) -> None:
    """indices.npy: (B, h, w)."""
    side = math.isqrt(tokens.shape[1])
    write_array(stage.folder.path / "indices.npy", tokens.view(-1, side, side).numpy())


def main() -> int:
    return stage_main("sample", run, __doc__ or "", SHORTCUTS)


if __name__ == "__main__":
    sys.exit(main())
