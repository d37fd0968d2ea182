"""A prior over grids of codes: a gated PixelCNN or a GAN, to draw new pictures from and to compare with.

Reads:  runs/vqvae_reconstruction/<best> (the indices), runs/train_vqvae/<best> (to paint samples)
Writes: runs/train_prior/<run>/ with model/, curves, samples of some epochs, samples.csv with the training picture that
        is nearest to each sample

    python train_prior.py
    python train_prior.py --config presets/prior_gan.yaml
    python train_prior.py --train_prior.condition_on_class true

The PixelCNN is judged in bits per code, which a GAN does not have: its settings are compared by the energy distance of
its grids to validation grids.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from masked_memory.handoff.memory import prior_key
from masked_memory.handoff.split import Split, note_data, open_split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE, take_indices, take_vqvae
from masked_memory.models.conditioning import Columns, fit_columns
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.figures import picture_grid
from masked_memory.pipeline.files import InputError, digest, write_csv
from masked_memory.pipeline.machine import Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.pipeline.training import Goal, check_fit, run_trial, train
from masked_memory.pipeline.tuning import tried
from masked_memory.recall.memory import baseline_probabilities
from masked_memory.rivals.measuring.nearest import nearest_training, share_of_copies
from masked_memory.rivals.priors.grids import describe_grids, neighbours, shuffled
from masked_memory.rivals.priors.learners import GANLearner, PixelCNNLearner, PriorData, build_learner
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_prior import TrainPriorSection
from masked_memory.sources.splitting import spread

GOALS = {
    "pixelcnn": Goal(monitor="bits_per_code", objective="bits_per_code", lower_is_better=True),
    "gan": Goal(monitor="energy_distance", objective="energy_distance", lower_is_better=True),
}


def run(cfg: Config, trial: optuna.Trial | None = None, resume: bool = False) -> float:
    """The whole stage; returns the validation score: bits per code (PixelCNN) or energy distance (GAN). With a trial:
    one short fit, no run folder."""
    machine = prepare_machine(cfg.run, say)
    split, section = open_split(cfg), cfg.train_prior
    columns = columns_told(section, split)
    told = columns.facts(columns.tell(split.manifest)) if columns else None  # (pictures, F)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    goal = GOALS[section.kind]
    if section.kind == "gan" and machine.world.size > 1:
        raise InputError(f"a GAN is trained in one process; type: {command('train_prior')}")

    def build(chosen: TrainPriorSection, with_val: bool, share: float = 1.0) -> PixelCNNLearner | GANLearner:
        grids = grids_to_learn(split.thinned(share), indices, vqvae, told, with_val)
        return build_learner(chosen, grids, machine, cfg.run.seed)

    if trial is not None:
        return run_trial(trial, tried(trial, section), build, goal, machine, cfg.run.seed)
    facts = digest(told.numpy().tobytes()) if told is not None else ""
    identity = f"{cfg.run.seed} {section.model_dump_json()} {facts}"
    check_fit("train_prior", section, build, machine)
    with open_stage("train_prior", cfg, inputs_of([split, vqvae, indices]), machine, resume, identity) as stage:
        note_data(stage, cfg, split)
        announce(section, columns, build(section, False))

        def show(learner: PixelCNNLearner | GANLearner, epoch: int) -> None:
            if epoch % section.sample_every == 0 or epoch in (1, section.epochs):
                stage.figure(
                    f"samples_epoch_{epoch:03d}", samples_figure(learner, vqvae, cfg.run.seed, section.samples)
                )

        trained = train(stage, section, build, goal, cfg.run.seed, Path(cfg.run.dir), show)
        learner: PixelCNNLearner | GANLearner = trained.learner
        save(stage, learner, split, vqvae, columns, trained.section)
        test = split.positions("test")
        report_bits(stage, learner, indices.tokens(test), None if told is None else told[torch.from_numpy(test)])
        report_samples(stage, learner, split, indices, vqvae, cfg.run.seed)
        name = f"prior-{section.kind}{'-told' if columns else ''}-{Path(cfg.data.source).name}-{split.hash[:6]}"
        key = prior_key(split, vqvae, section.kind, columns.names)
        stage.finish(key, trained.score, goal.objective, goal.lower_is_better, name, ("samples.csv",))
        return trained.score


def columns_told(section: TrainPriorSection, split: Split) -> Columns:
    """What the prior is told of each picture. Raises InputError without classes, or for columns that cannot be used."""
    if section.condition_on_class and not split.classes:
        raise InputError(
            "train_prior.condition_on_class needs pictures with classes, these have none; "
            "type --train_prior.condition_on_class false"
        )
    classes = [*(["class"] if section.condition_on_class else []), *section.condition_classes]
    return fit_columns(split.manifest, split.positions("train"), section.condition_numbers, classes)


def grids_to_learn(
    split: Split, indices: HandedIndices, vqvae: HandedVQVAE, told: Tensor | None, with_val: bool
) -> PriorData:
    """Grids of train (or train + validation) and of validation, and what is told about each picture."""
    positions = split.positions("train", "val") if with_val else split.positions("train")
    val = split.positions("val")
    return PriorData(
        train=indices.tokens(positions),
        val=indices.tokens(val),
        train_facts=None if told is None else told[torch.from_numpy(positions)],
        val_facts=None if told is None else told[torch.from_numpy(val)],
        codebook=vqvae.model.codebook_vectors().cpu(),
    )


def announce(section: TrainPriorSection, columns: Columns, learner: PixelCNNLearner | GANLearner) -> None:
    """What is about to be trained; and whether the PixelCNN is too small to see the whole grid."""
    size = sum(p.numel() for p in learner.model.parameters())
    told = f", told {', '.join(columns.names)}" if columns else ""
    say(f"{section.kind} with {size:,} parameters on grids of {learner.data.grid}x{learner.data.grid}{told}")
    if isinstance(learner, PixelCNNLearner) and learner.model.config.reach < learner.data.grid - 1:
        say(
            f"it sees {learner.model.config.reach} rows up and aside of {learner.data.grid - 1}; "
            "more train_prior.layers or a larger train_prior.kernel see all"
        )


def samples_figure(learner: PixelCNNLearner | GANLearner, vqvae: HandedVQVAE, seed: int, count: int) -> Any:
    """`count` new pictures, told the facts of validation pictures where there are any; the same draws each time."""
    tokens = learner.sample(count, val_facts(learner, count), generator(seed, Stream.PRIOR_SHOWN))
    pictures = to_unit(vqvae.paint(tokens))
    return picture_grid([("", pictures[start : start + 8]) for start in range(0, count, 8)])


def val_facts(learner: PixelCNNLearner | GANLearner, count: int) -> Tensor | None:
    """(count, F): the facts of validation pictures, evenly spread, some more than once when there are too few."""
    facts = learner.data.val_facts
    if facts is None:
        return None
    return facts[torch.arange(count) * len(facts) // count]


def report_bits(stage: Stage, learner: PixelCNNLearner | GANLearner, tokens: Tensor, facts: Tensor | None) -> None:
    """The one look at test: bits per code, beside two priors that ignore the rest of the grid. A GAN has none."""
    if isinstance(learner, GANLearner):
        return
    stage.metrics |= {f"test_{name}": value for name, value in learner.bits(tokens, facts).items()}
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    for name, shares in baseline_probabilities(learner.data.train, len(learner.data.codebook)).items():
        stage.metrics[f"test_bits_{name.replace(' ', '_')}"] = float(-shares[places, tokens].log2().mean())
    shown = ", ".join(f"{name[5:].replace('_', ' ')} {v:.3f}" for name, v in stage.metrics.items() if "test_" in name)
    say(f"test: {shown}")


def report_samples(
    stage: Stage, learner: PixelCNNLearner | GANLearner, split: Split, indices: HandedIndices, vqvae: HandedVQVAE,
    seed: int,
) -> None:  # fmt: skip
    """Samples beside test grids: how varied, how real their neighbourhoods, how near to training pictures."""
    test = spread(split.positions("test"), learner.section.judged_samples)
    count = min(learner.section.judged_samples, max(len(test), 2))
    train_tokens, size = indices.tokens(split.positions("train")), len(learner.data.codebook)
    known = neighbours(train_tokens, size).unique()
    made = learner.sample(count, val_facts(learner, count), generator(seed, Stream.PRIOR_JUDGED))
    real = indices.tokens(test)
    grids = {"samples": made, "test": real, "shuffled_test": shuffled(real, generator(seed, Stream.PRIOR_JUDGED, 1))}
    for name, tokens in grids.items():
        found = describe_grids(tokens, size, known)
        stage.metrics |= {f"{name}_{measure}": value for measure, value in found.items()}
        shown = ", ".join(f"{measure.replace('_', ' ')} {value:.3g}" for measure, value in found.items())
        say(f"{name.replace('_', ' ')}: {shown}")
    painted = vqvae.paint(made)
    nearest, usual = nearest_training(painted, split), nearest_training(vqvae.paint(real), split)
    stage.metrics |= {
        "samples_nearest_training_mse": float(nearest.errors.mean()),
        "test_nearest_training_mse": float(usual.errors.mean()),
        "samples_copied": share_of_copies(made, train_tokens),
        "test_copied": share_of_copies(real, train_tokens),
    }
    rows = [
        [number, split.manifest[position]["path"], f"{error:.6g}"]
        for number, (position, error) in enumerate(zip(nearest.positions, nearest.errors.tolist(), strict=True))
    ]
    write_csv(stage.folder.path / "samples.csv", ("sample", "nearest_training_picture", "mse"), rows)
    stage.figure("nearest", nearest_figure(painted, split, nearest.positions, learner.section.samples))
    say(
        f"nearest training picture: MSE {stage.metrics['samples_nearest_training_mse']:.4f} for samples, "
        f"{stage.metrics['test_nearest_training_mse']:.4f} for test pictures; "
        f"{stage.metrics['samples_copied']:.1%} of the samples are copies"
    )


def nearest_figure(painted: Tensor, split: Split, positions: np.ndarray, count: int) -> Any:
    """Samples over the training pictures that are most like them, eight a row."""
    rows = []
    for start in range(0, min(count, len(painted)), 8):
        chosen = slice(start, min(start + 8, count))
        rows += [("sample", to_unit(painted[chosen])), ("nearest", to_unit(split.pictures(positions[chosen])))]
    return picture_grid(rows)


def save(
    stage: Stage, learner: PixelCNNLearner | GANLearner, split: Split, vqvae: HandedVQVAE, columns: Columns,
    section: TrainPriorSection,
) -> None:  # fmt: skip
    """model/: what builds the prior again, and what it was made for and can be told."""
    meta = {**split.identity, **vqvae.identity, "kind": section.kind, "conditions": columns.describe()}
    meta["label_drop"] = section.label_drop if columns else None
    stage.model(learner.model.state_dict(), asdict(learner.model.config), meta)


def main() -> int:
    return stage_main("train_prior", run, __doc__ or "", parallel=True)


if __name__ == "__main__":
    sys.exit(main())
