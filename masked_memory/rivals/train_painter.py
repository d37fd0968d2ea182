"""A painter for recalled codes: the VQ-VAE's decoder, trained on to paint the code vectors to expect.

Reads:  runs/vqvae_reconstruction/<best> (the indices), runs/train_vqvae/<best>, runs/train_distil/<best>
Writes: runs/train_painter/<run>/ with model/, errors.csv, curves, painted samples

    python -m masked_memory train_painter
    python reconstruct_masked.py --reconstruct_masked.painter best

The DistilBERT says under random masks of all sizes which code vectors are to be expected; the painter learns to paint
them as the VQ-VAE paints the whole grid. It is measured beside the decoder as it was. Masks: True = masked, to be
predicted. Training draws them afresh at each step; those of validation and test are fixed.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedDistil, take_distil
from masked_memory.handoff.split import Split, note_data, open_split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE, take_indices, take_vqvae
from masked_memory.pipeline.draws import Draws
from masked_memory.pipeline.figures import BLUE, GREY, component_rows, curves_figure, picture_grid
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.recall.fillers import DistilFiller
from masked_memory.recall.hole import Filled, dig
from masked_memory.recall.memory import paint
from masked_memory.rivals.handoff.painter import painter_identity, painter_key
from masked_memory.rivals.models.painter import CodePainter
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_painter import TrainPainterSection
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import check_percentages, random_mask, training_mask

GOAL = Goal(monitor="loss", objective="loss", lower_is_better=True)
PAINTED_MASKS = {"val": Stream.PAINTER_VAL_MASKS, "test": Stream.PAINTER_TEST_MASKS}
PAINTED_HEADER = ("painted_by", "percent", "mse", "pictures")
EVEN = 0.1  # added to the share masked, by which an error is divided in training: else nearly whole grids hardly count
AT_ONCE = 250  # pictures that are painted or measured together

Paints = Callable[[Filled], Tensor]  # what was filled in -> (B, C, H, W) in [-1, 1]


class Given(NamedTuple):
    """What the earlier stages hand over."""

    split: Split
    indices: HandedIndices
    vqvae: HandedVQVAE
    distil: HandedDistil


class PainterLearner:
    """The painter as the training loop sees it. The DistilBERT and the VQ-VAE stay as they are."""

    def __init__(self, section: TrainPainterSection, given: Given, machine: Machine, seed: int, with_val: bool) -> None:
        self.section, self.machine, self.seed, self.vqvae = section, machine, seed, given.vqvae.model
        parts = {"train": ("train", "val") if with_val else ("train",), "val": ("val",), "test": ("test",)}
        self.tokens = {name: given.indices.tokens(given.split.positions(*part)) for name, part in parts.items()}
        self.filler = DistilFiller("", given.distil.model, self.vqvae.codebook_vectors(), bf16=machine.bf16)
        self.model = CodePainter(self.vqvae).to(machine.device)

    @property
    def count(self) -> int:
        return len(self.tokens["train"])

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        section, tokens = self.section, self.tokens["train"][rows]
        mask = training_mask(len(rows), tokens.shape[1], section.mask_schedule, generator, section.fixed_ratio)
        errors = mse(self.painted(self.filled(tokens, mask)), self.whole(tokens)) / 4  # (B,), in [0, 1] pixel units
        shares = mask.float().mean(1).to(errors.device)
        return {"loss": (errors / (shares + EVEN)).mean(), "mse": errors.mean()}

    @torch.no_grad()
    def filled(self, tokens: Tensor, mask: Tensor) -> Filled:
        """What the DistilBERT expects in grids (B, N) under a mask (B, N)."""
        device = self.machine.device
        with torch.autocast(device.type, enabled=False):  # the filler has its own
            return self.filler.fill(dig(tokens.to(device), mask.to(device)), "expected", None)

    @torch.no_grad()
    def whole(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, C, H, W): as the VQ-VAE paints the whole grids."""
        with torch.autocast(self.machine.device.type, enabled=False):
            return paint(self.vqvae, Filled(tokens.to(self.machine.device)))

    def painted(self, filled: Filled) -> Tensor:
        """What was filled in, by the painter."""
        assert filled.vectors is not None and filled.kept is not None
        return self.model(filled.vectors, filled.kept)

    def plainly(self, filled: Filled) -> Tensor:
        """What was filled in, by the decoder as it was."""
        return paint(self.vqvae, filled)

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    @property
    def validation_passes(self) -> int:
        return 2 * len(self.section.percentages)  # the DistilBERT is asked, too

    def validate(self, most: int | None = None) -> dict[str, float]:
        """The mean squared error to the unmasked reconstruction in [0, 1] pixel units: averaged over the percentages
        (loss), and at each."""
        found = evaluate(self, self.painted, "val", most)
        return {"loss": float(np.mean(list(found.values())))} | {f"mse_at_{p}": value for p, value in found.items()}


@torch.no_grad()
def evaluate(learner: PainterLearner, paints: Paints, part: str, most: int | None = None) -> dict[int, float]:
    """percent -> mean squared error to the unmasked reconstruction, in [0, 1] pixel units. part: val or test; most: of
    its pictures, evenly spread; None: all."""
    rows = spread(np.arange(len(learner.tokens[part])), most)
    tokens, found = learner.tokens[part][rows], {}
    for percent in learner.section.percentages:
        draws = generator(learner.seed, PAINTED_MASKS[part], percent)
        mask = random_mask(len(tokens), tokens.shape[1], percent / 100, draws)

        def of_batch(batch: tuple[Tensor, Tensor]) -> Tensor:
            some, hidden = batch
            return mse(to_unit(paints(learner.filled(some, hidden))), to_unit(learner.whole(some))).cpu()

        batches = zip(tokens.split(AT_ONCE), mask.split(AT_ONCE), strict=True)
        errors = list(learner.machine.world.map(of_batch, batches))
        found[percent] = float(torch.cat(errors).mean())
    return found


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation loss, a mean squared error to the unmasked reconstruction. With a trial:
    one short fit, no run folder."""
    machine = prepare_machine(cfg.run, say)
    split, section = open_split(cfg), cfg.train_painter
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    distil = take_distil(cfg, section.distil, split, vqvae)
    given = Given(split, indices, vqvae, distil)
    check_percentages("train_painter", section.percentages, vqvae.model.config.tokens)

    def build(chosen: TrainPainterSection, with_val: bool, share: float = 1.0) -> PainterLearner:
        return PainterLearner(chosen, given._replace(split=split.thinned(share)), machine, cfg.run.seed, with_val)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, GOAL, machine, cfg.run.seed)
    check_fit("train_painter", section, build, machine)
    with open_stage("train_painter", cfg, inputs_of(given), machine, resume) as stage:
        note_data(stage, cfg, split)
        trained = train(stage, section, build, GOAL, cfg.run.seed, Path(cfg.run.dir))
        learner: PainterLearner = trained.learner
        meta = split.identity | painter_identity(vqvae, distil)
        stage.model(learner.model.state_dict(), asdict(learner.model.config), meta)
        report(stage, learner)
        stage.figure("painted", painted_figure(learner, split.components))
        name = f"painter-{Path(cfg.data.source).name}-{split.hash[:6]}"
        key = painter_key(split, vqvae, distil)
        stage.finish(key, trained.score, GOAL.objective, GOAL.lower_is_better, name, ("errors.csv",))
        return trained.score


def report(stage: Stage, learner: PainterLearner) -> None:
    """The one look at test: squared error per mask percentage, beside the decoder as it was."""
    found = {
        "painter": evaluate(learner, learner.painted, "test"),
        "decoder": evaluate(learner, learner.plainly, "test"),
    }
    count = len(learner.tokens["test"])
    rows: Rows = [
        {"painted_by": name, "percent": percent, "mse": error, "pictures": count}
        for name, errors in found.items()
        for percent, error in errors.items()
    ]
    write_rows(stage.folder.path / "errors.csv", PAINTED_HEADER, rows)
    for name, errors in found.items():
        stage.metrics |= {f"test_mse_at_{percent}_{name}": error for percent, error in errors.items()}
    looks = zip(found.items(), (BLUE, GREY), ("-", "--"), strict=True)
    curves = [(name, colour, style, list(errors.values()), None) for (name, errors), colour, style in looks]
    percentages, title = list(found["painter"]), f"Expected code vectors of {count} test pictures, painted"
    stage.figure("errors", curves_figure(percentages, curves, "tokens masked (%)", "MSE to reconstruction", title))
    for percent in percentages:
        parts = [f"{name} {errors[percent]:.5f}" for name, errors in found.items()]
        say(f"test, {percent} % masked, MSE to the reconstruction: {', '.join(parts)}")


@torch.no_grad()
def painted_figure(learner: PainterLearner, components: tuple[str, ...], count: int = 8) -> Any:
    """Validation pictures with 25, 50, 75 and 90 % of the tokens masked, painted by the decoder and by the painter."""
    every = learner.tokens["val"]
    tokens = every[torch.from_numpy(spread(np.arange(len(every)), count))]
    rows = [("all tokens", to_unit(learner.whole(tokens)))]
    for percent in (25, 50, 75, 90):
        draws = generator(learner.seed, Stream.PAINTER_FIGURE_MASKS, percent)
        filled = learner.filled(tokens, random_mask(len(tokens), tokens.shape[1], percent / 100, draws))
        rows += [
            (f"{percent} %, decoder", to_unit(learner.plainly(filled))),
            (f"{percent} %, painter", to_unit(learner.painted(filled))),
        ]
    return picture_grid(component_rows(rows, components))


def main() -> int:
    return stage_main("train_painter", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
