"""What is written about own pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masked_memory.own_picture import writing as report
from masked_memory.own_picture.completing import request_of
from masked_memory.own_picture.reading import box_mask
from masked_memory.own_picture.writing import complete_own
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.recall.memory import Memory
from masked_memory.settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection
from toys import bare_stage, noise, vivid_memory

CLASSES = ["cat", "dog", "emu"]


@pytest.fixture(scope="module")
def memory() -> Memory:
    return vivid_memory()


def section_of(image: Path, **own: object) -> ReconstructMaskedSection:
    return ReconstructMaskedSection(own=OwnPicture(image=str(image), **own))


def test_a_folder_is_completed_with_all_files(tmp_path: Path, memory: Memory, machine: object, capsys: object) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise(20, 12).save(pictures / "a.png")
    noise(16, 16).save(pictures / "a.bmp")
    (pictures / "notes.txt").write_text("passed over")
    stage = bare_stage(tmp_path / "runs", "reconstruct_masked", machine)
    section = section_of(pictures, box=[2, 2, 10, 12], samples=2)
    share = complete_own(stage, memory, section.own, request_of(section, memory.distil, CLASSES, 0), CLASSES)
    assert share == pytest.approx(2 * 80 / (240 + 256))
    folder = stage.folder.path
    endings = ("completed.png", "masked.png", "sample_1.png", "sample_2.png", "diversity.png", "dropped.csv")
    names = {f"{name}_{ending}" for name in ("a", "a_2") for ending in endings}
    assert {file.name for file in (folder / "own").iterdir()} == names | {"pictures.csv"}
    assert {file.name for file in (folder / "figures").iterdir()} == {"own_a.png", "own_a_2.png"}
    rows = read_csv(folder / "own" / "pictures.csv")
    assert tuple(rows[0]) == report.PICTURES_HEADER
    assert [Path(row["path"]).name for row in rows] == ["a.bmp", "a.png"]
    assert rows[0]["note"] == "" and "resized from 20x12" in rows[1]["note"]
    assert rows[0]["pixels_missing"] == "80" and rows[0]["tokens"] == "16"
    assert rows[0]["class_before"] in CLASSES and 1 / 3 <= float(rows[0]["probability_after"]) <= 1
    dropped = read_csv(folder / "own" / "a_dropped.csv")
    assert len(dropped) == int(rows[0]["tokens_dropped"]) and set(dropped[0]) == {"tile", "row", "column"}
    with Image.open(folder / "own" / "a_2_completed.png") as completed:
        known = ~box_mask([2, 2, 10, 12], (20, 12))
        assert np.array_equal(np.asarray(completed)[known], np.asarray(noise(20, 12))[known])
    said = [line for line in capsys.readouterr().out.splitlines() if "pixels missing" in line]
    assert len(said) == 2 and "31.2% of the pixels missing" in said[0] and "tokens predicted; class " in said[0]
    assert stage.folder.record()["status"] == "finished"


def test_without_a_mask_it_is_said_how_much_is_forgotten_and_what_chose_it(
    tmp_path: Path, memory: Memory, machine: object, capsys: object
) -> None:
    noise(16, 16).save(tmp_path / "a.png")
    stage = bare_stage(tmp_path / "runs", "reconstruct_masked", machine)
    section = section_of(tmp_path / "a.png", percent=25.0, strategy="outpaint")
    complete_own(stage, memory, section.own, request_of(section, memory.distil, CLASSES, 0), CLASSES)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "pixels missing" in line]
    assert "4 of 16 tokens predicted (25 %, chosen by outpaint; --percent, --strategy or --mask change that)" in said


def test_what_cannot_be_used_leaves_nothing_behind(tmp_path: Path, memory: Memory, machine: object) -> None:
    noise(20, 12).save(tmp_path / "a.png")
    stage = bare_stage(tmp_path / "runs", "reconstruct_masked", machine)
    for wrong in ({"box": [0, 0, 30, 3]}, {"label": "cat"}):
        with pytest.raises(InputError):
            section = section_of(tmp_path / "a.png", **wrong)
            complete_own(stage, memory, section.own, request_of(section, memory.distil, CLASSES, 0), CLASSES)
    assert not (stage.folder.path / "own").exists()
