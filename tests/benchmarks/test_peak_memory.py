"""Each way of asking is measured; what is told is the limit that was set."""

from pathlib import Path

import pytest

from benchmarks import peak_memory
from benchmarks.peak_memory import QUESTIONS, AskedModels, measure_question
from docs.shelf import take_table
from masked_memory.pipeline.machine import Machine
from toys import CPU

pytestmark = pytest.mark.system

SIZE, CODES, PICTURES = 16, 32, 5


@pytest.mark.parametrize("name", QUESTIONS)
def test_less_memory_means_fewer_at_once(name: str) -> None:
    found = {}
    for memory in (1, 2**30):
        asked = AskedModels(SIZE, CODES, PICTURES, Machine(CPU, bf16=False, threads=1, memory=memory))
        _, pictures, at_once, _, start, peak = measure_question(name, asked)
        assert pictures == PICTURES and 0 < float(start) <= float(peak)
        found[memory] = at_once
    assert found == {1: 1, 2**30: PICTURES}


def test_it_prints_and_saves_a_row_for_each_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak_memory, "QUESTIONS", {"validate": QUESTIONS["validate"]})
    options = ["--size", str(SIZE), "--codes", str(CODES), "--pictures", str(PICTURES), "--threads", "1"]
    assert peak_memory.main([*options, "--save", str(tmp_path / "peak.csv")]) == 0
    (row,) = take_table("peak", tmp_path).rows
    assert row["asked"] == "validate" and float(row["peak_megabytes"]) > 100
    assert "validate" in capsys.readouterr().out
