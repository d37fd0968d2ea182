"""Pictures of your own through the VQ-VAE: codes, reconstruction, errors; and painting of stored codes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedVQVAE
from masked_memory.measuring.components import component_errors, index_maps, write_picture
from masked_memory.pipeline.files import InputError, smallest_unsigned, write_array, write_csv
from masked_memory.pipeline.metrics import picture_errors, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.stage import Stage, say
from masked_memory.settings.vqvae_reconstruction import VQVAEReconstructionSection
from masked_memory.sources.pictures import decode_all
from masked_memory.sources.pixels import from_model, to_model
from masked_memory.sources.stacks import Stacks
from masked_memory.stages.masking import hide_components

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
    painted = vqvae.paint(found.flatten(1), batch_size)
    errors = picture_errors(to_unit(painted), to_unit(x))
    folder = stage.folder.path / "own"
    for number, file in enumerate(progress_bar(files, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}_{file.stem}", from_model(painted[number : number + 1])[0], split)
    write_array(folder / "indices.npy", found.cpu().numpy().astype(smallest_unsigned(config.codebook_size)))
    if len(split.components) > 1:  # one column for each component, too
        each = component_errors(to_unit(painted), to_unit(x))
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
    painted = from_model(vqvae.paint(torch.from_numpy(indices).flatten(1), batch_size))
    folder = stage.folder.path / "own"
    for number, picture in enumerate(progress_bar(painted, desc="writing", unit="picture")):
        write_picture(folder / f"{number:05d}", picture, split)
    stage.metrics["own_pictures"] = len(painted)
    say(f"{len(painted)} pictures painted, in {folder}")
    stage.finish(None, extra_artifacts=("own",))
    return float(len(painted))


def own_data(section: VQVAEReconstructionSection) -> list[Path] | Path | None:
    """The files of --input, the file of --indices, or None for the split. Raises InputError for both at once."""
    if section.input is not None and section.indices is not None:
        raise InputError("--input and --indices exclude each other; give one of them")
    if section.components is not None and section.input is None:
        raise InputError("--components needs pictures; type --input FILE_OR_FOLDER with it")
    if section.input is not None:
        return input_files(Path(section.input))
    return Path(section.indices) if section.indices is not None else None


def input_files(source: Path) -> list[Path]:
    """A picture file, or all files in a folder. Raises InputError when there is none."""
    if source.is_file():
        return [source]
    files = sorted(file for file in source.iterdir() if file.is_file()) if source.is_dir() else []
    if not files:
        raise InputError(f"--input {source} is neither a picture nor a folder with pictures in it")
    return files


def load_own(files: list[Path], size: int, channels: int, stacks: Stacks | None) -> np.ndarray:
    """(B, H, W, C) uint8. Raises InputError that lists the files that cannot be used."""
    decoded = list(decode_all(files, size, channels, workers=0, stacks=stacks))
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
    if not isinstance(indices, np.ndarray):
        raise InputError(f"--indices {file} is an .npz file; expected a .npy file of whole numbers")
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
