"""Stage 3: every picture through the best VQ-VAE, its indices kept for the stages that follow.

Reads:  runs/data_split/<best>, runs/train_vqvae/<best>
Writes: runs/vqvae_reconstruction/<run>/ with indices/ (indices.npy, labels.npy, manifest.csv, codebook.npy,
        meta.json), pictures.csv (MSE, PSNR, SSIM of each picture) and figures; components.csv when the VQ-VAE was
        trained with component masking; with `brain` also mri.csv, figures/brain.png and figures/brain.gif

    python vqvae_reconstruction.py
    python vqvae_reconstruction.py --input FOLDER_OR_FILE      your own pictures: reconstructions and indices in own/
    python vqvae_reconstruction.py --input STACKS --components a,b       all components painted from these
    python vqvae_reconstruction.py --indices indices.npy       the way back: indices to pictures in own/
"""

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from masked_memory.handoff.handed import lacks_label_drop
from masked_memory.handoff.shipped import lend
from masked_memory.handoff.split import Split, mask_of, note_data, open_split
from masked_memory.handoff.vqvae import HandedVQVAE, take_vqvae
from masked_memory.measuring.brain import draw_brain, mean_of, report_brain, slice_errors
from masked_memory.measuring.components import Painter, index_maps, report_components, usage
from masked_memory.models.conditioning import Told
from masked_memory.models.sizes import painting_bytes
from masked_memory.own_picture.reconstructing import load_indices, load_own, own_data, paint_own, reconstruct_own
from masked_memory.pipeline.batch_cache import forget, remembering
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.figures import component_rows, picture_grid, usage_figure
from masked_memory.pipeline.files import (
    InputError,
    file_digests,
    read_csv,
    smallest_unsigned,
    write_array,
    write_csv,
    write_json,
)
from masked_memory.pipeline.machine import Machine, prepare_machine
from masked_memory.pipeline.metrics import perplexity, picture_errors, share_used, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.vqvae_reconstruction import VQVAEReconstructionSection
from masked_memory.sources.splitting import SPLITS, spread


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the validation MSE in [0, 1] pixel units, or that of someone's own pictures."""
    machine, section = prepare_machine(cfg.run, say), cfg.vqvae_reconstruction
    own = own_data(section)
    if own is not None:
        cfg = lend(cfg)
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device, tells=section.tell_metadata)
    config = vqvae.model.config
    told = told_of(section, vqvae, split, own is not None)
    rival = None
    painters = [Painter(vqvae.folder.name, vqvae.model, told, section.guidance_scale)]
    if section.rival is not None:
        rival = take_vqvae(cfg, section.rival, split, machine.device, rival=True)
        if rival.folder == vqvae.folder:
            raise InputError(
                f"vqvae_reconstruction.rival is {rival.folder}, the VQ-VAE itself; name another run folder"
            )
        painters.append(Painter(rival.folder.name, rival.model))
    if isinstance(own, list):  # what cannot be used is refused before there is a run folder
        mask = None if section.components is None else mask_of(split.components, section.components)
        own_pixels = load_own(own, config.image_size, config.channels, split.stacks)
    elif own is not None:
        own_indices = load_indices(own, config.grid, config.codebook_size)
    inputs = inputs_of([split, vqvae], rival=rival)
    with open_stage("vqvae_reconstruction", cfg, inputs, machine, resume) as stage:
        note_data(stage, cfg, split)
        if isinstance(own, list):
            return reconstruct_own(stage, split, vqvae, own, own_pixels, mask, section.batch_size)
        if own is not None:
            return paint_own(stage, split, vqvae, own_indices, section.batch_size)
        indices, errors = reconstruct_split(
            split, painters[0], machine, section.batch_size, section.brain, stage.last / "batches"
        )
        store_indices(stage, split, vqvae, indices)
        write_pictures_csv(stage, split, errors)
        report(stage, split, vqvae, indices, errors)
        draw_figures(stage, split, painters[0], indices, errors, section.grid_pictures)
        if vqvae.component_masking or len(painters) > 1:
            report_components(stage, split, painters, section.batch_size)
        if section.brain:
            report_brain(stage, split, errors, cfg.run.seed)
            draw_brain(stage, split, painters[0], indices)
        tables = ("pictures.csv", "components.csv", "mri.csv")
        stage.finish(vqvae.key(split), extra_artifacts=("indices", *tables))
        forget(stage.last / "batches")
        return stage.metrics["val_mse"]


def told_of(section: VQVAEReconstructionSection, vqvae: HandedVQVAE, split: Split, own: bool) -> Told | None:
    """What the decoder is told about each picture of the manifest; None when it is told nothing.

    Raises InputError for guidance or metadata that the model, or pictures of one's own, do not have.
    """
    scale = section.guidance_scale
    if not section.tell_metadata:
        if scale != 1:
            raise InputError(
                f"vqvae_reconstruction.guidance_scale is {scale:g}, but nothing is told; "
                "type --vqvae_reconstruction.tell_metadata true"
            )
        return None
    if own:
        raise InputError("pictures and indices of your own have no metadata; leave tell_metadata false")
    if not vqvae.columns:
        raise InputError(
            f"{vqvae.folder} was trained without conditions, so nothing can be told; type: "
            f"{command('train_vqvae')} --train_vqvae.condition_classes class"
        )
    if scale != 1 and not vqvae.label_drop:
        remedy = f"type: {command('train_vqvae')} --train_vqvae.label_drop 0.1"
        raise lacks_label_drop(vqvae.folder, "guidance_scale must be 1", remedy)
    return vqvae.columns.tell(split.manifest)


@torch.no_grad()
def reconstruct_split(
    split: Split, painter: Painter, machine: Machine, batch_size: int, brain: bool = False, notes: Path | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices (pictures, h, w) in the smallest unsigned type, and each measure per picture, in manifest order.

    brain: also those of `brain.slice_errors`. notes: a folder for finished batches, from which a second call goes on.
    """
    model = painter.model
    count, grid = len(split.manifest), model.config.grid
    indices = np.zeros((count, grid, grid), dtype=smallest_unsigned(model.config.codebook_size))
    errors: dict[str, np.ndarray] = {}

    def of_batch(start: int) -> Reconstructed:
        positions = np.arange(start, min(start + batch_size, count))
        x = split.pictures(positions).to(machine.device)
        found = model.encode_indices(x)
        painted, truth = to_unit(painter.decode(found, positions)), to_unit(x)
        measured = picture_errors(painted, truth) | (slice_errors(painted, truth) if brain else {})
        return Reconstructed(found.cpu().numpy(), {name: values.cpu().numpy() for name, values in measured.items()})

    batch_size = machine.at_once(painting_bytes(model.config), batch_size)
    starts = range(0, count, batch_size)
    work = remembering(notes and notes / f"of {batch_size}", of_batch, lambda parts: Reconstructed(*parts))
    done = progress_bar(machine.world.map(work, starts), desc="reconstructing", unit="batch", total=len(starts))
    for start, (found, measured) in zip(starts, done, strict=True):
        indices[start : start + batch_size] = found
        for name, values in measured.items():
            errors.setdefault(name, np.zeros(count))[start : start + batch_size] = values
    return indices, errors


class Reconstructed(NamedTuple):
    """A batch: indices (B, h, w), and measures (B,)."""

    indices: np.ndarray
    measured: dict[str, np.ndarray]


def store_indices(stage: Stage, split: Split, vqvae: HandedVQVAE, indices: np.ndarray) -> None:
    """indices/: a data set of its own, with all that is needed to use it elsewhere."""
    folder = stage.folder.path / "indices"
    write_array(folder / "indices.npy", indices)
    write_array(folder / "labels.npy", split.labels)
    write_array(folder / "codebook.npy", vqvae.model.codebook_vectors().cpu().numpy())
    rows = read_csv(split.folder / "manifest.csv")
    write_csv(folder / "manifest.csv", list(rows[0]), [list(row.values()) for row in rows])
    meta = {**split.identity, **vqvae.identity, "vqvae": str(vqvae.folder), "classes": split.classes}
    meta["files"] = file_digests(folder, ("indices.npy", "labels.npy", "codebook.npy", "manifest.csv"))
    write_json(folder / "meta.json", stage.described(meta))


def write_pictures_csv(stage: Stage, split: Split, errors: dict[str, np.ndarray]) -> None:
    rows = [
        [position, row["path"], row["class"], row["split"], *(f"{errors[name][position]:.6g}" for name in errors)]
        for position, row in enumerate(split.manifest)
    ]
    write_csv(stage.folder.path / "pictures.csv", ("position", "path", "class", "split", *errors), rows)


def bits_per_pixel(tokens: int, codebook_size: int, image_size: int) -> float:
    """N * log2(K) bits for H * W pixels: indices stored as they are, without entropy coding."""
    return tokens * math.log2(codebook_size) / image_size**2


def report(stage: Stage, split: Split, vqvae: HandedVQVAE, indices: np.ndarray, errors: dict[str, np.ndarray]) -> None:
    config = vqvae.model.config
    for part in SPLITS:
        positions = split.positions(part)
        counts = usage(indices[positions], config.codebook_size)
        stage.metrics |= {f"{part}_{name}": mean_of(values[positions]) for name, values in errors.items()}
        stage.metrics |= {f"{part}_perplexity": perplexity(counts), f"{part}_codes_used": share_used(counts)}
    bpp = bits_per_pixel(config.tokens, config.codebook_size, config.image_size)
    stage.metrics |= {"bits_per_pixel": bpp, "compression_ratio": 8 * config.channels / bpp}
    say(
        f"{bpp:.3f} bits per pixel, {8 * config.channels / bpp:.1f} times smaller than the raw pixels; "
        f"test PSNR {stage.metrics['test_psnr']:.2f} dB"
    )


@torch.no_grad()
def draw_figures(
    stage: Stage, split: Split, painter: Painter, indices: np.ndarray, errors: dict[str, np.ndarray], count: int
) -> None:
    """Worst, median and best test pictures; index maps; how often each code is used."""
    test = split.positions("test")
    ranked = test[np.argsort(-errors["mse"][test], kind="stable")]
    middle = max(0, (len(ranked) - count) // 2)
    rows = []
    for name, chosen in (
        ("worst", ranked[:count]),
        ("median", ranked[middle : middle + count]),
        ("best", ranked[-count:]),
    ):
        painted = painter.decode(torch.from_numpy(indices[chosen].astype(np.int64)).to(stage.machine.device), chosen)
        rows += [(name, to_unit(split.pictures(chosen))), ("painted", to_unit(painted))]
    stage.figure("worst_median_best", picture_grid(component_rows(rows, split.components)))
    shown = spread(test, 5)
    painted = painter.decode(torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device), shown)
    size = painter.model.config.codebook_size
    stage.figure("index_maps", index_maps(split, split.pictures(shown), indices[shown], painted, size))
    counts = usage(indices, size)
    stage.figure("codebook_usage", usage_figure(counts.numpy(), perplexity(counts)))


def main() -> int:
    shortcuts = {f"--{key}": f"vqvae_reconstruction.{key}" for key in ("input", "components", "indices")}
    return stage_main("vqvae_reconstruction", run, __doc__ or "", shortcuts, parallel=True)


if __name__ == "__main__":
    sys.exit(main())
