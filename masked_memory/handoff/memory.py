"""DistilBERT, classifier and all that recall needs, as they are handed on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from masked_memory.handoff.handed import Handed, checked_meta
from masked_memory.handoff.split import Split
from masked_memory.handoff.taking import take_run
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE, mend_for, take_indices, take_vqvae
from masked_memory.handoff.wing import wing
from masked_memory.models.classifier import Classifier
from masked_memory.models.distilbert import classes_of
from masked_memory.models.elsewhere import imagenet_judge
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.runs import Sought
from masked_memory.pipeline.stage import inputs_of, say
from masked_memory.recall.memory import Memory, shares_by_position
from masked_memory.settings.config import Config
from masked_memory.settings.judges import CLEAN, ELSEWHERE

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM  # noqa: F401 (the name stands in quotes)


class HandedDistil(Handed["DistilBertForMaskedLM"]):
    """A DistilBERT over codes."""

    @property
    def label_drop(self) -> float | None:
        """How often the class was not told in training; None: it never was told."""
        return self.meta.get("label_drop")

    @property
    def tells_class(self) -> bool:
        """Whether it can be told the class."""
        return classes_of(self.model) > 0


def classifier_key(split: Split, vqvae: HandedVQVAE, degrade: bool) -> str:
    """Those trained on clean pictures compete among themselves: they are second judges."""
    return f"{vqvae.key(split)}{'' if degrade else '-clean'}"


def take_classifier(
    cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE, degrade: bool = True
) -> Handed[Classifier]:
    """degrade: the best is that of those that saw blurred and grey cells in training; else, of the others."""
    command = mend_for("train_classifier", cfg, split, vqvae)
    if degrade != cfg.train_classifier.degrade:
        command += f" --train_classifier.degrade {str(degrade).lower()}"
    wanted = vqvae.describe() + ("" if degrade else " trained on clean pictures")
    key = classifier_key(split, vqvae, degrade)
    setting = "classifier" if degrade else "clean_classifier"
    folder = take_run(cfg, asked, Sought("train_classifier", key, wanted, command), setting)
    meta = checked_meta(folder, "train_classifier", split.identity | vqvae.identity, command)
    say(f"inherited: classifier {folder}{'' if degrade else ', the second judge'}")
    return Handed("train_classifier", folder, Classifier.from_pretrained(folder, vqvae.device), meta)


def distil_key(split: Split, vqvae: HandedVQVAE, told: bool, published: bool = False) -> str:
    """DistilBERTs that can be told the class compete among themselves; so do those of the published recipe, which are
    rivals."""
    return f"{vqvae.key(split)}{'-told class' if told else ''}{'-published recipe' if published else ''}"


def prior_key(split: Split, vqvae: HandedVQVAE, kind: str, names: list[str]) -> str:
    """Priors of one kind that are told the same compete for being the best."""
    told = f" by {', '.join(names)}" if names else ""
    return f"{vqvae.key(split)}-prior {kind}{told}"


def take_distil(
    cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE, told: bool = False, published: bool = False
) -> HandedDistil:
    """told: the best is that of those that can be told the class; published: of those of the published recipe."""
    from masked_memory.models.distilbert import load_distilbert

    presets = ["presets/published_study.yaml"] if published else []
    command = mend_for("train_distil", cfg, split, vqvae, presets)
    if told != cfg.train_distil.condition_on_class:
        command += f" --train_distil.condition_on_class {str(told).lower()}"
    wanted = vqvae.describe() + (" told the class" if told else "") + (" by the published recipe" if published else "")
    key = distil_key(split, vqvae, told, published)
    folder = take_run(cfg, asked, Sought("train_distil", key, wanted, command), "distil", described=not published)
    meta = checked_meta(folder, "train_distil", split.identity | vqvae.identity, command)
    say(f"inherited: DistilBERT {folder}")
    return HandedDistil("train_distil", folder, load_distilbert(folder, vqvae.device), meta)


@dataclass(frozen=True)
class HandedMemory:
    """All models that recall needs."""

    memory: Memory
    split: Split
    vqvae: HandedVQVAE
    indices: HandedIndices
    distil: HandedDistil
    classifier: Handed[Classifier] | None  # None: the data have no classes
    clean: Handed[Classifier] | None = None  # the second judge; None: there is none, or nothing is measured
    painter: Handed[Any] | None = None  # None: the VQ-VAE's decoder paints

    @property
    def judges(self) -> list[Handed[Classifier]]:
        """The classifiers of this project."""
        return [judge for judge in (self.classifier, self.clean) if judge is not None]

    @property
    def inputs(self) -> dict[str, str]:
        """stage -> run folder."""
        judges = [] if self.classifier is None else [self.classifier]
        known = inputs_of([self.split, self.vqvae, self.indices, self.distil, *judges])
        return known | inputs_of([], train_painter=self.painter, clean_classifier=self.clean)


def take_memory(cfg: Config, split: Split, machine: Machine, measured: bool = False) -> HandedMemory:
    """The models that cfg.reconstruct_masked names; the second judges only when recall is to be measured. Data without
    classes have no classifier, which is said.

    Raises InputError when one is missing or does not fit. Whether it may be measured: see `handed.check_unseen`.
    """
    section, classifier, clean = cfg.reconstruct_masked, None, None
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    told = section.tell_class if section.own.image is None else section.own.label is not None
    distil = take_distil(cfg, section.distil, split, vqvae, told)
    if split.classes:
        classifier = take_classifier(cfg, section.classifier, split, vqvae)
        if measured and section.clean_classifier is not None:
            clean = take_classifier(cfg, section.clean_classifier, split, vqvae, degrade=False)
    else:
        say("no classes in the data: recall is measured without a classifier")
    painter = None
    if section.painter is not None:
        painter = wing("handoff.painter").take_painter(cfg, section.painter, split, vqvae, distil)
    memory = Memory(
        vqvae=vqvae.model,
        distil=distil.model,
        classifier=None if classifier is None else classifier.model,
        position_shares=train_shares(split, indices, vqvae),
        device=machine.device,
        bf16=machine.bf16,
        batch_size=section.batch_size,
        budget=machine.memory,
        second_judges={} if clean is None else {CLEAN: clean.model},
        painter=None if painter is None else painter.model,
        world=machine.world,
    )
    if measured and split.classes and section.elsewhere_judge:
        foreign = imagenet_judge(split.classes, split.meta["channels"], machine.device)
        memory.second_judges = {**memory.second_judges, ELSEWHERE: foreign}
    return HandedMemory(memory, split, vqvae, indices, distil, classifier, clean, painter)


def train_shares(split: Split, indices: HandedIndices, vqvae: HandedVQVAE) -> Tensor:
    """(N, K) on the device: how often each code stands at each position of the training grids."""
    tokens = indices.tokens(split.positions("train"))
    return shares_by_position(tokens, vqvae.model.config.codebook_size).to(vqvae.device)
