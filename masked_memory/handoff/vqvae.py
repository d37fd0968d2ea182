"""The VQ-VAE and its indices, as they are handed on: found, loaded, and checked against each other.

A model is refused when it was made for another split, picture size, codebook or grid; the message has both values,
the file, and the command that mends it.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.handed import Handed, checked_meta, lacks_label_drop
from masked_memory.handoff.split import Split, make_again, mend
from masked_memory.handoff.taking import best_run, take_run
from masked_memory.models.conditioning import Columns, columns_of
from masked_memory.pipeline.files import InputError, check_digests, read_json
from masked_memory.pipeline.runs import Sought, check_handed, resolve_run
from masked_memory.pipeline.stage import say
from masked_memory.settings.config import Config
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.stages.vqvae import VQVAE


class HandedVQVAE(Handed[VQVAE]):
    """A VQ-VAE, and what names its codebook."""

    @property
    def codebook(self) -> str:
        return str(self.meta["codebook"])

    @property
    def identity(self) -> dict[str, Any]:
        """What indices, and models over indices, must agree on."""
        return {name: self.meta[name] for name in ("codebook", "codebook_size", "grid")}

    @property
    def columns(self) -> Columns:
        """The metadata that the decoder can be told; none in models of before it could."""
        found = self.meta.get("conditions")
        return columns_of(found) if found else Columns()

    @property
    def label_drop(self) -> float:
        """How often the decoder was told nothing in training; 1 when it never was told anything."""
        return float(self.meta["label_drop"]) if self.columns else 1.0

    @property
    def component_masking(self) -> bool:
        return bool(self.meta.get("component_masking"))

    @property
    def device(self) -> torch.device:
        return self.model.codebook_vectors().device

    def key(self, split: Split) -> str:
        return f"{split.key}-codebook {self.codebook}"

    @torch.no_grad()
    def paint(self, tokens: Tensor, batch_size: int = 250) -> Tensor:
        """(B, N) -> (B, C, H, W) in [-1, 1], on the CPU, in batches."""
        side = self.model.config.grid
        grids = tokens.view(-1, side, side)
        parts = [
            self.model.decode_indices(grids[i : i + batch_size].to(self.device))
            for i in range(0, len(grids), batch_size)
        ]
        return torch.cat(parts).cpu()

    def describe(self) -> str:
        grid = self.meta["grid"]
        return f"VQ-VAE {self.folder} (K {self.meta['codebook_size']}, {grid}x{grid} tokens)"


@dataclass(frozen=True)
class HandedIndices:
    """The stored indices of every picture of a split: (pictures, h, w), in manifest order."""

    folder: Path
    indices: np.ndarray

    @property
    def stage(self) -> str:
        return "vqvae_reconstruction"

    def tokens(self, positions: np.ndarray) -> Tensor:
        """(B, N) long."""
        return self.compact(positions).long()

    def compact(self, positions: np.ndarray) -> Tensor:
        """The same in fewer bytes, to be kept of many pictures; `.long()` of some rows are their tokens."""
        kind = np.uint8 if self.indices.dtype == np.uint8 else np.int32
        return torch.from_numpy(self.indices[positions].astype(kind)).flatten(1)


def vqvae_key(split: Split, section: TrainVQVAESection, masked: bool | None = None) -> str:
    """Names what competes for being the best: VQ-VAEs on the same split that are trained for the same.

    Those trained with component masking (masked; None: as the section says) are worse at whole pictures. Those whose
    decoder is told columns are measured with these told. The plain recipe of 2017 (stem: strided) is a rival.
    """
    masked = section.component_masking.enabled if masked is None else masked
    told = f"-told {', '.join(sorted(told_columns(section)))}" if told_columns(section) else ""
    plain = "-strided" if section.stem == "strided" else ""
    return f"{split.key}{'-masked components' if masked else ''}{told}{plain}"


def told_columns(section: TrainVQVAESection) -> list[str]:
    """What a decoder with these settings is told."""
    return [*section.condition_classes, *section.condition_numbers]


def take_vqvae(
    cfg: Config,
    asked: str,
    split: Split,
    device: torch.device,
    tells: bool = False,
    masked: bool | None = None,
    rival: bool = False,
) -> HandedVQVAE:
    """tells: the stage tells the decoder metadata. Others need one that also paints when nothing is told. rival: one
    that stands beside the VQ-VAE of the settings, and need not be like it.

    masked: the best is that of those trained with component masking; None: as cfg.train_vqvae says. What the best is
    told, and its stem, are always as cfg.train_vqvae says.
    """
    section = cfg.train_vqvae
    masked, names = section.component_masking.enabled if masked is None else masked, told_columns(section)
    command = mend("train_vqvae", cfg)
    if masked != section.component_masking.enabled:
        command += f" --train_vqvae.component_masking.enabled {str(masked).lower()}"
    wanted = f"split {split.hash}{' with component masking' if masked else ''}"
    wanted += f" told {', '.join(names)}" if names else ""
    key = vqvae_key(split, section, masked)
    described = not rival and masked == section.component_masking.enabled
    folder = take_run(cfg, asked, Sought("train_vqvae", key, wanted, command), "vqvae", described)
    meta = checked_meta(folder, "train_vqvae", split.identity, mend("train_vqvae", cfg))
    handed = HandedVQVAE("train_vqvae", folder, VQVAE.from_pretrained(folder, device), meta)
    if not tells and not handed.label_drop:
        remedy = f"type: {mend('train_vqvae', cfg)} --train_vqvae.label_drop 0.1"
        raise lacks_label_drop(folder, "it cannot paint without being told", remedy)
    say(f"inherited: {handed.describe()}")
    return handed


def mend_for(stage: str, cfg: Config, split: Split, vqvae: HandedVQVAE, presets: Sequence[str] = ()) -> str:
    """The command that makes what is missing of a stage for this VQ-VAE, which it names where another is the best."""
    best = best_run(cfg, "train_vqvae", vqvae_key(split, cfg.train_vqvae))
    is_best = best is not None and best.name == vqvae.folder.name
    named = "" if is_best else f" --{stage}.vqvae {shlex.quote(str(vqvae.folder))}"
    return mend(stage, cfg, presets) + named


def take_masked_vqvae(cfg: Config, asked: str, split: Split, device: torch.device) -> HandedVQVAE:
    """One that was trained with component masking. Raises InputError for another."""
    handed = take_vqvae(cfg, asked, split, device, masked=True)
    if not handed.component_masking:
        raise InputError(
            f"{handed.folder} was trained without component masking; type: "
            f"{mend('train_vqvae', cfg)} --train_vqvae.component_masking.enabled true"
        )
    return handed


def take_indices(cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE) -> HandedIndices:
    folder, command = resolve_by_codebook(cfg, "vqvae_reconstruction", asked, split, vqvae)
    file = folder / "indices" / "meta.json"
    if not file.is_file():
        raise InputError(f"{folder} has no stored indices ({file} is missing); type: {command}")
    meta = read_json(file)
    check_handed(file, meta, split.identity | vqvae.identity, command)
    check_digests(file.parent, meta.get("files", {}), make_again(folder, "vqvae_reconstruction"))
    indices = np.load(folder / "indices" / "indices.npy", mmap_mode="r")
    if len(indices) != len(split.manifest):
        raise InputError(
            f"{folder} has indices of {len(indices)} pictures, the split {len(split.manifest)}; type: {command}"
        )
    say(f"inherited: indices {folder}")
    return HandedIndices(folder, indices)


def resolve_by_codebook(cfg: Config, stage: str, asked: str, split: Split, vqvae: HandedVQVAE) -> tuple[Path, str]:
    """The run folder of a stage that depends on the codebook, and the command that makes another."""
    command = mend_for(stage, cfg, split, vqvae)
    sought = Sought(stage, vqvae.key(split), vqvae.describe(), command)
    return resolve_run(Path(cfg.run.dir), asked, sought, cfg.run.tracking_uri), command
