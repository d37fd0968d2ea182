"""The figures of an Optuna study, also of odd ones."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from masked_memory.pipeline import figures
from masked_memory.pipeline.tuning import study_figures


def a_study(trials: int = 4) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(
        lambda trial: trial.suggest_float("rate", 1e-4, 1e-2, log=True) * trial.suggest_categorical("size", [16, 32]),
        trials,
    )
    return study


def picture_of(figure: Figure, folder: Path) -> np.ndarray:
    path = folder / "figures" / "drawn.png"
    figures.save_png(figure, path)
    with Image.open(path) as stored:
        assert stored.format == "PNG"
        return np.asarray(stored.convert("RGB"))


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_study_history_follows_the_best_so_far(lower_is_better: bool) -> None:
    figure = figures.study_history_figure([0, 1, 2, 3], [0.5, 0.7, 0.2, 0.9], lower_is_better)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert lines["trial"] == [0.5, 0.7, 0.2, 0.9]
    assert lines["best so far"] == ([0.5, 0.5, 0.2, 0.2] if lower_is_better else [0.5, 0.7, 0.7, 0.9])


@pytest.mark.parametrize(("lower_is_better", "best"), [(True, 2), (False, 3)])
def test_the_study_slices_mark_the_best_trial_in_every_panel(lower_is_better: bool, best: int) -> None:
    scores = [0.5, 0.7, 0.2, 0.9]
    values = {"rate": [0.1, 0.2, 0.3, 0.4], "kind": ["b", "a", "b", "c"]}
    slices = {name: list(zip(taken, scores, strict=True)) for name, taken in values.items()}
    figure = figures.study_slice_figure(slices, lower_is_better)
    panels = {axis.get_xlabel(): {line.get_label(): line for line in axis.get_lines()} for axis in figure.axes}
    marked = {name: lines["best"].get_xydata().tolist() for name, lines in panels.items()}
    assert marked == {
        "rate": [[values["rate"][best], scores[best]]],
        "kind": [["abc".index(values["kind"][best]), scores[best]]],
    }
    kinds = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert kinds == ["a", "b", "c"]


def test_study_figures_are_drawn_and_leave_pyplot_as_it_was(tmp_path: Path) -> None:
    before, width = pyplot.get_fignums(), matplotlib.rcParams["font.size"]
    drawn = study_figures(a_study())
    assert set(drawn) == {"study_history", "study_slice", "study_importance"}
    for figure in drawn.values():
        assert (picture_of(figure, tmp_path) != 255).any(axis=2).mean() > 0.005
    assert pyplot.get_fignums() == before == []
    assert matplotlib.rcParams["font.size"] == width


def test_a_study_of_one_trial_has_no_importance_but_the_other_figures() -> None:
    assert set(study_figures(a_study(1))) == {"study_history", "study_slice"}


def test_a_study_of_one_setting_with_a_single_choice_can_be_drawn() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.number + trial.suggest_categorical("size", [16]), 3)
    assert {"study_history", "study_slice"} <= set(study_figures(study))


def test_a_study_that_was_continued_with_another_space_can_be_drawn() -> None:
    """As with `tune.study` and a key that was added to `tune.space` later."""
    study = a_study(3)
    study.optimize(
        lambda trial: trial.suggest_float("rate", 1e-4, 1e-2, log=True) + trial.suggest_float("decay", 0, 1), 3
    )
    assert {"study_history", "study_slice"} <= set(study_figures(study))


def test_a_study_with_an_infinite_score_can_be_drawn(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("rate", 0.1, 1) * (math.inf if trial.number == 2 else 1)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, 4)
    for figure in study_figures(study).values():
        assert (picture_of(figure, tmp_path) != 255).any(axis=2).mean() > 0.005
