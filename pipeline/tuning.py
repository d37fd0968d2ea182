"""The Optuna study of a stage, kept in `<runs>/optuna.db`: seeded, pruned, resumable, each trial a nested MLflow run.

The sampler is seeded anew for each trial from (seed, trials that ended), so an interrupted study that is resumed asks
for the same settings as one that was not. The first trial is always config.yaml's own setting. No setting is run
twice: a trial that asks for one of before ends as that one did, and counts.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from pipeline.engine import TrainingDiverged
from pipeline.figures import study_history_figure, study_importance_figure, study_slice_figure
from pipeline.files import InputError

Space = dict[str, Any]


def storage_uri(runs: Path) -> str:
    return f"sqlite:///{(runs / 'optuna.db').resolve().as_posix()}"


def open_study(runs: Path, name: str, lower_is_better: bool, startup_trials: int) -> optuna.Study:
    """Create the study, or open it when it exists."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    runs.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=storage_uri(runs),
        load_if_exists=True,
        direction="minimize" if lower_is_better else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=1),
    )


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, Any]:
    """One value for each key of the space: a list gives choices; {low, high, log} a range, of whole numbers if both
    ends are."""
    chosen: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, list):
            chosen[key] = trial.suggest_categorical(key, values)
            continue
        low, high, log = values["low"], values["high"], bool(values.get("log", False))
        if isinstance(low, int) and isinstance(high, int):
            chosen[key] = trial.suggest_int(key, low, high, log=log)
        else:
            chosen[key] = trial.suggest_float(key, float(low), float(high), log=log)
    return chosen


def optimize(
    study: optuna.Study,
    space: Space,
    start: dict[str, Any],
    trials: int,
    seed: int,
    objective: Callable[[optuna.Trial, dict[str, Any]], float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run trials until `trials` have ended (earlier ones of the study count) and return the best values.

    start: the values to try first. A trial whose loss is not finite fails, one that runs out of memory is pruned, and
    the study goes on. Raises InputError when no trial could be completed.
    """
    _requeue_interrupted(study)
    if not study.trials and all(_within(start[key], values) for key, values in space.items()):
        study.enqueue_trial({key: start[key] for key in space})
    while (ended := _ended(study)) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed + ended, n_startup_trials=4)
        trial = study.ask()
        values = _suggest_or_refuse(study, trial, space)
        if (earlier := _same_as(study, trial)) is not None:
            study.tell(trial, earlier.value, earlier.state if earlier.value is None else None)
            say(f"trial {trial.number} asks for the setting of trial {earlier.number}, which is not run again")
            continue
        try:
            score = objective(trial, values)
            if not math.isfinite(score):
                raise TrainingDiverged(f"its score is {score}")
            study.tell(trial, score)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except TrainingDiverged as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=TrialState.FAIL)
            say(f"trial {trial.number} failed: {error}")
        except torch.OutOfMemoryError:
            study.tell(trial, state=TrialState.PRUNED)
            say(f"trial {trial.number} pruned: out of memory with {values}")
    completed = [t for t in study.trials if t.state == TrialState.COMPLETE and t.value is not None]
    if not completed:
        raise InputError(
            f"none of the {trials} trials of study {study.study_name} could be completed; see their errors above"
        )
    return dict(study.best_params)


def _suggest_or_refuse(study: optuna.Study, trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Optuna cannot change the choices of a study. Raises InputError that says so."""
    try:
        return suggest(trial, space)
    except ValueError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise InputError(
            f"study {study.study_name} was made with another space ({error}); name another tune.study"
        ) from error


def _same_as(study: optuna.Study, trial: optuna.Trial) -> FrozenTrial | None:
    """An earlier trial with the same values that was completed or pruned."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return next((each for each in ended if each.params == trial.params), None)


def _requeue_interrupted(study: optuna.Study) -> None:
    """A killed process leaves its trial running for ever: fail it and try its values again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _ended(study: optuna.Study) -> int:
    """Trials that ended by themselves; interrupted ones, failed without an error, do not count."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return sum(t.state in ended or (t.state == TrialState.FAIL and "error" in t.user_attrs) for t in study.trials)


def _within(value: Any, values: Any) -> bool:
    if isinstance(values, list):
        return value in values
    return float(values["low"]) <= value <= float(values["high"])


def study_figures(study: optuna.Study) -> dict[str, Figure]:
    """History, a slice per setting, and the importance of each setting (needs two different results)."""
    completed = [t for t in study.get_trials(states=(TrialState.COMPLETE,)) if t.value is not None]
    scores = [float(t.value) for t in completed if t.value is not None]
    lower = study.direction == optuna.study.StudyDirection.MINIMIZE
    found = {"study_history": study_history_figure([t.number for t in completed], scores, lower)}
    names = sorted({name for t in completed for name in t.params})
    slices = {n: [(t.params[n], float(t.value or 0.0)) for t in completed if n in t.params] for n in names}
    found["study_slice"] = study_slice_figure(slices, lower)
    if len(set(scores)) >= 2 and names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            importance = optuna.importance.get_param_importances(study)
        found["study_importance"] = study_importance_figure(importance, len(completed))
    return found
