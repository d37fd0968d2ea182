"""The tables of the study: means, intervals, bits, curves, the error split and context by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.measuring.curves import bits_of, context_rows, curve, error_split, summarise
from masked_memory.measuring.study import ALL_FORGOTTEN, Study
from masked_memory.pipeline.metrics import mse
from toys import DECODINGS, fake_indices, fake_split, measured, one_batch, study_plan, tiny_memory

K, SIDE, CLASSES = 8, 4, 3
PICTURES = 7
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def split() -> Split:
    """All 7 pictures are of the test part."""
    return fake_split(["test"] * PICTURES)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(PICTURES)


# Tables


def hand_made(tables: dict[tuple[str, int, str], dict[str, Tensor]], positions: list[int]) -> Study:
    return Study(tables, {}, {("random", 50): 0.125}, np.array(positions))


def free(strategy: str, percent: int) -> float:
    return 100.0 - percent


def test_a_row_has_the_mean_over_seeds_and_pictures_and_the_spread_of_the_seeds() -> None:
    """Seeds have means 0.2 and 0.4: their mean 0.3, their standard deviation 0.2 / sqrt(2)."""
    values = torch.tensor([[0.0, 0.2, 0.4], [0.2, 0.4, 0.6]])
    tables = {("random", 50, "argmax"): {"mse_to_picture": values, "predicted": torch.ones(2, 3)}}
    first, calibration = summarise(hand_made(tables, [4, 5, 6]), 500, 0, free)
    assert (first["strategy"], first["percent"], first["decoding"], first["measure"]) == (
        "random", 50, "argmax", "mse_to_picture"
    )  # fmt: skip
    assert first["mean"] == pytest.approx(0.3) and first["seed_sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert 0.1 <= first["low"] < 0.3 < first["high"] <= 0.5
    assert (first["seeds"], first["pictures"], first["bits"]) == (2, 3, 50)
    assert (calibration["measure"], calibration["decoding"], calibration["mean"]) == (
        "calibration_error",
        "tokens",
        0.125,
    )
    assert math.isnan(calibration["low"]) and calibration["pictures"] == 3


def test_one_seed_has_no_spread() -> None:
    tables = {("half", 50, "argmax"): {"mse_to_picture": torch.tensor([[0.0, 1.0]])}}
    row, _ = summarise(hand_made(tables, [0, 1]), 100, 0, free)
    assert row["seeds"] == 1 and math.isnan(row["seed_sd"])


def test_pictures_without_a_number_are_left_out_and_counted_out() -> None:
    """Of three pictures one has no SSIM within the mask: the mean is over the other two. With none there is no row."""
    some, none = torch.tensor([[0.5, math.nan, 0.75]]), torch.full((1, 3), math.nan)
    tables = {
        ("half", 25, "argmax"): {"masked_ssim_to_reconstruction": some},
        ("half", 10, "argmax"): {"masked_ssim_to_reconstruction": none},
    }
    rows = summarise(hand_made(tables, [0, 1, 2]), 100, 0, free)
    row, _calibration = rows
    assert (row["percent"], row["mean"], row["pictures"]) == (25, 0.625, 2)
    assert not math.isnan(row["low"])


def test_intervals_come_from_the_same_resamples_everywhere() -> None:
    """Errors that are larger by a constant have an interval that is shifted by it."""
    values = torch.rand(1, 20)
    tables = {("half", p, "argmax"): {"mse_to_picture": values + add} for p, add in ((10, 0.0), (50, 2.0))}
    first, second, _ = summarise(hand_made(tables, list(range(20))), 200, 0, free)
    assert second["low"] - first["low"] == pytest.approx(2, abs=1e-5)
    assert second["high"] - first["high"] == pytest.approx(2, abs=1e-5)


def test_bits_by_hand() -> None:
    """8 of 16 tokens of 8 codes are 24 bits; which ones, log2 of 12870 more, unless the pattern is known beforehand or
    follows from the codes."""
    bits = bits_of(tiny_memory(classifier="compact"))
    assert bits("half", 50) == bits("random", 50) == pytest.approx(24)
    assert bits("selective", 50) == bits("additive", 50) == pytest.approx(24)
    assert bits("direct", 50) == bits("adaptive", 50) == pytest.approx(24 + math.log2(12870))
    assert bits(ALL_FORGOTTEN, 100) == 0
    assert bits("adaptive", 0) == pytest.approx(48)


def row_of(strategy: str, percent: int, decoding: str, measure: str, mean: float) -> dict[str, object]:
    names = {"strategy": strategy, "percent": percent, "decoding": decoding, "measure": measure}
    return {**names, "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "bits": 100.0 - percent}


def test_a_curve_is_sorted_and_ends_where_all_is_forgotten() -> None:
    rows = [
        row_of(ALL_FORGOTTEN, 100, "argmax", "mse_to_picture", 0.9),
        row_of("half", 75, "argmax", "mse_to_picture", 0.5),
        row_of("half", 5, "argmax", "mse_to_picture", 0.1),
        row_of("half", 5, "expected", "mse_to_picture", 0.2),
        row_of("half", 5, "argmax", "mse_to_reconstruction", 0.3),
        row_of("random", 5, "argmax", "mse_to_picture", 0.4),
    ]
    found = curve(rows, "half", "argmax", "mse_to_picture")
    assert found.percentages == [5, 75, 100]
    assert found.means == [0.1, 0.5, 0.9]
    assert found.intervals == [(mean - 0.01, mean + 0.01) for mean in found.means]
    assert curve(rows, "adaptive", "argmax", "mse_to_picture").percentages == [100]
    assert curve(rows, "adaptive", "sample", "mse_to_picture").percentages == []


def test_the_error_split_adds_up() -> None:
    """Total = quantisation + completion + what they are off by; other decodings and measures play no part."""
    rows = [
        row_of("half", 50, "argmax", "mse_to_picture", 0.07),
        row_of("half", 50, "argmax", "mse_to_reconstruction", 0.04),
        row_of("half", 50, "expected", "mse_to_picture", 9),
        row_of("half", 50, "argmax", "psnr_to_picture", 9),
        row_of(ALL_FORGOTTEN, 100, "argmax", "mse_to_reconstruction", 0.1),
        row_of(ALL_FORGOTTEN, 100, "argmax", "mse_to_picture", 0.11),
    ]
    half, all_gone = error_split(rows, 0.02, "argmax")
    assert half[:5] == ["half", 50, 0.02, 0.04, 0.07] and half[5] == pytest.approx(0.01)
    assert all_gone[:5] == [ALL_FORGOTTEN, 100, 0.02, 0.1, 0.11] and all_gone[5] == pytest.approx(-0.01)
    for _, _, quantisation, completion, total, rest in (half, all_gone):
        assert quantisation + completion + rest == pytest.approx(total)


def test_with_nothing_forgotten_the_whole_error_is_that_of_quantisation(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    rows = summarise(
        measured(study_plan(percentages=(0,), decodings=DECODINGS), split, indices, memory), 100, 0, bits_of(memory)
    )
    batch = one_batch(memory, split, indices)
    quantisation = float(mse(batch.whole, batch.truth).mean())
    for _, _, given, completion, total, rest in error_split(rows, quantisation, "argmax"):
        assert completion == 0 and total == pytest.approx(given) and rest == pytest.approx(0, abs=1e-6)


def test_context_by_hand(split: Split) -> None:
    """Pictures 0..3 of 7 have labels 0, 1, 2, 0. 0 and 1 are where they usually are; 2 and 3 stand in places of 1.

    Seed 0 takes them for 0, 2, 1, 0 and seed 1 for 0, 1, 0, 1: congruent 1 of 4 wrong; incongruent 3 of 4 wrong, of
    these 2 as the context suggests.
    """
    table = {
        "predicted": torch.tensor([[0.0, 2, 1, 0], [0, 1, 0, 1]]),
        "clean_predicted": torch.tensor([[0.0, 1, 2, 0]]),
    }
    tables = {
        ("random", 50, "argmax"): table,
        ("random", 50, "expected"): {"predicted": torch.zeros(2, 4)},
        ("random", 50, "tokens"): {"accuracy": torch.zeros(2, 4)},
    }
    congruent, suggested = np.array([True, True, False, False]), np.array([0, 1, 1, 1])
    usual, elsewhere, *clean = context_rows(hand_made(tables, [0, 1, 2, 3]), split, congruent, suggested, "argmax")
    assert usual[:6] == ["random", 50, "degraded", "congruent", 2, 0.25] and math.isnan(usual[6])
    assert elsewhere == ["random", 50, "degraded", "incongruent", 2, 0.75, pytest.approx(2 / 3)]
    assert [row[2:6] for row in clean] == [["clean", "congruent", 2, 0.0], ["clean", "incongruent", 2, 0.0]]


def test_context_without_a_wrong_recall_has_no_share_and_without_classes_no_rows(split: Split) -> None:
    right = {("random", 50, "argmax"): {"predicted": torch.tensor([[0.0, 1]])}}
    congruent, suggested = np.array([True, False]), np.array([0, 2])
    _, elsewhere = context_rows(hand_made(right, [0, 1]), split, congruent, suggested, "argmax")
    assert elsewhere[5] == 0 and math.isnan(elsewhere[6])
    unseen = {("random", 50, "argmax"): {"mse_to_picture": torch.zeros(1, 2)}}
    assert context_rows(hand_made(unseen, [0, 1]), split, congruent, suggested, "argmax") == []
