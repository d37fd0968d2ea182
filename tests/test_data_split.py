"""The split: layouts, decoding, broken files, and a manifest that is stable, disjoint and stratified."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_split
from handoff.split import Split, open_split
from pipeline.files import InputError, read_csv
from settings import loading
from settings.config import Config
from sources import pictures
from sources.folders import find_pictures
from sources.pictures import decode
from sources.pixels import from_model, to_model
from sources.splitting import SPLITS, assign_splits, split_counts

RATIOS = (0.7, 0.15, 0.15)


def noise(seed: int, size: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        noise(number).save(folder / f"{number:04d}.png")


def settings_for(tmp_path: Path, source: Path, **data: object) -> Config:
    values = {"source": str(source), "image_size": 16, **data}
    return loading.check({"run": {"dir": str(tmp_path / "runs"), "mlflow": False}, "data": values})


def make(tmp_path: Path, source: Path, **data: object) -> Split:
    cfg = settings_for(tmp_path, source, **data)
    data_split.run(cfg)
    return open_split(cfg)


# --- assigning sides --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(3, 60), min_size=1, max_size=8), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_split_is_stratified_and_keeps_the_ratios(sizes, seed):
    classes = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    hashes = [f"h{position}" for position in range(len(classes))]
    sides = assign_splits(classes, hashes, RATIOS, seed)
    for number, size in enumerate(sizes):
        counts = [sum(s == side and c == f"c{number}" for s, c in zip(sides, classes, strict=True)) for side in SPLITS]
        assert sum(counts) == size and min(counts) >= 1
        if size >= 20:
            assert all(abs(count - size * ratio) <= 2 for count, ratio in zip(counts, RATIOS, strict=True))


@given(st.lists(st.integers(0, 20), min_size=40, max_size=120), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_equal_hashes_always_land_on_one_side(contents, seed):
    hashes = [f"h{content}" for content in contents] + ["x", "y", "z"]
    sides = assign_splits(["one"] * len(hashes), hashes, RATIOS, seed)
    for name in set(hashes):
        assert len({side for side, other in zip(sides, hashes, strict=True) if other == name}) == 1


def test_split_does_not_depend_on_the_order_of_the_files():
    classes, hashes = ["a", "b"] * 30, [f"h{n}" for n in range(60)]
    forward = dict(zip(hashes, assign_splits(classes, hashes, RATIOS, 3), strict=True))
    backward = dict(zip(hashes[::-1], assign_splits(classes[::-1], hashes[::-1], RATIOS, 3), strict=True))
    assert forward == backward


def test_another_seed_splits_otherwise():
    hashes = [f"h{n}" for n in range(60)]
    assert assign_splits(["a"] * 60, hashes, RATIOS, 0) != assign_splits(["a"] * 60, hashes, RATIOS, 1)


def test_total_of_many_small_classes_keeps_the_ratios():
    """Ten pictures a class would round to 7, 2, 1 everywhere; the rounding is carried along instead."""
    classes = [f"c{n:03d}" for n in range(100) for _ in range(10)]
    sides = assign_splits(classes, [f"h{n}" for n in range(1000)], RATIOS, 0)
    assert [sides.count(side) for side in SPLITS] == [700, 150, 150]


@given(st.integers(0, 5000), st.sampled_from([(0.7, 0.15, 0.15), (0.8, 0.1, 0.1), (0.34, 0.33, 0.33)]))
def test_split_counts_sum_to_the_total_and_stay_within_one(total, ratios):
    counts = split_counts(total, ratios)
    assert sum(counts) == total
    assert all(abs(count - total * ratio) < 1 + 1e-6 for count, ratio in zip(counts, ratios, strict=True))


def test_too_few_pictures_for_a_split_are_named():
    with pytest.raises(InputError, match=r"class a has 2 different pictures.*at least 3"):
        assign_splits(["a", "a"], ["x", "y"], RATIOS, 0)


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / "set" / name / "images", 4)
    (tmp_path / "set" / "readme.txt").write_text("notes beside the class folders are no pictures")
    found = find_pictures(tmp_path / "set")
    assert {one.class_name for one in found} == {"cat", "dog"} and len(found) == 8
    assert {one.split for one in found} == {""}


def test_kaggle_imagenet100_layout_is_pooled(tmp_path):
    for part, name in (("train.X1", "n01"), ("train.X2", "n02"), ("val.X", "n01")):
        fill(tmp_path / part / name, 3)
    (tmp_path / "Labels.json").write_text("{}")
    found = find_pictures(tmp_path)
    assert len(found) == 9 and {one.class_name for one in found} == {"n01", "n02"}
    assert {one.split for one in found} == {""}


@pytest.mark.parametrize("val", ["val", "valid", "validate", "validation"])
def test_given_split_is_recognised(tmp_path, val):
    for part in ("train", val, "test"):
        fill(tmp_path / part / "a", 2)
    assert {one.split for one in find_pictures(tmp_path)} == set(SPLITS)


def test_oasis_layout_has_a_split_and_no_classes(tmp_path):
    for number, part in enumerate(("train", "validate", "test")):
        fill(tmp_path / f"keras_png_slices_{part}", 4, first=10 * number)
    split = make(tmp_path, tmp_path, channels=1)
    assert split.classes == [] and set(split.labels) == {-1}
    assert split.meta["counts"] == {"train": 4, "val": 4, "test": 4}
    assert split.pictures(split.positions("test")).shape == (4, 1, 16, 16)


def test_given_split_can_be_pooled(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        fill(tmp_path / part / "a", 10, first=10 * number)
        fill(tmp_path / part / "b", 10, first=100 + 10 * number)
    split = make(tmp_path, tmp_path, given_split=False)
    assert split.meta["counts"]["train"] == 42


def test_picture_on_both_sides_of_a_given_split_leaves_train(tmp_path):
    for number, part in enumerate(("train", "val", "test")):
        fill(tmp_path / part / "a", 4, first=10 * number)
        fill(tmp_path / part / "b", 4, first=100 + 10 * number)
    noise(20).save(tmp_path / "train" / "a" / "copy.png")  # also test/a/0020.png
    split = make(tmp_path, tmp_path)
    assert split.meta["counts"] == {"train": 8, "val": 8, "test": 8}
    assert [row["path"] for row in read_csv(split.folder / "dropped.csv")] == ["train/a/copy.png"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "has no pictures"),
        (lambda root: fill(root / "only", 5), "one class only"),
        (lambda root: (fill(root / "a", 3), noise(0).save(root / "stray.png")), "folders and 1 pictures"),
    ],
)
def test_unusable_folders_are_refused(tmp_path, prepare, message):
    root = tmp_path / "set"
    root.mkdir()
    prepare(root)
    with pytest.raises(InputError, match=message):
        make(tmp_path, root)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        make(tmp_path, tmp_path / "nowhere")


def test_unreadable_folder_is_refused(tmp_path, monkeypatch):
    fill(tmp_path / "set" / "a", 3)
    real = os.scandir

    def locked(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(InputError, match=r"cannot read folder .*a: Permission denied"):
        find_pictures(tmp_path / "set")


def test_classes_by_number_and_by_name(tmp_path):
    for number, name in enumerate("abc"):
        fill(tmp_path / "set" / name, 8, first=10 * number)
    assert make(tmp_path, tmp_path / "set", classes=2).classes == ["a", "b"]
    assert make(tmp_path, tmp_path / "set", classes=["c", "a"]).classes == ["a", "c"]
    with pytest.raises(InputError, match=r"data.classes is 4, but .* has 3 class folders"):
        make(tmp_path, tmp_path / "set", classes=4)
    with pytest.raises(InputError, match="has no class z"):
        make(tmp_path, tmp_path / "set", classes=["a", "z"])


def test_images_per_class_are_chosen_by_the_seed(tmp_path):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 30, first=100 * number)
    paths = {
        seed: {row["path"] for row in make(tmp_path, tmp_path / "set", images_per_class=10, seed=seed).manifest}
        for seed in (0, 1)
    }
    assert len(paths[0]) == len(paths[1]) == 20 and paths[0] != paths[1]


# --- decoding ---------------------------------------------------------------------------------------------------------


def saved(picture: Image.Image, file: Path, **options: object) -> str:
    picture.save(file, **options)
    return str(file)


def test_exif_rotation_is_applied(tmp_path):
    tall = Image.new("RGB", (20, 20), "black")
    tall.paste((255, 0, 0), (0, 0, 20, 10))  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = decode(saved(tall, tmp_path / "a.png", exif=exif), 20, 3).pixels
    assert pixels[15, 10, 0] == 255 and pixels[5, 10, 0] == 0


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (decode(saved(clear, tmp_path / "a.png"), 16, 3).pixels == 255).all()
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert (decode(saved(palette, tmp_path / "b.png"), 16, 3).pixels == [10, 20, 30]).all()
    assert (decode(saved(palette, tmp_path / "c.png", transparency=0), 16, 3).pixels == 255).all()


def test_cmyk_sixteen_bit_and_grey(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = decode(saved(cmyk, tmp_path / "a.jpg"), 16, 3).pixels
    assert red[..., 0].min() > 200 and red[..., 1].max() < 60
    deep = Image.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16))
    assert (decode(saved(deep, tmp_path / "b.png"), 16, 1).pixels == 128).all()
    grey = Image.new("L", (16, 16), 77)
    assert (decode(saved(grey, tmp_path / "c.png"), 16, 3).pixels == 77).all()
    assert decode(saved(grey, tmp_path / "d.png"), 16, 1).pixels.shape == (16, 16, 1)


def test_centre_crop_keeps_proportions(tmp_path):
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste((255, 255, 255), (20, 0, 40, 20))
    assert (decode(saved(wide, tmp_path / "a.png"), 20, 3).pixels == 255).all()


def test_picture_of_the_right_size_is_untouched(tmp_path):
    picture = noise(1, 16)
    assert (decode(saved(picture, tmp_path / "a.png"), 16, 3).pixels == np.asarray(picture)).all()


def broken_files(folder: Path) -> dict[str, str]:
    """file name -> what must be said of it"""
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture at all")
    buffer = io.BytesIO()
    noise(5, 64).save(buffer, "PNG")
    (folder / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    noise(6, 64).save(folder / "full.jpg", quality=95)
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
        fill(tmp_path / "set" / name, 10, first=100 * number)
    expected = broken_files(tmp_path / "set" / "a")
    with pytest.raises(InputError, match=r"5 of the files cannot be used.*--data.skip_broken true"):
        make(tmp_path, tmp_path / "set")
    printed = capsys.readouterr()
    for name, words in expected.items():
        assert any(name in line and words in line for line in (printed.out + printed.err).splitlines()), name
    assert not (tmp_path / "runs" / "data_split" / "best.json").exists()


def test_skip_broken_goes_on_without_them(tmp_path):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 10, first=100 * number)
    broken_files(tmp_path / "set" / "a")
    split = make(tmp_path, tmp_path / "set", skip_broken=True)
    assert len(split.manifest) == 20 and len(read_csv(split.folder / "broken.csv")) == 5
    position = next(n for n, row in enumerate(split.manifest) if row["path"] == "b/0103.png")
    direct = decode(str(tmp_path / "set" / "b" / "0103.png"), 16, 3).pixels
    assert (split.images[split.rows[position]] == direct).all()


# --- the finished split -----------------------------------------------------------------------------------------------


def test_same_settings_same_hash_and_mean(tmp_path):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 12, first=100 * number)
    one, two = (make(tmp_path / str(n), tmp_path / "set") for n in range(2))
    assert one.hash == two.hash and one.meta == two.meta
    train = to_model(np.asarray(one.images)[one.rows[one.positions("train")]])
    assert np.allclose(one.meta["mean"], ((train + 1) / 2).mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(one.meta["std"], ((train + 1) / 2).double().std((0, 2, 3), correction=0), atol=1e-4)


def test_byte_identical_pictures_share_a_side(tmp_path):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 10, first=100 * number)
    for copy in range(6):
        noise(3).save(tmp_path / "set" / "b" / f"copy{copy}.png")  # the same bytes as a/0003.png
    split = make(tmp_path, tmp_path / "set")
    twins = [row["split"] for row in split.manifest if row["path"] == "a/0003.png" or "copy" in row["path"]]
    assert len(twins) == 7 and len(set(twins)) == 1


def test_changed_manifest_is_refused(tmp_path):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 10, first=100 * number)
    split = make(tmp_path, tmp_path / "set")
    file = split.folder / "manifest.csv"
    file.write_text(file.read_text().replace("train", "test", 1))
    with pytest.raises(InputError, match=r"was changed after the split; type: python data_split.py"):
        open_split(settings_for(tmp_path, tmp_path / "set"))


def test_interrupted_decoding_resumes(tmp_path, monkeypatch):
    for number, name in enumerate("ab"):
        fill(tmp_path / "set" / name, 10, first=100 * number)
    cfg = settings_for(tmp_path, tmp_path / "set")
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
    fresh = make(tmp_path / "fresh", tmp_path / "set")
    resumed = open_split(cfg)
    assert resumed.hash == fresh.hash and (np.asarray(resumed.images) == np.asarray(fresh.images)).all()


def test_model_range_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = to_model(pixels)
    assert floats.min() == -1 and floats.max() == 1 and floats.shape == (1, 1, 16, 16)
    assert (from_model(floats) == pixels).all()


def test_offline_imagenette_says_what_to_do(tmp_path, monkeypatch):
    import torchvision.datasets

    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded .*no route to host.*unpack imagenette2-160 there"):
        cfg = loading.check(
            {
                "run": {"dir": str(tmp_path), "mlflow": False},
                "data": {"source": "imagenette", "download_dir": str(tmp_path)},
            }
        )
        data_split.run(cfg)


# --- the embedded demo ------------------------------------------------------------------------------------------------


def test_demo_has_exactly_one_in_five_somewhere_unusual():
    from sources.digits_in_context import make_digits_in_context

    demo = make_digits_in_context(0, per_digit=20)
    assert demo.images.shape == (200, 32, 32, 3)
    for digit in range(10):
        assert (~demo.congruent[demo.digits == digit]).sum() == 4
    assert (demo.places[demo.congruent] == demo.digits[demo.congruent]).all()
    again = make_digits_in_context(0, per_digit=20)
    assert (again.images == demo.images).all()
    assert (make_digits_in_context(1, per_digit=20).images != demo.images).any()


def test_demo_refuses_another_size(tmp_path):
    cfg = loading.check({"run": {"dir": str(tmp_path), "mlflow": False}, "data": {"image_size": 64}})
    with pytest.raises(InputError, match=r"is 32x32 RGB; found data.image_size 64"):
        data_split.run(cfg)
