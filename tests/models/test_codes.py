"""Codes drawn from logits: as often as the softmax says, and none that is cut off."""

import pytest
import torch

from masked_memory.models.codes import Filling, choose_codes, draw_codes, truncate

K, N, C = 11, 9, 3
# Drawing
LOGITS = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log() + 2  # any constant may be added


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_codes_are_drawn_as_often_as_the_softmax_says(temperature: float, draws: torch.Generator) -> None:
    """40,000 draws: the standard deviation of a share is at most 0.0025."""
    drawn = choose_codes(LOGITS.expand(40_000, -1), Filling(temperature=temperature), draws)
    powers = [p ** (1 / temperature) for p in (0.5, 0.05, 0.3, 0.15)]
    expected = torch.tensor(powers) / sum(powers)
    assert (torch.bincount(drawn, minlength=4) / 40_000 - expected).abs().max() < 0.01


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3}),
        (1, 1.0, {0}),
        (2, 1.0, {0, 2}),
        (3, 1.0, {0, 2, 3}),
        (4, 1.0, {0, 1, 2, 3}),
        (9, 1.0, {0, 1, 2, 3}),
        (0, 0.01, {0}),
        (0, 0.45, {0}),
        (0, 0.55, {0, 2}),  # 0.5 is not enough
        (0, 0.79, {0, 2}),
        (0, 0.81, {0, 2, 3}),  # 0.5 + 0.3 is not
        (0, 0.96, {0, 1, 2, 3}),
        (2, 0.6, {0}),  # of the two likeliest, 0.5 / 0.8 = 0.625
        (2, 0.64, {0, 2}),
    ],
)
def test_top_k_and_top_p_keep_the_right_codes(top_k: int, top_p: float, kept: set[int], draws: torch.Generator) -> None:
    truncated = truncate(LOGITS, top_k, top_p)
    assert set(truncated.isfinite()[0].nonzero().flatten().tolist()) == kept
    assert torch.equal(truncated[truncated.isfinite()], LOGITS[truncated.isfinite()])
    filling = Filling(temperature=1.0, top_k=top_k, top_p=top_p)
    assert set(choose_codes(LOGITS.expand(2000, -1), filling, draws).tolist()) == kept


def test_the_likeliest_code_stays_in_every_row() -> None:
    logits = torch.randn(200, K) * 3
    for top_p in (1e-6, 0.3, 0.9):
        truncated = truncate(logits, top_p=top_p)
        assert torch.equal(truncated.argmax(1), logits.argmax(1))
    assert truncate(logits, top_p=1e-6).isfinite().sum(1).eq(1).all()


def test_temperature_counts_before_top_p(draws: torch.Generator) -> None:
    """At temperature 1/2 the shares are 0.25, 0.0025, 0.09, 0.0225 of 0.365: the first alone has 0.68."""
    filling = Filling(temperature=0.5, top_p=0.6)
    assert set(choose_codes(LOGITS.expand(2000, -1), filling, draws).tolist()) == {0}


def test_drawn_codes_have_their_probabilities_and_never_none() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0]]).repeat(20_000, 1)
    drawn = draw_codes(probabilities, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=6) / len(drawn)
    assert shares[[0, 2, 5]].tolist() == [0, 0, 0]
    assert torch.allclose(shares, probabilities[0], atol=0.015)


def test_drawn_codes_of_certain_rows_are_those() -> None:
    certain = torch.eye(7)
    assert draw_codes(certain, torch.Generator().manual_seed(1)).tolist() == list(range(7))
