"""How things grow: points of every axis, exponents of known curves, the table and the figure."""

from pathlib import Path

import pytest
import torch

from benchmarks import growth
from benchmarks.growth import AXES, exponent, growth_figure, measure_point
from benchmarks.measured import in_own_process
from docs.shelf import take_table
from masked_memory.pipeline.machine import Machine
from toys import CPU

pytestmark = pytest.mark.system

MACHINE = Machine(CPU, bf16=False, threads=1)
SMALL = {"pictures": 32, "grid": 4, "codes": 8, "batch": 2, "strategies": 4}


@pytest.mark.parametrize(("against", "what"), [(name, what) for name, axis in AXES.items() for what in axis.whats])
def test_every_line_of_every_axis_can_be_measured(against: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "TOKENS_OF_A_CALL", 8)
    row = measure_point(against, what, SMALL[against], 2, MACHINE)
    assert row[:3] == [against, what, SMALL[against]]
    median, low, high, peak = map(float, row[3:])
    assert 0 < low <= median <= high and peak > 100


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_the_power(power: float) -> None:
    assert exponent([(x, 3 * x**power) for x in (64, 256, 1024)]) == pytest.approx(power)


def test_a_training_step_of_the_benchmark_trains() -> None:
    """A step that did nothing would not grow."""
    torch.manual_seed(0)
    for what in growth.TRAININGS:
        built = []
        step, _ = growth.step_work(what, growth.shape_of(16, 16), 4, MACHINE, built.append)
        before = {name: weight.clone() for name, weight in built[0].named_parameters()}
        step()
        assert any(not torch.equal(weight, before[name]) for name, weight in built[0].named_parameters()), what


def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    call = ["grid", "--point", "--only", "direct", "--sizes", "4", "--rounds", "1", "--threads", "1"]
    row = in_own_process(growth.__file__, call)
    assert row[:3] == ["grid", "direct", "4"] and len(row) == len(growth.GROWTH_HEADER)


def test_it_prints_saves_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        growth, "in_own_process", lambda file, call: ["grid", call[3], call[5], "0.1", "0.1", "0.2", "900"]
    )
    table, figure = tmp_path / "grid.csv", tmp_path / "grid.png"
    options = ["--sizes", "4", "16", "--only", "direct", "--rounds", "1", "--threads", "1"]
    assert growth.main(["grid", *options, "--save", str(table), "--figure", str(figure)]) == 0
    assert [row["size"] for row in take_table("grid", tmp_path).rows] == [4, 16]
    assert "exponent" in capsys.readouterr().out and figure.stat().st_size > 1000


def test_one_size_is_drawn_as_bars() -> None:
    rows = [["strategies", what, 64, 0.1 * i, 0.1, 0.1, 900] for i, what in enumerate(("direct", "adaptive"), 1)]
    axis = growth_figure(AXES["strategies"], rows).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.1, 0.2]


def test_a_line_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.main(["codes", "--only", "adaptive"])
    assert "expected one of" in capsys.readouterr().err
