"""The stage data_split: broken files, full disks, and a manifest that is stable and disjoint."""

import io
import shutil
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from masked_memory.handoff.split import Split, open_split
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.settings import command
from masked_memory.sources import pictures
from masked_memory.sources.pictures import decode
from masked_memory.sources.pixels import to_model
from masked_memory.sources.splitting import SPLITS
from masked_memory.stages import data_split, train_vqvae
from toys import fill_folder, make_split, noise, split_settings


def stage(argv, run=train_vqvae.run, name="train_vqvae"):
    return command.stage_main(name, run, "text", argv=[str(word) for word in argv])


def test_full_disk_is_said_before_anything_is_decoded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    argv = ["--run.dir", tmp_path / "runs", "--data.images_per_class", "5", "--run.mlflow", "false"]
    assert stage(argv, data_split.run, "data_split") == 2
    assert "0.0 GB free; the cache needs" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("images*.npy"))


# --- splits that the folder has ---------------------------------------------------------------------------------------


def fill_parts(root: Path, **counts: int) -> Path:
    """part/a and part/b with so many pictures each, all different."""
    for number, (part, count) in enumerate(counts.items()):
        fill_folder(root / part / "a", count, first=1000 * number)
        fill_folder(root / part / "b", count, first=1000 * number + 500)
    return root


def sides_of(split: Split, folder: str) -> list[str]:
    """The sides that the pictures of a folder of the source are on, in order."""
    return [row["split"] for row in split.manifest if row["path"].startswith(folder)]


@pytest.mark.parametrize(
    ("given", "counts", "line"),
    [
        ({"train": 20, "test": 5}, (32, 8, 10), "train and test; 20 % of train become validation pictures, chosen by "),
        ({"train": 20, "val": 5}, (30, 10, 10), "train and val; 25 % of train become test pictures, chosen by "),
        ({"train": 6, "val": 5, "test": 4}, (12, 10, 8), "train, val and test\n"),
    ],
)
def test_what_is_given_stays_and_what_is_missing_is_cut_from_train(tmp_path, capsys, given, counts, line):
    """val / (train + val) is 0.15 / 0.75, then test / (train + test) 0.2 / 0.8."""
    ratios = {"train": 0.6, "val": 0.15, "test": 0.25} if "test" in given else {"train": 0.6, "val": 0.2, "test": 0.2}
    fill_parts(tmp_path / "set", **given)
    split = make_split(tmp_path, tmp_path / "set", **ratios)
    assert tuple(split.meta["counts"].values()) == counts
    for part in set(given) - {"train"}:
        assert set(sides_of(split, f"{part}/")) == {part}, "what is given stays"
    for name in "ab":
        cut = sides_of(split, f"train/{name}/")
        assert [cut.count(side) for side in SPLITS if side not in given] == [
            number // 2 for side, number in zip(SPLITS, counts, strict=True) if side not in given
        ], "the same of each class"
    assert f"keeping the data set's own {line}" in capsys.readouterr().out
    other = make_split(tmp_path / "other", tmp_path / "set", **ratios, seed=1)
    assert (other.hash == split.hash) == (len(given) == 3)


def test_a_tree_with_train_only_is_split_as_class_folders_are(tmp_path):
    fill_parts(tmp_path / "set", train=20)
    split, plain = make_split(tmp_path, tmp_path / "set"), make_split(tmp_path, tmp_path / "set" / "train")
    assert split.meta["counts"] == {"train": 28, "val": 6, "test": 6}
    assert [row["split"] for row in split.manifest] == [row["split"] for row in plain.manifest]


def test_parts_without_train_are_refused_unless_pooled(tmp_path):
    fill_parts(tmp_path / "set", val=5, test=5)
    with pytest.raises(InputError, match=r"has val and test, but no train; .* --data.given_split false") as error:
        make_split(tmp_path, tmp_path / "set")
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()
    assert sum(make_split(tmp_path, tmp_path / "set", given_split=False).meta["counts"].values()) == 20


@pytest.mark.parametrize(
    ("given", "words", "counts"),
    [
        ({"train": 10, "val": 10, "test": 10}, "train, val and test", (42, 9, 9)),
        ({"train": 10, "test": 10}, "train and test", (28, 6, 6)),
    ],
)
def test_given_split_can_be_pooled_which_is_said(tmp_path, capsys, given, words, counts):
    split = make_split(tmp_path, fill_parts(tmp_path / "set", **given), given_split=False)
    assert tuple(split.meta["counts"].values()) == counts
    assert "train" in sides_of(split, "test/"), "test pictures are no longer kept apart"
    lines = [line for line in capsys.readouterr().out.splitlines() if "the data set's own" in line]
    assert lines == [f"pooling the data set's own {words}, as data.given_split is false"]


def test_a_class_with_one_picture_in_train_cannot_be_cut(tmp_path):
    fill_parts(tmp_path / "set", train=5, val=3)
    fill_folder(tmp_path / "set" / "train" / "c", 1, first=9000)
    with pytest.raises(InputError, match=r"class c has 1 different pictures in train; a split into train and test"):
        make_split(tmp_path, tmp_path / "set")


def test_a_given_part_of_which_no_picture_is_chosen_is_not_replaced(tmp_path):
    """Class c is in train and test only: its pictures alone must not make a val out of train."""
    fill_parts(tmp_path / "set", train=5, val=3, test=3)
    for number, part in enumerate(("train", "test")):
        for name in "cd":
            fill_folder(tmp_path / "set" / part / name, 5, first=9000 + 100 * number + 10 * ord(name))
    with pytest.raises(InputError, match=r"nothing is left in val; type --data.given_split false"):
        make_split(tmp_path, tmp_path / "set", classes=["c", "d"])


def test_what_is_cut_from_train_keeps_patients_and_equal_pictures_together(tmp_path):
    """Slices of grey noise: ten patients in train, and copies of a slice of patient 3 under other names."""
    for part, cases in (("train", range(10)), ("test", range(20, 23))):
        (tmp_path / "set" / part).mkdir(parents=True)
        for case in cases:
            for one in range(3):
                file = tmp_path / "set" / part / f"case_{case:03d}_slice_{one}.nii.png"
                noise(mode="L", seed=10 * case + one).save(file)
    for copy in range(2):
        noise(mode="L", seed=31).save(tmp_path / "set" / "train" / f"copy{copy}.png")
    split = make_split(tmp_path, tmp_path / "set", channels=1)
    for case in range(10):
        assert len(set(sides_of(split, f"train/case_{case:03d}"))) == 1, "slices of a patient"
    assert set(sides_of(split, "train/copy")) == set(sides_of(split, "train/case_003")), "equal pictures"
    assert set(sides_of(split, "train")) == {"train", "val"} and set(sides_of(split, "test")) == {"test"}


@pytest.mark.parametrize("missing", ["val", "test"])
def test_a_picture_also_in_a_later_part_leaves_train_before_the_cut(tmp_path, missing):
    kept = "test" if missing == "val" else "val"
    fill_parts(tmp_path / "set", **{"train": 10, kept: 4})
    noise(seed=1000).save(tmp_path / "set" / "train" / "a" / "copy.png")  # also the first picture of the other part
    split = make_split(tmp_path, tmp_path / "set")
    assert [row["path"] for row in read_csv(split.folder / "dropped.csv")] == ["train/a/copy.png"]
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "set" / "train" / "a" / "copy.png").unlink()
    assert make_split(tmp_path, tmp_path / "set").hash == split.hash


def test_picture_on_both_sides_of_a_given_split_leaves_train(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        fill_folder(tmp_path / part / "a", 4, first=10 * number)
        fill_folder(tmp_path / part / "b", 4, first=100 + 10 * number)
    noise(seed=20).save(tmp_path / "train" / "a" / "copy.png")  # also test/a/0020.png
    split = make_split(tmp_path, tmp_path)
    assert split.meta["counts"] == {"train": 8, "val": 8, "test": 8}
    assert [row["path"] for row in read_csv(split.folder / "dropped.csv")] == ["train/a/copy.png"]


def test_classes_by_number_and_by_name(tmp_path):
    for number, name in enumerate("abc"):
        fill_folder(tmp_path / "set" / name, 8, first=10 * number)
    assert make_split(tmp_path, tmp_path / "set", classes=2).classes == ["a", "b"]
    assert make_split(tmp_path, tmp_path / "set", classes=["c", "a"]).classes == ["a", "c"]
    with pytest.raises(InputError, match=r"data.classes is 4, but .* has 3 class folders"):
        make_split(tmp_path, tmp_path / "set", classes=4)
    with pytest.raises(InputError, match="has no class z"):
        make_split(tmp_path, tmp_path / "set", classes=["a", "z"])


def test_images_per_class_are_chosen_by_the_seed(tmp_path):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 30, first=100 * number)
    paths = {
        seed: {row["path"] for row in make_split(tmp_path, tmp_path / "set", images_per_class=10, seed=seed).manifest}
        for seed in (0, 1)
    }
    assert len(paths[0]) == len(paths[1]) == 20 and paths[0] != paths[1]


def broken_files(folder: Path) -> dict[str, str]:
    """file name -> what must be said of it"""
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture at all")
    buffer = io.BytesIO()
    noise(64, seed=5).save(buffer, "PNG")
    (folder / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    noise(64, seed=6).save(folder / "full.jpg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "full.jpg").read_bytes()[:700])
    (folder / "full.jpg").unlink()
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    return {
        "zero.png": "empty",
        "text.jpg": "not a picture",
        "cut.png": "broken",
        "cut.jpg": "broken",
        "bomb.png": "bomb",
    }


def test_broken_files_are_all_listed_and_end_the_run(tmp_path, capsys):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 10, first=100 * number)
    expected = broken_files(tmp_path / "set" / "a")
    with pytest.raises(InputError, match=r"5 of the files cannot be used.*--data.skip_broken true"):
        make_split(tmp_path, tmp_path / "set")
    printed = capsys.readouterr()
    for name, words in expected.items():
        assert any(name in line and words in line for line in (printed.out + printed.err).splitlines()), name
    assert not (tmp_path / "runs" / "data_split" / "best.json").exists()


def test_skip_broken_goes_on_without_them(tmp_path):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 10, first=100 * number)
    broken_files(tmp_path / "set" / "a")
    split = make_split(tmp_path, tmp_path / "set", skip_broken=True)
    assert len(split.manifest) == 20 and len(read_csv(split.folder / "broken.csv")) == 5
    position = next(n for n, row in enumerate(split.manifest) if row["path"] == "b/0103.png")
    direct = decode(tmp_path / "set" / "b" / "0103.png", 16, 3).pixels
    assert (split.images[split.rows[position]] == direct).all()


# --- the finished split -----------------------------------------------------------------------------------------------


def test_same_settings_same_hash_and_mean(tmp_path):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 12, first=100 * number)
    one, two = (make_split(tmp_path / str(n), tmp_path / "set") for n in range(2))
    assert one.hash == two.hash and one.meta == two.meta
    train = to_model(np.asarray(one.images)[one.rows[one.positions("train")]])
    assert np.allclose(one.meta["mean"], ((train + 1) / 2).mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(one.meta["std"], ((train + 1) / 2).double().std((0, 2, 3), correction=0), atol=1e-4)


def test_byte_identical_pictures_share_a_side(tmp_path):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 10, first=100 * number)
    for copy in range(6):
        noise(seed=3).save(tmp_path / "set" / "b" / f"copy{copy}.png")  # the same bytes as a/0003.png
    split = make_split(tmp_path, tmp_path / "set")
    twins = [row["split"] for row in split.manifest if row["path"] == "a/0003.png" or "copy" in row["path"]]
    assert len(twins) == 7 and len(set(twins)) == 1


def test_changed_manifest_is_refused(tmp_path):
    for number, name in enumerate("ab"):
        fill_folder(tmp_path / "set" / name, 10, first=100 * number)
    split = make_split(tmp_path, tmp_path / "set")
    file = split.folder / "manifest.csv"
    file.write_text(file.read_text().replace("train", "test", 1))
    with pytest.raises(InputError, match=r"was changed or damaged: .*; type: python data_split.py"):
        open_split(split_settings(tmp_path, tmp_path / "set"))


@pytest.mark.parametrize("parts", [(), ("train", "test")], ids=["class folders", "train and test"])
def test_interrupted_decoding_resumes(tmp_path, monkeypatch, parts):
    for number, (part, name) in enumerate(product(parts or ("",), "ab")):
        fill_folder(tmp_path / "set" / part / name, 10 if not parts else 5, first=100 * number)
    cfg = split_settings(tmp_path, tmp_path / "set")
    monkeypatch.setattr(data_split, "CHECKPOINT_EVERY", 8)
    real, calls = pictures.decode_all, []

    def dies_in_the_second_chunk(paths, *rest):
        calls.append(len(paths))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(paths, *rest)

    monkeypatch.setattr(data_split, "decode_all", dies_in_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        data_split.run(cfg)
    data_split.run(cfg, resume=True)
    assert calls == [8, 8, 8, 4]  # the first eight are not decoded again
    assert len(list((tmp_path / "runs" / "data_split").glob("2*"))) == 1
    fresh = make_split(tmp_path / "fresh", tmp_path / "set")
    resumed = open_split(cfg)
    assert resumed.hash == fresh.hash and (np.asarray(resumed.images) == np.asarray(fresh.images)).all()
