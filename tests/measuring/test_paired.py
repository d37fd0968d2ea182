"""Paired tests: known p values, Holm by hand, and who is tested against whom."""

import math
from itertools import product

import pytest
import torch
from scipy.stats import permutation_test

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.measuring.paired import (
    PAIRED_HEADER,
    PerPicture,
    holm,
    is_better,
    paired_rows,
    per_picture,
    read_per_picture,
    reference_of,
    sign_flip_p,
    write_per_picture,
)
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.metrics import Bootstrap
from toys import fake_indices, fake_split, measured, seeded, study_plan

MSE = "mse_to_picture"


def bootstrap() -> Bootstrap:
    return Bootstrap(200, lambda: seeded(1))


# --- sign flips -------------------------------------------------------------------------------------------------------


def test_few_pairs_have_the_p_that_counting_all_flips_gives(draws: torch.Generator) -> None:
    """Of the 2^6 flips of six differences."""
    differences = torch.tensor([[1.0, 2, 3, 4, 5, 6], [1, -2, 3, -4, 5, 6], [0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    found = sign_flip_p(differences, draws, flips=40_000)
    for each, p in zip(differences, found.tolist(), strict=True):
        flips = torch.tensor(list(product([-1.0, 1.0], repeat=6)), dtype=torch.float64)
        exact = float(((flips @ each).abs() >= each.sum().abs() - 1e-9).double().mean())
        assert p == pytest.approx(exact, abs=0.01)
    assert float(found[2]) == 1


def test_p_is_that_of_scipy(draws: torch.Generator) -> None:
    differences = torch.randn(3, 40, generator=draws, dtype=torch.float64) + torch.tensor([[0.0], [0.3], [0.6]])
    found = sign_flip_p(differences, draws)
    for each, p in zip(differences, found.tolist(), strict=True):
        theirs = permutation_test(
            (each.numpy(),), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=9999, rng=0
        )
        assert p == pytest.approx(theirs.pvalue, abs=0.02)


def test_without_a_difference_p_is_small_as_often_as_it_says(draws: torch.Generator) -> None:
    found = sign_flip_p(torch.randn(800, 50, generator=draws, dtype=torch.float64), draws, flips=999)
    assert float((found < 0.1).double().mean()) == pytest.approx(0.1, abs=0.035)
    assert float(found.min()) >= 1 / 1000


def test_the_same_generator_gives_the_same_p() -> None:
    differences = torch.randn(2, 30, generator=seeded(2), dtype=torch.float64)
    assert torch.equal(sign_flip_p(differences, seeded(5)), sign_flip_p(differences, seeded(5)))
    alone = sign_flip_p(differences[1:], seeded(5))
    assert torch.equal(sign_flip_p(differences, seeded(5))[1:], alone), "the flips are the same for all"


# --- Holm -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chances", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.001, 0.9], [1.0, 0.003, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(chances: list[float], corrected: list[float]) -> None:
    assert holm(chances) == pytest.approx(corrected)


def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order() -> None:
    chances = torch.rand(12, generator=seeded(0)).tolist()
    found = holm(chances)
    assert all(p <= each <= min(1, 12 * p) for p, each in zip(chances, found, strict=True))
    ordered = [each for _, each in sorted(zip(chances, found, strict=True))]
    assert ordered == sorted(ordered)


# --- rows -------------------------------------------------------------------------------------------------------------


def values_of(**strategies: float) -> PerPicture:
    """Errors of 60 pictures at 50 and 75 %, around a mean for each strategy."""
    noise = {percent: torch.randn(60, generator=seeded(percent)) for percent in (50, 75)}
    own = {name: torch.randn(60, generator=seeded(number)) for number, name in enumerate(strategies)}
    return {
        (name.replace("_", "-"), percent, "expected", MSE): mean + noise[percent] + 0.1 * own[name]
        for name, mean in strategies.items()
        for percent in (50, 75)
    }


def test_each_strategy_is_tested_against_the_reference_on_the_same_pictures(draws: torch.Generator) -> None:
    values = values_of(adaptive=1.0, random=1.2, distortion=0.9)
    values |= {
        ("any", 100, "expected", MSE): torch.zeros(60),
        ("half", 50, "expected", MSE): values["random", 50, "expected", MSE],
    }
    rows = paired_rows(values, "adaptive", bootstrap(), draws)
    assert all(tuple(row) == PAIRED_HEADER for row in rows)
    cells = {(row["strategy"], row["percent"]) for row in rows}
    assert cells == {("random", 50), ("random", 75), ("distortion", 50), ("distortion", 75), ("half", 50)}
    for row in rows:
        key = (row["percent"], "expected", MSE)
        apart = (values[row["strategy"], *key] - values["adaptive", *key]).double()
        assert row["difference"] == pytest.approx(float(apart.mean())) and row["against"] == "adaptive"
        assert row["low"] <= row["difference"] <= row["high"] and row["pictures"] == 60
        assert row["p"] <= row["p_holm"] <= 2 * row["p"]
        worse = row["strategy"] in ("random", "half")
        assert (row["difference"] > 0) == worse and row["p_holm"] < 0.01, "shared noise is taken out"
        assert is_better(row) == (not worse)


def test_strategies_that_do_the_same_do_not_differ(draws: torch.Generator) -> None:
    values = values_of(adaptive=1.0)
    values |= {("random", *key[1:]): value.clone() for key, value in values.items()}
    rows = paired_rows(values, "adaptive", bootstrap(), draws)
    assert [row["p"] for row in rows] == [1.0, 1.0] and not any(is_better(row) for row in rows)


def test_a_measure_that_some_pictures_lack_is_left_out(draws: torch.Generator) -> None:
    values = values_of(adaptive=1.0, random=2.0)
    values["random", 50, "expected", MSE][3] = math.nan
    assert [row["percent"] for row in paired_rows(values, "adaptive", bootstrap(), draws)] == [75]


def test_the_reference_is_adaptive_where_it_is_measured() -> None:
    assert reference_of(("adaptive", "random")) == "adaptive" and reference_of(("random", "half")) == "half"


# --- values of each picture -------------------------------------------------------------------------------------------


@pytest.fixture
def split() -> Split:
    return fake_split(["test"] * 5 + ["train"] * 3)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(8)


@torch.no_grad()
def test_values_are_means_over_draws_of_what_is_tested(split: Split, indices: HandedIndices) -> None:
    plan = study_plan(seeds=3, percentages=(50,))
    study = measured(plan, split, indices)
    values = per_picture(study, "expected")
    assert {key[2] for key in values} == {"expected"} and {key[0] for key in values} == {"random", "half"}
    assert {key[3] for key in values} == {
        "mse_to_reconstruction", "mse_to_picture", "classification_error", "disagreement",
    }  # fmt: skip
    table = study.cells["random", 50, "expected"][MSE]
    assert table.shape == (3, 5)
    torch.testing.assert_close(values["random", 50, "expected", MSE], table.mean(0))


def test_values_come_back_as_they_were_written(tmp_path) -> None:
    values = values_of(adaptive=1.0, greedy_surprisal=2.0)
    positions = torch.arange(60) * 2
    write_per_picture(tmp_path / "x.safetensors", values, positions.numpy(), "abc")
    found, places, split_hash = read_per_picture(tmp_path / "x.safetensors")
    assert set(found) == set(values) and torch.equal(places, positions) and split_hash == "abc"
    assert all(torch.equal(found[key], values[key]) for key in values)
    with pytest.raises(InputError, match=r"y\.safetensors is missing; type: python reconstruct_masked\.py"):
        read_per_picture(tmp_path / "y.safetensors")
