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
from typing import Any

import numpy as np
import torch
from torch import Tensor

import components
from brain import brain_figure, slice_errors, write_gif, write_mri_csv
from cli import stage_main
from components import HEADER, Painter, mask_of, write_picture
from conditioning import Told
from config import Config, VQVAEReconstructionSection
from data_split import Split, from_model, note_data, open_split, to_model
from handoff import HandedVQVAE, take_vqvae
from masking import hide_components
from pipeline.figures import component_rows, index_map_figure, is_shown_plain, picture_grid, strips, usage_figure
from pipeline.files import InputError, read_csv, write_array, write_csv, write_json
from pipeline.machine import generator, prepare_machine
from pipeline.metrics import perplexity, picture_errors, share_used, to_unit
from pipeline.progress import progress_bar
from pipeline.stage import Stage, open_stage, say
from sources.pictures import decode_all
from sources.splitting import SPLITS
from sources.stacks import Stacks
from vqvae import VQVAE

BOOTSTRAP = 1000  # resamples behind the 95 % intervals of mri.csv


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the validation MSE in [0, 1] pixel units, or that of someone's own pictures."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.vqvae_reconstruction, open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device, tells=section.tell_metadata)
    inputs = {"data_split": str(split.folder), "train_vqvae": str(vqvae.folder)}
    own, config = own_data(section), vqvae.model.config
    told = told_of(section, vqvae, split, own is not None)
    painters = [Painter(vqvae.folder.name, vqvae.model, told, section.guidance_scale)]
    if section.rival is not None:
        other = take_vqvae(cfg, section.rival, split, machine.device)
        if other.folder == vqvae.folder:
            raise InputError(
                f"vqvae_reconstruction.rival is {other.folder}, the VQ-VAE itself; name another run folder"
            )
        painters.append(Painter(other.folder.name, other.model))
        inputs["rival"] = str(other.folder)
    if isinstance(own, list):  # what cannot be used is refused before there is a run folder
        mask = None if section.components is None else mask_of(split.components, section.components)
        own_pixels = load_own(own, config.image_size, config.channels, split.stacks)
    elif own is not None:
        own_indices = load_indices(own, config.grid, config.codebook_size)
    with open_stage("vqvae_reconstruction", cfg, inputs, section.model_dump_json(), machine, resume) as stage:
        note_data(stage, cfg, split)
        if isinstance(own, list):
            return reconstruct_own(stage, split, vqvae, own, own_pixels, mask, section.batch_size)
        if own is not None:
            return paint_own(stage, split, vqvae, own_indices, section.batch_size)
        indices, errors = reconstruct_split(split, painters[0], machine.device, section.batch_size, section.brain)
        store_indices(stage, split, vqvae, indices)
        write_pictures_csv(stage, split, errors)
        report(stage, split, vqvae, indices, errors)
        draw(stage, split, painters[0], indices, errors, section.grid_pictures)
        if vqvae.component_masking or len(painters) > 1:
            report_components(stage, split, painters, section.batch_size)
        if section.brain:
            report_brain(stage, split, errors, cfg.run.seed)
            draw_brain(stage, split, painters[0], indices)
        tables = ("pictures.csv", "components.csv", "mri.csv")
        stage.finish(vqvae.key(split), extra_artifacts=("indices", *tables))
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
            "python train_vqvae.py --train_vqvae.condition_classes class"
        )
    if scale != 1 and not vqvae.label_drop:
        raise InputError(
            f"{vqvae.folder} was trained without label dropping, so guidance_scale must be 1; type: "
            "python train_vqvae.py --train_vqvae.label_drop 0.1"
        )
    return vqvae.columns.tell(split.manifest)


@torch.no_grad()
def reconstruct_split(
    split: Split, painter: Painter, device: torch.device, batch_size: int, brain: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Indices (pictures, h, w) in the smallest unsigned type, and each measure per picture, in manifest order.

    brain: also those of `brain.slice_errors`.
    """
    model = painter.model
    count, grid = len(split.manifest), model.config.grid
    indices = np.zeros((count, grid, grid), dtype=smallest_unsigned(model.config.codebook_size))
    errors: dict[str, np.ndarray] = {}
    for start in progress_bar(range(0, count, batch_size), desc="reconstructing", unit="batch"):
        positions = np.arange(start, min(start + batch_size, count))
        x = split.pictures(positions).to(device)
        found = model.encode_indices(x)
        indices[positions] = found.cpu().numpy()
        painted, truth = to_unit(painter.decode(found, positions)), to_unit(x)
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
def draw_brain(stage: Stage, split: Split, painter: Painter, indices: np.ndarray) -> None:
    """brain.png: five test pictures; brain.gif: up to 24, input | codes | output."""
    test, size = split.positions("test"), painter.model.config.codebook_size
    shown = test[:: max(1, len(test) // 24)][:24]
    painted = to_unit(painter.decode(torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device), shown))
    painted = painted.cpu()
    pictures = to_unit(split.pictures(shown))
    write_gif(stage.folder.path / "figures" / "brain.gif", pictures, indices[shown], painted, size)
    few = slice(None, None, max(1, len(shown) // 5))
    stage.figure("brain", brain_figure(pictures[few][:5], indices[shown][few][:5], painted[few][:5], size))


def usage(indices: np.ndarray, codebook_size: int) -> Tensor:
    """(K,) how often each code occurs."""
    return torch.from_numpy(np.bincount(indices.ravel(), minlength=codebook_size))


def report_components(stage: Stage, split: Split, painters: list[Painter], batch_size: int) -> None:
    """components.csv and figures: each component painted from each other one, for one VQ-VAE or two."""
    test, device = split.positions("test"), stage.machine.device
    rows = components.measure_mean(split, test, batch_size)
    for number, painter in enumerate(painters):
        rows += components.measure(painter, split, test, device, batch_size)
        prefix = "rival_" if number else ""
        stage.figure(f"{prefix}component_errors", components.errors_figure(rows, painter.name, split.components))
        shown = test[:: max(1, len(test) // 3)][:3]
        stage.figure(f"{prefix}components", components.pictures_figure(painter, split, shown, device))
        for measured in ("mse", "ssim"):
            value = components.mean_of_others(rows, painter.name, measured)
            if value is not None:
                stage.metrics[f"{prefix}test_inpainting_{measured}"] = value
        seconds = float(np.median([row["seconds_per_picture"] for row in rows if row["model"] == painter.name]))
        stage.metrics[f"{prefix}seconds_per_picture"] = seconds
        error = stage.metrics.get(f"{prefix}test_inpainting_mse")
        others = "" if error is None else f"other components from one, MSE {error:.4f}, "
        say(f"{painter.name}: {others}{seconds * 1000:.2f} ms per picture")
    table = [[_shortened(row.get(name, "")) for name in HEADER] for row in rows]
    write_csv(stage.folder.path / "components.csv", HEADER, table)


def _shortened(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


@torch.no_grad()
def draw(
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
    shown = test[:: max(1, len(test) // 5)][:5]
    painted = painter.decode(torch.from_numpy(indices[shown].astype(np.int64)).to(stage.machine.device), shown)
    size = painter.model.config.codebook_size
    stage.figure("index_maps", index_maps(split, split.pictures(shown), indices[shown], painted, size))
    counts = usage(indices, size)
    stage.figure("codebook_usage", usage_figure(counts.numpy(), perplexity(counts)))


def index_maps(split: Split, pictures: Tensor, grids: np.ndarray, painted: Tensor, codes: int) -> Any:
    """pictures, painted: (B, C, H, W) in [-1, 1]."""
    shown = [to_unit(pictures), to_unit(painted)]
    if not is_shown_plain(split.components):
        shown = [strips(part) for part in shown]
    return index_map_figure(shown[0], grids, shown[1], codes)


# --- someone's own pictures -------------------------------------------------------------------------------------------


@torch.no_grad()
def reconstruct_own(
    stage: Stage,
    split: Split,
    vqvae: HandedVQVAE,
    files: list[Path],
    pixels: np.ndarray,
    mask: Tensor | None,
    batch_size: int,
) -> float:
    """Pictures fitted to the model's size, to own/NAME.png (stacks: also .npz) and own/indices.npy. Returns their mean
    MSE. mask: components that are hidden from the model, (C,) bool."""
    config, device = vqvae.model.config, stage.machine.device
    x = to_model(pixels)
    shown = x if mask is None else hide_components(x, mask)
    found = torch.cat(
        [vqvae.model.encode_indices(shown[i : i + batch_size].to(device)) for i in range(0, len(x), batch_size)]
    )
    painted = paint(vqvae.model, found, batch_size)
    errors = picture_errors(to_unit(painted), to_unit(x))
    folder = stage.folder.path / "own"
    for number, file in enumerate(progress_bar(files, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}_{file.stem}", from_model(painted[number : number + 1])[0], split)
    write_array(folder / "indices.npy", found.cpu().numpy().astype(smallest_unsigned(config.codebook_size)))
    if len(split.components) > 1:  # one column for each component, too
        each = components.component_errors(to_unit(painted), to_unit(x))
        errors |= {
            f"{measured}_{name}": values[:, place]
            for measured, values in each.items()
            for place, name in enumerate(split.components)
        }
    rows = [[str(file), *(f"{float(values[i]):.6g}" for values in errors.values())] for i, file in enumerate(files)]
    write_csv(folder / "pictures.csv", ("path", *errors), rows)
    grids = found[:8].cpu().numpy()
    stage.figure("own", index_maps(split, x[:8], grids, painted[:8], config.codebook_size))
    stage.metrics |= {f"own_{name}": float(values.mean()) for name, values in errors.items()}
    if mask is not None:
        hidden = [name for name, is_hidden in zip(split.components, mask.tolist(), strict=True) if is_hidden]
        say(f"painted without having seen {', '.join(hidden) or 'nothing'}")
    say(
        f"{len(files)} pictures, fitted to {config.image_size}x{config.image_size} (centre crop): "
        f"PSNR {stage.metrics['own_psnr']:.2f} dB, in {folder}"
    )
    stage.finish(None, extra_artifacts=("own",))
    return stage.metrics["own_mse"]


@torch.no_grad()
def paint_own(stage: Stage, split: Split, vqvae: HandedVQVAE, indices: np.ndarray, batch_size: int) -> float:
    """Pictures of indices (B, h, w) to own/NNNNN.png. Returns how many there were."""
    painted = from_model(paint(vqvae.model, torch.from_numpy(indices).to(stage.machine.device), batch_size))
    folder = stage.folder.path / "own"
    for number, picture in enumerate(progress_bar(painted, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}", picture, split)
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
    if section.components is not None and section.input is None:
        raise InputError("--components needs pictures; type --input FILE_OR_FOLDER with it")
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


def load_own(files: list[Path], size: int, channels: int, stacks: Stacks | None) -> np.ndarray:
    """(B, H, W, C) uint8. Raises InputError that lists the files that cannot be used."""
    decoded = list(decode_all([str(file) for file in files], size, channels, workers=0, stacks=stacks))
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


def main() -> int:
    shortcuts = {f"--{key}": f"vqvae_reconstruction.{key}" for key in ("input", "components", "indices")}
    return stage_main("vqvae_reconstruction", run, __doc__ or "", shortcuts)


if __name__ == "__main__":
    sys.exit(main())
