"""docs/screenshots.py: what it needs is said before a server is started, and it finds the links that are printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs import screenshots
from masked_memory.stages import summary
from toys import ROOT

pytestmark = pytest.mark.system


def test_without_a_browser_it_says_what_to_type(tmp_path: Path) -> None:
    call = [sys.executable, str(ROOT / "docs" / "screenshots.py"), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(call, env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there is no Chromium on this machine; type: apt-get install chromium\n"
    assert list(tmp_path.iterdir()) == []


def test_the_links_are_those_that_make_ui_prints(ran, monkeypatch, capsys) -> None:
    monkeypatch.setattr("masked_memory.pipeline.mlflow_ui.mlflow_page", lambda database: None)
    monkeypatch.setattr("masked_memory.pipeline.mlflow_ui.show_page", lambda page, at: None)
    summary.open_ui(ran.cfg)
    found = screenshots.links_in(capsys.readouterr().out)
    assert set(screenshots.PHOTOGRAPHED) <= set(found)
    assert all(link.startswith("http://127.0.0.1:") and "/#/experiments/" in link for link in found.values())
