"""Stage 5: the DistilBERT that completes partly forgotten grids of indices.

Reads:  runs/vqvae_reconstruction/<best> (the indices), runs/train_vqvae/<best> (to paint samples)
Writes: runs/train_distil/<run>/ with model/, masks/ (the fixed validation masks), baselines.csv, curves, samples

    python train_distil.py
    python train_distil.py --train_distil.init distilbert-base-uncased

Masks: True = masked, to be predicted. Training draws them afresh at each step; validation and test masks are fixed.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from torch import Tensor

from masked_memory.handoff.memory import distil_key
from masked_memory.handoff.split import PictureReader, Split, note_data, open_split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE, take_indices, take_vqvae
from masked_memory.models.augmentation import augment
from masked_memory.models.distilbert import (
    DistilShape,
    blank_mask_token,
    build_distilbert,
    codes_of,
    from_pretrained_body,
    masked_cross_entropy,
    prepare_for,
    start_from_codebook,
    weights_of,
)
from masked_memory.models.sizes import completing_bytes
from masked_memory.pipeline.draws import Draws, for_rows
from masked_memory.pipeline.figures import BLUE, GREY, ORANGE, component_rows, curves_figure, picture_grid
from masked_memory.pipeline.files import InputError, write_array, write_csv
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine, sent
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.pipeline.world import shared_mean
from masked_memory.recall.fillers import DistilFiller
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import average_code, baseline_probabilities, paint, shares_by_position
from masked_memory.recall.simple_fillers import NotCompleted
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import check_percentages, random_mask, training_mask

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

GOAL = Goal(monitor="loss", objective="loss", lower_is_better=True)
FIXED_MASKS = {"val": Stream.DISTIL_VAL_MASKS, "test": Stream.DISTIL_TEST_MASKS}


class DistilLearner:
    """The DistilBERT as the training loop sees it."""

    def __init__(
        self, section: TrainDistilSection, split: Split, indices: HandedIndices, vqvae: HandedVQVAE, machine: Machine,
        seed: int, with_val: bool,
    ) -> None:  # fmt: skip
        self.section, self.machine, self.split, self.vqvae = section, machine, split, vqvae.model
        self.train_positions = positions = split.positions("train", "val") if with_val else split.positions("train")
        self.reader = PictureReader(split, positions, machine.device)
        self.train_tokens = indices.compact(positions)
        self.train_labels = torch.from_numpy(split.labels[positions]).long()
        self.val_tokens = indices.tokens(split.positions("val"))
        self.val_labels = torch.from_numpy(split.labels[split.positions("val")]).long()
        self.val_masks = fixed_masks("val", self.val_tokens, section.percentages, seed)
        classes = len(split.classes) if section.condition_on_class else 0
        self.model = build_model(section, vqvae.model.config.codebook_size, self.train_tokens.shape[1], classes)
        if section.init == "scratch" and section.start_from_codebook:
            start_from_codebook(
                self.model, vqvae.model.codebook_vectors().cpu(), generator(seed, Stream.DISTIL_EMBEDDINGS)
            )
        if section.mask_embedding == "zero":
            blank_mask_token(self.model)
        prepare_for(self.model, machine.device)
        self.once = (
            None
            if section.redraw_masks
            else self._draw_masks(len(positions), generator(seed, Stream.DISTIL_ONLY_MASKS))
        )

    @property
    def count(self) -> int:
        return len(self.train_tokens)

    @property
    def compiled_parts(self) -> list[torch.nn.Module]:
        return [self.model.distilbert]

    @property
    def undecayed(self) -> list[str]:
        """The bias of attention: weight decay would make far cells near."""
        return [name for name, _ in self.model.named_parameters() if name.startswith("near.")]

    def _draw_masks(self, count: int, generator: Draws) -> Tensor:
        section = self.section
        return training_mask(count, self.train_tokens.shape[1], section.mask_schedule, generator, section.fixed_ratio)

    def read_ahead(self, rows: Tensor) -> None:
        if self.section.augmentation != "none":
            self.reader.ask(rows)

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        tokens = sent(self._tokens(rows, generator), self.machine.device)
        mask = self._draw_masks(len(rows), generator) if self.once is None else self.once[rows]
        labels = self._labels(rows, generator) if self.section.condition_on_class else None
        losses, right = masked_cross_entropy(self.model, tokens, mask, labels)
        world = self.machine.world
        return {"loss": shared_mean(world, losses), "accuracy": shared_mean(world, right.float())}

    @torch.no_grad()
    def _tokens(self, rows: Tensor, generator: Draws) -> Tensor:
        """(B, N) of these pictures, or of the same mirrored and moved."""
        if self.section.augmentation == "none":
            return self.train_tokens[rows].long()
        x = self.reader.take(rows)
        with torch.autocast(x.device.type, enabled=False):  # as the indices were made
            return self.vqvae.encode_indices(augment(x, self.section.augmentation, generator)).flatten(1)

    def _labels(self, rows: Tensor, generator: Draws) -> Tensor:
        """(B,) classes, -1 where the class is not told this time."""
        dropped = for_rows(len(rows), generator, lambda n, g: torch.rand(n, generator=g) < self.section.label_drop)
        return self.train_labels[rows].masked_fill(dropped, -1)

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    @property
    def validation_passes(self) -> int:
        return len(self.section.percentages)

    def validate(self, most: int | None = None) -> dict[str, float]:
        """Masked cross-entropy (loss) and accuracy, averaged over the percentages; the loss also at each. No class is
        told, so that models with and without classes compare; but to a model that never learns to do without it is."""
        section = self.section
        rows = spread(np.arange(len(self.val_tokens)), most)
        masks = {percent: mask[rows] for percent, mask in self.val_masks.items()}
        labels = self.val_labels[rows] if section.condition_on_class and section.label_drop == 0 else None
        found = evaluate(self.model, self.val_tokens[rows], masks, self.machine, labels)
        values = {"loss": float(np.mean([ce for ce, _ in found.values()]))}
        values["accuracy"] = float(np.mean([accuracy for _, accuracy in found.values()]))
        return values | {f"loss_at_{percent}": ce for percent, (ce, _) in found.items()}


def build_model(section: TrainDistilSection, codebook_size: int, tokens: int, classes: int) -> "DistilBertForMaskedLM":
    """From scratch, or around the layers of a trained DistilBERT. Raises InputError when that cannot be had."""
    if section.init == "scratch":
        return build_distilbert(codebook_size, tokens, configured(DistilShape, section), classes)
    try:
        return from_pretrained_body(section.init, codebook_size, tokens, classes)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"train_distil.init {section.init} cannot be had: {reason}; type --train_distil.init scratch"
        ) from None


def fixed_masks(part: str, tokens: Tensor, percentages: list[int], seed: int) -> dict[int, Tensor]:
    """percent -> (pictures, N) bool for tokens (pictures, N), the same for the same seed."""
    return {
        percent: random_mask(len(tokens), tokens.shape[1], percent / 100, generator(seed, FIXED_MASKS[part], percent))
        for percent in percentages
    }


@torch.no_grad()
def evaluate(
    model: "DistilBertForMaskedLM",
    tokens: Tensor,
    masks: dict[int, Tensor],
    machine: Machine,
    labels: Tensor | None = None,
) -> dict[int, tuple[float, float]]:
    """percent -> (masked cross-entropy in nats per token, masked accuracy). labels: (pictures,), None tells none."""
    model.eval()
    device = machine.device
    batch_size = machine.at_once(completing_bytes(tokens.shape[1], codes_of(model), model.config.dim))

    def of_batch(asked: tuple[int, int]) -> tuple[Tensor, Tensor]:
        percent, start = asked
        rows = slice(start, start + batch_size)
        told = None if labels is None else labels[rows]
        losses, right = masked_cross_entropy(model, tokens[rows].to(device), masks[percent][rows], told)
        return losses.cpu(), right.cpu()

    batches = [(percent, start) for percent in masks for start in range(0, len(tokens), batch_size)]
    parts = list(machine.world.map(of_batch, batches))
    found = {}
    for percent in masks:
        own = [part for (asked, _), part in zip(batches, parts, strict=True) if asked == percent]
        losses, right = (torch.cat([part[side] for part in own]) for side in (0, 1))
        found[percent] = (float(losses.mean()), float(right.float().mean()))
    return found


def judge_baseline(probabilities: Tensor, tokens: Tensor, mask: Tensor) -> tuple[float, float]:
    """(masked cross-entropy, masked accuracy) of (N, K) probabilities that ignore the picture."""
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    losses = -probabilities[positions, tokens].log()
    right = probabilities.argmax(1)[positions] == tokens
    return float(losses[mask].mean()), float(right[mask].double().mean())


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation loss in nats per masked token. With a trial: one short fit, no run
    folder."""
    machine = prepare_machine(cfg.run, say)
    split, section = open_split(cfg), cfg.train_distil
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    if section.condition_on_class and not split.classes:
        raise InputError(
            "train_distil.condition_on_class needs pictures with classes, these have none; "
            "type --train_distil.condition_on_class false"
        )

    check_percentages("train_distil", section.percentages, vqvae.model.config.tokens)

    def build(chosen: TrainDistilSection, with_val: bool, share: float = 1.0) -> DistilLearner:
        return DistilLearner(chosen, split.thinned(share), indices, vqvae, machine, cfg.run.seed, with_val)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, GOAL, machine, cfg.run.seed)
    check_fit("train_distil", section, build, machine)
    with open_stage("train_distil", cfg, inputs_of([split, vqvae, indices]), machine, resume) as stage:
        note_data(stage, cfg, split)
        trained = train(stage, section, build, GOAL, cfg.run.seed, Path(cfg.run.dir))
        learner: DistilLearner = trained.learner
        save(stage, learner, split, vqvae, trained.section)
        for percent, mask in learner.val_masks.items():
            write_array(stage.folder.path / "masks" / f"val_{percent}.npy", mask.numpy())
        report(stage, learner, indices.tokens(split.positions("test")), vqvae.model.config.codebook_size, cfg.run.seed)
        stage.figure("completed", completed_figure(learner, split, indices, vqvae, cfg.run.seed))
        told, published = section.condition_on_class, trained.section.published_recipe
        kind = f"distil{'-told' if told else ''}{'-published' if published else ''}"
        name = f"{kind}-{Path(cfg.data.source).name}-{split.hash[:6]}"
        key, extra = distil_key(split, vqvae, told, published), ("masks", "baselines.csv")
        stage.finish(key, trained.score, GOAL.objective, GOAL.lower_is_better, name, extra)
        return trained.score


def report(stage: Stage, learner: DistilLearner, tokens: Tensor, codebook_size: int, seed: int) -> None:
    """The one look at test: masked cross-entropy and accuracy per mask percentage, beside two baselines."""
    masks = fixed_masks("test", tokens, learner.section.percentages, seed)
    found = {"DistilBERT": evaluate(learner.model, tokens, masks, stage.machine)}
    for name, probabilities in baseline_probabilities(learner.train_tokens, codebook_size).items():
        found[name] = {percent: judge_baseline(probabilities, tokens, mask) for percent, mask in masks.items()}
    rows = [
        [name, percent, f"{ce:.6g}", f"{accuracy:.6g}", int(masks[percent].sum())]
        for name, values in found.items()
        for percent, (ce, accuracy) in values.items()
    ]
    write_csv(stage.folder.path / "baselines.csv", ("model", "percent", "cross_entropy", "accuracy", "tokens"), rows)
    for percent, (ce, accuracy) in found["DistilBERT"].items():
        stage.metrics |= {f"test_loss_at_{percent}": ce, f"test_accuracy_at_{percent}": accuracy}
    for name, values in list(found.items())[1:]:
        stage.metrics |= {f"test_loss_at_{p}_{name.replace(' ', '_')}": ce for p, (ce, _) in values.items()}
    looks = zip(found.items(), (BLUE, GREY, ORANGE), ("-", ":", "--"), strict=True)
    curves = [(name, colour, style, [ce for ce, _ in values.values()], None) for (name, values), colour, style in looks]
    figure = curves_figure(
        list(masks),
        curves,
        "tokens masked (%)",
        "cross-entropy (nats per token)",
        f"Completion of {len(tokens)} test grids",
    )
    stage.figure("cross_entropy", figure)
    for percent in masks:
        parts = [
            f"{name} {values[percent][0]:.2f} nats, {100 * values[percent][1]:.1f} %" for name, values in found.items()
        ]
        say(f"test, {percent} % masked: {'; '.join(parts)}")


@torch.no_grad()
def completed_figure(
    learner: DistilLearner, split: Split, indices: HandedIndices, vqvae: HandedVQVAE, seed: int, count: int = 8
) -> Any:
    """Validation pictures with 25, 50, 75 and 90 % of the tokens masked, and completed."""
    device, model = learner.machine.device, vqvae.model
    positions = spread(split.positions("val"), count)
    tokens = indices.tokens(positions).to(device)
    codebook = model.codebook_vectors()
    shares = shares_by_position(learner.train_tokens, len(codebook)).to(device)
    left, distil = NotCompleted(codebook, average_code(shares, codebook)), DistilFiller("", learner.model, codebook)
    rows = [("original", to_unit(split.pictures(positions)))]
    for percent in (25, 50, 75, 90):
        draws = generator(seed, Stream.DISTIL_FIGURE_MASKS, percent)
        hole = dig(tokens, random_mask(len(tokens), tokens.shape[1], percent / 100, draws).to(device))
        gone, completed = left.fill(hole, "expected", None), distil.fill(hole, "argmax", None)
        rows += [(f"{percent} % gone", to_unit(paint(model, gone))), ("completed", to_unit(paint(model, completed)))]
    return picture_grid(component_rows(rows, split.components))


def save(stage: Stage, learner: DistilLearner, split: Split, vqvae: HandedVQVAE, section: TrainDistilSection) -> None:
    """model/: as transformers reads it (config.json, model.safetensors), and meta.json."""
    meta = {**split.identity, **vqvae.identity, "tokens": learner.train_tokens.shape[1]}
    meta["label_drop"] = section.label_drop if section.condition_on_class else None
    stage.model(weights_of(learner.model), learner.model.config.to_dict(), meta)


def main() -> int:
    return stage_main("train_distil", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
