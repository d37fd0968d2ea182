"""What the page opens with: a test picture recalled at any percentage, its tokens, and the study's curves."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from masked_memory.measuring.curves import Curve
from masked_memory.own_picture.completing import MID_GREY, Request
from masked_memory.page import drawing, opening
from masked_memory.page.drawing import curve_figure, nice_top, opening_html, sentence, tokens_svg, value_at
from masked_memory.page.opening import Opening, Studied, newest_study, read_study
from masked_memory.pipeline.files import InputError, write_text
from masked_memory.pipeline.runs import RunFolder
from masked_memory.stages.masking import masked_count
from toys import certain_memory, vivid_memory

CLASSES = ["ant", "bee", "<cat>"]


def some_opening(**options: Any) -> Opening:
    memory = vivid_memory(**options)
    channels = memory.vqvae.config.channels
    pictures = np.random.default_rng(0).integers(0, 120, (3, 16, 16, channels)).astype(np.uint8)
    return Opening(memory, CLASSES, pictures, Request(strategy="random", percent=50))


# --- recalling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [10, 33, 50, 90, 100])
def test_so_many_tokens_are_forgotten(percent: int) -> None:
    recall = some_opening().recall(1, percent, "random")
    assert recall.kept.shape == (4, 4) and int((~recall.kept).sum()) == masked_count(percent / 100, 16)
    grey = (recall.masked == MID_GREY).all(2)
    assert np.array_equal(grey, np.kron(~recall.kept, np.ones((4, 4), bool)))
    assert np.array_equal(recall.masked[~grey], recall.original[~grey])
    assert recall.recalled.shape == (16, 16, 3) and recall.recalled.dtype == np.uint8


def test_what_is_forgotten_stays_forgotten_as_the_slider_moves_on() -> None:
    shown = some_opening()
    kept = [shown.recall(0, percent, "random").kept for percent in (20, 40, 80)]
    assert (kept[0] >= kept[1]).all() and (kept[1] >= kept[2]).all()


def test_an_order_is_found_once_for_each_picture_and_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    choose = opening.choose_order

    def counting(strategy: str, *given: Any) -> Any:
        asked.append(strategy)
        return choose(strategy, *given)

    monkeypatch.setattr(opening, "choose_order", counting)
    shown = some_opening()
    for number, percent, strategy in ((0, 10, "adaptive"), (0, 90, "adaptive"), (1, 10, "adaptive"), (1, 30, "half")):
        shown.recall(number, percent, strategy)
    assert asked == ["adaptive", "adaptive", "half"]


def test_the_error_is_that_to_the_whole_painting() -> None:
    shown = some_opening()
    assert shown.recall(0, 100, "half").error > shown.recall(0, 10, "half").error > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((3, 50, "random"), "Test picture is 3; expected a number from 0 to 2"),
        ((-1, 50, "random"), "Test picture is -1"),
        ((0, 9, "random"), "Forgotten is 9; expected a number from 10 to 100"),
        ((0, float("nan"), "random"), "Forgotten is nan"),
        ((0, 50, "nearby"), "strategy is nearby; expected one of: random"),
    ],
)
def test_what_does_not_exist_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        some_opening().recall(*given)


# --- the study --------------------------------------------------------------------------------------------------------

HEADER = "strategy,percent,decoding,bits,measure,mean,low,high,seed_sd,seeds,pictures\n"


def study_file(folder: Path, *rows: str) -> Path:
    file = folder / "20260101-000000-abcd" / "curves.csv"
    write_text(file, HEADER + "".join(f"{row}\n" for row in rows))
    return file


def row(strategy: str, percent: int, mean: float, measure: str = "mse_to_reconstruction", how: str = "expected") -> str:
    return f"{strategy},{percent},{how},100,{measure},{mean},0,1,,1,40"


def test_curves_are_read_with_the_end_that_all_share(tmp_path: Path) -> None:
    rows = [row("random", 50, 0.2), row("random", 10, 0.1), row("any", 100, 0.9), row("random", 10, 7, how="argmax")]
    rows += [row("random", 10, 0.5, "classification_error"), row("any", 100, 0.8, "classification_error")]
    found = read_study(study_file(tmp_path, *rows), "expected")
    assert found is not None and (found.run, found.pictures) == ("20260101-000000-abcd", 40)
    squared = found.curves["mse_to_reconstruction"]
    assert set(squared) == {"random"} and squared["random"].percentages == [10, 50, 100]
    assert squared["random"].means == [0.1, 0.2, 0.9]
    assert found.curves["classification_error"]["random"].means == [0.5, 0.8]
    assert "clean_classification_error" not in found.curves


def test_another_decoding_is_taken_and_named(tmp_path: Path) -> None:
    file = study_file(tmp_path, row("random", 10, 0.1, how="sample"), row("random", 50, 0.2, how="sample"))
    found = read_study(file, "expected")
    assert found is not None and found.decoding == "sample"
    assert read_study(study_file(tmp_path), "expected") is None


def test_the_newest_study_of_these_models_is_found(tmp_path: Path) -> None:
    handed: Any = SimpleNamespace(split=None, vqvae=SimpleNamespace(key=lambda split: "these"))
    assert newest_study(tmp_path, handed, "expected") is None
    RunFolder.create(tmp_path, "reconstruct_masked", "", "").finish("others", None, "", True)
    assert newest_study(tmp_path, handed, "expected") is None
    file = study_file(tmp_path / "reconstruct_masked", row("random", 10, 0.1), row("random", 50, 0.2))
    RunFolder(file.parent).update(stage="reconstruct_masked")
    RunFolder(file.parent).finish("these", None, "", True)
    found = newest_study(tmp_path, handed, "expected")
    assert found is not None and found.run == file.parent.name
    file.unlink()
    assert newest_study(tmp_path, handed, "expected") is None


# --- drawing ----------------------------------------------------------------------------------------------------------

RISING = Curve([10, 50, 100], [0.1, 0.2, 0.9], [(0, 1)] * 3)


def test_the_point_lies_on_the_curve() -> None:
    assert value_at(RISING, 10) == pytest.approx(0.1) and value_at(RISING, 75) == pytest.approx(0.55)
    assert value_at(RISING, 9) is None and value_at(RISING, 101) is None
    recall = some_opening().recall(0, 75, "random")
    drawn = curve_figure("mse_to_reconstruction", {"random": RISING}, recall, None)
    x, y = (float(re.search(rf'{name}="([\d.]+)"', drawn)[1]) for name in ("cx", "cy"))  # type: ignore[index]
    assert x == pytest.approx(drawing.LEFT + 0.75 * (drawing.EDGE - drawing.LEFT), abs=0.1)
    assert y == pytest.approx(drawing.FLOOR - 0.55 * (drawing.FLOOR - drawing.TOP), abs=0.1)
    assert "Squared error at 75 % forgotten: 0.55 for random in the study (●)." in drawn


def test_a_strategy_that_was_not_measured_has_no_point() -> None:
    recall = some_opening().recall(0, 75, "half")
    drawn = curve_figure("mse_to_reconstruction", {"random": RISING}, recall, recall.error)
    assert "<circle" not in drawn and "not measured for half" in drawn and "for this picture" in drawn
    late = Curve([90, 100], [0.5, 0.9], [(0, 1)] * 2)
    drawn = curve_figure("mse_to_reconstruction", {"half": late}, recall, None)
    assert "<circle" not in drawn and "the study of half begins at 90 %" in drawn


@pytest.mark.parametrize(
    ("value", "top"),
    [(0.0, 1.0), (0.9, 1.0), (1.0, 1.0), (0.021, 0.025), (0.03, 0.03), (3.1, 4), (0.051, 0.06), (float("nan"), 1.0)],
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert nice_top(value) == pytest.approx(top)


def test_each_token_is_a_cell() -> None:
    recall = some_opening().recall(0, 50, "random")
    drawn = ET.fromstring(tokens_svg(recall))
    cells, numbers = drawn.findall("rect"), [text.text for text in drawn.findall("text")]
    assert len(cells) == 16 and sum(cell.get("class") == "gone" for cell in cells) == 8
    assert numbers == [str(code) for code in recall.tokens[recall.kept]]
    assert drawn.get("aria-label") == "8 of 16 tokens kept, in a grid of 4 by 4"


def test_grey_pictures_and_data_without_classes_are_drawn() -> None:
    memory = certain_memory()
    pictures = np.zeros((1, 8, 8, 1), np.uint8)
    recall = Opening(memory, [], pictures, Request(strategy="half")).recall(0, 50, "half")
    assert recall.seen is None and sentence(recall) == "50 % forgotten: 2 of 4 tokens are kept, 3 bits."
    assert opening_html(recall, None).count("data:image/png;base64,") == 3


def test_the_opening_says_when_there_is_no_study() -> None:
    shown = some_opening()
    html = opening_html(shown.recall(0, 50, "random"), None)
    assert drawing.NO_STUDY in html and "python reconstruct_masked.py" in html
    studied = Studied("<run>", 40, "expected", {"mse_to_reconstruction": {"random": RISING, "half": RISING}})
    html = opening_html(shown.recall(0, 50, "random"), studied)
    assert drawing.NO_STUDY not in html and "Thick: random. Thin: half." in html


def test_names_of_the_data_are_text() -> None:
    shown = some_opening()
    shown.classes = ["<script>", "<script>", "<script>"]
    studied = Studied("<run>", 40, "expected", {"mse_to_reconstruction": {"random": RISING}})
    html = opening_html(shown.recall(0, 50, "random"), studied)
    assert "<script>" not in html and "<run>" not in html and "&lt;script&gt;" in html
