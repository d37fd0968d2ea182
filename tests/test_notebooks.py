"""The notebooks run as they are, in a folder of their own, and their outputs are small."""

import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from toys import ROOT

pytestmark = pytest.mark.system

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_OUTPUT = 200_000  # bytes
MOST_LINES = 15  # to the first picture


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as after `pip install .`
    notebook = nbformat.read(file, as_version=4)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert time.perf_counter() - start < 240
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) >= 2 and all(len(str(output)) <= MOST_OUTPUT for output in outputs)
    assert list(tmp_path.iterdir()) == [], "a notebook leaves nothing behind"


def test_there_are_two_and_the_first_picture_comes_soon() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["quickstart", "your_strategy"]
    lines = "\n".join(code_of(nbformat.read(NOTEBOOKS[0], as_version=4))).splitlines()
    first = next(number for number, line in enumerate(lines, 1) if ".show()" in line)
    assert first <= MOST_LINES


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_stored_was_run_from_top_to_bottom_and_names_no_place_of_a_machine(file: Path) -> None:
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    texts = [str(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs]
    assert not any(re.search(r"(?<![\w.])/\w+/", text) for text in texts)
    assert all(len(str(output)) <= MOST_OUTPUT for output in outputs)
