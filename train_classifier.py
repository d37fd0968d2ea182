"""Stage 4: the classifier that says whether a picture is still recognisable.

Reads:  runs/data_split/<best>, runs/train_vqvae/<best>
Writes: runs/train_classifier/<run>/ with model/, per-class tables, confusion matrices, the tuning study

    python train_classifier.py
    python train_classifier.py --train_classifier.degrade false      the second judge, trained on clean pictures
    python train_classifier.py --train_classifier.architecture resnet18 --train_classifier.inputs originals

Tunes on validation; the winner is evaluated once on test, on originals and on reconstructions.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.handoff.memory import classifier_key
from masked_memory.handoff.split import PictureReader, Split, check_labels, mend, note_data, open_split
from masked_memory.handoff.vqvae import HandedVQVAE, take_vqvae
from masked_memory.models.augmentation import degrade, flip, shift_reflected
from masked_memory.models.classifier import Classifier, ClassifierConfig
from masked_memory.models.shared_norm import share_statistics
from masked_memory.models.sizes import painting_bytes
from masked_memory.pipeline.draws import Draws, for_rows
from masked_memory.pipeline.figures import confusion_figure
from masked_memory.pipeline.files import InputError, write_csv
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine, sent
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_classifier import TrainClassifierSection
from masked_memory.sources.splitting import spread

GOAL = Goal(monitor="loss", objective="error", lower_is_better=True)
KINDS = ("originals", "reconstructions")


class ClassifierLearner:
    """The classifier as the training loop sees it. Reconstructions are made on the fly by the frozen VQ-VAE."""

    def __init__(
        self,
        section: TrainClassifierSection,
        split: Split,
        vqvae: HandedVQVAE,
        machine: Machine,
        seed: int,
        with_val: bool,
    ) -> None:
        self.section, self.split, self.vqvae, self.machine = section, split, vqvae.model, machine
        self.seed = seed
        self.train_positions = split.positions("train", "val") if with_val else split.positions("train")
        self.reader = PictureReader(split, self.train_positions, machine.device)
        self.labels = torch.from_numpy(split.labels)
        config = configured(
            ClassifierConfig,
            section,
            classes=len(split.classes),
            channels=split.meta["channels"],
            image_size=split.meta["image_size"],
            codebook_size=vqvae.model.config.codebook_size,
            mean=tuple(split.meta["mean"]),
            std=tuple(split.meta["std"]),
        )
        model = build_classifier(config, section.pretrained).to(machine.device)
        self.model = share_statistics(model.to(memory_format=torch.channels_last), machine.world)

    @property
    def count(self) -> int:
        return len(self.train_positions)

    def read_ahead(self, rows: Tensor) -> None:
        self.reader.ask(rows)

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        positions = self.train_positions[rows.numpy()]
        x = self.reader.take(rows)
        if self.section.augmentation == "shift_flip":
            x = flip(x, generator)
        if self.section.augmentation in ("shift", "shift_flip"):
            x = shift_reflected(x, self.split.meta["image_size"] // 8, generator)
        labels = sent(self.labels[positions], self.machine.device)
        seen = self._training_input(x, generator)
        if self.section.degrade and not self.model.sees_codes:
            seen = degrade(seen, self.vqvae.config.stride, generator)
        logits = self.model(seen)
        loss = F.cross_entropy(logits.float(), labels)
        return {"loss": loss, "error": (logits.argmax(1) != labels).float().mean()}

    @property
    def compiled_parts(self) -> list[torch.nn.Module]:
        return [self.model]

    def _training_input(self, x: Tensor, generator: Draws) -> Tensor:
        """What `inputs` asks for; with both, a coin for each picture."""
        if self.model.sees_codes:
            return self.as_codes(x)
        if self.section.inputs == "originals":
            return x
        coins = for_rows(len(x), generator, lambda n, g: torch.rand(n, generator=g) < 0.5)
        coins = coins if self.section.inputs == "both" else torch.ones_like(coins)
        chosen = sent(coins.nonzero().squeeze(1), x.device)
        painted = x.clone()
        if len(chosen):
            painted[chosen] = self.as_reconstruction(x[chosen])
        return painted

    @torch.no_grad()
    def as_codes(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.vqvae.encode_indices(x)

    @torch.no_grad()
    def as_reconstruction(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.vqvae.decode_indices(self.vqvae.encode_indices(x))

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    def judged_on(self) -> tuple[str, ...]:
        """The kinds of picture that count on validation: those it is trained for."""
        return KINDS if self.section.inputs == "both" or self.model.sees_codes else (self.section.inputs,)

    @property
    def validation_passes(self) -> int:
        return 2 * len(self.judged_on())  # the VQ-VAE paints most of them

    def validate(self, most: int | None = None) -> dict[str, float]:
        """The error compares settings and runs; the loss, which counts degraded pictures, stops and checkpoints."""
        positions = spread(self.split.positions("val"), most)
        labels = self.labels[positions]
        degraded = ("degraded",) if self.section.degrade and not self.model.sees_codes else ()
        values: dict[str, float] = {}
        for kind, logits in self.logits(positions, (*self.judged_on(), *degraded)).items():
            values[f"loss_{kind}"] = float(F.cross_entropy(logits, labels))
            values[f"error_{kind}"] = 1 - top_k(logits, labels, 1)
        kinds = {"loss": (*self.judged_on(), *degraded), "error": self.judged_on()}
        for name, counted in kinds.items():
            values[name] = sum(values[f"{name}_{kind}"] for kind in counted) / len(counted)
        return values

    @torch.no_grad()
    def logits(self, positions: np.ndarray, kinds: tuple[str, ...]) -> dict[str, Tensor]:
        """(pictures, classes) for each kind, on the CPU; "degraded" are degraded reconstructions. A classifier
        of codes sees the same codes as both kinds."""
        batch_size = self.machine.at_once(painting_bytes(self.vqvae.config))

        def of_batch(start: int) -> dict[str, Tensor]:
            x = self.split.pictures(positions[start : start + batch_size]).to(self.machine.device)
            found = {}
            for kind in kinds:
                if self.model.sees_codes:
                    seen = self.as_codes(x)
                else:
                    seen = x if kind == "originals" else self.as_reconstruction(x)
                    if kind == "degraded":  # the same draws each time
                        seen = degrade(seen, self.vqvae.config.stride, generator(self.seed, Stream.VALIDATION, start))
                found[kind] = self.model(seen).float().cpu()
            return found

        parts = list(self.machine.world.map(of_batch, range(0, len(positions), batch_size)))
        return {kind: torch.cat([part[kind] for part in parts]) for kind in kinds}


def build_classifier(config: ClassifierConfig, pretrained: bool) -> Classifier:
    """With pretrained weights when they are asked for and can be had; says so when not."""
    if pretrained and not config.architecture.startswith("resnet"):
        say(f"train_classifier.pretrained is passed over: there are no ImageNet weights of {config.architecture}")
        return Classifier(config)
    try:
        return Classifier(config, pretrained)
    except OSError as error:  # URLError is one
        say(f"ImageNet weights of {config.architecture} cannot be had ({error}): starting from random weights")
        return Classifier(config)


def top_k(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of pictures whose label is among the k likeliest classes."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(1).float().mean())


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation error. With a trial: one short fit, no run folder."""
    machine = prepare_machine(cfg.run, say)
    split, section = open_split(cfg), cfg.train_classifier
    if not split.classes:
        raise InputError(f"train_classifier needs classes, and {cfg.data.source} has none; skip this stage")
    check_labels(split, mend("data_split", cfg))
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)

    def build(chosen: TrainClassifierSection, with_val: bool, share: float = 1.0) -> ClassifierLearner:
        return ClassifierLearner(chosen, split.thinned(share), vqvae, machine, cfg.run.seed, with_val)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, GOAL, machine, cfg.run.seed)
    check_fit("train_classifier", section, build, machine)
    with open_stage("train_classifier", cfg, inputs_of([split, vqvae]), machine, resume) as stage:
        note_data(stage, cfg, split)
        say(f"{len(split.classes)} classes, on {machine.describe()}")
        trained = train(stage, section, build, GOAL, cfg.run.seed, Path(cfg.run.dir))
        learner: ClassifierLearner = trained.learner
        kept = {"inputs": trained.section.inputs, "degrade": trained.section.degrade}
        meta = {**split.identity, **vqvae.identity, "classes": split.classes, **kept}
        stage.model(learner.model.state_dict(), asdict(learner.model.config), meta)
        report(stage, learner, split)
        kind = "classifier" if trained.section.degrade else "clean_classifier"
        name = f"{kind}-{Path(cfg.data.source).name}-{split.hash[:6]}"
        stage.finish(
            classifier_key(split, vqvae, trained.section.degrade),
            trained.score,
            GOAL.objective,
            GOAL.lower_is_better,
            name,
            ("classes_originals.csv", "classes_reconstructions.csv"),
        )
        return trained.score


def report(stage: Stage, learner: ClassifierLearner, split: Split) -> None:
    """The one look at test: top-1, top-5, a line per class, the confusion matrix; on originals and reconstructions."""
    learner.model.eval()
    positions = split.positions("test")
    labels = torch.from_numpy(split.labels[positions])
    for kind, logits in learner.logits(positions, KINDS).items():
        top1, top5 = top_k(logits, labels, 1), top_k(logits, labels, 5)
        stage.metrics |= {f"test_top1_{kind}": top1, f"test_top5_{kind}": top5}
        stage.metrics[f"test_loss_{kind}"] = float(F.cross_entropy(logits, labels))
        confusion = confusion_matrix(labels.numpy(), logits.argmax(1).numpy(), len(split.classes))
        write_csv(stage.folder.path / f"classes_{kind}.csv", CLASS_HEADER, class_table(confusion, split.classes))
        title = f"test {kind}: top-1 {100 * top1:.1f} %"
        stage.figure(f"confusion_{kind}", confusion_figure(confusion, split.classes, title))
        say(f"test {kind}: top-1 {100 * top1:.1f} %, top-5 {100 * top5:.1f} % (n = {len(labels)})")


CLASS_HEADER = ("class", "pictures", "recall", "precision", "most_confused_with")


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts; rows: true class, columns: predicted."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_table(confusion: np.ndarray, names: list[str]) -> list[list[Any]]:
    """A line per class: pictures, recall, precision, and the class it is most often taken for."""
    rows: list[list[Any]] = []
    for number, name in enumerate(names):
        right, total, claimed = confusion[number, number], confusion[number].sum(), confusion[:, number].sum()
        wrong = confusion[number].copy()
        wrong[number] = 0
        mistaken = names[int(wrong.argmax())] if wrong.any() else ""
        rows.append([name, total, f"{right / max(total, 1):.4f}", f"{right / max(claimed, 1):.4f}", mistaken])
    return rows


def main() -> int:
    return stage_main("train_classifier", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
