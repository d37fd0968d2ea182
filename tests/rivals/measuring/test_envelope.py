"""Which method has the least error at how many bits: the table, the lines, the figure."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from masked_memory.measuring.figures import strategy_looks
from masked_memory.pipeline.figures import save_png
from masked_memory.rivals.measuring.coded import ALL_TOKENS
from masked_memory.rivals.measuring.envelope import (
    ENVELOPE_HEADER,
    OTHER_LOOKS,
    bits_figure,
    envelope_rows,
    kind_of,
    report_envelope,
)
from masked_memory.settings.strategies import STRATEGIES

MSE, ERROR = "mse_to_picture", "classification_error"


def row(method: str, setting: str, bits: float, mse: float, error: float) -> dict[str, object]:
    return {"method": method, "setting": setting, "bits": bits, MSE: mse, ERROR: error}


#: adaptive is best at few bits, fewer codes then, all tokens last; in class error adaptive twice
ROWS = [
    row("any", "100 % forgotten", 0, 0.5, 0.9),
    row("random", "50 % forgotten", 60, 0.4, 0.6),
    row("adaptive", "90 % forgotten", 50, 0.3, 0.5),
    row("adaptive", "50 % forgotten", 150, 0.2, 0.1),
    row("fewer codes", "4 codes, DistilBERT", 120, 0.1, 0.3),
    row(ALL_TOKENS, "fixed length", 400, 0.05, 0.1),
    row(ALL_TOKENS, "PixelCNN", 300, 0.05, 0.1),
    row("JPEG, data only", "quality 1, side / 4", 40, 0.7, 0.95),
    row("JPEG, data only", "quality 95, side / 1", 900, 0.01, 0.2),
]


def test_each_stretch_of_bits_has_its_best_setting() -> None:
    rows = envelope_rows(ROWS)
    assert all(set(one) <= set(ENVELOPE_HEADER) for one in rows)
    shown = [tuple(one.get(key) for key in ENVELOPE_HEADER) for one in rows]
    assert shown == [
        (MSE, 0, 50, "forgetting", "any", "100 % forgotten", 0.5),
        (MSE, 50, 120, "forgetting", "adaptive", "90 % forgotten", 0.3),
        (MSE, 120, 300, "fewer codes", "fewer codes", "4 codes, DistilBERT", 0.1),
        (MSE, 300, 900, "coding all tokens", ALL_TOKENS, "PixelCNN", 0.05),
        (MSE, 900, None, "a picture format", "JPEG, data only", "quality 95, side / 1", 0.01),
        (ERROR, 0, 50, "forgetting", "any", "100 % forgotten", 0.9),
        (ERROR, 50, 120, "forgetting", "adaptive", "90 % forgotten", 0.5),
        (ERROR, 120, 150, "fewer codes", "fewer codes", "4 codes, DistilBERT", 0.3),
        (ERROR, 150, None, "forgetting", "adaptive", "50 % forgotten", 0.1),
    ]


def test_without_a_classifier_there_is_one_measure() -> None:
    rows = [{key: value for key, value in one.items() if key != ERROR} for one in ROWS]
    assert {one["measure"] for one in envelope_rows(rows)} == {MSE}
    assert len(bits_figure(rows, 5, "expected").axes) == 1


def test_every_strategy_forgets() -> None:
    assert {kind_of(name) for name in STRATEGIES} == {"forgetting"}


def test_the_console_has_a_line_for_each_stretch_of_one_kind(capsys: pytest.CaptureFixture[str]) -> None:
    report_envelope(envelope_rows(ROWS))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "least MSE to the picture at",
        "0 to 120 bits forgetting 0.5000 to 0.3000 any, adaptive",
        "120 to 300 bits fewer codes 0.1000 to 0.1000 fewer codes",
        "300 to 900 bits coding all tokens 0.0500 to 0.0500 all tokens",
        "900 bits and more a picture format 0.0100 to 0.0100 JPEG, data only",
        "least classification error (degraded judge) at",
        "0 to 120 bits forgetting 0.9000 to 0.5000 any, adaptive",
        "120 to 150 bits fewer codes 0.3000 to 0.3000 fewer codes",
        "150 bits and more forgetting 0.1000 to 0.1000 adaptive",
    ]


def lines_of(figure: Figure, panel: int) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(x, y) for x, y in line.get_xydata().tolist()]
        for line in figure.axes[panel].get_lines()
    }


def test_the_figure_has_strategies_whole_grids_formats_and_the_best_of_all() -> None:
    figure = bits_figure(ROWS, 5, "expected")
    pixels, classes = lines_of(figure, 0), lines_of(figure, 1)
    assert pixels["adaptive"] == [(0, 0.5), (50, 0.3), (150, 0.2)], "a strategy ends where nothing is kept"
    assert pixels[ALL_TOKENS] == [(400, 0.05), (300, 0.05)]
    assert pixels["JPEG, data only"] == [(40, 0.7), (900, 0.01)]
    assert pixels["least error of all"] == [(0, 0.5), (50, 0.3), (120, 0.1), (300, 0.05), (900, 0.01), (900, 0.01)]
    assert classes["fewer codes"] == [(120, 0.3)] and "distortion" not in classes
    assert [axis.get_xlim() for axis in figure.axes] == [(0, 500)] * 2, "a quarter more than whole grids"


def test_whole_grids_are_points_without_a_line() -> None:
    (line,) = (one for one in bits_figure(ROWS, 5, "expected").axes[0].get_lines() if one.get_label() == ALL_TOKENS)
    assert line.get_linestyle() == "None" and line.get_marker() == "*"


def test_no_two_methods_look_the_same() -> None:
    looks = [*strategy_looks().values(), *OTHER_LOOKS.values()]
    assert len(set(looks)) == len(looks)


def test_what_is_coded_is_to_be_seen(tmp_path: Path) -> None:
    figure = bits_figure(ROWS, 5, "expected")
    save_png(figure, tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as stored:
        pixels = np.asarray(stored.convert("RGB")).reshape(-1, 3)
    for axis in figure.axes:
        assert axis.get_position().width > 0.25 and axis.get_position().height > 0.4
        (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
        for line in axis.get_lines():
            if line.get_label() in ("adaptive", "random", ALL_TOKENS, "fewer codes"):
                assert all(left <= x <= right and low <= y <= high for x, y in line.get_xydata())
                wanted = np.array(to_rgb(line.get_color())) * 255
                assert (abs(pixels - wanted).max(1) <= 2).sum() >= 20, "its colour is to be seen"
