"""A rival: the masked autoencoder, which predicts pixels of hidden cells from those of visible ones, without codes.

Reads:  runs/data_split/<best>, runs/train_vqvae/<best> (whose tokens are the cells)
Writes: runs/train_mae/<run>/ with model/, errors.csv, curves, completed samples

    python -m masked_memory train_mae
    python -m masked_memory train_mae --train_mae.inputs reconstructions
    python reconstruct_masked.py --reconstruct_masked.rival_mae best

It is trained for squared error on random masks of all sizes, and so tells how far a completion of such masks is from
what can be had. Masks: True = masked, to be predicted. Training draws them afresh at each step; those of validation and
test are fixed.

A decoder paints a cell from its token and those beside it. So the painting of a whole grid shows in kept cells some of
what the hidden tokens were, and a model that is trained on such paintings (inputs: reconstructions) reads it.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from masked_memory.handoff.split import PictureReader, Split, note_data, open_split
from masked_memory.handoff.vqvae import HandedVQVAE, take_vqvae
from masked_memory.models.augmentation import flip, shift_reflected
from masked_memory.pipeline.draws import Draws
from masked_memory.pipeline.figures import BLUE, GREY, component_rows, curves_figure, picture_grid
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.pipeline.world import shared_mean
from masked_memory.recall.hole import dig
from masked_memory.recall.simple_fillers import MeanPicture
from masked_memory.rivals.fillers import MAEFiller
from masked_memory.rivals.handoff.trained_rivals import mae_key
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_mae import TrainMAESection
from masked_memory.sources.pixels import from_model
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import check_percentages, random_mask, touched_pixels, training_mask

GOAL = Goal(monitor="loss", objective="loss", lower_is_better=True)
MASKED_CELLS = {"val": Stream.MAE_VAL_MASKS, "test": Stream.MAE_TEST_MASKS}
PARTS = 2  # of a batch, by how much is visible: cells that only fill pictures up to the same number cost time
BATCH = 250  # pictures that are painted or measured at once


class MAELearner:
    """The masked autoencoder as the training loop sees it. split: with the pictures that it is to see."""

    def __init__(
        self, section: TrainMAESection, split: Split, stride: int, machine: Machine, seed: int, with_val: bool
    ) -> None:
        self.section, self.split, self.machine = section, split, machine
        self.train_positions = split.positions("train", "val") if with_val else split.positions("train")
        config = configured(
            MaskedAutoencoderConfig,
            section,
            image_size=split.meta["image_size"],
            channels=split.meta["channels"],
            stride=stride,
            mean=tuple(split.meta["mean"]),
            std=tuple(split.meta["std"]),
        )
        self.model = MaskedAutoencoder(config).to(machine.device)
        self.reader = PictureReader(split, self.train_positions, machine.device)
        self.val_positions = split.positions("val")
        self.val_masks = masked_cells("val", len(self.val_positions), config.cells, section.percentages, seed)

    @property
    def count(self) -> int:
        return len(self.train_positions)

    @property
    def undecayed(self) -> list[str]:
        """Where cells lie: no weights of a layer."""
        return ["positions", "decoder_positions", "near_encoder.table", "near_decoder.table"]

    def read_ahead(self, rows: Tensor) -> None:
        self.reader.ask(rows)

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        section, config = self.section, self.model.config
        x = self.reader.take(rows)
        if section.augmentation == "shift_flip":
            x = flip(x, generator)
        if section.augmentation in ("shift", "shift_flip"):
            x = shift_reflected(x, config.image_size // 8, generator)
        mask = training_mask(len(x), config.cells, section.mask_schedule, generator, section.fixed_ratio)
        mask = mask.to(self.machine.device)
        errors = [squared_errors(self.model, x[part], mask[part]) for part in mask.sum(1).argsort().chunk(PARTS)]
        return {"loss": shared_mean(self.machine.world, torch.cat(errors))}

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    @property
    def validation_passes(self) -> int:
        return len(self.section.percentages)

    def validate(self, most: int | None = None) -> dict[str, float]:
        """The mean squared error within masked cells in [0, 1] pixel units: averaged over the percentages (loss), and
        at each."""
        few = spread(np.arange(len(self.val_positions)), most)
        masks = {percent: mask[few] for percent, mask in self.val_masks.items()}
        rows = evaluate(self.filler, self.split, self.val_positions[few], masks, self.machine)
        loss = float(np.mean([row["masked_mse"] for row in rows]))
        return {"loss": loss} | {f"mse_at_{row['percent']}": row["masked_mse"] for row in rows}

    @property
    def filler(self) -> MAEFiller:
        return MAEFiller("masked autoencoder", self.model)


def squared_errors(model: MaskedAutoencoder, pictures: Tensor, mask: Tensor) -> Tensor:
    """(numbers in masked cells,) squared errors of the prediction, in units of the [0, 1] pixel range. pictures:
    (B, C, H, W) in [-1, 1]; mask: (B, N)."""
    missing = touched_pixels(mask, pictures.shape[2], pictures.shape[3], model.config.stride)
    errors = ((model(pictures, mask) - pictures) / 2).square()
    return errors.permute(0, 2, 3, 1)[missing].flatten()


@torch.no_grad()
def as_reconstructions(split: Split, vqvae: HandedVQVAE) -> Split:
    """The same split with the VQ-VAE's reconstruction in place of each picture, painted once and kept in memory.

    As uint8, like originals: rounding adds 1e-6 to a mean squared error, a thousandth of what is measured.
    """
    painted = np.empty((len(split.manifest), *split.images.shape[1:]), dtype=np.uint8)
    for start in range(0, len(painted), BATCH):
        positions = np.arange(start, min(start + BATCH, len(painted)))
        tokens = vqvae.model.encode_indices(split.pictures(positions).to(vqvae.device)).flatten(1)
        painted[positions] = from_model(vqvae.paint(tokens))
    return replace(split, images=painted, rows=np.arange(len(painted)))


def masked_cells(part: str, count: int, cells: int, percentages: list[int], seed: int) -> dict[int, Tensor]:
    """percent -> (count, N) bool, the same for the same seed."""
    return {
        percent: random_mask(count, cells, percent / 100, generator(seed, MASKED_CELLS[part], percent))
        for percent in percentages
    }


@torch.no_grad()
def evaluate(
    filler: MAEFiller | MeanPicture, split: Split, positions: np.ndarray, masks: dict[int, Tensor], machine: Machine
) -> Rows:
    """Rows of errors.csv: mean squared errors of what is filled in, within masked cells and over the picture, in [0, 1]
    pixel units. masks: percent -> (pictures, N)."""
    rows: Rows = []

    def of_batch(asked: tuple[int, int]) -> Tensor:
        percent, start = asked
        x = split.pictures(positions[start : start + BATCH]).to(machine.device)
        filled = fill_cells(filler, x, masks[percent][start : start + BATCH].to(machine.device))
        return mse(to_unit(filled), to_unit(x)).cpu()

    batches = [(percent, start) for percent in masks for start in range(0, len(positions), BATCH)]
    errors = list(machine.world.map(of_batch, batches))
    for percent, mask in masks.items():
        over = torch.cat([error for (asked, _), error in zip(batches, errors, strict=True) if asked == percent])
        within = over / mask.float().mean(1)  # visible cells have no error
        row = {"model": filler.name, "percent": percent, "masked_mse": float(within.mean()), "mse": float(over.mean())}
        rows.append(row | {"pictures": len(positions)})
    return rows


def fill_cells(filler: MAEFiller | MeanPicture, pictures: Tensor, mask: Tensor) -> Tensor:
    """Pictures (B, C, H, W) of which masked cells (B, N) were taken out and filled in."""
    tokens = torch.zeros_like(mask, dtype=torch.long)
    filled = filler.fill(dig(tokens, mask, pixels=pictures, stride=filler.stride), "expected", None).pictures
    assert filled is not None
    return filled


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation loss, a mean squared error within masked cells. With a trial: one short
    fit, no run folder."""
    machine = prepare_machine(cfg.run, say)
    split, section = open_split(cfg), cfg.train_mae
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    check_percentages("train_mae", section.percentages, vqvae.model.config.tokens)
    shown = split if section.inputs == "originals" else as_reconstructions(split, vqvae)

    def build(chosen: TrainMAESection, with_val: bool, share: float = 1.0) -> MAELearner:
        return MAELearner(chosen, shown.thinned(share), vqvae.model.config.stride, machine, cfg.run.seed, with_val)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, GOAL, machine, cfg.run.seed)
    check_fit("train_mae", section, build, machine)
    with open_stage("train_mae", cfg, inputs_of([split, vqvae]), machine, resume) as stage:
        note_data(stage, cfg, split)
        trained = train(stage, section, build, GOAL, cfg.run.seed, Path(cfg.run.dir))
        learner: MAELearner = trained.learner
        meta = {**split.identity, **vqvae.identity, "inputs": section.inputs}
        stage.model(learner.model.state_dict(), asdict(learner.model.config), meta)
        report(stage, learner, cfg.run.seed)
        stage.figure("completed", completed_cells(learner))
        name = f"mae-{section.inputs}-{Path(cfg.data.source).name}-{split.hash[:6]}"
        key = mae_key(split, vqvae, section.inputs)
        stage.finish(key, trained.score, GOAL.objective, GOAL.lower_is_better, name, ("errors.csv",))
        return trained.score


def report(stage: Stage, learner: MAELearner, seed: int) -> None:
    """The one look at test: squared error per mask percentage, beside the mean training picture."""
    split, config = learner.split, learner.model.config
    positions = split.positions("test")
    masks = masked_cells("test", len(positions), config.cells, learner.section.percentages, seed)
    mean = MeanPicture(mean_shown(split, learner.train_positions), config.stride)
    found = {each.name: evaluate(each, split, positions, masks, stage.machine) for each in (learner.filler, mean)}
    write_rows(stage.folder.path / "errors.csv", CELL_ERRORS_HEADER, [row for rows in found.values() for row in rows])
    for row in found[learner.filler.name]:
        stage.metrics |= {f"test_{key}_at_{row['percent']}": row[key] for key in ("masked_mse", "mse")}
    looks = zip(found.items(), (BLUE, GREY), ("-", ":"), strict=True)
    curves = [(name, colour, style, [row["masked_mse"] for row in rows], None) for (name, rows), colour, style in looks]
    title = f"Hidden cells of {len(positions)} test pictures ({learner.section.inputs})"
    stage.figure("errors", curves_figure(list(masks), curves, "cells masked (%)", "MSE within masked cells", title))
    for percent in masks:
        parts = [
            f"{name} {row['masked_mse']:.4f} within, {row['mse']:.4f} over the picture"
            for name, rows in found.items()
            for row in rows
            if row["percent"] == percent
        ]
        say(f"test, {percent} % masked, MSE: {'; '.join(parts)}")


CELL_ERRORS_HEADER = ("model", "percent", "masked_mse", "mse", "pictures")


def mean_shown(split: Split, positions: np.ndarray) -> Tensor:
    """(C, H, W) in [-1, 1]: the mean of the pictures."""
    sums = [split.pictures(positions[start : start + BATCH]).sum(0) for start in range(0, len(positions), BATCH)]
    return torch.stack(sums).sum(0) / len(positions)


@torch.no_grad()
def completed_cells(learner: MAELearner, count: int = 8) -> Any:
    """Validation pictures with 25, 50, 75 and 90 % of the cells masked, and completed."""
    split, config, device = learner.split, learner.model.config, learner.machine.device
    pictures = split.pictures(spread(learner.val_positions, count)).to(device)
    grey = MeanPicture(torch.zeros_like(pictures[0]), config.stride)
    rows: list[tuple[str, Tensor]] = [(learner.section.inputs, to_unit(pictures))]
    for percent in (25, 50, 75, 90):
        draws = generator(0, Stream.MAE_FIGURE_MASKS, percent)
        mask = random_mask(len(pictures), config.cells, percent / 100, draws).to(device)
        rows.append((f"{percent} % gone", to_unit(fill_cells(grey, pictures, mask))))
        rows.append(("completed", to_unit(fill_cells(learner.filler, pictures, mask))))
    return picture_grid(component_rows(rows, split.components))


def main() -> int:
    return stage_main("train_mae", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
