"""Assigning sides: stratified, in the given ratios, and equal pictures on one side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masked_memory.handoff.split import open_split
from masked_memory.pipeline.files import InputError
from masked_memory.sources.splitting import SPLITS, assign_splits, complete_split, in_words, split_counts, spread
from toys import prior_settings

RATIOS = (0.7, 0.15, 0.15)


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


# --- what a given split lacks -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 40), min_size=1, max_size=5), st.sampled_from(["val", "test"]), st.integers(0, 100))
def test_what_is_missing_is_cut_from_train_class_by_class_and_the_rest_stays(sizes, missing, seed):
    kept = "test" if missing == "val" else "val"
    classes = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)] * 2
    given = ["train"] * sum(sizes) + [kept] * sum(sizes)
    hashes = [f"h{position}" for position in range(len(classes))]
    sides = complete_split(given, classes, hashes, 0.25, seed)
    assert sides[sum(sizes) :] == given[sum(sizes) :] and kept not in sides[: sum(sizes)]
    for number, size in enumerate(sizes):
        cut = sum(s == missing and c == f"c{number}" for s, c in zip(sides, classes, strict=True))
        assert 1 <= cut < size and abs(cut - 0.25 * size) <= 2


def test_what_is_cut_keeps_equal_pictures_together_and_the_share_over_small_classes():
    given = ["train"] * 400 + ["test"] * 10
    classes = [f"c{n // 4}" for n in range(400)] + ["c0"] * 10
    hashes = [f"h{n - n % 2 if n < 40 else n}" for n in range(410)]
    sides = complete_split(given, classes, hashes, 0.3, 0)
    assert [sides.count(side) for side in SPLITS] == [280, 120, 10]
    assert all(sides[n] == sides[n + 1] for n in range(0, 40, 2))
    assert complete_split(given, classes, hashes, 0.3, 1) != sides


def test_too_few_pictures_in_train_are_named():
    given, classes = ["train", "train", "train", "val", "val"], ["a", "a", "b", "b", "b"]
    with pytest.raises(
        InputError, match=r"class b has 1 different pictures in train; .* train and test needs at least 2"
    ):
        complete_split(given, classes, list("vwxyz"), 0.2, 0)


@pytest.mark.parametrize(("count", "words"), [(1, "train"), (2, "train and val"), (3, "train, val and test")])
def test_names_are_listed_in_words(count, words):
    assert in_words(SPLITS[:count]) == words


# --- spreading --------------------------------------------------------------------------------------------------------


def test_what_priors_are_measured_on_is_spread_over_all_classes(made):
    """The manifest lies class by class."""
    cfg = prior_settings(*made[:2])
    split = open_split(cfg)
    test = split.positions("test")
    few = spread(test, len(split.classes))
    assert sorted(split.labels[few]) == list(range(len(split.classes)))
    assert (spread(test, 10**6) == test).all()


@given(st.integers(1, 300), st.integers(1, 300))
def test_spread_picks_are_distinct_in_order_and_reach_the_last_part(count, most):
    """With fewer than twice as many pictures as wanted, too: not just the first classes."""
    picks = spread(np.arange(count), most)
    assert len(picks) == min(count, most) and (np.diff(picks) > 0).all()
    assert picks[0] == 0 and count - picks[-1] <= -(-count // len(picks)), "the last gap is no larger than the others"
    gaps = np.diff([*picks, count])
    assert gaps.max() - gaps.min() <= 1


def test_nothing_is_spread_over_nothing():
    assert spread(np.arange(0), 5).tolist() == []
