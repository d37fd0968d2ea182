"""Layouts of folders of pictures, and those that cannot be used."""

import os
from pathlib import Path

import pytest

from masked_memory.pipeline.files import InputError
from masked_memory.sources.folders import find_pictures
from masked_memory.sources.splitting import SPLITS
from toys import fill_folder, make_split, noise

# --- layouts ----------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    for name in ("cat", "dog"):
        fill_folder(tmp_path / "set" / name / "images", 4)
    (tmp_path / "set" / "readme.txt").write_text("notes beside the class folders are no pictures")
    found = find_pictures(tmp_path / "set")
    assert {one.class_name for one in found} == {"cat", "dog"} and len(found) == 8
    assert {one.split for one in found} == {""}


def test_kaggle_imagenet100_layout_has_train_and_val(tmp_path):
    for part, name in (("train.X1", "n01"), ("train.X2", "n02"), ("val.X", "n01")):
        fill_folder(tmp_path / part / name, 3)
    (tmp_path / "Labels.json").write_text("{}")
    found = find_pictures(tmp_path)
    assert len(found) == 9 and {one.class_name for one in found} == {"n01", "n02"}
    assert [sum(one.split == split for one in found) for split in SPLITS] == [6, 3, 0]


@pytest.mark.parametrize("val", ["val", "valid", "validate", "validation"])
def test_given_split_is_recognised(tmp_path, val):
    for part in ("train", val, "test"):
        fill_folder(tmp_path / part / "a", 2)
    assert {one.split for one in find_pictures(tmp_path)} == set(SPLITS)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train/a", "test/a"), {"train", "test"}),
        (("wrapping/train/a", "wrapping/valid/a"), {"train", "val"}),
        (("train/a", "train/b"), {"train"}),
        (("val/a", "test/a"), {"val", "test"}),
        (("train/a", "test/a", "notes/a"), {"train", "test"}),
        (("train.X1/a", "notes/a"), {"train"}),
        (("train", "bus"), {""}),  # classes
        (("val", "test", "exam"), {""}),
    ],
)
def test_a_file_knows_the_part_it_lies_in(tmp_path, folders, splits):
    for folder in folders:
        fill_folder(tmp_path / "set" / folder, 2)
    found = find_pictures(tmp_path / "set")
    assert {one.split for one in found} == splits
    assert {one.class_name for one in found} <= {"a", "b"} if splits != {""} else len(found) == 2 * len(folders)


def test_oasis_layout_has_a_split_and_no_classes(tmp_path):
    for number, part in enumerate(("train", "validate", "test")):
        fill_folder(tmp_path / f"keras_png_slices_{part}", 4, first=10 * number)
    split = make_split(tmp_path, tmp_path, channels=1)
    assert split.classes == [] and set(split.labels) == {-1}
    assert split.meta["counts"] == {"train": 4, "val": 4, "test": 4}
    assert split.pictures(split.positions("test")).shape == (4, 1, 16, 16)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "has no pictures"),
        (lambda root: fill_folder(root / "only", 5), "one class only"),
        (lambda root: (fill_folder(root / "a", 3), noise(seed=0).save(root / "stray.png")), "folders and 1 pictures"),
    ],
)
def test_unusable_folders_are_refused(tmp_path, prepare, message):
    root = tmp_path / "set"
    root.mkdir()
    prepare(root)
    with pytest.raises(InputError, match=message):
        make_split(tmp_path, root)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        make_split(tmp_path, tmp_path / "nowhere")


def test_unreadable_folder_is_refused(tmp_path, monkeypatch):
    fill_folder(tmp_path / "set" / "a", 3)
    real = os.scandir

    def locked(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(InputError, match=r"cannot read folder .*a: Permission denied"):
        find_pictures(tmp_path / "set")
