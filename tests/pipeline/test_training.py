"""Tuning, fitting and retraining of a stage."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

from masked_memory.pipeline import progress, training, tuning
from masked_memory.pipeline.engine import History, steps_of
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.training import Goal, plan_of, run_trial, train
from masked_memory.pipeline.world import Alone
from masked_memory.settings.training import Training
from toys import bare_stage

# A trial and a whole training


@dataclass
class Toy:
    """One number that is drawn to 3; its validation error is what the stage tunes for."""

    rows: int
    bias: float = 0.0
    model: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    scores: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.rows

    def step(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (self.model(torch.ones(len(rows), 1)) - 3).square().mean()}

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    validation_passes = 1

    def validate(self, most: int | None = None) -> dict[str, float]:
        error = float((self.model(torch.ones(1, 1)) - 3).square().mean())
        self.scores.append(error)
        return {"loss": error, "error": 10 * error + self.bias}


GOAL = Goal(monitor="loss", objective="error", lower_is_better=True)


def section(**changes: Any) -> Training:
    return Training(epochs=4, batch_size=4, learning_rate=0.05, weight_decay=0.0).replace(changes)


def test_a_trial_returns_the_objective_at_the_best_epoch(machine: Machine) -> None:
    toy = Toy(16)
    study = optuna.create_study()
    tried = section(learning_rate=0.5, tune={"trials": 1, "epochs": 3})
    histories: list[History] = []
    score = run_trial(
        study.ask(), tried, lambda s, both, share: toy, GOAL, machine, 0, lambda h: histories.append(list(h))
    )
    assert score == pytest.approx(10 * min(toy.scores))
    assert [len(history) for history in histories] == [1, 2, 3]
    assert list(study.trials[0].intermediate_values.values()) == pytest.approx([10 * s for s in toy.scores])


def test_a_trial_is_the_same_whether_its_memory_was_counted_or_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting builds a model and takes steps, all of which draw: the seed is set after it."""

    def score() -> float:
        tried = section(learning_rate=0.5, tune={"trials": 1, "epochs": 1})
        return run_trial(optuna.create_study().ask(), tried, lambda s, both, share: Toy(16), GOAL, machine, 7)

    counted = score()
    monkeypatch.setattr(training, "check_memory", lambda build, section, machine, share: torch.randn(3).sum())
    assert score() == counted


def test_a_trial_that_does_not_keep_up_is_pruned(machine: Machine) -> None:
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=50.0))
    tried = section(tune={"trials": 1, "epochs": 3})
    with pytest.raises(optuna.TrialPruned):
        run_trial(study.ask(), tried, lambda s, both, share: Toy(16, bias=1000.0), GOAL, machine, 0)


def test_training_tunes_then_fits_with_the_best_values_then_retrains(machine: Machine, tmp_path: Path) -> None:
    """The retrain is built for train + validation, from the winner's settings, for the best number of epochs."""
    built: list[tuple[float, bool]] = []

    def build(values: Training, both: bool, share: float = 1.0) -> Toy:
        built.append((values.learning_rate, both))
        return Toy(24 if both else 16)

    space = {"learning_rate": {"low": 1e-4, "high": 0.5, "log": True}}
    asked = section(retrain=True, tune={"trials": 3, "epochs": 2, "space": space})
    stage = bare_stage(tmp_path, "train_toy", machine)
    trained = train(stage, asked, build, GOAL, 0, tmp_path)
    built = [*built[1:6:2], *built[6:]]  # before each trial one is built to count what it takes in memory
    assert len(built) == 5 and built[0] == (0.05, False)
    best_rate = trained.section.learning_rate
    assert built[3:] == [(best_rate, False), (best_rate, True)]
    study = tuning.open_study(tuning.Storage.of(tmp_path, None), f"train_toy {stage.folder.name}", True, 2)
    assert best_rate == study.best_params["learning_rate"]
    assert trained.learner.scores == [], "what is handed on is the retrained learner, which never saw validation"
    assert trained.score == pytest.approx(10 * trained.progress.best_score)
    assert (
        stage.metrics["best_val_error"] == trained.score and stage.metrics["best_epoch"] == trained.progress.best_epoch
    )
    written = {
        path.relative_to(stage.folder.path).as_posix() for path in stage.folder.path.rglob("*") if path.is_file()
    }
    assert {"metrics.jsonl", "figures/curves.png", "figures/study_history.png", "last/fit.safetensors"} <= written
    assert len((stage.folder.path / "metrics.jsonl").read_text().splitlines()) == trained.progress.epoch
    learnt = [line for line in read_csv(stage.folder.path / "learning.csv") if line["metric"] == "error"]
    assert [int(line["epoch"]) for line in learnt] == list(range(1, trained.progress.epoch + 1))
    assert min(float(line["value"]) for line in learnt) == pytest.approx(trained.score, rel=1e-4)
    seconds = [float(line["seconds"]) for line in learnt]
    assert seconds == sorted(seconds) and seconds[-1] < 60


def test_training_without_trials_takes_the_settings_as_they_are(machine: Machine, tmp_path: Path) -> None:
    built: list[float] = []

    def build(values: Training, both: bool, share: float = 1.0) -> Toy:
        built.append(values.learning_rate)
        return Toy(16)

    asked = section(tune={"trials": 0, "space": {"learning_rate": [0.1, 0.2]}})
    trained = train(bare_stage(tmp_path, "train_toy", machine), asked, build, GOAL, 0, tmp_path)
    assert built == [0.05] and trained.section == asked
    assert not (tmp_path / "optuna.db").exists()
    assert len(trained.learner.scores) == 4 + 1, "after each epoch, and over all at the end"


def test_a_long_fit_says_how_long_it_takes(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TIMED_SECONDS", 0.0)
    for worth, count in ((0.0, 1), (1e9, 0)):
        monkeypatch.setattr(progress, "WORTH_SAYING", worth)
        stage = bare_stage(tmp_path / str(worth), "toy", machine)
        train(stage, section(tune={"trials": 0}), lambda *_: Toy(16), GOAL, 0, tmp_path)
        assert capsys.readouterr().out.count("the fit takes about") == count


@pytest.mark.parametrize("finished", [False, True])
def test_a_resumed_fit_without_a_whole_epoch_says_that_it_starts_over(
    machine: Machine, tmp_path: Path, finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = bare_stage(tmp_path, "toy", machine)
    if finished:
        train(stage, section(tune={"trials": 0}), lambda *_: Toy(16), GOAL, 0, tmp_path)
    capsys.readouterr()
    stage.resumed = True
    train(stage, section(tune={"trials": 0}), lambda *_: Toy(16), GOAL, 0, tmp_path)
    assert ("it starts over" in capsys.readouterr().out) is not finished


def test_a_named_study_whose_choices_have_changed_is_refused_in_one_line(machine: Machine, tmp_path: Path) -> None:
    """Optuna cannot mix them; the user hears which study, not a traceback."""

    def train_with(choices: list[float], trials: int) -> None:
        tune = {"trials": trials, "epochs": 1, "study": "mine", "space": {"learning_rate": choices}}
        train(
            bare_stage(tmp_path, "train_toy", machine),
            section(epochs=1, tune=tune),
            lambda s, both, share=1.0: Toy(16),
            GOAL,
            0,
            tmp_path,
        )

    train_with([0.1, 0.2], trials=1)
    with pytest.raises(InputError, match="mine"):
        train_with([0.1, 0.3], trials=2)


@pytest.mark.parametrize(
    ("count", "least", "steps"),
    [(16, 0, 16), (16, 100, 100), (16, 101, 104), (4000, 100, 4000)],
    ids=["as given", "few pictures", "rounded up to whole epochs", "many pictures"],
)
def test_few_pictures_are_trained_for_the_least_steps_and_many_for_the_epochs(
    count: int, least: int, steps: int, machine: Machine
) -> None:
    """4 epochs in batches of 4."""
    plan = plan_of(section(least_steps=least), GOAL, 0, 4, None)
    each = steps_of(Toy(count), plan, Alone())
    assert 4 * each == steps
    trial = plan_of(section(least_steps=least), GOAL, 0, 1, None)
    assert steps_of(Toy(count), trial, Alone()) == each, "an epoch of a trial is one of the fit"


def test_a_trial_is_built_for_a_share_of_the_pictures_and_of_the_steps(machine: Machine) -> None:
    """A share of 0.25 makes a quarter of the steps that an epoch has at least; the fit sees all."""
    study = optuna.create_study()
    asked = section(epochs=2, least_steps=80, tune={"epochs": 2, "share": 0.25})
    shares = []

    def build(values: Training, both: bool, share: float = 1.0) -> Toy:
        shares.append(share)
        return Toy(16)

    run_trial(study.ask(), asked, build, GOAL, machine, 0)
    assert shares == [0.25, 0.25]  # the first to count what it takes in memory
    assert plan_of(asked, GOAL, 0, 2, 2, share=0.25).epoch_steps == 10
    assert plan_of(asked, GOAL, 0, 2, 2).epoch_steps == 40
