"""Masks: True = masked, exact counts, nested over percentages, the same generator gives the same mask."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masking import hide, mask_first, masked_count, random_mask, random_order, training_mask


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(tokens=st.integers(1, 300), ratio=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_every_picture_has_exactly_round_ratio_n_masked_tokens(tokens: int, ratio: float, seed: int) -> None:
    mask = random_mask(5, tokens, ratio, seeded(seed))
    assert mask.dtype == torch.bool and mask.shape == (5, tokens)
    assert mask.sum(1).tolist() == [round(ratio * tokens)] * 5


@pytest.mark.parametrize("percentage", [0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100])
def test_the_percentages_of_the_headline_figure_hide_what_they_say(percentage: int) -> None:
    mask = random_mask(50, 64, percentage / 100, seeded(1))
    assert set(mask.sum(1).tolist()) == {round(percentage / 100 * 64)}


@pytest.mark.parametrize("ratio", [-0.01, 1.01, 50, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused_with_its_value(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"{ratio}; expected 0 to 1"):
        masked_count(ratio, 64)


@given(tokens=st.integers(1, 100), seed=st.integers(0, 2**31), ratios=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_what_is_forgotten_at_a_low_percentage_is_forgotten_at_every_higher_one(
    tokens: int, seed: int, ratios: list[float]
) -> None:
    order = random_order(3, tokens, seeded(seed))
    masks = [mask_first(order, masked_count(ratio, tokens)) for ratio in sorted(ratios)]
    for smaller, larger in pairwise(masks):
        assert not (smaller & ~larger).any()


def test_an_order_ranks_each_token_once_and_differs_between_pictures() -> None:
    order = random_order(20, 30, seeded(0))
    assert torch.equal(order.sort(dim=1).values, torch.arange(30).expand(20, 30))
    assert len({tuple(row) for row in order.tolist()}) == 20


def test_every_token_is_masked_equally_often() -> None:
    """20,000 masks of half of 16 tokens: each share is 0.5 with a standard deviation of 0.0035."""
    shares = random_mask(20_000, 16, 0.5, seeded(2)).float().mean(0)
    assert (shares - 0.5).abs().max() < 0.02


def test_each_picture_may_have_its_own_count() -> None:
    counts = torch.tensor([0, 3, 10])
    assert torch.equal(mask_first(random_order(3, 10, seeded(0)), counts).sum(1), counts)


@pytest.mark.parametrize("schedule", ["cosine", "uniform", "fixed"])
def test_the_same_generator_gives_the_same_mask_whatever_the_global_seed(schedule: str) -> None:
    first = training_mask(6, 40, schedule, seeded(5))
    torch.manual_seed(123)
    assert torch.equal(training_mask(6, 40, schedule, seeded(5)), first)
    assert not torch.equal(training_mask(6, 40, schedule, seeded(6)), first)


@pytest.mark.parametrize("schedule", ["cosine", "uniform"])
def test_training_masks_reach_from_one_token_to_all(schedule: str) -> None:
    counts = training_mask(2000, 16, schedule, seeded(0)).sum(1)
    assert counts.min() == 1 and counts.max() == 16
    assert set(counts.tolist()) == set(range(1, 17))


def test_cosine_ratios_have_the_mean_of_maskgit_and_uniform_counts_are_uniform() -> None:
    """The mean of cos(pi u / 2) is 2 / pi; the mean of 1..64 is 32.5."""
    cosine = training_mask(20_000, 64, "cosine", seeded(0)).sum(1).float()
    uniform = training_mask(20_000, 64, "uniform", seeded(0)).sum(1).float()
    assert float(cosine.mean()) / 64 == pytest.approx(2 / torch.pi, abs=0.01)
    assert float(uniform.mean()) == pytest.approx(32.5, abs=0.5)


@given(tokens=st.integers(1, 100), ratio=st.floats(0, 1))
def test_a_fixed_ratio_is_exact_but_never_masks_nothing(tokens: int, ratio: float) -> None:
    mask = training_mask(4, tokens, "fixed", seeded(0), fixed_ratio=ratio)
    assert mask.sum(1).tolist() == [max(1, round(ratio * tokens))] * 4


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'linear'.*cosine.*uniform.*fixed"):
        training_mask(2, 4, "linear", seeded(0))


def test_true_means_masked() -> None:
    indices = torch.tensor([[5, 6, 7]])
    hidden = hide(indices, torch.tensor([[True, False, True]]), 99)
    assert hidden.tolist() == [[99, 6, 99]]
    assert indices.tolist() == [[5, 6, 7]], "the grid that is handed in stays as it is"
