"""The table of what the stages found, and the MLflow UI."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

import summary
from pipeline.files import InputError, read_json
from pipeline.runs import RunFolder
from pipeline.spool import Spool
from pipeline.tracking import database_uri, open_ledger
from settings.config import Config
from toys import ROOT, STAGES, tiny


def test_the_summary_names_numbers_that_the_stages_write(ran, capsys):
    """At any percentage: those of the summary are those of config.yaml."""

    def whatever_percent(name: str) -> str:
        return re.sub(r"_at_\d+", "_at_N", name).replace("_clean_", "_")  # the second judge measures the same

    for stage, name, _, _ in summary.MAIN_NUMBERS:
        written = {whatever_percent(key) for key in read_json(ran.folders[stage.split()[0]] / "metrics.json")}
        assert whatever_percent(name) in written, name
    assert summary.run(ran.cfg) == len(STAGES)
    printed = capsys.readouterr().out
    error = read_json(ran.folders["reconstruct_masked"] / "metrics.json")["adaptive_mse_to_reconstruction_at_50"]
    assert f"{error:.4f}" in printed and "not run yet" not in printed


# --- the MLflow UI ----------------------------------------------------------------------------------------------------

PORT = 5000


def is_taken() -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", PORT)) == 0


def alive(group: int) -> int:
    """How many processes of this group have not ended."""
    found = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group, *_ = file.read_text().rsplit(")", 1)[1].split()
            found += int(its_group) == group and state != "Z"
    return found


def answer_of(url: str, seconds: float) -> int:
    """The status with which the address answers, as soon as it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.skipif(is_taken(), reason=f"port {PORT} is taken on this machine")
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc to see which processes are left")
def test_the_ui_answers_on_this_machine_and_leaves_nothing_when_it_is_stopped(tmp_path: Path) -> None:
    """As in a terminal, Ctrl-C goes to the whole group."""
    open_ledger(tmp_path / "runs", "train_vqvae", "a run", {}, None).metrics({"best_val_mse": 0.25}, step=0)
    call = [sys.executable, str(ROOT / "summary.py"), "--ui", "--run.dir", str(tmp_path / "runs")]
    log = tmp_path / "log.txt"
    with log.open("w") as written:
        process = subprocess.Popen(
            call, cwd=tmp_path, stdout=written, stderr=written, text=True, start_new_session=True
        )
    try:
        assert answer_of(f"http://127.0.0.1:{PORT}/", 120) == 200
        printed = log.read_text()
        assert f"open one of these, or http://127.0.0.1:{PORT} (Ctrl-C ends it)" in printed
        (link,) = re.findall(r"train_vqvae +(http\S+)", printed)
        assert answer_of(link, 5) == 200
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)
        end = time.monotonic() + 15
        while (alive(process.pid) or is_taken()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not alive(process.pid) and not is_taken()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def test_without_a_database_the_ui_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mlflow\.db is missing; type: make demo"):
        summary.open_ui(Config().replace({"run": {"dir": str(tmp_path)}}))


def test_sync_delivers_what_waits_and_leaves_runs_that_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny(tmp_path / "runs", tmp_path)
    assert summary.sync(cfg) == 0 and "nothing to deliver" in capsys.readouterr().out
    for status in ("finished", "running"):
        folder = RunFolder.create(tmp_path / "runs", "train_vqvae", "", "key")
        folder.update(status=status)
        opened = open_ledger(tmp_path / "runs", "train_vqvae", folder.name, {}, None)
        where = {"uri": database_uri(tmp_path / "runs"), "experiment": opened.experiment_id}
        Spool(folder.path, where, lambda text: None).add(opened.run_id, "tags", [{"told": "late"}])
    assert summary.sync(cfg) == 1
    assert "still runs, or was killed" in capsys.readouterr().out
    assert summary.sync(cfg) == 0, "once"


def test_help_names_every_option_and_asks_for_no_torch(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['summary.py', '--help']\nimport summary\n"
        "try: summary.main()\nexcept SystemExit: print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(option in done.stdout for option in summary.OPTIONS) and done.stdout.endswith("[]\n")


def test_a_report_of_real_runs_shows_them_all(ran, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert summary.report(ran.cfg, words=[str(file)]) == file.stat().st_size
    text = file.read_text(encoding="utf-8")
    assert (
        all(folder.name in text for folder in ran.folders.values()) and "left out" not in text.split("<footer>")[1][:20]
    )
    assert text.count("<img ") > 15
