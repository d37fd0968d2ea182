"""Stage 2: the VQ-VAE that turns pictures into grids of code indices.

Reads:  runs/data_split/<best>
Writes: runs/train_vqvae/<run>/ with model/, curves, sample grids, the tuning study

    python train_vqvae.py
    python train_vqvae.py --train_vqvae.epochs 2 --train_vqvae.tune.trials 0

Tunes on validation, fits with the best settings, keeps the epoch of the lowest validation loss, looks at test once.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import Tensor, nn

from masked_memory.handoff.split import PictureReader, Split, note_data, open_split
from masked_memory.handoff.vqvae import vqvae_key
from masked_memory.models.augmentation import augment
from masked_memory.models.codebook import count_codes
from masked_memory.models.conditioning import Columns, Told, drop, fit_columns
from masked_memory.models.sizes import painting_bytes
from masked_memory.pipeline.draws import Draws
from masked_memory.pipeline.figures import component_rows, picture_grid
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, prepare_machine
from masked_memory.pipeline.metrics import mse, perplexity, picture_errors, psnr, share_used, ssim, to_unit
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import all_but, component_mask, hide_components, masked_probability
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig, codebook_digest

# Fits stop and checkpoint on the total loss; settings are compared by squared error, as the total depends on beta.
GOAL = Goal(monitor="loss", objective="mse", lower_is_better=True)
# With component masking fits also count how well the rest is painted when one component is shown; settings are compared
# by that alone.
MASKING_GOAL = Goal(monitor="masking_loss", objective="kept_mse", lower_is_better=True)
SSIM_SHOWN = 8  # pictures of a batch, evenly spread, whose SSIM is measured in training, for display only


class VQVAELearner:
    """The VQ-VAE as the training loop sees it."""

    def __init__(self, section: TrainVQVAESection, split: Split, machine: Machine, with_val: bool) -> None:
        self.split, self.machine = split, machine
        self.masking, self.mask_p = section.component_masking, 0.0
        self.label_drop = section.label_drop
        self.train_positions = split.positions("train", "val") if with_val else split.positions("train")
        self.reader = PictureReader(split, self.train_positions, machine.device)
        self.val_positions = split.positions("val")
        self.ssim_weight, self.augmentation = section.ssim_weight, section.augmentation
        self.columns = columns(section, split)
        self.metadata = self.columns.tell(split.manifest) if self.columns else None
        self.model = VQVAE(model_config(section, split, self.columns))
        self.model.to(machine.device).to(memory_format=torch.channels_last)
        self.model.quantizer.world = machine.world
        self._counts = torch.zeros(section.codebook_size, device=machine.device)

    @property
    def count(self) -> int:
        return len(self.train_positions)

    @property
    def undecayed(self) -> tuple[str, ...]:
        """The codebook, where it moves by its gradient: weight decay would draw all codes to zero."""
        return ("quantizer.codebook",) if self.model.config.codebook_update == "gradient" else ()

    def pictures(self, positions: Any) -> Tensor:
        return self.split.pictures(positions).to(self.machine.device, memory_format=torch.channels_last)

    def told(self, positions: Any) -> Told | None:
        """What the decoder is told about the pictures; None without conditions."""
        return None if self.metadata is None else self.metadata.rows(positions).to(self.machine.device)

    @property
    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.encoder, self.model.decoder]

    def start_epoch(self, epoch: int) -> None:
        if self.masking.enabled:
            self.mask_p = masked_probability(epoch, self.masking.mask_prob_max, self.masking.warmup_epochs)

    def read_ahead(self, rows: Tensor) -> None:
        self.reader.ask(rows)

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        x = augment(self.reader.take(rows), self.augmentation, generator)
        seen, told = x, self.told(self.train_positions[rows.numpy()])
        if self.masking.enabled:
            seen = hide_components(x, component_mask(len(x), x.shape[1], self.mask_p, generator))
        if told is not None:
            told = drop(told, self.label_drop, generator)
        output = self.model(seen, generator, target=x, told=told)
        painted, truth = to_unit(output.reconstruction), to_unit(x)
        losses = with_ssim(output.losses, painted, truth, self.ssim_weight)
        with torch.no_grad():
            self._counts += count_codes(output.indices, len(self._counts))
            errors = mse(painted, truth)
            shown = {"mse": errors.mean(), "psnr": psnr(errors).mean()}
            if "ssim_loss" in losses:
                shown["ssim"] = 1 - losses["ssim_loss"]
            elif min(x.shape[-2:]) >= 11:
                every = max(1, len(x) * self.machine.world.size // SSIM_SHOWN)
                shown["ssim"] = ssim(painted[::every], truth[::every]).mean()
        return losses | shown

    def epoch_metrics(self) -> dict[str, float]:
        counts, self._counts = self._counts, torch.zeros_like(self._counts)
        masked = {"mask_p": self.mask_p} if self.masking.enabled else {}
        counts = self.machine.world.sum(counts).cpu()
        return {"perplexity": perplexity(counts), "codes_used": share_used(counts)} | masked

    @property
    def validation_passes(self) -> int:
        return 2 if self.masking.enabled else 1

    def validate(self, most: int | None = None) -> dict[str, float]:
        """With component masking also `kept_loss` and `kept_mse`: the full picture from one component; picture i shows
        component i mod C. `masking_loss` mixes both losses as training does in the end."""
        positions = spread(self.val_positions, most)
        values = evaluate(self, positions)
        if not self.masking.enabled:
            return values
        kept = evaluate(self, positions, keep_one=True)
        share = self.masking.mask_prob_max
        mixed = (1 - share) * values["loss"] + share * kept["loss"]
        return values | {"kept_loss": kept["loss"], "kept_mse": kept["mse"], "masking_loss": mixed}


def with_ssim(losses: dict[str, Tensor], painted: Tensor, truth: Tensor, weight: float) -> dict[str, Tensor]:
    """The losses with weight * (1 - SSIM) added to the total, as in Zhao et al. 2017 ("Loss functions for image
    restoration with neural networks"). painted, truth: (B, C, H, W) in [0, 1]. Weight 0: the losses as they are.

    SSIM is that of `pipeline.metrics`, of the clamped picture: what lies outside the range is left to the other term.
    """
    if not weight:
        return losses
    unlike = 1 - ssim(painted, truth).mean()
    return losses | {"loss": losses["loss"] + weight * unlike, "ssim_loss": unlike}


def columns(section: TrainVQVAESection, split: Split) -> Columns:
    """The metadata that the decoder is told. Raises InputError for columns that cannot be used."""
    train = split.positions("train")
    return fit_columns(split.manifest, train, section.condition_numbers, section.condition_classes)


def check_masking(section: TrainVQVAESection, split: Split) -> None:
    if section.component_masking.enabled and len(split.components) < 2:
        raise InputError(
            f"component masking needs pictures with at least 2 components; these have 1 ({split.components[0]}); "
            "type --train_vqvae.component_masking.enabled false"
        )


def model_config(section: TrainVQVAESection, split: Split, told: Columns) -> VQVAEConfig:
    return configured(
        VQVAEConfig,
        section,
        image_size=split.meta["image_size"],
        channels=split.meta["channels"],
        condition_numbers=len(told.numbers),
        condition_classes=tuple(len(column.values) for column in told.classes),
    )


@torch.no_grad()
def evaluate(learner: VQVAELearner, positions: Any, keep_one: bool = False, tell: bool = True) -> dict[str, float]:
    """All losses, MSE, PSNR and SSIM (means over pictures), perplexity and share of codes in use.

    keep_one: picture i shows component i mod C only. tell: tell the decoder what it can be told.
    """
    model = learner.model.eval()
    batch_size = learner.machine.at_once(painting_bytes(model.config))
    counts = torch.zeros(model.config.codebook_size)
    sums: dict[str, float] = {}

    def of_batch(start: int) -> tuple[Tensor, dict[str, float]]:
        """How often each code is chosen, and the sums over the pictures from `start` on."""
        x = learner.pictures(positions[start : start + batch_size])
        shown = x
        if keep_one:
            places = torch.arange(start, start + len(x)) % x.shape[1]
            shown = hide_components(x, torch.stack([all_but(x.shape[1], [int(place)]) for place in places]))
        told = learner.told(positions[start : start + batch_size]) if tell else None
        output = model(shown, target=x, told=told)
        chosen = torch.bincount(output.indices.flatten(), minlength=len(counts)).cpu()
        painted, truth = to_unit(output.reconstruction), to_unit(x)
        losses = with_ssim(output.losses, painted, truth, learner.ssim_weight)
        values = {name: value * len(x) for name, value in losses.items()}
        errors = picture_errors(painted, truth)
        values |= {name: error.sum() for name, error in errors.items()}
        return chosen, {name: float(value) for name, value in values.items()}

    for chosen, values in learner.machine.world.map(of_batch, range(0, len(positions), batch_size)):
        counts += chosen
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
    means = {name: value / len(positions) for name, value in sums.items()}
    return means | {"perplexity": perplexity(counts), "codes_used": share_used(counts)}


@torch.no_grad()
def reconstructions_figure(learner: VQVAELearner, positions: Any) -> Any:
    """Originals over their reconstructions, ten pictures spread over the split."""
    chosen = spread(positions, 10)
    x = learner.pictures(chosen)
    painted = learner.model.eval()(x, told=learner.told(chosen)).reconstruction
    return picture_grid(
        component_rows([("original", to_unit(x)), ("painted", to_unit(painted))], learner.split.components)
    )


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation MSE in [0, 1] pixel units, with component masking that of painting from
    one component. With a trial: one short fit, no run folder."""
    machine = prepare_machine(cfg.run, say)
    split, section, runs = open_split(cfg), cfg.train_vqvae, Path(cfg.run.dir)
    check_masking(section, split)
    told, goal = columns(section, split), MASKING_GOAL if section.component_masking.enabled else GOAL

    def build(chosen: TrainVQVAESection, with_val: bool, share: float = 1.0) -> VQVAELearner:
        return VQVAELearner(chosen, split.thinned(share), machine, with_val)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, goal, machine, cfg.run.seed)
    check_fit("train_vqvae", section, build, machine)
    with open_stage("train_vqvae", cfg, inputs_of([split]), machine, resume) as stage:
        note_data(stage, cfg, split)
        announce(split, section, told, machine)
        trained = train(stage, section, build, goal, cfg.run.seed, runs)
        learner: VQVAELearner = trained.learner
        save(stage, learner, split)
        report(stage, learner, split)
        kind = f"vqvae{'-masked' if section.component_masking.enabled else ''}{'-told' if told else ''}"
        name = f"{kind}-{Path(cfg.data.source).name}-{split.hash[:6]}"
        stage.finish(vqvae_key(split, section), trained.score, goal.objective, goal.lower_is_better, registered_as=name)
        return trained.score


def announce(split: Split, section: TrainVQVAESection, told: Columns, machine: Machine) -> None:
    config = model_config(section, split, told)
    parameters = sum(p.numel() for p in VQVAE(config).parameters())
    counts = ", ".join(f"{count} {name}" for name, count in split.meta["counts"].items())
    say(f"inherited: split {split.folder} ({counts})")
    say(f"{config.grid}x{config.grid} tokens per picture, {parameters:,} parameters, on {machine.describe()}")


def report(stage: Stage, learner: VQVAELearner, split: Split) -> None:
    """The one look at test."""
    test = evaluate(learner, split.positions("test"))
    stage.metrics |= {f"test_{name}": value for name, value in test.items()}
    if learner.columns:
        plain = evaluate(learner, split.positions("test"), tell=False)
        stage.metrics["test_mse_not_told"] = plain["mse"]
    if learner.masking.enabled:
        stage.metrics["test_kept_mse"] = evaluate(learner, split.positions("test"), keep_one=True)["mse"]
    stage.figure("samples_val", reconstructions_figure(learner, learner.val_positions))
    stage.figure("samples_test", reconstructions_figure(learner, split.positions("test")))
    size = learner.model.config.codebook_size
    ssim_text = f"SSIM {test['ssim']:.3f}, " if "ssim" in test else ""
    say(f"test: PSNR {test['psnr']:.2f} dB, {ssim_text}perplexity {test['perplexity']:.0f} of {size}")


def save(stage: Stage, learner: VQVAELearner, split: Split) -> None:
    model, config = learner.model, learner.model.config
    meta = {**split.identity, "stride": config.stride, "grid": config.grid, "codebook_size": config.codebook_size}
    meta |= {"codebook": codebook_digest(model), "components": split.components}
    meta["component_masking"] = learner.masking.enabled
    meta["conditions"] = learner.columns.describe() if learner.columns else None
    meta["label_drop"] = learner.label_drop if learner.columns else None
    stage.model(model.state_dict(), asdict(config), meta)


def main() -> int:
    return stage_main("train_vqvae", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
