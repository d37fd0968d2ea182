"""Pictures that do not go together: refused before they are decoded, with options that work as they are typed."""

import shlex
import shutil
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from unicodedata import normalize

import pytest
import yaml

from masked_memory.handoff.split import Split, open_split
from masked_memory.pipeline.files import InputError
from masked_memory.settings import command
from masked_memory.sources.choosing import some
from masked_memory.sources.splitting import SPLITS
from masked_memory.stages import data_split
from toys import fill_folder, make_split, noise, pack, pack_folder, png, split_settings

Tree = dict[str, int]  # folder -> how many pictures lie in it


def grow(root: Path, tree: Tree) -> Path:
    for number, (folder, count) in enumerate(tree.items()):
        fill_folder(root / folder, count, first=100 * number)
    return root


def refused(tmp_path: Path, source: object, *said: str, **data: object) -> str:
    with pytest.raises(InputError) as error:
        make_split(tmp_path, source, **data)
    text = str(error.value)
    assert "\n" not in text and all(words in text for words in said), text
    assert not list((tmp_path / "runs").rglob("manifest.csv"))
    return text


def obeyed(tmp_path: Path, source: object, text: str) -> list[Split]:
    """What becomes of each of the ways that a message names, typed as it stands there."""
    made = []
    for number, way in enumerate(text.rpartition("type ")[2].split(", or ")):
        words = shlex.split(way)
        pairs = zip(words[::2], words[1::2], strict=False)
        options = {"--data.source": str(source)} | dict(takewhile(lambda pair: pair[0].startswith("--"), pairs))
        place = tmp_path / f"typed{number}"
        argv = ["--run.dir", str(place / "runs"), "--run.mlflow", "false", "--data.image_size", "16"]
        argv += [word for pair in options.items() for word in pair]
        assert command.stage_main("data_split", data_split.run, "text", argv=argv) == 0, way
        asked = {name.removeprefix("--data."): yaml.safe_load(value) for name, value in options.items()}
        made.append(open_split(split_settings(place, **asked)))
    return made


def labels_of(split: Split) -> set[bool]:
    return {label >= 0 for label in split.labels}


# --- pictures with a class beside pictures without --------------------------------------------------------------------

TEST_FLAT = {"train/a": 9, "train/b": 9, "val/a": 3, "val/b": 3, "test": 4}


def shards(folder: Path, tree: Path) -> Path:
    """train-0.tar and so on."""
    folder.mkdir()
    for part in tree.iterdir():
        pack_folder(folder / f"{part.name}-0.tar", part)
    return folder


FORMS: dict[str, Callable[[Path], str]] = {
    "a folder": lambda tree: str(tree),
    "a tar": lambda tree: str(pack_folder(tree.with_name("set.tar"), tree)),
    "shards": lambda tree: f"{shards(tree.with_name('shards'), tree)}/*.tar",
    "a stream": lambda tree: f"file://{shards(tree.with_name('shards'), tree)}/*.tar",
}


@pytest.mark.system
@pytest.mark.parametrize("form", FORMS)
def test_a_part_without_classes_is_named_and_can_be_left_out(tmp_path, capsys, form):
    source = FORMS[form](grow(tmp_path / "set", TEST_FLAT))
    for given_split in (True, False):
        text = refused(
            tmp_path, source, "4 of 4 pictures of test have no class", "--data.classes 2", given_split=given_split
        )
    assert ("--data.source" in text) == (form == "a folder")
    first, *alone = obeyed(tmp_path, source, text)
    assert first.meta["counts"] == {"train": 15, "val": 6, "test": 3} and first.classes == ["a", "b"]
    said = capsys.readouterr().out
    assert "leaving out 4 of 4 pictures of test that have no class, as data.classes is set" in said
    assert "keeping the data set's own train and val; 17.6 % of train become test pictures" in said
    for split in alone:
        assert len(split.manifest) == 18 and labels_of(split) == {True}


def test_train_with_classes_and_all_else_without(tmp_path):
    source = grow(tmp_path / "set", {"train/a": 9, "train/b": 9, "val": 4, "test": 5})
    text = refused(tmp_path, source, "4 of 4 pictures of val and 5 of 5 pictures of test have no class (such as test/")
    ways = obeyed(tmp_path, source, text)
    assert len(ways) == 2 and all(split.meta["counts"] == {"train": 12, "val": 3, "test": 3} for split in ways)


def test_train_without_classes_and_the_others_with(tmp_path):
    source = grow(tmp_path / "set", {"train": 9, "val/a": 6, "val/b": 6, "test/a": 4, "test/b": 4})
    text = refused(tmp_path, source, "9 of 9 pictures of train have no class", "--data.given_split false")
    left, alone = obeyed(tmp_path, source, text)
    assert len(left.manifest) == 20 and left.classes == ["a", "b"]
    assert len(alone.manifest) == 9 and alone.classes == [] and labels_of(alone) == {False}


def test_a_part_of_which_one_folder_has_no_classes(tmp_path):
    source = grow(tmp_path / "set", {"train.X1/a": 9, "train.X1/b": 9, "train.X2": 5, "val.X/a": 3, "val.X/b": 3})
    text = refused(tmp_path, source, "5 of 23 pictures of train have no class")
    (split,) = obeyed(tmp_path, source, text)
    assert split.meta["counts"]["val"] == 6 and len(split.manifest) == 24


def test_a_single_class_beside_pictures_without_any_cannot_be_taken_by_a_number(tmp_path):
    text = refused(tmp_path, grow(tmp_path / "set", {"train.X1/a": 9, "train.X2": 5}), "5 of 14 pictures of train")
    assert "type" not in text and "expected class folders for all of them, or for none" in text


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_shards_of_a_web_dataset_without_cls_are_a_part_without_classes(tmp_path, prefix):
    for number, part in enumerate(SPLITS):
        members = {f"{n}.png": png(100 * number + n) for n in range(8)}
        labels = {f"{n}.cls": "ab"[n % 2].encode() for n in range(8)} if part != "test" else {}
        pack(tmp_path / "shards" / f"{part}-0.tar", dict(sorted((members | labels).items())))
    source = f"{prefix}{tmp_path}/shards/*.tar"
    text = refused(tmp_path, source, "8 of 8 pictures of test have no class")
    (split,) = obeyed(tmp_path, source, text)
    assert split.meta["counts"]["val"] == 8 and len(split.manifest) == 16


def test_label_minus_one_of_hugging_face_is_no_class(tmp_path):
    """As of the test pictures of ImageNet; it would be the last class."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    parts = {}
    for number, (part, labels) in enumerate({"train": [0, 1] * 5, "validation": [0, 1] * 3, "test": [-1] * 4}.items()):
        images = [{"bytes": png(100 * number + n), "path": None} for n in range(len(labels))]
        parts[part] = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    text = refused(tmp_path, tmp_path / "set", "4 of 4 pictures of test have no class")
    (split,) = obeyed(tmp_path, tmp_path / "set", text)
    assert len(split.manifest) == 16 and [row["class"] for row in split.manifest].count("b") == 8


@pytest.mark.system
def test_a_lone_folder_in_a_part_is_no_class(tmp_path):
    """As Tiny ImageNet has it."""
    tree = {"train/a": 9, "train/b": 9, "val/images": 4, "test/images": 5}
    text = refused(tmp_path, grow(tmp_path / "set", tree), "4 of 4 pictures of val and 5 of 5 pictures of test have no")
    assert all(split.classes == ["a", "b"] for split in obeyed(tmp_path, tmp_path / "set", text))
    split = make_split(tmp_path, grow(tmp_path / "flat", {"train": 9, "val": 4, "test/images": 5}))
    assert split.classes == [] and split.meta["counts"] == {"train": 9, "val": 4, "test": 5}


def test_numbers_and_names_of_classes_of_data_without_any_are_refused_as_before(tmp_path):
    grow(tmp_path / "set", {"train": 6, "test": 4})
    refused(tmp_path, tmp_path / "set", "has no class folders, so data.classes must be null", classes=2)


# --- classes of val and test that train lacks -------------------------------------------------------------------------


def parts_of(**classes: str) -> Tree:
    return {f"{part}/{name}": 6 for part, names in classes.items() for name in names}


def test_classes_that_train_lacks_are_named_by_part(tmp_path):
    source = grow(tmp_path / "set", parts_of(train="ab", val="abc", test="abd"))
    text = refused(tmp_path, source, "train has no pictures of classes that val has (c) and test has (d)")
    kept, anew = obeyed(tmp_path, source, text)
    assert kept.meta["counts"] == dict.fromkeys(SPLITS, 12) and kept.classes == ["a", "b"]
    assert len(anew.manifest) == 48 and anew.classes == ["a", "b", "c", "d"]


def test_names_that_need_quotes_can_be_typed_as_they_stand(tmp_path):
    names = ["1", "01", "é a", "$x"]
    tree = {f"{part}/{name}": 4 for part in SPLITS for name in names} | {"val/null": 4}
    kept, anew = obeyed(tmp_path, tmp_path / "set", refused(tmp_path, grow(tmp_path / "set", tree), "val has (null)"))
    assert kept.classes == sorted(names) and anew.classes == sorted([*names, "null"])


def test_parts_that_share_no_class_can_only_be_split_anew(tmp_path):
    source = grow(tmp_path / "set", parts_of(train="ab", val="abc", test="de"))
    text = refused(tmp_path, source, "test has (d and e)")
    assert "--data.classes" not in text
    (anew,) = obeyed(tmp_path, source, text)
    assert anew.classes == list("abcde")


def test_many_classes_are_not_all_named(tmp_path):
    tree = {f"{part}/{n:02}": 1 for part in ("train", "val") for n in range(21)} | {f"val/x{n}": 3 for n in range(9)}
    text = refused(tmp_path, grow(tmp_path / "set", tree), "val has (x0, x1, x2, x3 and 5 more)")
    assert "--data.classes" not in text and "--data.given_split false" in text


def test_classes_that_chance_left_out_of_train_are_named(tmp_path):
    source = grow(tmp_path / "set", {"train/a": 5, "train/b": 1, "val/a": 5, "val/b": 50})
    text = refused(tmp_path, source, "val has (b); type a larger --data.images_per_class", images_per_class=5)
    assert "null for all" in text


def test_classes_that_train_loses_to_later_parts_are_named(tmp_path):
    source = grow(tmp_path / "set", parts_of(train="ab", test="ab"))
    shutil.rmtree(source / "train" / "b")
    shutil.copytree(source / "test" / "b", source / "train" / "b")
    refused(tmp_path, source, "train has no pictures of classes that test has (b)")


def test_classes_that_only_train_has_are_said(tmp_path, capsys):
    split = make_split(tmp_path, grow(tmp_path / "set", parts_of(train="abc", val="ab", test="a")))
    assert split.classes == ["a", "b", "c"]
    said = [line for line in capsys.readouterr().out.splitlines() if "which train has" in line]
    assert said == [
        "val has no pictures of class c, which train has",
        "test has no pictures of class b and c, which train has",
    ]


def test_names_are_listed_up_to_a_number():
    assert some("cba") == "a, b and c" and some("abcdef") == "a, b, c, d and 2 more"


# --- names in two Unicode forms ---------------------------------------------------------------------------------------


def test_a_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, taken_apart = (normalize(form, "Café") for form in ("NFC", "NFD"))
    tree = {f"train/{taken_apart}": 6, f"val/{composed}": 6, f"test/{composed}": 6}
    source = grow(tmp_path / "set", tree | {f"{part}/dog": 6 for part in SPLITS})
    if len(list((source / "train").iterdir()) + list((source / "val").iterdir())) != 4:
        pytest.skip("this disk does not keep the form of names")
    whole = make_split(tmp_path, source)
    assert whole.classes == [composed, "dog"]
    assert any(row["path"].startswith(f"train/{taken_apart}/") for row in whole.manifest), "as it is on the disk"
    for asked in (composed, taken_apart):
        assert make_split(tmp_path, source, classes=["dog", asked]).hash == whole.hash


# --- wrappers and notes in place of classes ---------------------------------------------------------------------------


def kaggle(root: Path) -> Path:
    """ImageNet as Kaggle gives it, with classes in all parts; returns the folder that holds the parts."""
    inner = grow(root / "ILSVRC" / "Data" / "CLS-LOC", parts_of(train="ab", val="ab", test="ab"))
    for name in ("Annotations/CLS-LOC/train/a/0.xml", "Annotations/CLS-LOC/val/0.xml", "ImageSets/CLS-LOC/val.txt"):
        (root / "ILSVRC" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "ILSVRC" / name).write_text("notes")
    return inner


@pytest.mark.system
@pytest.mark.parametrize(("where", "notes", "lone"), [("", True, "ILSVRC"), ("", False, "Data"), ("ILSVRC", 0, "Data")])
def test_a_wrapper_beside_notes_is_no_class(tmp_path, where, notes, lone):
    inner = kaggle(tmp_path / "my set")
    if notes:
        (tmp_path / "my set" / "LOC_val_solution.csv").write_text("notes")
    words = f"one class only ({lone}) with pictures in it; '{inner}' holds folders test, train and val"
    for skip_broken in (False, True):
        text = refused(tmp_path, tmp_path / "my set" / where, words, skip_broken=skip_broken)
    (split,) = obeyed(tmp_path, inner, text)
    assert split.meta["counts"] == dict.fromkeys(SPLITS, 12)
    assert make_split(tmp_path / "data", inner.parent).hash != "", "one folder around the parts is passed through"


@pytest.mark.parametrize(
    ("tree", "holds", "classes"),
    [
        ({"pictures": 9}, "9 pictures in no class folder", []),
        ({"in/pictures/a": 9, "in/pictures/b": 9}, "folders a and b", ["a", "b"]),
    ],
)
def test_what_a_lone_folder_holds_can_be_taken(tmp_path, tree, holds, classes):
    (grow(tmp_path / "set", tree) / "labels.csv").write_text("notes")
    text = refused(tmp_path, tmp_path / "set", "one class only", holds)
    (split,) = obeyed(tmp_path, tmp_path / "set", text)
    assert split.classes == classes


@pytest.mark.parametrize("tree", [{"train/a": 6, "val/a": 6}, {"in/a": 6, "in": 3}, {"in/a/x": 6, "in/a": 3}])
def test_one_class_of_which_nothing_else_can_be_made(tmp_path, tree):
    (grow(tmp_path / "set", tree) / "readme.txt").write_text("notes")
    text = refused(tmp_path, tmp_path / "set", "one class only", "expected at least 2, or pictures in no class folder")
    assert "type" not in text


def test_one_class_in_a_tar_names_no_folder(tmp_path):
    tar = pack(tmp_path / "x.tar", {"readme.txt": b"notes"} | {f"in/a/{n}.png": png(n) for n in range(5)})
    assert "type" not in refused(tmp_path, tar, "one class only (in)")


def test_pictures_need_no_ending_to_be_a_class(tmp_path):
    grow(tmp_path / "set", {"a": 6})
    (tmp_path / "set" / "b").mkdir()
    for number in range(6):
        noise(seed=90 + number).save(tmp_path / "set" / "b" / f"{number}", "PNG")
    assert make_split(tmp_path, tmp_path / "set").classes == ["a", "b"]
