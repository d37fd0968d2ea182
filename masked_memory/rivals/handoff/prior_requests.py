"""Asking priors: who is asked, what can be told, and what would be asked for in vain."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.handed import Handed, lacks_label_drop
from masked_memory.handoff.memory import HandedDistil, HandedMemory, take_distil
from masked_memory.handoff.split import Split, mask_of, mend
from masked_memory.handoff.vqvae import HandedVQVAE, take_masked_vqvae
from masked_memory.models.codes import Filling
from masked_memory.models.conditioning import Columns
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.stage import inputs_of, say
from masked_memory.recall.fillers import DistilFiller
from masked_memory.recall.hole import Filler
from masked_memory.rivals.fillers import GANFiller, PixelCNNFiller
from masked_memory.rivals.handoff.priors import HandedPrior, take_prior
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.settings.config import Config
from masked_memory.settings.sample import SampleSection

DISTIL_WITH_CLASSES = "--train_distil.condition_on_class true"
UNTOLD = "it cannot fill in without being told"

# --- all priors side by side ------------------------------------------------------------------------------------------


class Priors(NamedTuple):
    """Who takes part beside the memory's own DistilBERT; None: not there."""

    pixelcnn: HandedPrior  # makes new pictures
    gan: HandedPrior
    untold_pixelcnn: HandedPrior  # fills in, trained without being told anything
    untold_gan: HandedPrior
    told_distil: HandedDistil | None  # one that can be told the class
    masked_vqvae: HandedVQVAE | None  # trained with masked components

    @property
    def inputs(self) -> dict[str, str]:
        """name -> run folder."""
        return inputs_of([], **self._asdict())


def take_priors(cfg: Config, handed: HandedMemory) -> Priors:
    """All who take part beside the memory. Raises InputError for those that do not fit."""
    section, split, vqvae = cfg.compare_priors, handed.split, handed.vqvae
    told = section.told and bool(split.classes)
    if section.told and not told:
        say("these pictures have no classes: the priors are asked for any pictures, and there is no class accuracy")
    pixelcnn = take_prior(cfg, section.pixelcnn, "pixelcnn", split, vqvae, told, 0)
    gan = take_prior(cfg, section.gan, "gan", split, vqvae, told, 0)
    for prior in (pixelcnn, gan):
        check_compared(prior, told, mend("train_prior", cfg))
    untold_pixelcnn, untold_gan = pixelcnn, gan
    if told:
        untold_pixelcnn = take_prior(cfg, section.untold_pixelcnn, "pixelcnn", split, vqvae, False, 0)
        untold_gan = take_prior(cfg, section.untold_gan, "gan", split, vqvae, False, 0)
        for prior in (untold_pixelcnn, untold_gan):
            check_compared(prior, False, mend("train_prior", cfg))
    check_compared_guidance(section, told, handed)
    distil, masked = None, None
    if section.told_distil is not None:
        distil = take_distil(cfg, section.told_distil, split, vqvae, told=True)
        check_told_distil(distil, section, mend("train_distil", cfg))
    elif told:
        say("the DistilBERT is not asked for classes; for one that can be: --compare_priors.told_distil best")
    if section.masked_vqvae is not None:
        masked = take_masked_vqvae(cfg, section.masked_vqvae, split, vqvae.device)
    return Priors(pixelcnn, gan, untold_pixelcnn, untold_gan, distil, masked)


def check_compared(prior: HandedPrior, told: bool, command: str) -> None:
    """It must be told the class, or nothing, and be able to do without. Raises InputError."""
    if prior.columns.names != (["class"] if told else []):
        raise InputError(
            f"{prior.folder} is told {', '.join(prior.columns.names) or 'nothing'}, but "
            f"{'the class' if told else 'nothing'} is to be told; type: {command} "
            f"--train_prior.condition_on_class {str(told).lower()}"
        )
    if prior.label_drop == 0:
        raise lacks_label_drop(prior.folder, UNTOLD, f"type: {command} --train_prior.label_drop 0.1")


def check_told_distil(distil: HandedDistil, section: ComparePriorsSection, command: str) -> None:
    """It must know classes, and with guidance also do without. Raises InputError."""
    if not distil.tells_class:
        raise InputError(f"{distil.folder} was trained without classes; type: {command} {DISTIL_WITH_CLASSES}")
    if section.guidance_scale != 1 and not distil.label_drop:
        raise lacks_label_drop(
            distil.folder,
            f"compare_priors.guidance_scale must be 1; found {section.guidance_scale:g}",
            f"type: {command} {DISTIL_WITH_CLASSES} --train_distil.label_drop 0.1",
        )


def check_compared_guidance(section: ComparePriorsSection, told: bool, handed: HandedMemory) -> None:
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
    if handed.distil.tells_class and not handed.distil.label_drop:
        raise lacks_label_drop(handed.distil.folder, UNTOLD, "name another one with --reconstruct_masked.distil")


# --- one prior that is asked for pictures -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Who is asked, and what for. classes: (B,) in words, empty when none is asked for; told: the same as the filler
    takes it, None tells nothing."""

    prior: Handed[object]
    filler: Filler
    classes: list[str]
    told: Tensor | None


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


def take_asked(cfg: Config, split: Split, vqvae: HandedVQVAE, bf16: bool) -> Asked:
    """The prior that the settings name, and what to ask of it. Raises InputError when it cannot be asked that.

    bf16: the DistilBERT is asked in bfloat16.
    """
    section = cfg.sample
    by_class = section.label is not None or (section.mode == "conditional" and not section.values)
    labels = class_numbers(section, split.classes) if by_class else None
    if section.prior == "distil":
        return _asked_distil(cfg, split, vqvae, labels, bf16)
    handed = take_prior(cfg, section.prior_run, section.prior, split, vqvae, by_class, len(section.values))
    retrain = f"{mend('train_prior', cfg)} --train_prior.kind {section.prior} --train_prior.label_drop 0.1"
    is_told = by_class or bool(section.values)
    check_knows(str(handed.folder), handed.columns, by_class, section.values, retrain)
    check_label_drop(handed, section, handed.label_drop if handed.columns else 1.0, is_told, retrain)
    names = [] if labels is None else [split.classes[label] for label in labels]
    told = facts_asked(handed.columns, names, section).to(vqvae.device) if is_told else None
    if section.prior == "gan":
        return Asked(handed, GANFiller("GAN", handed.generator, section.pool), names, told)
    return Asked(handed, PixelCNNFiller("PixelCNN", handed.pixelcnn, configured(Filling, section)), names, told)


def _asked_distil(cfg: Config, split: Split, vqvae: HandedVQVAE, labels: np.ndarray | None, bf16: bool) -> Asked:
    section, is_told = cfg.sample, labels is not None
    handed = take_distil(cfg, section.prior_run, split, vqvae, is_told)
    retrain = f"{mend('train_distil', cfg)} {DISTIL_WITH_CLASSES} --train_distil.label_drop 0.1"
    if is_told and not handed.tells_class:
        raise InputError(f"{handed.folder} was trained without classes, so none can be told; type: {retrain}")
    check_label_drop(handed, section, handed.label_drop if handed.tells_class else 1.0, is_told, retrain)
    names = [] if labels is None else [split.classes[label] for label in labels]
    told = None if labels is None else torch.from_numpy(labels).to(vqvae.device)
    codebook = vqvae.model.codebook_vectors()
    return Asked(
        handed, DistilFiller("DistilBERT", handed.model, codebook, configured(Filling, section), bf16), names, told
    )


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
            f"give --class and --values to fit, or train one that is told them: {command}, with "
            "--train_prior.condition_on_class, condition_numbers or condition_classes"
        )


def check_label_drop(
    prior: Handed[object], section: SampleSection, label_drop: float | None, told: bool, command: str
) -> None:
    """Guidance, and pictures without being told, need a prior that has learnt to do without."""
    if label_drop:
        return
    if section.guidance_scale != 1:
        consequence = f"--guidance-scale must be 1; found {section.guidance_scale:g}"
        raise lacks_label_drop(prior.folder, consequence, f"type: {command}")
    if not told:
        remedy = f"type --mode conditional, or: {command}"
        raise lacks_label_drop(prior.folder, "it must be told something", remedy)


def facts_asked(columns: Columns, classes: list[str], section: SampleSection) -> Tensor:
    """(num_samples, F). classes: of each sample, empty when none is asked for."""
    names = [c.name for c in columns.numbers] + [c.name for c in columns.classes if c.name != "class"]
    asked = {"path": "--values"} | dict(zip(names, section.values, strict=True))
    rows = [asked | ({"class": classes[row]} if classes else {}) for row in range(section.num_samples)]
    return columns.facts(columns.tell(rows))
