"""Stage 3: every picture through the best VQ-VAE, its indices kept for the stages that follow.

Reads:  runs/data_split/<best>, runs/train_vqvae/<best>
Writes: runs/vqvae_reconstruction/<run>/ with indices/ (indices.npy, labels.npy, manifest.csv, codebook.npy,
        meta.json), pictures.csv (MSE, PSNR, SSIM of each picture) and figures; with `brain` also mri.csv,
        figures/brain.png and figures/brain.gif

    python vqvae_reconstruction.py
    python vqvae_reconstruction.py --input FOLDER_OR_FILE      your own pictures: reconstructions and indices in own/
    python vqvae_reconstruction.py --indices indices.npy       the way back: indices to pictures in own/
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brain import brain_figure, slice_errors, write_gif, write_mri_csv
from cli import stage_main
from config import Config, VQVAEReconstructionSection
from data_split import Split, from_model, note_data, open_split, to_model
from handoff import HandedVQVAE, take_vqvae
from pipeline.figures import index_map_figure, picture_grid, usage_figure
from pipeline.files import InputError, read_csv, replacing, write_array, write_csv, write_json
from pipeline.machine import generator, prepare_machine
from pipeline.metrics import perplexity, picture_errors, share_used, to_unit
from pipeline.progress import progress_bar
from pipeline.stage import Stage, open_stage, say
from sources.pictures import decode_all
from sources.splitting import SPLITS
from vqvae import VQVAE

BOOTSTRAP = 1000  # resamples behind the 95 % intervals of mri.csv


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the validation MSE in [0, 1] pixel units, or that of someone's own pictures."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.vqvae_reconstruction, open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    inputs = {"data_split": str(split.folder), "train_vqvae": str(vqvae.folder)}
    own, config = own_data(section), vqvae.model.config
    if isinstance(own, list):  # what cannot be used is refused before there is a run folder
        own_pixels = load_own(own, config.image_size, config.channels)
    elif own is not None:
        own_indices = load_indices(own, config.grid, config.codebook_size)
    with open_stage("vqvae_reconstruction", cfg, inputs, section.model_dump_json(), machine, resume) as stage:
        note_data(stage, cfg, split)
        if isinstance(own, list):
            return reconstruct_own(stage, vqvae, own, own_pixels, section.batch_size)
        if own is not None:
            return paint_own(stage, vqvae, own_indices, section.batch_size)
        indices, errors = reconstruct_split(split, vqvae.model, machine.device, section.batch_size, section.brain)
        store_indices(stage, split, vqvae, indices)
        write_pictures_csv(stage, split, errors)
        report(stage, split, vqvae, indices, errors)
        draw(stage, split, vqvae, indices, errors, section.grid_pictures)
        if section.brain:
            report_brain(stage, split, errors, cfg.run.seed)
            draw_brain(stage, split, vqvae.model, indices)
        stage.finish(vqvae.key(split), extra_artifacts=("indices", "pictures.csv", "mri.csv"))
        return stage.metrics["val_mse"]


@torch.no_grad()
def reconstruct_split(
    split: Split, model: VQVAE, device: torch.device, batch_size: int, brain: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices (pictures, h, w) in the smallest unsigned type, and each measure per picture, in manifest order.

    brain: also those of `brain.slice_errors`.
    """
    count, grid = len(split.manifest), model.config.grid
    indices = np.zeros((count, grid, grid), dtype=smallest_unsigned(model.config.codebook_size))
    errors: dict[str, np.ndarray] = {}
    for start in progress_bar(range(0, count, batch_size), desc="reconstructing", unit="batch"):
        positions = np.arange(start, min(start + batch_size, count))
        x = split.pictures(positions).to(device)
        found = model.encode_indices(x)
        indices[positions] = found.cpu().numpy()
        painted, truth = to_unit(model.decode_indices(found)), to_unit(x)
        measured = picture_errors(painted, truth) | (slice_errors(painted, truth) if brain else {})
        for name, values in measured.items():
            errors.setdefault(name, np.zeros(count))[positions] = values.cpu().numpy()
    return indices, errors


def smallest_unsigned(codes: int) -> np.dtype:
    """uint8 up to 256 codes, uint16 up to 65,536, else uint32."""
    return np.min_scalar_type(codes - 1)


def store_indices(stage: Stage, split: Split, vqvae: HandedVQVAE, indices: np.ndarray) -> None:
    """indices/: a data set of its own, with all that is needed to use it elsewhere."""
    folder = stage.folder.path / "indices"
    write_array(folder / "indices.npy", indices)
    write_array(folder / "labels.npy", split.labels)
    write_array(folder / "codebook.npy", vqvae.model.codebook_vectors().cpu().numpy())
    rows = read_csv(split.folder / "manifest.csv")
    write_csv(folder / "manifest.csv", list(rows[0]), [list(row.values()) for row in rows])
    meta = {**split.identity, **vqvae.identity, "vqvae": str(vqvae.folder), "classes": split.classes}
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


def mean_of(values: np.ndarray) -> float:
    """Over the pictures that have the measure (one without brain has none in the brain); nan when none has."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def report_brain(stage: Stage, split: Split, errors: dict[str, np.ndarray], seed: int) -> None:
    """mri.csv, and the test numbers side by side. Metrics without any picture are dropped."""
    parts = {part: split.positions(part) for part in SPLITS}
    write_mri_csv(stage.folder.path / "mri.csv", errors, parts, BOOTSTRAP, generator(seed, 0))
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
def draw_brain(stage: Stage, split: Split, model: VQVAE, indices: np.ndarray) -> None:
    """brain.png: five test pictures; brain.gif: up to 24, input | codes | output."""
    test, size = split.positions("test"), model.config.codebook_size
    shown = test[:: max(1, len(test) // 24)][:24]
    painted = to_unit(paint(model, torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device), 24))
    pictures = to_unit(split.pictures(shown))
    write_gif(stage.folder.path / "figures" / "brain.gif", pictures, indices[shown], painted, size)
    few = slice(None, None, max(1, len(shown) // 5))
    stage.figure("brain", brain_figure(pictures[few][:5], indices[shown][few][:5], painted[few][:5], size))


def usage(indices: np.ndarray, codebook_size: int) -> Tensor:
    """(K,) how often each code occurs."""
    return torch.from_numpy(np.bincount(indices.ravel(), minlength=codebook_size))


@torch.no_grad()
def draw(
    stage: Stage, split: Split, vqvae: HandedVQVAE, indices: np.ndarray, errors: dict[str, np.ndarray], count: int
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
        painted = vqvae.model.decode_indices(
            torch.from_numpy(indices[chosen].astype(np.int64)).to(stage.machine.device)
        )
        rows += [(name, to_unit(split.pictures(chosen))), ("painted", to_unit(painted))]
    stage.figure("worst_median_best", picture_grid(rows))
    shown = test[:: max(1, len(test) // 5)][:5]
    painted = vqvae.model.decode_indices(torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device))
    size = vqvae.model.config.codebook_size
    stage.figure("index_maps", index_map_figure(to_unit(split.pictures(shown)), indices[shown], to_unit(painted), size))
    counts = usage(indices, size)
    stage.figure("codebook_usage", usage_figure(counts.numpy(), perplexity(counts)))


# --- someone's own pictures -------------------------------------------------------------------------------------------


@torch.no_grad()
def reconstruct_own(stage: Stage, vqvae: HandedVQVAE, files: list[Path], pixels: np.ndarray, batch_size: int) -> float:
    """Pictures fitted to the model's size, to own/NAME.png and own/indices.npy. Returns their mean MSE."""
    config, device = vqvae.model.config, stage.machine.device
    x = to_model(pixels)
    found = torch.cat(
        [vqvae.model.encode_indices(x[i : i + batch_size].to(device)) for i in range(0, len(x), batch_size)]
    )
    painted = paint(vqvae.model, found, batch_size)
    errors = picture_errors(to_unit(painted), to_unit(x))
    folder = stage.folder.path / "own"
    for number, file in enumerate(progress_bar(files, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}_{file.stem}.png", from_model(painted[number : number + 1])[0])
    write_array(folder / "indices.npy", found.cpu().numpy().astype(smallest_unsigned(config.codebook_size)))
    rows = [[str(file), *(f"{float(values[i]):.6g}" for values in errors.values())] for i, file in enumerate(files)]
    write_csv(folder / "pictures.csv", ("path", *errors), rows)
    shown = slice(0, 8)
    stage.figure(
        "own",
        index_map_figure(to_unit(x[shown]), found[shown].cpu().numpy(), to_unit(painted[shown]), config.codebook_size),
    )
    stage.metrics |= {f"own_{name}": float(values.mean()) for name, values in errors.items()}
    say(
        f"{len(files)} pictures, fitted to {config.image_size}x{config.image_size} (centre crop): "
        f"PSNR {stage.metrics['own_psnr']:.2f} dB, in {folder}"
    )
    stage.finish(None, extra_artifacts=("own",))
    return stage.metrics["own_mse"]


@torch.no_grad()
def paint_own(stage: Stage, vqvae: HandedVQVAE, indices: np.ndarray, batch_size: int) -> float:
    """Pictures of indices (B, h, w) to own/NNNNN.png. Returns how many there were."""
    painted = from_model(paint(vqvae.model, torch.from_numpy(indices).to(stage.machine.device), batch_size))
    folder = stage.folder.path / "own"
    for number, picture in enumerate(progress_bar(painted, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}.png", picture)
    stage.metrics["own_pictures"] = len(painted)
    say(f"{len(painted)} pictures painted, in {folder}")
    stage.finish(None, extra_artifacts=("own",))
    return float(len(painted))


def paint(model: VQVAE, indices: Tensor, batch_size: int) -> Tensor:
    """(B, h, w) -> (B, C, H, W) in [-1, 1], on the CPU."""
    return torch.cat(
        [model.decode_indices(indices[i : i + batch_size]).cpu() for i in range(0, len(indices), batch_size)]
    )


def own_data(section: VQVAEReconstructionSection) -> list[Path] | Path | None:
    """The files of --input, the file of --indices, or None for the split. Raises InputError for both at once."""
    if section.input is not None and section.indices is not None:
        raise InputError("--input and --indices exclude each other; give one of them")
    if section.input is not None:
        return own_files(Path(section.input))
    return Path(section.indices) if section.indices is not None else None


def own_files(source: Path) -> list[Path]:
    """A picture file, or all files in a folder. Raises InputError when there is none."""
    if source.is_file():
        return [source]
    files = sorted(file for file in source.iterdir() if file.is_file()) if source.is_dir() else []
    if not files:
        raise InputError(f"--input {source} is neither a picture nor a folder with pictures in it")
    return files


def load_own(files: list[Path], size: int, channels: int) -> np.ndarray:
    """(B, H, W, C) uint8. Raises InputError that lists the files that cannot be used."""
    decoded = list(decode_all([str(file) for file in files], size, channels, workers=0))
    broken = [f"{one.path} {one.problem}" for one in decoded if one.problem]
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} files cannot be used: {'; '.join(broken[:5])}")
    return np.stack([one.pixels for one in decoded if one.pixels is not None])


def load_indices(file: Path, grid: int, codebook_size: int) -> np.ndarray:
    """(B, h, w) int64 of a .npy file with one grid or several. Raises InputError when they do not fit the model."""
    try:
        indices = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--indices {file} is not a .npy file of whole numbers") from error
    indices = indices[None] if indices.ndim == 2 else indices
    if indices.ndim != 3 or indices.shape[1:] != (grid, grid) or not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"--indices {file} is {indices.dtype} {indices.shape}; expected whole numbers (pictures, {grid}, {grid})"
        )
    if indices.size and not 0 <= indices.min() <= indices.max() < codebook_size:
        raise InputError(
            f"--indices {file} has codes {indices.min()} to {indices.max()}; expected 0 to {codebook_size - 1}"
        )
    return indices.astype(np.int64)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """(H, W, C) uint8 -> PNG."""
    with replacing(path) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")


def main() -> int:
    shortcuts = {"--input": "vqvae_reconstruction.input", "--indices": "vqvae_reconstruction.indices"}
    return stage_main("vqvae_reconstruction", run, __doc__ or "", shortcuts)


if __name__ == "__main__":
    sys.exit(main())
