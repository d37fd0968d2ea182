"""Several processes on one study: who runs which trial, and whether that process is still alive.

A worker notes on its trial who it is, and beats while it runs it. A trial is orphaned when its process is gone: at once
where it ran on this machine, and after GRACE_SECONDS without a beat where it ran on another one. Time is the observer's
own: clocks of machines are not compared.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from masked_memory.pipeline.processes import is_gone, this_process

BEAT_SECONDS = 10.0
GRACE_SECONDS = 60.0
WORKER, BEATS = "worker", "beats"  # attributes of a trial

_process = uuid.uuid4().hex  # tells a process from an earlier one with the same number


def this_worker() -> dict[str, Any]:
    return {**this_process(), "process": f"{os.getpid()} {_process}"}


@contextmanager
def beating(trial: optuna.Trial) -> Iterator[None]:
    """Beats for the trial until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            try:
                trial.set_user_attr(BEATS, count)
            except optuna.exceptions.UpdateFinishedTrialError:  # it has just ended, or others have given it up
                return

    thread = threading.Thread(target=beat, daemon=True, name=f"beats of trial {trial.number}")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Watch:
    """Tells which running trials are orphaned. locked: the trials are looked at while nobody can claim one, so that a
    trial without a worker belongs to nobody."""

    def __init__(self, study: optuna.Study, locked: bool) -> None:
        self.study, self.locked = study, locked
        self._seen: dict[int, tuple[Any, float]] = {}  # trial -> its last beat, and when it was new

    def running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def orphaned(self) -> list[FrozenTrial]:
        """To be asked for while this process runs no trial."""
        return [trial for trial in self.running() if self._is_orphaned(trial)]

    def _is_orphaned(self, trial: FrozenTrial) -> bool:
        worker, me = trial.user_attrs.get(WORKER, {}), this_worker()
        if not worker and self.locked:
            return True
        if worker.get("process") == me["process"] or is_gone(worker):
            return True
        beat, now = trial.user_attrs.get(BEATS), time.monotonic()
        known, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or known != beat:
            since = now
        self._seen[trial.number] = (beat, since)
        return now - since > GRACE_SECONDS
