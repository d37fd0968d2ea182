"""Asking priors: who is asked, what can be told, and what would be asked for in vain."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from handoff.memory import HandedMemory, take_distil
from handoff.priors import HandedPrior, take_prior
from handoff.split import Split, mask_of, mend
from handoff.vqvae import HandedVQVAE, take_vqvae
from models.codes import Filling
from models.conditioning import Columns
from models.distilbert import classes_of
from pipeline.files import InputError
from pipeline.machine import Machine
from pipeline.stage import say
from priors.gan import Generator
from recall.fillers import DistilDrawer, Drawer, GANDrawer, PixelCNNDrawer
from settings.compare_priors import ComparePriorsSection
from settings.config import Config
from settings.sample import SampleSection
from vqvae import VQVAE

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


class Priors(NamedTuple):
    """Who takes part beside the memory's own DistilBERT; None: not there."""

    pixelcnn: HandedPrior
    gan: HandedPrior
    told_distil: "DistilBertForMaskedLM | None"  # one that can be told the class
    masked_vqvae: VQVAE | None  # trained with masked components


def take_priors(cfg: Config, split: Split, handed: HandedMemory, machine: Machine) -> tuple[Priors, dict[str, Any]]:
    """All who take part beside the memory, and their folders. Raises InputError for those that do not fit."""
    section, device = cfg.compare_priors, machine.device
    told = section.told and bool(split.classes)
    if section.told and not told:
        say("these pictures have no classes: the priors are asked for any pictures, and there is no class accuracy")
    pixelcnn = take_prior(cfg, section.pixelcnn, "pixelcnn", split, handed.vqvae, device, told, 0)
    gan = take_prior(cfg, section.gan, "gan", split, handed.vqvae, device, told, 0)
    for prior in (pixelcnn, gan):
        if prior.columns.names != (["class"] if told else []):
            raise InputError(
                f"{prior.folder} is told {', '.join(prior.columns.names) or 'nothing'}, but "
                f"{'the class' if told else 'nothing'} is to be told; type: {mend('train_prior', cfg)} "
                f"--train_prior.condition_on_class {str(told).lower()}"
            )
        if prior.label_drop == 0:
            raise InputError(
                f"{prior.folder} was trained without label dropping, so it cannot fill in without being told; type: "
                f"{mend('train_prior', cfg)} --train_prior.label_drop 0.1"
            )
    check_guidance(section, told, handed)
    folders, distil, masked = {"pixelcnn": pixelcnn.folder, "gan": gan.folder}, None, None
    if section.told_distil is not None:
        folders["told_distil"], distil, label_drop = take_distil(
            cfg, section.told_distil, split, handed.vqvae, device, True
        )
        if not classes_of(distil):
            raise InputError(
                f"{folders['told_distil']} was trained without classes; type: "
                f"{mend('train_distil', cfg)} --train_distil.condition_on_class true"
            )
        if section.guidance_scale != 1 and not label_drop:
            raise InputError(
                f"{folders['told_distil']} was trained without label dropping, so compare_priors.guidance_scale "
                f"must be 1; found {section.guidance_scale:g}; type: {mend('train_distil', cfg)} "
                "--train_distil.condition_on_class true --train_distil.label_drop 0.1"
            )
    elif told:
        say("the DistilBERT is not asked for classes; for one that can be: --compare_priors.told_distil best")
    if section.masked_vqvae is not None:
        other = take_vqvae(cfg, section.masked_vqvae, split, device, masked=True)
        if not other.component_masking:
            raise InputError(
                f"{other.folder} was trained without component masking; type: "
                f"{mend('train_vqvae', cfg)} --train_vqvae.component_masking.enabled true"
            )
        folders["masked_vqvae"], masked = other.folder, other.model
    return Priors(pixelcnn, gan, distil, masked), folders


def check_guidance(section: ComparePriorsSection, told: bool, handed: HandedMemory) -> None:
    """What would be asked for in vain. Raises InputError."""
    if section.guidance_scale != 1 and not told:
        raise InputError(
            f"compare_priors.guidance_scale is {section.guidance_scale:g}, but the priors are told nothing; type "
            "--compare_priors.guidance_scale 1"
        )
    if section.told_distil is not None and not told:
        raise InputError(
            f"compare_priors.told_distil is {section.told_distil}, but the priors are told nothing; type "
            "--compare_priors.told_distil null"
        )
    if classes_of(handed.memory.distil) and not handed.label_drop:
        raise InputError(
            f"{handed.folders['train_distil']} was trained without label dropping, so it cannot fill in without being "
            "told; name another one with --reconstruct_masked.distil"
        )


@dataclass(frozen=True)
class Asked:
    """What the pictures are asked to be: classes (B,) in words, empty for none, and the same as the prior takes it."""

    classes: list[str]
    told: Tensor | None


# --- what is asked for ------------------------------------------------------------------------------------------------


def check_request(section: SampleSection, split: Split) -> None:
    """What no prior could do. Raises InputError."""
    if section.components is not None:
        mask_of(split.components, section.components)
        if section.mode != "inpainting":
            raise InputError(f"--components is for mode inpainting; found {section.mode}; type --mode inpainting")
        if section.label is not None or section.values:
            raise InputError("--components asks no prior, so nothing can be told; leave out --class and --values")
    by_class = section.label is not None or (section.mode == "conditional" and not section.values)
    if by_class and not split.classes:
        raise InputError(
            f"sample: mode {section.mode} with classes needs pictures with classes, these have none; "
            "type --mode unconditional"
        )
    if section.label is not None and section.label not in split.classes:
        raise InputError(f"--class {section.label} is not a class of the data; it has {', '.join(split.classes)}")
    told = section.mode == "conditional" or section.label is not None or section.values
    if section.mode == "unconditional" and (section.label is not None or section.values):
        raise InputError(
            "mode unconditional is told nothing, but --class or --values is given; type --mode conditional"
        )
    if section.guidance_scale != 1 and not told:
        raise InputError(
            f"--guidance-scale is {section.guidance_scale:g}, but mode {section.mode} is told nothing; "
            "type --mode conditional"
        )
    if section.prior == "gan" and (section.guidance_scale != 1 or section.temperature != 1 or section.top_k):
        raise InputError(
            "a GAN makes all codes at once: guidance_scale, temperature and top_k cannot be set for it; "
            "type --guidance-scale 1 --temperature 1 --top-k 0, or --prior pixelcnn"
        )
    if section.prior == "distil" and section.values:
        raise InputError("the DistilBERT can be told classes only, but --values is given; type --prior pixelcnn")


def take_drawer(cfg: Config, split: Split, vqvae: HandedVQVAE, machine: Machine) -> tuple[Drawer, Asked]:
    """The prior that the settings name, and what to ask of it. Raises InputError when it cannot be asked that."""
    section = cfg.sample
    filling = Filling(
        passes=section.passes,
        order=section.fill_order,
        temperature=section.temperature,
        top_k=section.top_k,
        guidance_scale=section.guidance_scale,
    )
    by_class = section.label is not None or (section.mode == "conditional" and not section.values)
    labels = class_numbers(section, split.classes) if by_class else None
    names = [] if labels is None else [split.classes[label] for label in labels]
    if section.prior == "distil":
        folder, distil, label_drop = take_distil(cfg, section.prior_run, split, vqvae, machine.device, by_class)
        retrain = f"{mend('train_distil', cfg)} --train_distil.condition_on_class true --train_distil.label_drop 0.1"
        if labels is not None and not classes_of(distil):
            raise InputError(f"{folder} was trained without classes, so none can be told; type: {retrain}")
        check_label_drop(f"{folder}", section, label_drop if classes_of(distil) else 1.0, labels is not None, retrain)
        told = None if labels is None else torch.from_numpy(labels).to(machine.device)
        codebook = vqvae.model.codebook_vectors()
        return DistilDrawer(folder, distil, codebook, filling, machine.bf16), Asked(names, told)
    handed = take_prior(
        cfg, section.prior_run, section.prior, split, vqvae, machine.device, by_class, len(section.values)
    )
    retrain = f"{mend('train_prior', cfg)} --train_prior.kind {section.prior} --train_prior.label_drop 0.1"
    is_told = by_class or bool(section.values)
    check_knows(str(handed.folder), handed.columns, by_class, section.values, retrain)
    check_label_drop(str(handed.folder), section, handed.label_drop if handed.columns else 1.0, is_told, retrain)
    told = facts_asked(handed.columns, names, section).to(machine.device) if is_told else None
    if isinstance(handed.model, Generator):
        return GANDrawer(handed.folder, handed.model, section.pool), Asked(names, told)
    return PixelCNNDrawer(handed.folder, handed.model, filling), Asked(names, told)


def class_numbers(section: SampleSection, classes: list[str]) -> np.ndarray:
    """(num_samples,): the class asked for, or all classes in turn."""
    if section.label is not None:
        return np.full(section.num_samples, classes.index(section.label))
    return np.arange(section.num_samples) % len(classes)


def check_knows(folder: str, columns: Columns, by_class: bool, values: list[str], command: str) -> None:
    """A prior is told all that it knows of, or nothing."""
    if not by_class and not values:
        return
    if by_class != ("class" in columns.names) or len(values) != len(columns.names) - by_class:
        asked = [*(["class"] if by_class else []), *values]
        known = f"to be told {', '.join(columns.names)}" if columns else "to be told nothing"
        raise InputError(
            f"{folder} was trained {known}, but is asked for {', '.join(asked)}; "
            f"give --class and --values to fit, or type: {command} with condition_on_class, condition_numbers or "
            "condition_classes"
        )


def check_label_drop(folder: str, section: SampleSection, label_drop: float | None, told: bool, command: str) -> None:
    """Guidance, and pictures without being told, need a prior that has learnt to do without."""
    if label_drop:
        return
    if section.guidance_scale != 1:
        raise InputError(
            f"{folder} was trained without label dropping, so --guidance-scale must be 1; found "
            f"{section.guidance_scale:g}; type: {command}"
        )
    if not told:
        raise InputError(
            f"{folder} was trained without label dropping, so it must be told something; type --mode conditional, "
            f"or: {command}"
        )


def facts_asked(columns: Columns, classes: list[str], section: SampleSection) -> Tensor:
    """(num_samples, F). classes: of each sample, empty when none is asked for."""
    names = [c.name for c in columns.numbers] + [c.name for c in columns.classes if c.name != "class"]
    asked = {"path": "--values"} | dict(zip(names, section.values, strict=True))
    rows = [asked | ({"class": classes[row]} if classes else {}) for row in range(section.num_samples)]
    return columns.facts(columns.tell(rows))
