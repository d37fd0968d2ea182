"""DistilBERT, classifier and all that recall needs, as they are handed on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from handoff.split import Split, mend
from handoff.vqvae import HandedIndices, HandedVQVAE, _checked_meta, _resolve, take_indices, take_vqvae
from models.classifier import Classifier, load_classifier
from pipeline.machine import Machine
from pipeline.runs import resolve_run
from pipeline.stage import say
from recall.memory import Memory, shares_by_position
from settings.config import Config

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


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
    from models.distilbert import load_distilbert

    command = mend("train_distil", cfg) + (" --train_distil.condition_on_class true" if told else "")
    wanted = vqvae.describe() + (" told the class" if told else "")
    folder = resolve_run(Path(cfg.run.dir), "train_distil", asked, distil_key(split, vqvae, told), wanted, command)
    meta = _checked_meta(folder, "train_distil", split.identity | vqvae.identity, command)
    say(f"inherited: DistilBERT {folder}")
    return folder, load_distilbert(folder / "model", device), meta.get("label_drop")


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
