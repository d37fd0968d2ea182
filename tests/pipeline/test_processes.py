"""Whether the process that is noted is still there."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from masked_memory.pipeline.processes import cores, is_gone, is_here, this_process
from toys import ROOT

WAITING = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def noted(pid: int) -> dict[str, Any]:
    return {"host": this_process()["host"], "pid": pid}


def test_this_process_is_here_and_not_gone() -> None:
    assert is_here(this_process()) and not is_gone(this_process())


def test_a_process_that_has_ended_is_gone_also_while_nobody_has_asked_how() -> None:
    started = subprocess.Popen(WAITING, stdin=subprocess.PIPE)
    assert not is_gone(noted(started.pid))
    started.kill()
    until = time.monotonic() + 10
    while not is_gone(noted(started.pid)):  # it is a zombie now
        assert time.monotonic() < until
        time.sleep(0.01)
    started.communicate()
    assert is_gone(noted(started.pid))


def test_a_later_process_with_the_same_number_is_another() -> None:
    assert is_gone({**this_process(), "started": this_process()["started"] - 60})


def test_of_a_process_elsewhere_and_of_one_that_was_not_noted_nobody_can_tell() -> None:
    elsewhere = {**this_process(), "host": "another machine", "pid": 2**22 + 1}
    assert not is_here(elsewhere) and not is_gone(elsewhere)
    assert not is_here({}) and not is_gone({})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no process to some cores")
def test_a_job_that_was_given_one_core_has_one() -> None:
    count = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    count += "from masked_memory.pipeline.processes import cores; print(cores())"
    assert subprocess.run([sys.executable, "-c", count], cwd=ROOT, capture_output=True, check=True).stdout == b"1\n"


def test_where_that_cannot_be_asked_the_machine_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()


def test_a_clock_that_is_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert this_process() == before and not is_gone(before)
