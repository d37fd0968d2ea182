"""Slices and patients: names, the OASIS layout as a given split, patients on two sides, and splitting by patient."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from masked_memory.handoff.split import Split, open_split
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.settings import loading
from masked_memory.sources.folders import find_pictures
from masked_memory.sources.patients import describe_patients, on_two_sides, patient_of, together
from masked_memory.sources.splitting import SPLITS, assign_splits
from masked_memory.stages import data_split
from toys import draw_slices


def write_slice(file: Path, seed: int, size: int = 16) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(file)


def slice_set(root: Path, cases: dict[str, list[int]], slices: int = 2) -> Path:
    """keras_png_slices_PART/case_NNN_slice_M.nii.png, `slices` of each case; all pictures differ."""
    for number, (part, members) in enumerate(cases.items()):
        for case in members:
            for one in range(slices):
                name = f"case_{case:03d}_slice_{one}.nii.png"
                write_slice(root / f"keras_png_slices_{part}" / name, seed=100 * number + 10 * case + one)
    return root


def split_of(tmp_path: Path, source: Path, **data: object) -> Split:
    values = {"source": str(source), "image_size": 16, "channels": 1, **data}
    cfg = loading.check({"run": {"dir": str(tmp_path / "runs"), "mlflow": False}, "data": values})
    data_split.run(cfg)
    return open_split(cfg)


def sides_by_patient(split: Split) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in split.manifest:
        found.setdefault(row["patient"], set()).add(row["split"])
    return found


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("keras_png_slices_train/case_001_slice_0.nii.png", "1"),
        ("keras_png_slices_test/case_441_slice_31.nii.png", "441"),
        ("case_7_slice_2.png", "7"),
        ("keras_png_slices_train/0001.png", ""),
        ("case_001.png", ""),
        ("case_001_slice_0/other.png", ""),
        ("lowercase_001_slice_0.nii.png", ""),
    ],
)
def test_the_patient_is_the_case_number(path, patient):
    assert patient_of(path) == patient


def test_the_three_folders_are_a_given_split_and_segmentations_are_left_alone(tmp_path):
    slice_set(tmp_path / "set", {"train": [1, 2, 3], "validate": [4], "test": [5, 6], "seg_train": [1, 2, 3]})
    found = find_pictures(tmp_path / "set")
    assert [sum(one.split == part for one in found) for part in SPLITS] == [6, 2, 4]
    assert {one.class_name for one in found} == {""}


def test_a_given_split_keeps_its_sides_and_the_manifest_names_patients(tmp_path, capsys):
    slice_set(tmp_path / "set", {"train": [1, 2, 3], "validate": [4], "test": [5, 6]})
    split = split_of(tmp_path, tmp_path / "set")
    assert split.meta["counts"] == {"train": 6, "val": 2, "test": 4} and split.classes == []
    assert sides_by_patient(split)["5"] == {"test"}
    metrics = read_json(split.folder / "metrics.json")
    assert metrics["patients"] == 6 and metrics["patients_on_two_sides"] == 0
    assert "6 patients by the case number in the file names, none on two sides\n" in capsys.readouterr().out


def test_a_patient_on_two_sides_is_told_in_one_line_and_pooling_mends_it(tmp_path, capsys):
    slice_set(tmp_path / "set", {"train": list(range(1, 13)), "validate": [20, 3], "test": [21, 3, 4]})
    split = split_of(tmp_path, tmp_path / "set")
    lines = [line for line in capsys.readouterr().out.splitlines() if "two sides" in line]
    assert len(lines) == 1 and lines[0].startswith("2 of 14 patients have slices on two sides (such as case 3: ")
    assert lines[0].endswith("type --data.given_split false")
    assert read_json(split.folder / "metrics.json")["patients_on_two_sides"] == 2
    pooled = split_of(tmp_path, tmp_path / "set", given_split=False)
    assert all(len(sides) == 1 for sides in sides_by_patient(pooled).values())
    assert len(pooled.manifest) == len(split.manifest) and min(pooled.meta["counts"].values()) >= 2
    assert "14 patients by the case number in the file names, none on two sides" in capsys.readouterr().out


@pytest.mark.parametrize("stray", ["scan.png", "seg_case_009_slice_0.nii.png"])
def test_names_without_a_case_number_are_said_to_have_no_known_patients(tmp_path, capsys, stray):
    slice_set(tmp_path / "set", {"train": [1, 2], "validate": [4], "test": [5]})
    write_slice(tmp_path / "set" / "keras_png_slices_train" / stray, 999)
    split_of(tmp_path, tmp_path / "set")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "patients" in line]
    assert line.startswith(f"patients are not known: 1 of 9 file names have no case number (such as {stray};")


def test_one_slice_of_each_case_is_no_proof_of_patients():
    paths = [f"keras_png_slices_train/case_{n:03d}_slice_0.nii.png" for n in range(4)]
    line = describe_patients(paths, [patient_of(path) for path in paths], ["train", "train", "val", "test"])
    assert line.endswith("one slice of each, so case numbers may count pictures, not patients")


def test_other_pictures_are_split_as_before_and_nothing_is_said_of_patients():
    hashes = [f"h{n % 20}" for n in range(40)]
    assert together(hashes, [""] * 40) == hashes
    assert describe_patients(["a/1.png", "b/2.png"], ["", ""], ["train", "test"]) == ""


def test_too_few_patients_to_split_are_named(tmp_path):
    slice_set(tmp_path / "set", {"train": [1], "validate": [2], "test": [2]})
    with pytest.raises(InputError, match=r"the data set has 2 different patients; .* needs at least 3"):
        split_of(tmp_path, tmp_path / "set", given_split=False)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=40, max_size=90), st.integers(0, 50))
def test_neither_patients_nor_equal_pictures_are_torn_apart(pictures, seed):
    """Patient 0 stands for unknown. What hangs together through equal pictures of two patients stays together, too."""
    hashes = [f"h{content:02d}" for content, _ in pictures] + [f"x{n}" for n in range(6)]
    patients = [str(patient) if patient else "" for _, patient in pictures] + [""] * 6
    sides = assign_splits([""] * len(hashes), together(hashes, patients), (0.7, 0.15, 0.15), seed)
    assert on_two_sides(patients, sides) == {} and on_two_sides(hashes, sides) == {}


def test_slices_are_found_with_their_split_and_their_patients(tmp_path):
    found = find_pictures(draw_slices(tmp_path, {"train": 24, "validate": 5, "test": 3}, slices=2, size=16))
    assert [sum(one.split == part for one in found) for part in SPLITS] == [48, 10, 6]
    assert [len({patient_of(one.path) for one in found if one.split == part}) for part in SPLITS] == [24, 5, 3]
    assert all(patient_of(one.path) for one in found)
