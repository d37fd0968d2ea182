"""The table of what the stages found, and the MLflow UI."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.files import InputError, read_json
from masked_memory.pipeline.loopback import listening
from masked_memory.pipeline.mlflow_ui import mlflow_page
from masked_memory.pipeline.runs import RunFolder
from masked_memory.pipeline.tracking import database_uri, open_ledger
from masked_memory.pipeline.undelivered import Spool, undelivered
from masked_memory.settings.config import Config
from masked_memory.stages import summary
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

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc to see which are left")
DEAD = "http://127.0.0.1:9"


def alive(group: int) -> int:
    """How many processes of this group have not ended."""
    found = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group, *_ = file.read_text().rsplit(")", 1)[1].split()
            found += int(its_group) == group and state != "Z"
    return found


class Shown:
    """The UI in a process group of its own, behind a proxy that is dead."""

    def __init__(self, runs: Path, *options: str) -> None:
        self.log = runs.parent / "log.txt"
        call = [sys.executable, str(ROOT / "summary.py"), "--ui", "--run.dir", str(runs), *options]
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), DEAD)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                call, cwd=runs.parent, env=os.environ | proxies, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while not (found := re.search(r"^open .*(http://127\.0\.0\.1:\d+) ", self.printed, re.MULTILINE)):
            assert self.process.poll() is None and time.monotonic() < end, self.printed
            time.sleep(0.1)
        self.address = found[1]

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def ask(self, path: str) -> tuple[dict[str, str], bytes]:
        """Headers, in small letters, and content. It listens already; the answer may take seconds."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.address}{path}", timeout=60) as answer:
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def end(self, number: int = signal.SIGKILL) -> int:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)  # as plain `kill` does, not to the group
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("ui") / "runs"
    ledger = open_ledger(runs, "train_vqvae", "a run", {}, None)
    ledger.metrics({"best_val_mse": 0.25}, step=0)
    (runs / "curves.png").write_bytes(b"a picture")
    ledger.artifacts(runs / "curves.png", "figures")
    ledger.end("FINISHED")
    return runs


@pytest.fixture(scope="module")
def shown(old_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Over a copy of the runs, without the old ones' artifacts, while the usual port is taken."""
    runs = tmp_path_factory.mktemp("moved") / "runs"
    shutil.copytree(old_runs, runs)
    shutil.rmtree(old_runs / "artifacts")
    with listening(None, summary.PORT):  # the usual one, where no other program has it
        found = Shown(runs)
        yield found
        found.end()


@pytest.mark.system
def test_the_ui_says_which_port_it_has_and_links_to_what_answers(shown: Shown) -> None:
    assert shown.address != f"http://127.0.0.1:{summary.PORT}"
    assert f"port {summary.PORT} is taken; this is {shown.address.rsplit(':', 1)[1]} (--port NUMBER" in shown.printed
    (link,) = re.findall(r"train_vqvae +(http\S+)", shown.printed)
    assert link.startswith(f"{shown.address}/#/experiments/")
    headers, page = shown.ask("/")
    assert b'id="root"' in page and int(headers["content-length"]) == len(page)
    assert headers["x-frame-options"] == "SAMEORIGIN", "what MLflow guards its pages with"


def test_figures_are_shown_where_the_runs_were_copied_to(shown: Shown, old_runs: Path) -> None:
    assert f"came from {old_runs}: its artifact places now lead to" in shown.printed
    client = MlflowClient(database_uri(old_runs), database_uri(old_runs))
    experiment = client.get_experiment_by_name("train_vqvae")
    (run,) = client.search_runs([experiment.experiment_id])
    assert shown.ask(f"/get-artifact?path=figures/curves.png&run_uuid={run.info.run_id}")[1] == b"a picture"


@pytest.mark.system
def test_the_ui_collects_no_usage_data(shown: Shown) -> None:
    assert json.loads(shown.ask("/ajax-api/3.0/mlflow/ui-telemetry")[1])["disable_ui_telemetry"] is True


@pytest.mark.system
def test_the_first_page_does_not_say_that_usage_data_are_collected(shown: Shown) -> None:
    """Seen in Chromium: the notice that MLflow's page opens with."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-proxy-server"])
        page = browser.new_page()
        page.goto(shown.address)
        page.get_by_text("Welcome to MLflow").wait_for(timeout=60_000)
        page.wait_for_timeout(1000)
        assert page.get_by_text("collects usage data").count() == 0
        browser.close()


@pytest.mark.parametrize(("said", "sent"), [(None, False), ("true", False), ("false", True)])
def test_usage_data_are_sent_and_noticed_only_where_the_user_said_so(
    said: str | None, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself sends none while a test runs, whatever is set: its application has a stand-in here."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<head></head>"})

    async def collect(message: dict[str, Any]) -> None:
        answer.update(message)

    answer: dict[str, Any] = {}
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MLFLOW_DISABLE_TELEMETRY", None)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": said} if said else {}
    monkeypatch.setitem(sys.modules, "mlflow.server.fastapi_app", SimpleNamespace(app=app))
    page = mlflow_page("sqlite:///mlflow.db")
    asyncio.run(page({"type": "http", "method": "GET", "path": "/", "headers": []}, None, collect))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == str(not sent).lower()
    assert (b"dismissed" not in answer["body"]) == sent


@pytest.mark.system
@needs_proc
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
    ids=lambda each: str(each),
)
def test_the_ui_leaves_nothing_when_it_is_ended(old_runs: Path, number: int, status: int) -> None:
    with listening(None, 20000) as free:
        port = free.getsockname()[1]
    shown = Shown(old_runs, "--port", str(port))
    try:
        assert shown.address == f"http://127.0.0.1:{port}"
        assert shown.ask("/health")[1] == b"OK" and alive(shown.process.pid) == 1, "no children"
        started = time.monotonic()
        assert shown.end(number) == status and time.monotonic() - started < 15
        assert shown.printed.endswith("(Ctrl-C ends it)\ninterrupted\n") and not alive(shown.process.pid)
        listening(port, port).close()
    finally:
        shown.end()


@pytest.mark.parametrize(
    ("port", "words"), [("taken", "is taken"), ("0", "expected a whole number"), ("many", "expected a whole number")]
)
def test_a_port_that_cannot_be_is_one_line_and_status_2(
    port: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    with listening(None, 20000) as other:
        named = str(other.getsockname()[1]) if port == "taken" else port
        monkeypatch.setattr(sys, "argv", ["summary.py", "--ui", "--run.dir", str(tmp_path), "--port", named])
        assert summary.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --port {'' if port == 'taken' else 'is '}{named}") and words in line


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


def test_sync_says_of_each_folder_why_not_and_delivers_the_others(
    old_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(old_runs, runs)
    folders = []
    for stage in ("train_mae", "train_painter", "train_vqvae"):
        folders.append(RunFolder.create(runs, stage, "", "key"))
        folders[-1].update(status="finished")
        opened = open_ledger(runs, stage, "x", {}, None)
        where = {"uri": None, "experiment": opened.experiment_id}
        Spool(folders[-1].path, where, lambda text: None).add(opened.run_id, "tags", [{"told": "late"}])
    (folders[0].path / "run.json").write_text("{")
    (folders[1].path / "undelivered.jsonl").write_text("damaged\n")
    monkeypatch.setattr(sys, "argv", ["summary.py", "--sync", "--run.dir", str(runs)])
    capsys.readouterr()
    assert summary.main() == 2
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()[-3:]
    assert first.startswith(f"{folders[0].path} is not delivered: {folders[0].path / 'run.json'} is not JSON: ")
    assert second.startswith(f"{folders[1].path} is not delivered: line 1 of ")
    assert third == f"{folders[2].path}: 1 entries delivered"
    assert err == "error: not delivered: 2, see above; mend that, then type: python summary.py --sync\n"
    assert undelivered(runs) == [folders[0].path, folders[1].path]


@pytest.mark.system
def test_sync_into_a_database_that_was_lost_is_no_traceback(old_runs: Path, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs", "train_vqvae", "", "key")
    folder.update(status="finished")
    Spool(folder.path, {"uri": None, "experiment": "1"}, lambda text: None).add("0" * 32, "tags", [{"told": "late"}])
    call = [sys.executable, str(ROOT / "summary.py"), "--sync", "--run.dir", str(tmp_path / "runs")]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: not delivered: 1") and "Traceback" not in done.stderr
    assert "Run with id=00000000000000000000000000000000 not found" in done.stdout


def test_help_names_every_option_and_asks_for_no_torch(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['summary.py', '--help']\n"
        "from masked_memory.stages import summary\n"
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
