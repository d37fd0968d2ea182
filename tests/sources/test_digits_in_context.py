"""The embedded demo."""

import numpy as np
import pytest

from masked_memory.handoff.split import data_key
from masked_memory.pipeline.files import InputError
from masked_memory.settings import loading
from masked_memory.sources.digits_in_context import (
    BLOCK,
    DIMMING,
    PLACES,
    SIZE,
    Block,
    cut_into_blocks,
    load_photographs,
    make_digits_in_context,
)
from masked_memory.stages import data_split
from toys import make_split

SHARES = (0.7, 0.15, 0.15)

# --- what the pictures are --------------------------------------------------------------------------------------------


@pytest.mark.system
def test_demo_has_exactly_one_in_five_somewhere_unusual():
    demo = make_digits_in_context(0, per_digit=20)
    assert demo.images.shape == (200, 32, 32, 3)
    for digit in range(10):
        assert (~demo.congruent[demo.digits == digit]).sum() == 4
    assert (demo.places[demo.congruent] == demo.digits[demo.congruent]).all()
    again = make_digits_in_context(0, per_digit=20)
    assert (again.images == demo.images).all() and again.sides == demo.sides
    assert (make_digits_in_context(1, per_digit=20).images != demo.images).any()


@pytest.mark.system
def test_demo_splits_each_digit_in_the_shares_asked_for():
    demo = make_digits_in_context(0, per_digit=20, ratios=(0.5, 0.3, 0.2))
    for digit in range(10):
        sides = [side for side, each in zip(demo.sides, demo.digits, strict=True) if each == digit]
        assert [sides.count(side) for side in ("train", "val", "test")] == [10, 6, 4]


def test_demo_refuses_too_few_pictures():
    with pytest.raises(ValueError, match="per_digit is 2; the demo has 3 to 500"):
        make_digits_in_context(0, per_digit=2)


@pytest.mark.system
def test_pictures_are_the_dimmed_crop_at_their_corner_where_there_is_no_ink():
    demo, photographs = make_digits_in_context(0, per_digit=4), load_photographs()
    for picture, place, (left, top) in zip(demo.images, demo.places, demo.corners, strict=True):
        crop = np.asarray(photographs[place].crop((left, top, left + SIZE, top + SIZE))).astype(float)
        bare = np.abs(picture - crop * DIMMING).max(2) <= 1
        assert bare.mean() > 0.5 and bare[[0, 0, -1, -1], [0, -1, 0, -1]].all()


# --- no scenery on two sides ------------------------------------------------------------------------------------------


def background_pixels(demo, side):
    """(place, x, y) of every pixel of a photograph that the pictures of a side show, as one number each."""
    shown = np.zeros((len(PLACES), 1000, 1000), dtype=bool)
    for each, place, (left, top) in zip(demo.sides, demo.places, demo.corners, strict=True):
        if each == side:
            shown[place, top : top + SIZE, left : left + SIZE] = True
    return shown


@pytest.mark.system
def test_train_val_and_test_share_no_pixel_of_a_photograph():
    demo = make_digits_in_context(0)
    train, val, test = (background_pixels(demo, side) for side in ("train", "val", "test"))
    assert all(seen.any((1, 2)).all() for seen in (train, val, test))  # every side shows every photograph
    assert (train & test).sum() == (train & val).sum() == (val & test).sum() == 0


@pytest.mark.system
def test_the_manifest_says_where_each_crop_lies(tmp_path):
    split = make_split(tmp_path, "digits_in_context", channels=3, image_size=32, images_per_class=10)
    shown = {side: np.zeros((len(PLACES), 1000, 1000), dtype=bool) for side in ("train", "val", "test")}
    for row in split.manifest:
        left, top = int(row["left"]), int(row["top"])
        shown[row["split"]][PLACES.index(row["place"]), top : top + SIZE, left : left + SIZE] = True
    assert not (shown["train"] & shown["test"]).any() and not (shown["train"] & shown["val"]).any()


@pytest.mark.system
@pytest.mark.parametrize("given_split", [True, False])
def test_sides_of_the_demo_are_not_dealt_anew(tmp_path, given_split):
    made = make_digits_in_context(0, per_digit=10)
    settings = {"channels": 3, "image_size": 32, "images_per_class": 10, "given_split": given_split}
    split = make_split(tmp_path, "digits_in_context", **settings)
    assert [row["split"] for row in split.manifest] == made.sides


@pytest.mark.parametrize("size", [(512, 512), (451, 300), (1000, 872), (64, 192)])
def test_blocks_cover_a_photograph_once(size):
    blocks = cut_into_blocks(size, SHARES, np.random.default_rng(0))
    covered = np.zeros(size, dtype=int)
    for block in [each for dealt in blocks.values() for each in dealt]:
        assert block.right - block.left >= BLOCK and block.bottom - block.top >= BLOCK
        covered[block.left : block.right, block.top : block.bottom] += 1
    assert (covered == 1).all() and all(blocks[side] for side in ("train", "val", "test"))


def test_blocks_are_dealt_in_the_shares_and_anew_for_another_seed():
    first, second = (cut_into_blocks((640, 640), SHARES, np.random.default_rng(seed)) for seed in (0, 1))
    assert [len(first[side]) for side in ("train", "val", "test")] == [70, 15, 15]
    assert first["test"] != second["test"] and isinstance(first["test"][0], Block)


def test_a_photograph_too_small_to_share_is_refused():
    with pytest.raises(ValueError, match="has 2 blocks of 64 pixels; expected at least 3"):
        cut_into_blocks((128, 64), SHARES, np.random.default_rng(0))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 64}, r"is 32x32 RGB; found data.image_size 64"),
        ({"images_per_class": 2}, r"images_per_class is 2; a split into train, val and test needs at least 3"),
    ],
)
def test_demo_refuses_other_settings(tmp_path, changes, message):
    cfg = loading.check({"run": {"dir": str(tmp_path), "mlflow": False}, "data": changes})
    with pytest.raises(InputError, match=message):
        data_split.run(cfg)


def test_a_split_drawn_in_another_way_is_not_taken_for_this_one(tmp_path, monkeypatch):
    data = loading.check({}).data
    key = data_key(data)
    monkeypatch.setattr("masked_memory.handoff.split.DRAWN", "as before")
    assert data_key(data) != key
    folder = loading.check({"data": {"source": str(tmp_path)}}).data
    key = data_key(folder)
    monkeypatch.undo()
    assert data_key(folder) == key
