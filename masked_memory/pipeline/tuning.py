"""The Optuna study of a stage: seeded, pruned, resumable, shared by any number of processes.

It is kept in `<runs>/optuna.db`, or on a server. The sampler is seeded anew for each trial from (seed, trials claimed
before it), so an interrupted study that is resumed asks for the same settings as one that was not, and no two workers
draw alike. The first trial always has the settings as they stand. No setting is run twice: a trial that asks for one of
before ends as that one did, and counts.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from masked_memory.pipeline.engine import TrainingDiverged
from masked_memory.pipeline.figures import study_history_figure, study_importance_figure, study_slice_figure
from masked_memory.pipeline.files import InputError, alone, sqlite_url
from masked_memory.pipeline.interrupts import Uninterrupted
from masked_memory.pipeline.memory_check import TooMuchMemory, is_out_of_memory
from masked_memory.pipeline.workers import WORKER, Watch, beating, this_worker

Space = dict[str, Any]

POLL_SECONDS = 2.0  # between looks at the trials of other workers
RERUN_OF = "rerun_of"  # attribute of a trial: the numbers of the interrupted ones in whose place it runs, oldest first
BEGUN_WITH = "settings"  # attribute of a study: those that are not searched
MOST_TRIALS_SHOWN = 12  # of the table of trials
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
TAKEN = (*ENDED, TrialState.RUNNING)


@dataclass(frozen=True)
class Search:
    """What is searched, and the settings as they stand, which are tried first: `space` may lack them. A choice that it
    lacks is added to the others."""

    space: Space
    start: dict[str, Any]

    @classmethod
    def of(cls, section: Any) -> "Search":
        """From a section of the settings, by its `tune.space`."""
        start = {key: getattr(section, key) for key in section.tune.space}
        lacking = {
            key: [*v, start[key]]
            for key, v in section.tune.space.items()
            if isinstance(v, list) and start[key] not in v
        }
        return cls({**section.tune.space, **lacking}, start)


@dataclass(frozen=True)
class Storage:
    """Where studies lie. `file`: of SQLite, locked while a trial is claimed; None: a server, where claims are settled
    by the places of the trials."""

    url: str
    file: Path | None

    @classmethod
    def of(cls, runs: Path, url: str | None) -> "Storage":
        """The one that is named, else `<runs>/optuna.db`."""
        file = runs / "optuna.db"
        return cls(url, None) if url else cls(sqlite_url(file), file)

    def turn(self) -> AbstractContextManager[None]:
        return alone(self.file) if self.file else nullcontext()


def open_study(storage: Storage, name: str, lower_is_better: bool, startup_trials: int) -> optuna.Study:
    """Create the study, or open it when it exists. Raises InputError when the storage cannot be reached."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with answering(storage, "opened"), storage.turn():  # two that start at once would both make the tables
        return optuna.create_study(
            study_name=name,
            storage=Uninterrupted.of(optuna.storages.get_storage(storage.url)),
            load_if_exists=True,
            direction="minimize" if lower_is_better else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=1),
        )


@contextmanager
def answering(storage: Storage, done: str) -> Iterator[None]:
    """Errors of the storage become one line. done: what cannot be done with the study."""
    try:
        yield
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
        why = " ".join(str(cause).split())[:200]
        raise InputError(f"the study cannot be {done} at {storage.url}: {why}; check tune.storage") from None


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, Any]:
    """One value for each key of the space: a list gives choices; {low, high, log} a range, of whole numbers if both
    ends are. The settings as they stand may lie outside of a range."""
    chosen: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Optuna, about values outside of a range
        for key, values in space.items():
            chosen[key] = _suggested(trial, key, values)
    return chosen


def tried(trial: optuna.trial.BaseTrial, section: Any) -> Any:
    """A section of the settings with the trial's values."""
    return section.replace(suggest(trial, Search.of(section).space))


def _suggested(trial: optuna.trial.BaseTrial, key: str, values: Any) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(key, values)
    low, high, log = values["low"], values["high"], bool(values.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return trial.suggest_float(key, float(low), float(high), log=log)


def optimize(
    study: optuna.Study,
    storage: Storage,
    search: Search,
    trials: int,
    seed: int,
    objective: Callable[[optuna.Trial, dict[str, Any]], float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run trials until `trials` have ended (earlier ones of the study count, and those of other workers) and return the
    best values. Trials of workers that are gone are run again.

    A trial whose loss is not finite fails, one that runs out of memory is pruned, and the study goes on. Raises
    InputError when no trial could be completed.
    """
    watch, waiting = Watch(study, locked=storage.file is not None), False
    with storage.turn():
        _check_space(study, search.space)
        if len(_places(study, TAKEN)) < trials:
            study.enqueue_trial({key: search.start[key] for key in search.space}, skip_if_exists=True)
    while True:
        with storage.turn():
            trial = _claim(study, watch, trials)
        if trial is None:
            if not watch.running():
                break
            if not waiting:
                say(f"waiting for {len(watch.running())} trials of other workers")
            waiting = True
            time.sleep(POLL_SECONDS)
            continue
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + sum(place < _place(trial) for place in _places(study, TAKEN)),
            n_startup_trials=4,
            constant_liar=True,
        )
        values = _suggest_or_refuse(study, trial, search.space)
        if (earlier := _same_as(study, trial)) is not None:
            study.tell(trial, earlier.value, earlier.state if earlier.value is None else None)
            say(f"trial {trial.number} asks for the setting of trial {earlier.number}, which is not run again")
            continue
        with beating(trial):
            _run(study, trial, values, objective, say)
    completed = [t for t in study.trials if t.state == TrialState.COMPLETE and t.value is not None]
    if not completed:
        raise InputError(
            f"none of the {trials} trials of study {study.study_name} could be completed; see their errors above"
        )
    return dict(study.best_params)


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    values: dict[str, Any],
    objective: Callable[[optuna.Trial, dict[str, Any]], float],
    say: Callable[[str], None],
) -> None:
    """One trial, and how it ended. A trial that others have given up in the meantime is left as they ended it."""
    try:
        score = objective(trial, values)
        if not math.isfinite(score):
            raise TrainingDiverged(f"its score is {score}")
        study.tell(trial, score, skip_if_finished=True)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except TrainingDiverged as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        say(f"trial {trial.number} failed: {error}")
    except (RuntimeError, TooMuchMemory) as error:
        if not isinstance(error, TooMuchMemory) and not is_out_of_memory(error):
            raise
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        why = str(error) if isinstance(error, TooMuchMemory) else "out of memory"
        say(f"trial {trial.number} pruned: {why}, with {values}")


def _claim(study: optuna.Study, watch: Watch, trials: int) -> optuna.Trial | None:
    """A trial for this worker, the orphaned ones first; None when all are claimed. On a server, where several may ask
    at once, who has no place within the budget gives his trial back."""
    for orphan in watch.orphaned():
        _give_up(study, orphan)
    while len(_places(study, TAKEN)) < trials or _queued_again(study):
        trial = study.ask()
        trial.set_user_attr(WORKER, this_worker())
        if _has_place(study, trial.number, trials):
            return trial
        study.tell(trial, state=TrialState.FAIL)
    return None


def _give_up(study: optuna.Study, orphan: FrozenTrial) -> None:
    """Fail the trial, once another has been queued in its place. Others may be quicker, or its own worker may end it:
    then there is one too many in that place, which is given back."""
    before = [*orphan.user_attrs.get(RERUN_OF, []), orphan.number]
    study.enqueue_trial(orphan.params, user_attrs={RERUN_OF: before})
    with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
        study.tell(orphan.number, state=TrialState.FAIL)


def _queued_again(study: optuna.Study) -> bool:
    return any(RERUN_OF in t.user_attrs for t in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _place(trial: FrozenTrial | optuna.Trial) -> int:
    """A trial that is run again keeps the place of the first; otherwise the place is the trial's number."""
    return trial.user_attrs.get(RERUN_OF, [trial.number])[0]


def _is(trial: FrozenTrial, states: tuple[TrialState, ...]) -> bool:
    """One that failed with an error of its own has ended; one that was interrupted has only failed."""
    return trial.state in states or (trial.state == TrialState.FAIL and "error" in trial.user_attrs)


def _places(study: optuna.Study, states: tuple[TrialState, ...]) -> set[int]:
    return {_place(trial) for trial in study.get_trials(deepcopy=False) if _is(trial, states)}


def _has_place(study: optuna.Study, number: int, trials: int) -> bool:
    """Whether a running trial is within the budget, and the only one in its place: fewer than `trials` places before
    its own are taken, also by trials that wait to be run again."""
    every = study.get_trials(deepcopy=False)
    mine, before = _place(every[number]), every[number].user_attrs.get(RERUN_OF)
    twins = [t for t in every if before and t.number < number and t.user_attrs.get(RERUN_OF) == before]
    if twins or any(_is(t, ENDED) for t in every if _place(t) == mine):
        return False
    return sum(place < mine for place in _places(study, (*TAKEN, TrialState.WAITING))) < trials


def _check_space(study: optuna.Study, space: Space) -> None:
    """Raises InputError for a study in which other keys were searched: its values would be taken for settings."""
    for trial in study.get_trials(deepcopy=False, states=ENDED):
        if set(trial.params) != set(space):
            raise InputError(
                f"study {study.study_name} has searched {', '.join(trial.params)}, and now {', '.join(space)} would be "
                "searched; name another tune.study, or search the same keys (one that is set leaves the space)"
            )


def settings_beside(section: Any, cfg: Any, stage: str) -> dict[str, Any]:
    """What a study's scores depend on beside what it searches: data, seed, and the stage's other settings."""
    settings = {} if cfg is None else cfg.flat("data", stage) | {"run.seed": cfg.run.seed}
    left_out = {f"{stage}.{key}" for key in section.tune.space}
    kept = {k: v for k, v in settings.items() if k not in left_out and ".tune." not in k}
    return kept | {f"{stage}.tune.{key}": getattr(section.tune, key) for key in ("epochs", "share")}


def note_settings(study: optuna.Study, settings: dict[str, Any], say: Callable[[str], None]) -> None:
    """Note with which other settings the study was begun; say which of them are others now."""
    begun = study.user_attrs.get(BEGUN_WITH)
    if begun is None:
        study.set_user_attr(BEGUN_WITH, settings)
        return
    others = [
        f"{key} was {begun[key]}, is {value}" for key, value in settings.items() if begun.get(key, value) != value
    ]
    if others:
        say(
            f"study {study.study_name} was begun with other settings ({'; '.join(others)}), and its trials so far "
            "count all the same; for a fresh start name another tune.study"
        )


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
    ended = study.get_trials(deepcopy=False, states=ENDED)
    return next((each for each in ended if each.params == trial.params), None)


def trials_table(study: optuna.Study, start: dict[str, Any], metric: str) -> list[str]:
    """Lines that say what was tried, and what won: the best trials, and the one with the settings as they stand."""
    best, keys = study.best_trial.number, list(start)
    ended = study.get_trials(deepcopy=False, states=(*ENDED, TrialState.FAIL))
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    ended = [trial for trial in ended if set(trial.params) == set(keys)]
    ended.sort(key=lambda t: (t.state != TrialState.COMPLETE, sign * (t.value or 0.0), t.number))
    shown = [t for n, t in enumerate(ended) if n < MOST_TRIALS_SHOWN or t.params == start]
    rows = [["trial", metric, *keys, ""]]
    for trial in sorted(shown, key=lambda t: t.number):
        score = f"{trial.value:.4g}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
        remarks = ["as set"] * (trial.params == start) + ["taken"] * (trial.number == best)
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (trial.params[key] for key in keys)]
        rows.append([str(trial.number), score, *values, ", ".join(remarks)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left = len(ended) - len(shown)
    return [*lines, *([f"and {left} more that were worse or ended early"] if left else [])]


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
