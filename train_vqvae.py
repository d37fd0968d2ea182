"""Stage 2: the VQ-VAE that turns pictures into grids of code indices.

Reads:  runs/data_split/<best>
Writes: runs/train_vqvae/<run>/ with model/, curves, sample grids, the tuning study

    python train_vqvae.py
    python train_vqvae.py --train_vqvae.epochs 2 --train_vqvae.tune.trials 0

Tunes on validation, fits with the best settings, keeps the epoch of the lowest validation loss, looks at test once.
"""

import sys
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor

import vqvae
from cli import stage_main
from config import Config, TrainVQVAESection
from data_split import Split, note_data, open_split
from handoff import codebook_digest
from pipeline.figures import picture_grid
from pipeline.machine import Machine, prepare_machine
from pipeline.metrics import mse, perplexity, picture_errors, psnr, share_used, ssim, to_unit
from pipeline.stage import Stage, open_stage, say
from pipeline.training import Goal, run_trial, train
from pipeline.tuning import suggest
from vqvae import VQVAE, VQVAEConfig

# Fits stop and checkpoint on the total loss; settings are compared by squared error, as the total depends on beta.
GOAL = Goal(monitor="loss", objective="mse", lower_is_better=True)


class VQVAELearner:
    """The VQ-VAE as the training loop sees it."""

    def __init__(self, section: TrainVQVAESection, split: Split, machine: Machine, with_val: bool) -> None:
        self.split, self.machine = split, machine
        self.train_positions = split.positions("train", "val") if with_val else split.positions("train")
        self.val_positions = split.positions("val")
        self.ssim_weight, self.augmentation = section.ssim_weight, section.augmentation
        self.model = VQVAE(model_config(section, split))
        self.model.to(machine.device).to(memory_format=torch.channels_last)
        self._counts = torch.zeros(section.codebook_size)

    @property
    def count(self) -> int:
        return len(self.train_positions)

    def pictures(self, positions: Any) -> Tensor:
        return self.split.pictures(positions).to(self.machine.device, memory_format=torch.channels_last)

    def step(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x = augment(self.pictures(self.train_positions[rows.numpy()]), self.augmentation, generator)
        output = self.model(x, generator)
        painted, truth = to_unit(output.reconstruction), to_unit(x)
        losses = with_ssim(output.losses, painted, truth, self.ssim_weight)
        with torch.no_grad():
            self._counts += torch.bincount(output.indices.flatten(), minlength=len(self._counts)).cpu()
            errors = mse(painted, truth)
            shown = {"mse": errors.mean(), "psnr": psnr(errors).mean()}
            if min(x.shape[-2:]) >= 11:
                shown["ssim"] = ssim(painted, truth).mean()
        return losses | shown

    def epoch_metrics(self) -> dict[str, float]:
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        return {"perplexity": perplexity(counts), "codes_used": share_used(counts)}

    def validate(self) -> dict[str, float]:
        return evaluate(self, self.val_positions)


def with_ssim(losses: dict[str, Tensor], painted: Tensor, truth: Tensor, weight: float) -> dict[str, Tensor]:
    """The losses with weight * (1 - SSIM) added to the total, as in Zhao et al. 2017 ("Loss functions for image
    restoration with neural networks"). painted, truth: (B, C, H, W) in [0, 1]. Weight 0: the losses as they are.

    SSIM is that of `pipeline.metrics`, of the clamped picture: what lies outside the range is left to the other term.
    """
    if not weight:
        return losses
    unlike = 1 - ssim(painted, truth).mean()
    return losses | {"loss": losses["loss"] + weight * unlike, "ssim_loss": unlike}


def augment(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """(B, C, H, W) square: `flip` mirrors every second picture left-right; `dihedral` also upside down and across the
    diagonal, so that each of the eight is equally likely. `none` draws nothing."""
    if kind == "none":
        return x
    drawn = (torch.rand(3, len(x), 1, 1, 1, generator=generator) < 0.5).to(x.device)
    x = torch.where(drawn[0], x.flip(3), x)
    if kind == "dihedral":
        x = torch.where(drawn[1], x.flip(2), x)
        x = torch.where(drawn[2], x.transpose(2, 3), x)
    return x.contiguous(memory_format=torch.channels_last)


def model_config(section: TrainVQVAESection, split: Split) -> VQVAEConfig:
    return VQVAEConfig(
        image_size=split.meta["image_size"],
        channels=split.meta["channels"],
        stride=section.stride,
        hidden=section.hidden,
        residual_blocks=section.residual_blocks,
        codebook_size=section.codebook_size,
        code_dim=section.code_dim,
        commitment_weight=section.commitment_weight,
        codebook_update=section.codebook_update,
        ema_decay=section.ema_decay,
        data_init=section.data_init,
        restart_share=section.restart_share,
        normalize_codes=section.normalize_codes,
        rotation_trick=section.rotation_trick,
        reconstruction_loss=section.reconstruction_loss,
        stem=section.stem,
        codebook_start=section.codebook_start,
    )


@torch.no_grad()
def evaluate(learner: VQVAELearner, positions: Any, batch_size: int = 250) -> dict[str, float]:
    """All losses, MSE, PSNR and SSIM (means over pictures), perplexity and share of codes in use."""
    model = learner.model.eval()
    counts = torch.zeros(model.config.codebook_size)
    sums: dict[str, float] = {}
    for start in range(0, len(positions), batch_size):
        x = learner.pictures(positions[start : start + batch_size])
        output = model(x)
        counts += torch.bincount(output.indices.flatten(), minlength=len(counts)).cpu()
        painted, truth = to_unit(output.reconstruction), to_unit(x)
        losses = with_ssim(output.losses, painted, truth, learner.ssim_weight)
        values = {name: value * len(x) for name, value in losses.items()}
        errors = picture_errors(painted, truth)
        values |= {name: error.sum() for name, error in errors.items()}
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    means = {name: value / len(positions) for name, value in sums.items()}
    return means | {"perplexity": perplexity(counts), "codes_used": share_used(counts)}


@torch.no_grad()
def samples_figure(learner: VQVAELearner, positions: Any) -> Any:
    """Originals over their reconstructions, ten pictures spread over the split."""
    chosen = positions[:: max(1, len(positions) // 10)][:10]
    x = learner.pictures(chosen)
    return picture_grid([("original", to_unit(x)), ("painted", to_unit(learner.model.eval()(x).reconstruction))])


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation MSE in [0, 1] pixel units. With a trial: one short fit, no run folder."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    split, section, runs = open_split(cfg), cfg.train_vqvae, Path(cfg.run.dir)

    def build(chosen: TrainVQVAESection, with_val: bool) -> VQVAELearner:
        return VQVAELearner(chosen, split, machine, with_val)

    if trial is not None:
        chosen = section.replace(suggest(trial, section.tune.space))
        return run_trial(trial, chosen, build, GOAL, machine, cfg.run.seed)
    identity = f"{cfg.run.seed} {section.model_dump_json()}"
    with open_stage("train_vqvae", cfg, {"data_split": str(split.folder)}, identity, machine, resume) as stage:
        note_data(stage, cfg, split)
        announce(split, section, machine)
        trained = train(stage, section, build, GOAL, cfg.run.seed, runs)
        learner: VQVAELearner = trained.learner
        report(stage, learner, split)
        save(stage, learner, split)
        name = f"vqvae-{Path(cfg.data.source).name}-{split.hash[:6]}"
        stage.finish(split.key, trained.score, GOAL.objective, GOAL.lower_is_better, registered_as=name)
        return trained.score


def announce(split: Split, section: TrainVQVAESection, machine: Machine) -> None:
    config = model_config(section, split)
    parameters = sum(p.numel() for p in VQVAE(config).parameters())
    counts = ", ".join(f"{count} {name}" for name, count in split.meta["counts"].items())
    say(f"inherited: split {split.folder} ({counts})")
    say(f"{config.grid}x{config.grid} tokens per picture, {parameters:,} parameters, on {machine.describe()}")


def report(stage: Stage, learner: VQVAELearner, split: Split) -> None:
    """The one look at test."""
    test = evaluate(learner, split.positions("test"))
    stage.metrics |= {f"test_{name}": value for name, value in test.items()}
    stage.figure("samples_val", samples_figure(learner, learner.val_positions))
    stage.figure("samples_test", samples_figure(learner, split.positions("test")))
    size = learner.model.config.codebook_size
    ssim_text = f"SSIM {test['ssim']:.3f}, " if "ssim" in test else ""
    say(f"test: PSNR {test['psnr']:.2f} dB, {ssim_text}perplexity {test['perplexity']:.0f} of {size}")


def save(stage: Stage, learner: VQVAELearner, split: Split) -> None:
    model, config = learner.model, learner.model.config
    meta = {**split.identity, "stride": config.stride, "grid": config.grid, "codebook_size": config.codebook_size}
    meta["codebook"] = codebook_digest(model)
    stage.model(model.state_dict(), vqvae.describe_config(config), meta)


def main() -> int:
    return stage_main("train_vqvae", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
