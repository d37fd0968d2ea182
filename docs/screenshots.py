"""Pictures of MLflow as these pages show them: the runs of a stage behind the links that `make ui` prints.

    python docs/screenshots.py --runs runs

Needs Chromium, playwright (tests/requirements.txt) and finished runs of `make demo`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
PHOTOGRAPHED = ("train_vqvae", "train_distil")
WINDOW_WIDTH, WINDOW_HEIGHT = 1280, 560
SECONDS = 180.0  # until the server answers


def links_in(printed: str) -> dict[str, str]:
    """Stage -> link, of what `make ui` prints."""
    return dict(re.findall(r"^ +(\w+) +(http\S+)$", printed, flags=re.MULTILINE))


def wait_for_links(log: Path) -> dict[str, str]:
    """Stage -> link, once the server answers. Raises TimeoutError when it does not."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        links = links_in(log.read_text(encoding="utf-8"))
        try:
            with urllib.request.urlopen(next(iter(links.values()), "http://127.0.0.1:0/").partition("#")[0], timeout=5):
                return links
        except OSError:
            time.sleep(1)
    raise TimeoutError(f"MLflow did not answer within {SECONDS:.0f} s: {log.read_text(encoding='utf-8')[-300:]}")


def photograph(links: dict[str, str], chromium: str) -> list[Path]:
    """A PNG for each of the shown stages that has a link. Returns the files written."""
    from playwright.sync_api import sync_playwright

    written = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for stage in (stage for stage in PHOTOGRAPHED if stage in links):
            page = browser.new_context(viewport={"width": WINDOW_WIDTH, "height": WINDOW_HEIGHT}).new_page()
            page.goto(links[stage])
            page.get_by_text("matching runs").wait_for(timeout=60_000)
            for name in ("Close assistant", "Close"):
                for button in page.get_by_role("button", name=name, exact=True).all():
                    if button.is_visible():
                        button.click()
            page.wait_for_timeout(2000)  # until the columns have found their places
            file = HERE / "images" / f"mlflow_{stage}.png"
            page.screenshot(path=file)
            written.append(file)
        browser.close()
    return written


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of finished runs [runs]")
    asked = parser.parse_args(argv)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("error: there is no Chromium on this machine; type: apt-get install chromium", file=sys.stderr)
        return 2
    with TemporaryDirectory() as scratch:
        return show_and_photograph(asked.runs, Path(scratch) / "log.txt", chromium)


def show_and_photograph(runs: Path, log: Path, chromium: str) -> int:
    """Starts MLflow over these runs, which writes to log, takes the pictures and stops it. Returns the exit status."""
    with log.open("w", encoding="utf-8") as written:
        call = [sys.executable, str(HERE.parent / "summary.py"), "--ui", "--run.dir", str(runs)]
        server = subprocess.Popen(call, stdout=written, stderr=written, start_new_session=True)
    try:
        for file in photograph(wait_for_links(log), chromium):
            print(file)
    finally:
        os.killpg(server.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
