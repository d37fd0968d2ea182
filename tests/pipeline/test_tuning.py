"""The Optuna study of a stage: its first trial, failures, pruning, and that an interrupted study goes on as if it had
not been. Each test opens studies of its own names in one database, which is slow to make."""

import math
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FixedTrial, TrialState

from masked_memory.pipeline import tuning, workers
from masked_memory.pipeline.engine import TrainingDiverged
from masked_memory.pipeline.files import InputError

SPACE: dict[str, Any] = {
    "rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "width": {"low": 4, "high": 64},
    "kind": ["plain", "fancy"],
}
SPACES: dict[str, optuna.distributions.BaseDistribution] = {
    "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "width": optuna.distributions.IntDistribution(4, 64),
    "kind": optuna.distributions.CategoricalDistribution(["plain", "fancy"]),
}
LOCKED = Path(tempfile.mkdtemp()) / "optuna.db"
START: dict[str, Any] = {"rate": 0.01, "width": 16, "kind": "fancy"}
Objective = Callable[[optuna.Trial, dict[str, Any]], float]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies") / "runs"


@pytest.fixture
def opened(runs: Path, request: pytest.FixtureRequest) -> Callable[..., optuna.Study]:
    """Opens a study of this test, as a new process would; another `name` is another study."""

    def open_again(name: str = "", lower_is_better: bool = True, startup_trials: int = 2) -> optuna.Study:
        return tuning.open_study(
            tuning.Storage.of(runs, None), f"{request.node.name} {name}", lower_is_better, startup_trials
        )

    return open_again


def bowl(trial: optuna.Trial, values: dict[str, Any]) -> float:
    return (math.log10(values["rate"]) + 2.5) ** 2 + values["width"] / 64 + (values["kind"] == "plain")


def run(study: optuna.Study, trials: int, objective: Objective = bowl, **options: Any) -> dict[str, Any]:
    said: list[str] = options.pop("said", [])
    return tuning.optimize(
        study,
        tuning.Storage("", LOCKED),
        tuning.Search(options.get("space", SPACE), options.get("start", START)),
        trials,
        options.get("seed", 0),
        objective,
        said.append,
    )


def completed(study: optuna.Study) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in study.trials if trial.state == TrialState.COMPLETE]


class Endless(Exception):
    """Raised by a test's objective that is asked far more often than it should be."""


# What is tried


def test_the_first_trial_is_the_setting_of_the_config(opened: Callable[..., optuna.Study]) -> None:
    study = opened()
    run(study, 3)
    assert study.trials[0].params == START
    assert study.trials[1].params != START != study.trials[2].params


@pytest.mark.system
@pytest.mark.parametrize("odd", [{"width": 3}, {"rate": 0.5}, {"kind": "plainest"}])
def test_the_first_trial_has_the_settings_as_they_stand_also_outside_of_the_space(
    odd: dict[str, Any], opened: Callable[..., optuna.Study]
) -> None:
    """With nothing to warn of. A choice that the space lacks is one more choice."""
    study, start = opened(), START | odd
    search = tuning.Search.of(SimpleNamespace(**start, tune=SimpleNamespace(space=SPACE)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(study, 6, space=search.space, start=search.start)
    assert study.trials[0].params == start and len(study.trials) == 6
    assert all(4 <= trial.params["width"] <= 64 for trial in study.trials[1:])
    assert all(1e-4 <= trial.params["rate"] <= 1e-1 for trial in study.trials[1:])


def test_further_trials_of_a_study_begin_with_settings_that_it_has_not_tried(
    opened: Callable[..., optuna.Study],
) -> None:
    study, other = opened(), START | {"rate": 0.02}
    run(study, 3)
    run(study, 3, start=other)
    assert len(study.trials) == 3, "all trials have ended"
    run(study, 5, start=other)
    assert [trial.number for trial in study.trials if trial.params == other] == [3]


def test_a_study_that_searched_other_keys_is_refused(opened: Callable[..., optuna.Study]) -> None:
    """Its best values would take the place of what is set."""
    study, fewer = opened(), {key: SPACE[key] for key in ("rate", "width")}
    run(study, 2)
    with pytest.raises(
        InputError, match=r"has searched rate, width, kind, and now rate, width .* name another tune\.study"
    ):
        run(study, 4, space=fewer, start={"rate": 0.01, "width": 16})


def test_a_study_that_was_begun_with_other_settings_says_so(opened: Callable[..., optuna.Study]) -> None:
    said: list[str] = []
    for hidden in (64, 64, 96):
        tuning.note_settings(opened(), {"train_vqvae.hidden": hidden, "run.seed": 0}, said.append)
    assert len(said) == 1 and "(train_vqvae.hidden was 64, is 96)" in said[0]


@pytest.mark.system
@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_table_says_what_was_tried_what_was_set_and_what_is_taken(
    lower_is_better: bool, opened: Callable[..., optuna.Study]
) -> None:
    study = opened(lower_is_better=lower_is_better)
    best = run(study, 30)
    head, *rows, rest = tuning.trials_table(study, START, "mse")
    assert head.split() == ["trial", "mse", "rate", "width", "kind"]
    (taken,) = [row for row in rows if row.endswith("taken")]
    assert taken.split()[2:5] == [f"{best['rate']:.4g}", str(best["width"]), best["kind"]]
    assert float(taken.split()[1]) == pytest.approx(study.best_value, rel=1e-3)
    (as_set,) = [row for row in rows if "as set" in row]
    assert as_set.split()[0] == "0" and as_set.split()[2:5] == ["0.01", "16", "fancy"]
    numbers = [int(row.split()[0]) for row in rows]
    assert numbers == sorted(numbers) and len(rows) in (12, 13)
    ended = [t for t in study.trials if t.state != TrialState.FAIL]
    assert rest == f"and {len(ended) - len(rows)} more that were worse or ended early"


def test_the_table_names_trials_that_were_pruned_or_failed(opened: Callable[..., optuna.Study]) -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise TrainingDiverged("not finite")
        return bowl(trial, values)

    study = opened()
    run(study, 4, objective)
    lines = tuning.trials_table(study, START, "mse")
    assert [line.split()[1] for line in lines[2:4]] == ["pruned", "fail"]


def test_the_best_values_are_returned(opened: Callable[..., optuna.Study]) -> None:
    for lower_is_better in (True, False):
        study = opened(str(lower_is_better), lower_is_better)
        best = run(study, 5)
        pick = min if lower_is_better else max
        assert best == pick(completed(study), key=lambda entry: entry[1])[0]


def test_the_same_seed_asks_for_the_same_settings_and_another_for_others(opened: Callable[..., optuna.Study]) -> None:
    studies = {name: opened(name) for name in ("a", "b", "c")}
    for name, seed in (("a", 0), ("b", 0), ("c", 100)):
        run(studies[name], 4, seed=seed)
    assert completed(studies["a"]) == completed(studies["b"])
    assert completed(studies["a"])[1:] != completed(studies["c"])[1:]


def test_trials_count_over_calls(opened: Callable[..., optuna.Study]) -> None:
    run(opened(), 2)
    run(opened(), 2)
    assert len(opened().trials) == 2
    run(opened(), 5)
    assert len(opened().trials) == 5


def test_suggestions_have_the_kind_of_the_space() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = {**SPACE, "log_width": {"low": 1, "high": 1000, "log": True}, "share": {"low": 0, "high": 0.5}}
    chosen = [tuning.suggest(study.ask(), space) for _ in range(200)]
    assert {type(values["width"]) for values in chosen} == {type(values["log_width"]) for values in chosen} == {int}
    assert {type(values["rate"]) for values in chosen} == {type(values["share"]) for values in chosen} == {float}
    assert {values["kind"] for values in chosen} == {"plain", "fancy"}
    assert {values["width"] for values in chosen} >= {4, 64} and max(values["share"] for values in chosen) <= 0.5
    below = sum(values["rate"] < 3.16e-3 for values in chosen)
    assert 70 < below < 130, "on a logarithmic scale half of the rates lie below the middle decade"
    assert sum(values["log_width"] < 32 for values in chosen) > 70


def test_numbers_that_yaml_reads_as_text_are_a_range() -> None:
    space = {"rate": {"low": "1e-3", "high": "1e-1", "log": True}}
    assert tuning.suggest(FixedTrial({"rate": 0.01}), space) == {"rate": 0.01}


# Trials that do not end well


def test_a_diverging_trial_fails_with_its_reason_and_the_study_goes_on(opened: Callable[..., optuna.Study]) -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 1:
            raise TrainingDiverged("train_vqvae: the loss is not finite at step 7")
        return bowl(trial, values)

    study, said = opened(), []
    run(study, 4, objective, said=said)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].user_attrs["error"] == "train_vqvae: the loss is not finite at step 7"
    assert said == ["trial 1 failed: train_vqvae: the loss is not finite at step 7"]
    assert study.trials[2].params != study.trials[1].params


def test_pruned_trials_count_and_cannot_win(opened: Callable[..., optuna.Study]) -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number in (1, 2):
            trial.report(-100.0, 1)
            raise optuna.TrialPruned
        return bowl(trial, values)

    study = opened()
    best = run(study, 4, objective)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert best in [params for params, _ in completed(study)]


def test_no_setting_is_run_twice_and_the_trial_counts(opened: Callable[..., optuna.Study]) -> None:
    asked: list[str] = []
    said: list[str] = []

    def once(trial: optuna.Trial, values: dict[str, Any]) -> float:
        asked.append(values["kind"])
        if values["kind"] == "odd":
            raise optuna.TrialPruned
        return {"plain": 2.0, "fancy": 1.0}[values["kind"]]

    study = opened()
    space = {"kind": ["plain", "fancy", "odd"]}
    best = run(study, 12, once, space=space, start={"kind": "plain"}, said=said)
    assert best == {"kind": "fancy"} and sorted(asked) == ["fancy", "odd", "plain"]
    assert len(study.trials) == 12 and len(said) == 9 and "not run again" in said[0]
    first = {trial.params["kind"]: (trial.state, trial.value) for trial in reversed(study.trials)}
    assert all((trial.state, trial.value) == first[trial.params["kind"]] for trial in study.trials)
    assert first["odd"] == (TrialState.PRUNED, None)


def test_a_failed_setting_may_be_tried_again(opened: Callable[..., optuna.Study]) -> None:
    asked: list[str] = []

    def unlucky(trial: optuna.Trial, values: dict[str, Any]) -> float:
        asked.append(values["kind"])
        if len(asked) == 1:
            raise TrainingDiverged("a first step that was too long")
        return 1.0

    run(opened(), 3, unlucky, space={"kind": ["plain"]}, start={"kind": "plain"})
    assert asked == ["plain", "plain"]


def test_a_trial_that_does_not_fit_into_memory_is_pruned_and_said(opened: Callable[..., optuna.Study]) -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bowl(trial, values)

    study, said = opened(), []
    assert run(study, 2, objective, said=said) == study.trials[1].params
    assert study.trials[0].state == TrialState.PRUNED
    assert len(said) == 1 and "out of memory" in said[0] and "fancy" in said[0]


@pytest.mark.parametrize("error", [TrainingDiverged("diverged"), optuna.TrialPruned(), torch.OutOfMemoryError("full")])
def test_a_study_without_a_completed_trial_is_an_input_error(
    error: Exception, opened: Callable[..., optuna.Study]
) -> None:
    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        raise error

    study = opened()
    with pytest.raises(InputError, match="none of the 2 trials"):
        run(study, 2, objective)
    assert len(study.trials) == 2


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_does_not_stop_or_trap_the_study(
    score: float, opened: Callable[..., optuna.Study]
) -> None:
    """The same settings always give this score. They count as a trial that ended, are not asked for again for ever,
    and do not win."""
    broken: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number > 8:
            raise Endless
        if trial.number == 1:
            broken.append(values)
        return score if values in broken else bowl(trial, values)

    study = opened()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        best = run(study, 4, objective)
    assert len(study.trials) == 4
    assert best not in broken


def test_the_median_pruner_spares_the_first_trials_and_the_first_epoch(opened: Callable[..., optuna.Study]) -> None:
    """Reports: two good trials, then one that is worse from the start."""
    pruned_at: list[tuple[int, int]] = []

    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        for epoch in (1, 2, 3):
            trial.report(10.0 * trial.number + 1 / epoch, epoch)
            if trial.should_prune():
                pruned_at.append((trial.number, epoch))
                raise optuna.TrialPruned
        return 10.0 * trial.number

    run(opened(startup_trials=2), 3, objective)
    assert pruned_at in ([(2, 1)], [(2, 2)])
    pruned_at.clear()
    run(opened("spared", startup_trials=3), 3, objective)
    assert pruned_at == []


# Interruption


@pytest.mark.system
@pytest.mark.parametrize("interrupted", [[0], [2], [4], [1, 3]])
def test_an_interrupted_study_resumed_equals_one_that_was_not(
    interrupted: list[int], opened: Callable[..., optuna.Study]
) -> None:
    """The objective is interrupted in the middle of these trials; each time a new process opens the study."""
    whole = opened("whole")
    best = run(whole, 6)

    def stopping_after(done: int) -> Objective:
        def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
            trial.report(0.1, 1)
            if len(completed(trial.study)) == done:
                raise KeyboardInterrupt
            return bowl(trial, values)

        return objective

    for done in interrupted:
        with pytest.raises(KeyboardInterrupt):
            run(opened("stopped"), 6, stopping_after(done))
    resumed = opened("stopped")
    assert run(resumed, 6) == best
    assert completed(resumed) == completed(whole)
    assert not resumed.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_a_trial_killed_before_its_values_were_drawn_is_no_loss(opened: Callable[..., optuna.Study]) -> None:
    whole = opened("whole")
    best = run(whole, 4)
    run(opened("killed"), 2)
    opened("killed").ask()
    resumed = opened("killed")
    assert run(resumed, 4) == best
    assert completed(resumed) == completed(whole)


@pytest.mark.system
@pytest.mark.parametrize("call", ["enqueue_trial", "tell", "ask"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_workers_on_a_server_take_over_the_trial_of_a_third_at_once(
    call: str, moment: str, opened: Callable[..., optuna.Study], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is locked there. The other worker comes at the worst moment of the one that takes the trial over."""
    storage, me = tuning.Storage(tuning.Storage.of(runs, None).url, None), workers.this_worker()
    monkeypatch.setattr(tuning, "POLL_SECONDS", 0.05)
    for module in (tuning, workers):  # two threads stand for two processes
        monkeypatch.setattr(module, "this_worker", lambda: {**me, "process": str(threading.get_ident())})
    mine, lost, ran = opened(), {"rate": 0.02, "width": 7, "kind": "plain"}, []

    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        ran.append(values)
        return bowl(trial, values)

    def work(study: optuna.Study, say: Callable[[str], None]) -> None:
        tuning.optimize(study, storage, tuning.Search(SPACE, START), 4, 0, objective, say)

    for width in (4, 5):
        mine.add_trial(optuna.create_trial(params={**START, "width": width}, distributions=SPACES, value=1.0))
    mine.enqueue_trial(lost)
    gone = mine.ask(SPACES)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    gone.set_user_attr(workers.WORKER, {**me, "pid": process.pid, "process": "gone"})
    arrived = threading.Event()
    other = threading.Thread(target=lambda: (work(opened(), lambda text: arrived.set()), arrived.set()))
    original = getattr(mine, call)

    def interrupted(*args: Any, **options: Any) -> Any:
        if moment == "after":
            answer = original(*args, **options)
        if other.ident is None:
            other.start()
            assert arrived.wait(60)
        return answer if moment == "after" else original(*args, **options)

    monkeypatch.setattr(mine, call, interrupted)
    work(mine, lambda text: None)
    other.join(60)
    assert not other.is_alive()
    assert len(completed(mine)) == 4
    assert ran.count(lost) == 1 and len(ran) == 2, "the lost setting once, and one more"
    assert not mine.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_interrupted_trials_do_not_count(opened: Callable[..., optuna.Study]) -> None:
    def interrupted(trial: optuna.Trial, values: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(opened(), 3, interrupted)
    run(opened(), 3)
    assert completed(opened())[0][0] == START
    assert len(completed(opened())) == 3


def test_beats_end_with_the_trial_however_it_ended(
    opened: Callable[..., optuna.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have given it up meanwhile; the thread then ends in silence, and the study goes on."""
    monkeypatch.setattr(workers, "BEAT_SECONDS", 0.02)
    study = opened()

    def given_up(trial: optuna.Trial, values: dict[str, Any]) -> float:
        if trial.number == 0:
            study.tell(trial.number, state=TrialState.FAIL)
        time.sleep(0.2)
        return bowl(trial, values)

    run(study, 1, given_up)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("beats")]
