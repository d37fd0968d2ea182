"""Bars on a terminal and in a log file."""

import io
import subprocess
import sys

import pytest
from tqdm import tqdm

from masked_memory.pipeline import progress
from masked_memory.pipeline.progress import Estimate, LogLines, progress_bar
from toys import ROOT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_moves_in_its_line_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    for _ in progress_bar(range(3), desc="measuring"):
        pass
    assert "\rmeasuring:   0%" in shown.getvalue() and "\n" not in shown.getvalue()


def test_in_a_log_each_state_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(sys, "stdout", log)
    with progress_bar(total=10, desc="fit", unit="step") as bar:
        bar.update(5)
        bar.set_postfix_str("epoch 1, validation loss 0.5")
        tqdm.write("trial 0: loss 0.5")
        bar.update(5)
    tqdm.write("runs/train_vqvae/x")
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and all(line == line.strip() for line in lines)
    assert lines[0].startswith("fit:   0%") and lines[1].endswith("epoch 1, validation loss 0.5]")
    assert lines[2] == "trial 0: loss 0.5" and lines[-1] == "runs/train_vqvae/x"


def test_a_log_has_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress_bar(range(10_000), desc="choosing"):
        pass
    assert len(log.getvalue().splitlines()) <= 2


def test_lines_within_lines_are_kept_apart() -> None:
    log = io.StringIO()
    lines = LogLines(log)
    for text in ("\router: 0%", "\n", "\rinner: 0%", "\x1b[A", "\r          ", "\r", "\router: 9%   "):
        lines.write(text)
    assert log.getvalue() == "outer: 0%\ninner: 0%\nouter: 9%\n"


@pytest.mark.system
def test_both_streams_in_one_file_end_with_the_run_folder(tmp_path) -> None:
    """As in `python STAGE.py > log 2>&1`."""
    asked = ["--run.dir", tmp_path / "runs", "--run.mlflow", "false", "--data.images_per_class", "5"]
    done = subprocess.run(
        [sys.executable, ROOT / "data_split.py", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    (folder,) = (tmp_path / "runs" / "data_split").glob("*/split.json")
    assert done.stdout.splitlines()[-1] == str(folder.parent)
    assert "\r" not in done.stdout and progress.SECONDS_IN_LOGS > 1


@pytest.mark.parametrize(
    ("step_seconds", "steps", "said"), [(0.1, 10_000, [1000.0]), (0.1, 500, []), (20.0, 30, [600.0]), (1.0, 5, [])]
)
def test_how_long_a_fit_takes_is_said_once_where_it_is_worth_it(
    step_seconds: float, steps: int, said: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step, in which models are compiled and codebooks start, does not count."""
    clock, heard = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    estimate = Estimate(steps, heard.append)
    for number in range(steps):
        clock[0] += step_seconds if number else 300.0
        estimate.step()
    assert heard == pytest.approx(said)
