"""What a stage is handed by those before it: found, loaded, and checked against each other.

A model is refused when it was made for another split, picture size, codebook or grid; the message has both values,
the file, and the command that mends it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from classifier import Classifier, load_classifier
from conditioning import Columns, columns_of
from config import Config, TrainVQVAESection
from data_split import Split, mend
from latent_gan import Generator, LatentGANConfig
from pipeline.files import InputError, digest, read_json
from pipeline.machine import Machine
from pipeline.runs import check_handed, read_best, resolve_run
from pipeline.stage import say
from priors import PixelCNN, PixelCNNConfig
from recall import Memory, shares_by_position
from vqvae import VQVAE, load_vqvae

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


@dataclass(frozen=True)
class HandedVQVAE:
    """A VQ-VAE, where it came from, and what names its codebook."""

    folder: Path
    model: VQVAE
    meta: dict[str, Any]

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

    def key(self, split: Split) -> str:
        return f"{split.key}-codebook {self.codebook}"

    @torch.no_grad()
    def paint(self, tokens: Tensor, batch_size: int = 250) -> Tensor:
        """(B, N) -> (B, C, H, W) in [-1, 1], on the CPU, in batches."""
        side, device = self.model.config.grid, self.model.codebook_vectors().device
        grids = tokens.view(-1, side, side)
        parts = [
            self.model.decode_indices(grids[i : i + batch_size].to(device)) for i in range(0, len(grids), batch_size)
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

    def tokens(self, positions: np.ndarray) -> Tensor:
        """(B, N) long."""
        return torch.from_numpy(self.indices[positions].astype(np.int64)).flatten(1)


def codebook_digest(model: VQVAE) -> str:
    """Names a codebook by its content, and by the encoder that chooses from it."""
    weights = [model.quantizer.codebook, *model.encoder.parameters()]
    return digest(*(w.detach().cpu().float().numpy().tobytes() for w in weights))


def vqvae_key(split: Split, masked: bool, names: Sequence[str]) -> str:
    """VQ-VAEs trained with component masking compete among themselves: they are worse at whole pictures. So do those
    whose decoder is told the same columns, `names`: they are measured with these told."""
    told = f"-told {', '.join(sorted(names))}" if names else ""
    return f"{split.key}{'-masked components' if masked else ''}{told}"


def told_columns(section: TrainVQVAESection) -> list[str]:
    """What a decoder with these settings is told."""
    return [*section.condition_classes, *section.condition_numbers]


def take_vqvae(
    cfg: Config, asked: str, split: Split, device: torch.device, tells: bool = False, masked: bool | None = None
) -> HandedVQVAE:
    """tells: the stage tells the decoder metadata. Others need one that also paints when nothing is told.

    masked: the best is that of those trained with component masking; None: as cfg.train_vqvae says. What the best is
    told is always as cfg.train_vqvae says.
    """
    section = cfg.train_vqvae
    masked, names = section.component_masking.enabled if masked is None else masked, told_columns(section)
    command = mend("train_vqvae", cfg) + (" --train_vqvae.component_masking.enabled true" if masked else "")
    wanted = f"split {split.hash}{' with component masking' if masked else ''}"
    wanted += f" told {', '.join(names)}" if names else ""
    folder = resolve_run(Path(cfg.run.dir), "train_vqvae", asked, vqvae_key(split, masked, names), wanted, command)
    meta = _checked_meta(folder, "train_vqvae", split.identity, mend("train_vqvae", cfg))
    handed = HandedVQVAE(folder, load_vqvae(folder / "model", device), meta)
    if not tells and not handed.label_drop:
        raise InputError(
            f"{folder} was trained without label dropping, so it cannot paint without being told; type: "
            f"{mend('train_vqvae', cfg)} --train_vqvae.label_drop 0.1"
        )
    say(f"inherited: {handed.describe()}")
    return handed


def take_indices(cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE) -> HandedIndices:
    folder, command = _resolve(cfg, "vqvae_reconstruction", asked, split, vqvae)
    file = folder / "indices" / "meta.json"
    if not file.is_file():
        raise InputError(f"{folder} has no stored indices ({file} is missing); type: {command}")
    check_handed(file, read_json(file), split.identity | vqvae.identity, command)
    indices = np.load(folder / "indices" / "indices.npy", mmap_mode="r")
    if len(indices) != len(split.manifest):
        raise InputError(
            f"{folder} has indices of {len(indices)} pictures, the split {len(split.manifest)}; type: {command}"
        )
    say(f"inherited: indices {folder}")
    return HandedIndices(folder, indices)


def take_classifier(
    cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE, device: torch.device
) -> tuple[Path, Classifier]:
    folder, command = _resolve(cfg, "train_classifier", asked, split, vqvae)
    _checked_meta(folder, "train_classifier", split.identity | vqvae.identity, command)
    say(f"inherited: classifier {folder}")
    return folder, load_classifier(folder / "model", device)


def distil_key(split: Split, vqvae: HandedVQVAE, told: bool) -> str:
    """DistilBERTs that can be told the class compete among themselves."""
    return f"{vqvae.key(split)}-told class" if told else vqvae.key(split)


def take_distil(
    cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE, device: torch.device, told: bool = False
) -> tuple[Path, "DistilBertForMaskedLM", float | None]:
    """The run folder, the model, and how often the class was not told in training (None: it never was).

    told: the best is that of those that can be told the class.
    """
    from completion import load_distilbert

    command = mend("train_distil", cfg) + (" --train_distil.condition_on_class true" if told else "")
    wanted = vqvae.describe() + (" told the class" if told else "")
    folder = resolve_run(Path(cfg.run.dir), "train_distil", asked, distil_key(split, vqvae, told), wanted, command)
    meta = _checked_meta(folder, "train_distil", split.identity | vqvae.identity, command)
    say(f"inherited: DistilBERT {folder}")
    return folder, load_distilbert(folder / "model", device), meta.get("label_drop")


@dataclass(frozen=True)
class HandedPrior:
    """A prior over grids, where it came from, what it can be told, and how often nothing was told in training."""

    folder: Path
    model: PixelCNN | Generator
    columns: Columns
    label_drop: float | None  # None: it can be told nothing


def prior_key(split: Split, vqvae: HandedVQVAE, kind: str, names: list[str]) -> str:
    """Priors of one kind that are told the same compete for being the best."""
    told = f" by {', '.join(names)}" if names else ""
    return f"{vqvae.key(split)}-prior {kind}{told}"


def take_prior(
    cfg: Config,
    asked: str,
    kind: str,
    split: Split,
    vqvae: HandedVQVAE,
    device: torch.device,
    by_class: bool,
    values: int,
) -> HandedPrior:
    """The best prior of a kind that can be told the class (if by_class) and so many values; or the run that is named.

    Raises InputError when there is none, when there are several that are told other columns, or when the named one is
    of another kind or codebook.
    """
    from safetensors.torch import load_file

    command = f"{mend('train_prior', cfg)} --train_prior.kind {kind}"
    command += " --train_prior.condition_on_class true" if by_class else ""
    command += " --train_prior.condition_numbers COLUMN,COLUMN" if values else ""
    plain = prior_key(split, vqvae, kind, [])
    fitting = [key for key in read_best(Path(cfg.run.dir), "train_prior") if _tells(key, plain, by_class, values)]
    some = f"{values} value{'s' if values > 1 else ''}"
    told = [word for word, asked_for in (("the class", by_class), (some, values)) if asked_for]
    if asked == "best" and len(fitting) > 1:
        found = " or ".join(key.partition(" by ")[2] for key in fitting)
        raise InputError(
            f"the best {kind} may be one that is told {found}; name its run folder, runs/train_prior/TIME-ID"
        )
    wanted = f"{kind}{' told ' + ' and '.join(told) if told else ''} on {vqvae.describe()}"
    key = fitting[0] if fitting else f"{plain} told {' and '.join(told)}"
    folder = resolve_run(Path(cfg.run.dir), "train_prior", asked, key, wanted, command)
    meta = _checked_meta(folder, "train_prior", split.identity | vqvae.identity | {"kind": kind}, command)
    stored, weights = read_json(folder / "model" / "config.json"), load_file(folder / "model" / "model.safetensors")
    model = Generator(LatentGANConfig(**stored)) if kind == "gan" else PixelCNN(PixelCNNConfig(**stored))
    model.load_state_dict(weights)
    columns = columns_of(meta["conditions"])
    say(f"inherited: {kind} {folder}{', told ' + ', '.join(columns.names) if columns else ''}")
    return HandedPrior(folder, model.to(device).eval(), columns, meta["label_drop"])


def _tells(key: str, plain: str, by_class: bool, values: int) -> bool:
    """Whether a prior with this key can be told just so much."""
    if not by_class and not values:
        return key == plain
    head, _, names = key.partition(" by ")
    told = names.split(", ") if names else []
    return head == plain and ("class" in told) == by_class and len(set(told) - {"class"}) == values


@dataclass(frozen=True)
class HandedMemory:
    """All models that recall needs, and the run folders they came from (stage -> folder)."""

    memory: Memory
    vqvae: HandedVQVAE
    indices: HandedIndices
    folders: dict[str, Path]
    label_drop: float | None  # how often the DistilBERT was not told the class in training; None: it never was told


def take_memory(cfg: Config, split: Split, machine: Machine) -> HandedMemory:
    """The models that cfg.reconstruct_masked names. Data without classes have no classifier, which is said."""
    section, classifier = cfg.reconstruct_masked, None
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    folders = {"data_split": split.folder, "train_vqvae": vqvae.folder, "vqvae_reconstruction": indices.folder}
    told = section.tell_class if section.own.image is None else section.own.label is not None
    folders["train_distil"], distil, label_drop = take_distil(cfg, section.distil, split, vqvae, machine.device, told)
    if split.classes:
        folders["train_classifier"], classifier = take_classifier(cfg, section.classifier, split, vqvae, machine.device)
    else:
        say("no classes in the data: recall is measured without a classifier")
    shares = shares_by_position(indices.tokens(split.positions("train")), vqvae.model.config.codebook_size)
    memory = Memory(
        vqvae.model, distil, classifier, shares.to(machine.device), machine.device, machine.bf16, section.batch_size
    )
    return HandedMemory(memory, vqvae, indices, folders, label_drop)


def _resolve(cfg: Config, stage: str, asked: str, split: Split, vqvae: HandedVQVAE) -> tuple[Path, str]:
    """The run folder of a stage that depends on the codebook, and the command that makes another."""
    command = mend(stage, cfg)
    return resolve_run(Path(cfg.run.dir), stage, asked, vqvae.key(split), vqvae.describe(), command), command


def _checked_meta(folder: Path, stage: str, expected: dict[str, Any], command: str) -> dict[str, Any]:
    file = folder / "model" / "meta.json"
    if not file.is_file():
        raise InputError(f"{folder} has no model ({file} is missing); type: {command}")
    meta: dict[str, Any] = read_json(file)
    check_handed(file, meta, {"stage": stage, **expected}, command)
    return meta
