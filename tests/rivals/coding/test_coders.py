"""Coders of toy models: what is coded comes back, and the models are asked about nothing that was not sent."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.recall.choosing import PACES, Choosing, choose_order
from masked_memory.recall.memory import Memory
from masked_memory.rivals.coding.bitstreams import Coder, Receiver, Sender, there_and_back
from masked_memory.rivals.coding.coders import (
    code_by_pixelcnn,
    code_by_table,
    code_in_groups,
    code_kept,
    code_replayed,
    replay,
    spread_groups,
)
from masked_memory.rivals.coding.positions import choice_bits, keeping_odds
from masked_memory.rivals.priors.pixelcnn import code_losses
from masked_memory.stages.masking import halton_order
from toys import CPU, seeded, tiny_memory, tiny_pixelcnn

B, K, N = 5, 8, 16
NATS = 1 / torch.tensor(2.0).log()  # bits in a nat
QUICK = Choosing(choosing_passes=5)
pytestmark = pytest.mark.usefixtures("no_gradients")


def some_tokens(seed: int = 3, codes: int = K, tokens: int = N) -> Tensor:
    return torch.randint(0, codes, (B, tokens), generator=seeded(seed))


def some_kept(count: int) -> Tensor:
    return torch.rand(B, N, generator=seeded(8)).argsort(1).argsort(1) < count


def coders(memory: Memory, count: int) -> dict[str, Coder]:
    kept = some_kept(count)
    return {
        "groups": lambda channel: code_in_groups(channel, memory, kept, 3),
        "kept": lambda channel: code_kept(channel, memory, keeping_odds(some_kept(count).roll(1, 1)), count, 3),
        "selective": lambda channel: code_replayed(channel, memory, PACES["selective"](memory, QUICK), count),
        "additive": lambda channel: code_replayed(channel, memory, PACES["additive"](memory, QUICK), count),
    }


@pytest.mark.parametrize("name", ["groups", "kept", "selective", "additive"])
@pytest.mark.parametrize("count", [0, 1, 7, N])
def test_kept_tokens_come_back(name: str, count: int) -> None:
    coder = coders(tiny_memory(), count)[name]
    sender = Sender(some_tokens(), some_kept(count))
    coded = there_and_back(coder, sender)
    assert (coded.bits < coded.ideal_bits + 9).all() and (count > 0 or not coded.bits.any())


@pytest.mark.parametrize("name", ["groups", "kept", "selective", "additive"])
def test_codes_that_are_not_kept_change_nothing(name: str) -> None:
    """Noise stands in their place, and the streams stay the same."""
    coder, tokens = coders(tiny_memory(), 6)[name], some_tokens()
    sender = Sender(tokens, some_kept(6))
    _, sent = coder(sender)
    noisy = Sender(torch.where(sent, tokens, some_tokens(9)), some_kept(6))
    coder(noisy)
    assert noisy.streams() == sender.streams()


@pytest.mark.parametrize("name", ["groups", "kept", "selective", "additive"])
def test_a_reader_with_less_memory_reads_the_same(name: str) -> None:
    sender = Sender(some_tokens(), some_kept(7))
    sent = coders(tiny_memory(), 7)[name](sender)
    received = coders(tiny_memory(budget=1), 7)[name](Receiver(sender.streams()))
    assert all(torch.equal(*each) for each in zip(sent, received, strict=True))


@pytest.mark.parametrize("strategy", PACES)
@pytest.mark.parametrize("count", [1, 4, 7, N])
def test_a_replay_keeps_what_the_strategy_keeps(strategy: str, count: int) -> None:
    memory, tokens = tiny_memory(), some_tokens()
    order = choose_order(strategy, memory, tokens, torch.Generator(), QUICK)
    found, ranks = replay(Sender(tokens), memory, PACES[strategy](memory, QUICK), count)
    assert torch.equal(ranks, torch.where(order >= N - count, order, -1))
    assert torch.equal(found, torch.where(ranks >= 0, tokens, 0))


@pytest.mark.parametrize("strategy", PACES)
def test_the_first_questions_of_a_replay_are_a_replay_of_fewer_tokens(strategy: str) -> None:
    memory, tokens = tiny_memory(), some_tokens()
    pace = PACES[strategy](memory, QUICK)
    sender = Sender(tokens)
    _, ranks = replay(sender, memory, pace, N)
    for count in (1, 5, 12):
        kept = ranks >= N - count
        back, found = replay(Receiver(sender.streams(count)), memory, pace, count)
        assert torch.equal(found >= 0, kept)
        assert torch.equal(back, torch.where(kept, tokens, 0))


def test_the_first_code_of_a_replay_costs_its_surprisal_given_nothing() -> None:
    memory, tokens = tiny_memory(), some_tokens()
    sender = Sender(tokens)
    replay(sender, memory, PACES["selective"](memory, QUICK), 1)
    centre = 2 * 4 + 2
    logits = memory.logits(tokens, torch.ones(B, N, dtype=torch.bool)).view(B, N, K)[:, centre]
    expected = F.cross_entropy(logits, tokens[:, centre], reduction="none") * NATS
    torch.testing.assert_close(sender.ideal_bits().float(), expected)


def test_groups_cost_the_surprisal_given_those_before() -> None:
    memory, tokens, kept = tiny_memory(), some_tokens(), some_kept(7)
    sender = Sender(tokens)
    code_in_groups(sender, memory, kept, 3)
    sent, expected = torch.zeros_like(kept), torch.zeros(B)
    for group in spread_groups(kept, 4, 3):
        losses = torch.zeros(B, N)
        losses[~sent] = F.cross_entropy(memory.logits(tokens, ~sent), tokens[~sent], reduction="none")
        expected += (losses * group).sum(1) * NATS
        sent |= group
    torch.testing.assert_close(sender.ideal_bits().float(), expected, rtol=1e-4, atol=1e-4)


def test_positions_stand_in_the_same_stream() -> None:
    memory, tokens, kept = tiny_memory(), some_tokens(), some_kept(7)
    odds = keeping_odds(kept)
    both, codes = Sender(tokens, kept), Sender(tokens)
    code_kept(both, memory, odds, 7, 3)
    code_in_groups(codes, memory, kept, 3)
    torch.testing.assert_close(both.ideal_bits(), codes.ideal_bits() + choice_bits(kept, odds))


@pytest.mark.parametrize(("count", "passes", "sizes"), [(7, 3, [3, 2, 2]), (2, 5, [1, 1]), (N, 4, [4] * 4), (0, 3, [])])
def test_groups_are_a_partition_in_halton_order(count: int, passes: int, sizes: list[int]) -> None:
    kept = some_kept(count)
    groups = spread_groups(kept, 4, passes)
    assert [group.sum(1).tolist() for group in groups] == [[size] * B for size in sizes]
    assert not groups or torch.equal(torch.stack(groups).sum(0), kept.long())
    order = halton_order(4, 4).expand(B, N)
    for before, after in pairwise(groups):
        for row in range(B):
            assert order[row][before[row]].max() < order[row][after[row]].min()


def test_more_passes_ask_the_model_with_more_known() -> None:
    memory, tokens = tiny_memory(), some_tokens()
    everything = torch.ones(B, N, dtype=torch.bool)
    costs = []
    for passes in (1, 4):
        sender = Sender(tokens)
        code_in_groups(sender, memory, everything, passes)
        costs.append(sender.ideal_bits())
    assert not torch.allclose(*costs)


# Whole grids


def test_whole_grids_by_a_table_come_back_at_the_cost_of_the_table() -> None:
    chances = torch.rand(N, K, generator=seeded(2)).double()
    chances /= chances.sum(1, keepdim=True)
    tokens = some_tokens()
    coded = there_and_back(lambda channel: code_by_table(channel, chances, CPU), Sender(tokens))
    expected = -chances[torch.arange(N), tokens].log2().sum(1)
    torch.testing.assert_close(coded.ideal_bits, expected)
    assert (coded.bits < expected + 9).all()


def test_whole_grids_by_a_pixelcnn_come_back_at_the_cost_of_its_losses() -> None:
    model, tokens = tiny_pixelcnn(), some_tokens(codes=11, tokens=25)
    coded = there_and_back(lambda channel: code_by_pixelcnn(channel, model), Sender(tokens))
    expected = code_losses(model, tokens).sum(1) * NATS
    torch.testing.assert_close(coded.ideal_bits.float(), expected, rtol=1e-4, atol=1e-3)
    assert (coded.bits < coded.ideal_bits + 9).all()


def test_a_pixelcnn_that_can_be_told_is_told_nothing() -> None:
    model, tokens = tiny_pixelcnn(facts=2), some_tokens(codes=11, tokens=25)
    coded = there_and_back(lambda channel: code_by_pixelcnn(channel, model), Sender(tokens))
    expected = code_losses(model, tokens).sum(1) * NATS
    torch.testing.assert_close(coded.ideal_bits.float(), expected, rtol=1e-4, atol=1e-3)
