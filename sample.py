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

import torch
from torch import Tensor

from masked_memory.handoff.memory import train_shares
from masked_memory.handoff.shipped import lend
from masked_memory.handoff.split import Split, mask_of, note_data, open_split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE, take_indices, take_masked_vqvae, take_vqvae
from masked_memory.measuring.components import Painter, component_errors, write_picture
from masked_memory.pipeline.batch_cache import forget, remembering
from masked_memory.pipeline.figures import component_rows, picture_grid
from masked_memory.pipeline.files import write_array, write_csv
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import picture_errors, to_unit
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.recall.hole import Hole, check_kept, dig, nothing_known
from masked_memory.recall.memory import average_code, paint
from masked_memory.recall.simple_fillers import NotCompleted
from masked_memory.rivals.handoff.prior_requests import Asked, check_request, take_asked
from masked_memory.rivals.measuring.nearest import nearest_training
from masked_memory.settings.command import Shortcut, stage_main
from masked_memory.settings.config import Config
from masked_memory.sources.pixels import from_model
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import masks_of

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


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns seconds per picture for drawing the codes."""
    machine, cfg = prepare_machine(cfg.run, say), lend(cfg)
    section, split = cfg.sample, open_split(cfg)
    check_request(section, split)
    if section.components is not None:
        return paint_components(cfg, split, machine, resume)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    asked = take_asked(cfg, split, vqvae, machine.bf16)
    inputs = inputs_of([split, vqvae, indices], prior=asked.prior)
    with open_stage("sample", cfg, inputs, machine, resume) as stage, torch.no_grad():
        note_data(stage, cfg, split)
        if section.mode == "inpainting":
            inpaint(stage, cfg, asked, split, indices, vqvae)
        else:
            invent(stage, cfg, asked, split, vqvae)
        forget(stage.last / "batches")
        stage.finish(None, extra_artifacts=("pictures", "indices.npy", "samples.csv"))
        return stage.metrics["seconds_per_picture"]


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw_all(stage: Stage, asked: Asked, hole: Hole, batch_size: int, seed: int) -> Tensor:
    """The hole (B pictures, on the CPU) filled in batches, of which finished ones are remembered: (B, N) on the CPU.
    Notes the seconds per picture."""
    device, count = stage.machine.device, len(hole.tokens)

    def of_batch(start: int) -> tuple[Tensor, float]:
        started, rows = time.perf_counter(), slice(start, start + batch_size)
        told = None if asked.told is None else asked.told[:count][rows]
        some = Hole(hole.tokens[rows].to(device), hole.mask[rows].to(device), told)
        filled = asked.filler.fill(some, "sample", generator(seed, Stream.SAMPLE_CODES, start))
        return check_kept(some, filled).tokens.cpu(), time.perf_counter() - started

    work = remembering(stage.last / "batches", of_batch)
    parts, taken = zip(*map(work, range(0, count, batch_size)), strict=True)
    stage.metrics["seconds_per_picture"] = sum(taken) / count
    stage.metrics["batch_size"] = min(batch_size, count)
    say(f"{1000 * stage.metrics['seconds_per_picture']:.3g} ms per picture in batches of {batch_size}")
    return torch.cat(parts)


def invent(stage: Stage, cfg: Config, asked: Asked, split: Split, vqvae: HandedVQVAE) -> None:
    """New pictures, and the training picture that is nearest to each."""
    section = cfg.sample
    blank = nothing_known(section.num_samples, vqvae.model.config.tokens, torch.device("cpu"))
    tokens = draw_all(stage, asked, blank, section.batch_size, cfg.run.seed)
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


def inpaint(stage: Stage, cfg: Config, asked: Asked, split: Split, indices: HandedIndices, vqvae: HandedVQVAE) -> None:
    """Test pictures with a part of their tokens drawn again, given the others."""
    section, seed = cfg.sample, cfg.run.seed
    positions = spread(split.positions("test"), section.num_samples)
    count, tokens = len(positions), indices.tokens(positions)
    mask = masks_of(section.mask, section.percent, count, vqvae.model.config.grid, generator(seed, Stream.SAMPLE_MASKS))
    hole = dig(tokens, mask)
    drawn = draw_all(stage, asked, hole, section.batch_size, seed)
    painted, whole = vqvae.paint(drawn, section.batch_size), vqvae.paint(tokens, section.batch_size)
    pictures = split.pictures(positions)
    errors = picture_errors(to_unit(painted), to_unit(pictures)) | {
        f"{name}_to_reconstruction": values for name, values in picture_errors(to_unit(painted), to_unit(whole)).items()
    }
    names = write_pictures(stage, painted, split)
    write_grids(stage, drawn)
    right = ((drawn == tokens) & mask).sum(1) / mask.sum(1).clamp(min=1)
    shares = {"right_codes": right} | errors
    rows = [
        [number, names[number], split.manifest[position]["path"], int(mask[number].sum())]
        + [f"{float(values[number]):.6g}" for values in shares.values()]
        for number, position in enumerate(positions)
    ]
    write_csv(stage.folder.path / "samples.csv", ("sample", "file", "path", "missing_tokens", *shares), rows)
    stage.metrics |= {name: float(values.mean()) for name, values in (errors | {"right_codes": right}).items()}
    say(f"{count} test pictures: MSE {stage.metrics['mse']:.4f}, right codes {stage.metrics['right_codes']:.1%}")
    left = what_is_left(Hole(hole.tokens[:8], mask[:8]), vqvae, train_shares(split, indices, vqvae))
    grid = [("original", to_unit(pictures[:8])), ("what is left", to_unit(left)), ("filled in", to_unit(painted[:8]))]
    stage.figure("grid", picture_grid(component_rows(grid, split.components)))


def what_is_left(hole: Hole, vqvae: HandedVQVAE, shares: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1]: painted with the average code of the training grids in the hole. shares: (N, K)."""
    codebook = vqvae.model.codebook_vectors()
    known = Hole(hole.tokens.to(vqvae.device), hole.mask.to(vqvae.device))
    return paint(vqvae.model, NotCompleted(codebook, average_code(shares, codebook)).fill(known, "expected", None))


@torch.no_grad()
def paint_components(cfg: Config, split: Split, machine: Machine, resume: bool) -> float:
    """Test pictures of which some components are shown, all of them painted in one pass of the VQ-VAE. Returns seconds
    per picture."""
    section, names = cfg.sample, split.components
    mask = mask_of(names, section.components or [])
    vqvae = take_masked_vqvae(cfg, section.vqvae, split, machine.device)
    say("the VQ-VAE paints the other components by itself; no prior is asked")
    with open_stage("sample", cfg, inputs_of([split, vqvae]), machine, resume) as stage:
        note_data(stage, cfg, split)
        positions = spread(split.positions("test"), section.num_samples)
        count = len(positions)
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
