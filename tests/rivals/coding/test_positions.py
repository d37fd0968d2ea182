"""Which k of N: exact probabilities, their known answers, and streams."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from masked_memory.rivals.coding.bitstreams import Channel, Receiver, Sender, there_and_back
from masked_memory.rivals.coding.positions import choice_bits, code_positions, keeping_odds
from masked_memory.stages.masking import position_bits
from toys import CPU, seeded

ODDS = torch.tensor([0.5, 4.0, 1.0, 0.01, 30.0, 2.0], dtype=torch.float64)


def choices(tokens: int, count: int) -> Tensor:
    """Every way to keep `count`, a row each."""
    rows = torch.zeros(0, tokens, dtype=torch.bool)
    for chosen in combinations(range(tokens), count):
        row = torch.zeros(1, tokens, dtype=torch.bool)
        row[0, list(chosen)] = True
        rows = torch.cat([rows, row])
    return rows


def sent(kept: Tensor, odds: Tensor) -> Sender:
    sender = Sender(torch.zeros(kept.shape, dtype=torch.long), kept)
    assert torch.equal(code_positions(sender, odds, int(kept[0].sum()), CPU), kept)
    return sender


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_all_choices_together_have_probability_one(count: int) -> None:
    probabilities = 2.0 ** -choice_bits(choices(6, count), ODDS)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)


def test_the_probability_of_a_choice_by_hand() -> None:
    """Odds 1, 2, 3; two of three: 2, 3 and 6 of 11."""
    odds = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    probabilities = 2.0 ** -choice_bits(choices(3, 2), odds)
    torch.testing.assert_close(probabilities, torch.tensor([2, 3, 6]).double() / 11)


@pytest.mark.parametrize(("tokens", "count"), [(6, 2), (64, 16), (256, 128)])
def test_equal_odds_are_the_plain_count(tokens: int, count: int) -> None:
    kept = torch.rand(3, tokens, generator=seeded(0)).argsort(1).argsort(1) < count
    for odds in (torch.ones(tokens), torch.full((tokens,), 0.2)):
        found = choice_bits(kept, odds.double())
        assert found.tolist() == pytest.approx([position_bits(tokens, count)] * 3, rel=1e-9)


@pytest.mark.parametrize("count", range(7))
def test_one_position_after_the_other_costs_what_the_choice_costs(count: int) -> None:
    kept = choices(6, count)
    torch.testing.assert_close(sent(kept, ODDS).ideal_bits(), choice_bits(kept, ODDS), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("count", range(7))
def test_positions_come_back(count: int) -> None:
    kept = choices(6, count)

    def coder(channel: Channel) -> tuple[Tensor, Tensor]:
        found = code_positions(channel, ODDS, count, CPU)
        return torch.zeros(found.shape, dtype=torch.long), found

    coded = there_and_back(coder, Sender(torch.zeros(kept.shape, dtype=torch.long), kept))
    assert (coded.bits < coded.ideal_bits + 9).all()
    assert count not in (0, 6) or not coded.bits.any()


def test_streams_of_other_pictures_do_not_matter() -> None:
    kept = choices(6, 3)
    streams = sent(kept, ODDS).streams()
    for row in (0, 7, 19):
        assert torch.equal(code_positions(Receiver(streams[row : row + 1]), ODDS, 3, CPU), kept[row : row + 1])


def test_odds_are_counted_and_smoothed() -> None:
    """Three pictures and one more that keeps half of each: 3.5, 0.5, 1.5, 2.5 of 4."""
    kept = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]]).bool()
    chances = torch.tensor([3.5, 0.5, 1.5, 2.5], dtype=torch.float64) / 4
    torch.testing.assert_close(keeping_odds(kept), chances / (1 - chances))


def test_known_odds_save_bits_on_choices_that_follow_them() -> None:
    kept = (torch.rand(200, 32, generator=seeded(1)) + torch.linspace(0, 1, 32)).argsort(1).argsort(1) >= 24
    assert float(choice_bits(kept, keeping_odds(kept)).mean()) < position_bits(32, 8) - 3
