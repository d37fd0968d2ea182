"""What the training stages have in common: tune on validation, fit with the best settings, retrain if asked."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
import torch

from masked_memory.pipeline import tuning
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.compiling import compile_parts
from masked_memory.pipeline.engine import FitPlan, History, Progress, TrainingDiverged, fit, steps_of, validate
from masked_memory.pipeline.figures import history_figure
from masked_memory.pipeline.files import InputError, write_csv
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, seed_everything
from masked_memory.pipeline.memory_check import GIGA, TooMuchMemory, check_memory
from masked_memory.pipeline.runs import duration
from masked_memory.pipeline.stage import Stage, say
from masked_memory.pipeline.world import EndedElsewhere

TOLD = 0.05 * GIGA  # bytes from which on it is said what a fit takes


class Build(Protocol):
    """Builds the engine.Learner of a stage from its settings."""

    def __call__(self, section: Any, with_val: bool, share: float = 1.0, /) -> Any:
        """with_val: train on train + validation, for the retrain. share: of the pictures of each part, for trials."""
        ...


@dataclass(frozen=True)
class Goal:
    """What validation is judged by. `monitor` stops and checkpoints a fit; `objective` compares settings."""

    monitor: str
    objective: str
    lower_is_better: bool


@dataclass
class Trained:
    """The learner with its final weights, the settings it was made with, and how the fit on `train` went."""

    learner: Any
    section: Any
    progress: Progress
    score: float  # goal.objective at the best epoch


def plan_of(
    section: Any,
    goal: Goal,
    seed: int,
    epochs: int,
    patience: int | None,
    horizon: int | None = None,
    share: float = 1.0,
) -> FitPlan:
    """The settings as a plan. horizon: epochs that the cosine spans; None: `epochs`. share: of the pictures,
    and of the steps that an epoch has at least."""
    spans = {"epochs": epochs, "horizon": horizon or epochs, "patience": patience}
    judged = {"monitor": goal.monitor, "lower_is_better": goal.lower_is_better}
    steps = math.ceil(share * section.least_steps / section.epochs)
    return configured(FitPlan, section, seed=seed, epoch_steps=steps, **spans, **judged)


def check_fit(name: str, section: Any, build: Build, machine: Machine) -> None:
    """Say what the fit of this section takes in memory. Raises InputError when that is more than what is free."""
    try:
        needed = check_memory(build, section, machine)
    except TooMuchMemory as error:
        smaller = f"settings of a smaller model ({command(name)} --help-all)"
        typed = f"--{name}.batch_size {error.fitting}" if error.fitting else smaller
        raise InputError(f"{name}: {error}; type {typed}") from None
    if needed >= TOLD:
        say(f"the fit takes at least {needed / GIGA:.2g} GB of memory, beside programs and pictures")


def run_trial(
    trial: "optuna.Trial | _Followed",
    section: Any,
    build: Build,
    goal: Goal,
    machine: Machine,
    seed: int,
    on_history: Callable[[History], None] = lambda history: None,
) -> float:
    """One short fit; returns goal.objective at the best epoch. Raises optuna.TrialPruned when it does not keep up, and
    TooMuchMemory when there is not enough memory."""
    tune = section.tune

    def on_epoch(history: History) -> None:
        on_history(history)
        trial.report(history[-1][f"val_{goal.objective}"], len(history))
        if len(history) < tune.epochs and machine.world.same(trial.should_prune()):
            raise optuna.TrialPruned

    check_memory(build, section, machine, tune.share)
    seed_everything(seed)
    learner = build(section, False, tune.share)
    plan = plan_of(section, goal, seed, tune.epochs, tune.patience, share=tune.share)
    progress = fit(learner, plan, machine, f"trial {trial.number}", on_epoch=on_epoch)
    return progress.history[progress.best_epoch - 1][f"val_{goal.objective}"]


def train(
    stage: Stage,
    section: Any,
    build: Build,
    goal: Goal,
    seed: int,
    runs: Any,
    each_epoch: Callable[[Any, int], None] = lambda learner, epoch: None,
) -> Trained:
    """Tune, fit, retrain. Writes the history and the figures of the study and of the fit.

    each_epoch: gets the learner and the number of epochs after each of the fit, such as to show samples.
    """
    if section.tune.trials and section.tune.space:
        section = section.replace(_tuned(stage, section, build, goal, seed, runs))
    elif section.tune.trials:
        say(f"{stage.name}.tune.trials is {section.tune.trials}, but nothing is tuned, as tune.space is empty")
    stage.fitted_with(section)
    stage.ledger.params({f"best.{key}": getattr(section, key) for key in section.tune.space})
    seed_everything(seed)
    learner = build(section, False)
    plan = plan_of(section, goal, seed, section.epochs, section.patience)

    def on_epoch(history: History) -> None:
        stage.folder.write_history(history)
        stage.ledger.metrics({k: v for k, v in history[-1].items() if k != "epoch"}, step=len(history))
        each_epoch(learner, len(history))

    started = time.monotonic()
    steps = plan.epochs * steps_of(learner, plan, stage.machine.world)
    compile_parts(learner, stage.machine.compile, steps, stage.machine, say)

    def on_estimate(seconds: float) -> None:
        epochs = "one epoch" if plan.epochs == 1 else f"{plan.epochs} epochs at most"
        say(f"the fit takes about {duration(seconds)}, {epochs}; validation comes on top")

    label, checkpoint = f"{stage.name} fit", stage.last / "fit.safetensors"
    if stage.resumed and not checkpoint.is_file():
        say("no epoch of the fit was finished before: it starts over")
    progress = fit(learner, plan, stage.machine, label, checkpoint, on_epoch, on_estimate)
    stage.metrics["fit_seconds"] = time.monotonic() - started
    stage.folder.write_history(progress.history)
    epoch_seconds = progress.seconds[-1] / len(progress.seconds)
    stage.figure("curves", history_figure(progress.history, progress.best_epoch, epoch_seconds))
    write_csv(stage.folder.path / "learning.csv", LEARNING_HEADER, learning(progress))
    validated = validate(learner, stage.machine)
    score = validated[goal.objective]
    say(f"best epoch {progress.best_epoch} of {progress.epoch}: validation {goal.objective} {score:.4g}")
    stage.metrics |= {"best_epoch": progress.best_epoch}
    stage.metrics |= {f"best_val_{name}": value for name, value in validated.items()}
    if section.retrain:
        say(f"retraining on train + validation for {progress.best_epoch} epochs")
        seed_everything(seed)
        learner = build(section, True)
        plan = plan_of(section, goal, seed, progress.best_epoch, None, horizon=section.epochs)
        fit(learner, plan, stage.machine, f"{stage.name} retrain", stage.last / "retrain.safetensors")
    return Trained(learner, section, progress, score)


LEARNING_HEADER = ("epoch", "seconds", "metric", "value")


def learning(progress: Progress) -> list[list[Any]]:
    """A line for each epoch and validation metric, with the seconds from the start of the fit to its end."""
    return [
        [epoch["epoch"], f"{seconds:.1f}", key.removeprefix("val_"), f"{value:.6g}"]
        for epoch, seconds in zip(progress.history, progress.seconds, strict=True)
        for key, value in epoch.items()
        if key.startswith("val_")
    ]


def _tuned(stage: Stage, section: Any, build: Build, goal: Goal, seed: int, runs: Any) -> dict[str, Any]:
    """The best values of the stage's study. Of several processes the first asks it, and all run its trials."""
    tune, world = section.tune, stage.machine.world
    if world.rank:
        return _follow(stage, section, build, goal, seed)
    name = tune.study or f"{stage.name} {stage.folder.name}"
    storage = tuning.Storage.of(runs, tune.storage)

    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        ledger = stage.ledger.child(f"trial {trial.number}")
        ledger.params(values)
        status, history = "FAILED", History()
        world.same((trial.number, values))

        def on_history(so_far: History) -> None:
            history[:] = so_far
            ledger.metrics({k: v for k, v in so_far[-1].items() if k != "epoch"}, step=len(so_far))

        try:
            score = run_trial(trial, section.replace(values), build, goal, stage.machine, seed, on_history)
            ledger.metrics({goal.objective: score}, step=0)
            status = "FINISHED"
        except optuna.TrialPruned:
            ledger.tags({"pruned": "true"})
            status = "FINISHED"
            say(f"trial {trial.number}: pruned, with {_in_words(values)}")
            raise
        finally:
            if history:  # under the names by which runs are compared
                ledger.metrics({f"best_{k}": v for k, v in _best_of(history, goal).items()}, step=0)
            ledger.end(status)
        say(f"trial {trial.number}: {goal.objective} {score:.4g} with {_in_words(values)}")
        return score

    try:
        study = tuning.open_study(storage, name, goal.lower_is_better, tune.startup_trials)
        search = tuning.Search.of(section)
        with tuning.answering(storage, "continued"):
            tuning.note_settings(study, tuning.settings_beside(section, stage.asked, stage.name), say)
            best = tuning.optimize(study, storage, search, tune.trials, seed, objective, say)
    except InputError:
        world.same((None, {}))  # the others wait for the next trial; after other errors they may be amid one
        raise
    world.same((None, best))
    for line in tuning.trials_table(study, search.start, goal.objective):
        say(line)
    for figure_name, figure in tuning.study_figures(study).items():
        stage.figure(figure_name, figure)
    return best


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {v:.3g}" if isinstance(v, float) else f"{key} {v}" for key, v in values.items())


def _best_of(history: History, goal: Goal) -> dict[str, float]:
    """What was measured on validation in the epoch with the best objective, by the names of the history."""
    sign, name = 1 if goal.lower_is_better else -1, f"val_{goal.objective}"
    epoch = min(history, key=lambda epoch: sign * epoch[name])
    return {key: value for key, value in epoch.items() if key.startswith("val_")}


@dataclass(frozen=True)
class _Followed:
    """A trial as the other processes see it: the first one reports it, and asks whether it is pruned."""

    number: int

    def report(self, value: float, step: int) -> None: ...

    def should_prune(self) -> bool:
        return False  # what counts is what the first process says


def _follow(stage: Stage, section: Any, build: Build, goal: Goal, seed: int) -> dict[str, Any]:
    """Run the trials that the first process asks for, until it names the best values."""
    while True:
        asked: tuple[int | None, dict[str, Any]] = stage.machine.world.same((None, {}))
        number, values = asked
        if number is None and not values:
            raise EndedElsewhere
        if number is None:
            return values
        with suppress(
            optuna.TrialPruned, TrainingDiverged, TooMuchMemory, torch.OutOfMemoryError
        ):  # the first one notes it
            run_trial(_Followed(number), section.replace(values), build, goal, stage.machine, seed)
