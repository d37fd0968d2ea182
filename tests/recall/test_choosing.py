"""What to keep: each strategy ranks each token once, by its own picture only, and does what its name says."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from masked_memory.recall.choosing import (
    ORDERS,
    PACES,
    Choosing,
    by_score,
    choose_order,
    distortion,
    greedy,
    leave_out,
    surprisal,
    unsure,
)
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages.masking import mask_first
from toys import tiny_memory

K, N = 8, 16
ASKING = tuple(name for name in STRATEGIES if not STRATEGIES[name].free)
QUICK = Choosing(choosing_passes=8, look_ahead=0.25, candidates=3)


def some_tokens(batch: int = 5, side: int = 4) -> Tensor:
    return torch.randint(0, K, (batch, side**2), generator=torch.Generator().manual_seed(3))


def order_by(
    strategy: str, tokens: Tensor, memory: Memory | None = None, seed: int = 0, choosing: Choosing = QUICK
) -> Tensor:
    return choose_order(strategy, memory or tiny_memory(), tokens, torch.Generator().manual_seed(seed), choosing)


def masks_asked(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Grows by the mask (B, N) of each question to the model."""
    asked, logits = [], memory.logits

    def note(tokens: Tensor, mask: Tensor) -> Tensor:
        asked.append(mask.clone())
        return logits(tokens, mask)

    monkeypatch.setattr(memory, "logits", note)
    return asked


# All strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_how_much_memory_there_is_makes_no_difference(strategy: str) -> None:
    tight = tiny_memory(budget=1)
    assert tight.at_once == 1
    assert torch.equal(order_by(strategy, some_tokens(), tight), order_by(strategy, some_tokens()))


def test_every_strategy_of_the_registry_has_an_order_and_a_place_of_its_own_in_figures() -> None:
    assert list(ORDERS) == list(STRATEGIES)
    assert sorted(strategy.place for strategy in STRATEGIES.values()) == list(range(len(STRATEGIES)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_ranks_each_token_once_with_nested_exact_masks(strategy: str) -> None:
    order = order_by(strategy, some_tokens())
    assert order.dtype == torch.long
    assert torch.equal(order.sort(dim=1).values, torch.arange(N).expand(5, -1))
    masks = [mask_first(order, count) for count in range(N + 1)]
    for count, (smaller, larger) in enumerate(pairwise(masks)):
        assert smaller.sum(1).tolist() == [count] * 5
        assert not (smaller & ~larger).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_chooses_the_same_again(strategy: str) -> None:
    tokens = some_tokens()
    first = order_by(strategy, tokens)
    torch.manual_seed(123)
    assert torch.equal(order_by(strategy, tokens), first)
    assert torch.equal(tokens, some_tokens()), "the grids that are handed in stay as they are"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_size_of_the_batches_makes_no_difference(strategy: str) -> None:
    tokens = some_tokens()
    assert torch.equal(order_by(strategy, tokens, tiny_memory(batch_size=2)), order_by(strategy, tokens))


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if not STRATEGIES[name].drawn])
def test_each_picture_is_ranked_as_if_it_were_alone(strategy: str) -> None:
    tokens = some_tokens()
    together = order_by(strategy, tokens, tiny_memory(batch_size=2))
    alone = torch.cat([order_by(strategy, tokens[row : row + 1]) for row in range(5)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if STRATEGIES[name].free])
def test_fixed_strategies_neither_look_at_the_picture_nor_ask_the_model(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tiny_memory()
    asked = masks_asked(memory, monkeypatch)
    assert torch.equal(order_by(strategy, some_tokens(), memory), order_by(strategy, (some_tokens() + 1) % K, memory))
    assert not asked
    assert torch.equal(order_by(strategy, some_tokens(), seed=1), order_by(strategy, some_tokens())) == (
        not STRATEGIES[strategy].drawn
    )


@pytest.mark.parametrize("strategy", ASKING)
def test_the_others_choose_differently_for_different_pictures(strategy: str) -> None:
    order = order_by(strategy, some_tokens())
    assert len({tuple(row) for row in order.tolist()}) > 1
    assert torch.equal(order_by(strategy, some_tokens(), seed=1), order), "and draw nothing"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_kept_set_follows_from_kept_codes_for_those_that_say_so(strategy: str) -> None:
    """All other codes become noise: whoever has the kept ones and the model finds the same places, or does not."""
    tokens = some_tokens()
    order = order_by(strategy, tokens)
    noise = torch.randint(0, K, tokens.shape, generator=torch.Generator().manual_seed(4))
    follows = []
    for count in range(1, N):
        mask = mask_first(order, count)
        again = order_by(strategy, torch.where(mask, noise, tokens))
        follows.append(torch.equal(mask_first(again, count), mask))
    assert all(follows) == (STRATEGIES[strategy].free or STRATEGIES[strategy].replayed)


def test_who_can_be_replayed_has_a_pace() -> None:
    assert set(PACES) == {name for name, strategy in STRATEGIES.items() if strategy.replayed}


def test_the_strategies_are_different_ones() -> None:
    orders = {strategy: tuple(order_by(strategy, some_tokens()).flatten().tolist()) for strategy in STRATEGIES}
    assert len(set(orders.values())) == len(STRATEGIES)


def test_an_unknown_strategy_is_refused_with_all_known_ones() -> None:
    with pytest.raises(ValueError, match="'best'") as refused:
        order_by("best", some_tokens())
    assert all(name in str(refused.value) for name in STRATEGIES)


# Scores


def test_scores_by_hand() -> None:
    """One token with p = (1/2, 1/4, 1/4), another with p = (0, 1/5, 4/5); codes at (0, 0), (4, 0), (0, 8)."""
    memory = tiny_memory()
    memory.codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0]])
    logits = torch.tensor([[0.5, 0.25, 0.25], [1e-30, 0.2, 0.8]]).log() + 3  # any constant may be added
    true = torch.tensor([1, 2])
    torch.testing.assert_close(unsure(memory, logits, true), torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(surprisal(memory, logits, true), torch.tensor([4.0, 1.25]).log())
    # expected (1, 2), true (4, 0): 9 + 4; expected (0.8, 6.4), true (0, 8): 0.64 + 2.56
    torch.testing.assert_close(distortion(memory, logits, true), torch.tensor([13.0, 3.2]))


def test_the_lowest_score_is_forgotten_first_and_equal_ones_in_raster_order() -> None:
    ranks = by_score(torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    assert ranks.tolist() == [[3, 0, 2, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
def test_leaving_out_masks_every_token_exactly_once(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, tokens = tiny_memory(side), some_tokens(3, side)
    asked = masks_asked(memory, monkeypatch)
    with torch.no_grad():
        found = leave_out(memory, tokens, lambda memory, logits, true: true.float())
    assert torch.equal(torch.stack(asked).sum(0), torch.ones_like(tokens))
    assert len(asked) == min(8, side**2)
    assert torch.equal(found, tokens.float()), "each score stands where its token does"


def test_leaving_out_scores_each_token_given_the_others() -> None:
    """By hand for a group of its own: with at most eight tokens each is masked alone."""
    memory, tokens = tiny_memory(2), some_tokens(3, 2)
    with torch.no_grad():
        found = leave_out(memory, tokens, surprisal)
        for token in range(4):
            mask = torch.zeros(3, 4, dtype=torch.bool)
            mask[:, token] = True
            logits = memory.logits(tokens, mask)
            by_hand = -logits.log_softmax(1)[torch.arange(3), tokens[:, token]]
            torch.testing.assert_close(found[:, token], by_hand)


@pytest.mark.parametrize(("strategy", "score"), [("direct", unsure), ("surprisal", surprisal)])
def test_strategies_that_rank_once_go_by_their_score(strategy: str, score: object) -> None:
    memory, tokens = tiny_memory(), some_tokens()
    with torch.no_grad():
        scores = leave_out(memory, tokens, score)
    by_rank = scores.gather(1, order_by(strategy, tokens).argsort(1))
    assert (by_rank.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("step", [1, 3, 16])
def test_greedy_keeps_the_highest_score_longest(step: int) -> None:
    memory, wanted = tiny_memory(), torch.rand(5, N)
    memory.logits = lambda tokens, mask: wanted[mask].unsqueeze(1)

    def known(memory: Memory, logits: Tensor, true: Tensor) -> Tensor:
        return logits[:, 0]

    assert torch.equal(greedy(memory, some_tokens(), known, step), by_score(wanted))


def test_greedy_asks_again_after_each_token_that_it_keeps() -> None:
    """Here the model is least sure right behind the last kept token, so tokens are kept from 5 on, one by one."""
    memory = tiny_memory()

    def logits(tokens: Tensor, mask: Tensor) -> Tensor:
        confident = torch.zeros(*mask.shape, K)
        confident[..., 0] = 5.0
        behind = mask & (~mask).roll(1, dims=1)
        confident[behind] = 0.0
        return confident[mask]

    memory.logits = logits
    ranks = greedy(memory, some_tokens(2), unsure, 1, first=5)
    assert ranks[0].argsort(descending=True).tolist() == [*range(5, 16), *range(5)]


@pytest.mark.parametrize("strategy", ["additive", "greedy-surprisal", "distortion", "painted"])
@pytest.mark.parametrize(
    ("passes", "masked"), [(4, [16, 12, 8, 4]), (5, [16, 13, 10, 7, 4, 1]), (1, [16]), (99, list(range(16, 0, -1)))]
)
def test_greedy_strategies_keep_a_share_in_each_pass(
    strategy: str, passes: int, masked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tiny_memory()
    asked = masks_asked(memory, monkeypatch)
    order_by(strategy, some_tokens(2), memory, choosing=Choosing(choosing_passes=passes))
    counts = [mask.sum(1).tolist() for mask in asked]
    assert counts == [[count] * 2 for count in masked]


@pytest.mark.parametrize(("side", "centre"), [(4, 2 * 4 + 2), (3, 4), (2, 3)])
def test_selective_starts_with_the_centre_and_goes_on_one_by_one(
    side: int, centre: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, tokens = tiny_memory(side), some_tokens(3, side)
    asked = masks_asked(memory, monkeypatch)
    order = order_by("selective", tokens, memory, choosing=Choosing(choosing_passes=1))
    assert (order[:, centre] == side**2 - 1).all()
    assert [mask.sum(1).tolist() for mask in asked] == [[count] * 3 for count in range(side**2 - 1, 0, -1)]


@pytest.mark.parametrize(
    ("strategy", "score"), [("selective", unsure), ("greedy-surprisal", surprisal), ("distortion", distortion)]
)
def test_at_each_step_the_highest_score_given_what_is_kept_is_kept(strategy: str, score: object) -> None:
    memory, tokens = tiny_memory(), some_tokens(1)
    sequence = order_by(strategy, tokens, choosing=Choosing(choosing_passes=99))[0].argsort(descending=True)
    mask = torch.ones(1, N, dtype=torch.bool)
    for step, place in enumerate(sequence.tolist()):
        if step > 0 or strategy != "selective":
            with torch.no_grad():
                scores = score(memory, memory.logits(tokens, mask), tokens[mask])
            assert mask.nonzero()[scores.argmax(), 1] == place
        mask[0, place] = False


@torch.no_grad()
def test_adaptive_tries_for_its_first_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """N = 16: look_ahead 0.25 tries 3, 3, 2 and 1 candidates for the first 4 tokens, then keeps 4 a pass."""
    memory = tiny_memory()
    asked = masks_asked(memory, monkeypatch)
    choosing = Choosing(choosing_passes=4, look_ahead=0.25, candidates=3)
    order_by("adaptive", some_tokens(2), memory, choosing=choosing)
    counts = [(len(mask), int(mask[0].sum())) for mask in asked]
    assert counts == [(2, 16), (6, 15), (6, 14), (4, 13), (2, 12), (2, 8), (2, 4)]


@torch.no_grad()
def test_on_a_large_grid_the_number_of_questions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """N = 64: selective keeps 4 tokens a pass beside the first; adaptive tries out 2 and 1 for the first two tokens,
    then keeps 16 a pass."""
    memory = tiny_memory(8)
    asked = masks_asked(memory, monkeypatch)
    choosing = Choosing(choosing_passes=4, selective_passes=16, look_ahead_tokens=2, candidates=2)
    order_by("selective", some_tokens(2, 8), memory, choosing=choosing)
    assert [int(mask[0].sum()) for mask in asked] == list(range(63, 0, -4))
    asked.clear()
    order_by("adaptive", some_tokens(2, 8), memory, choosing=choosing)
    counts = [(len(mask), int(mask[0].sum())) for mask in asked]
    assert counts == [(2, 64), (4, 63), (2, 62), (2, 46), (2, 30), (2, 14)]


def test_adaptive_without_look_ahead_and_codes_is_painted() -> None:
    plain = Choosing(choosing_passes=8, look_ahead=0.0, code_share=0.0)
    assert torch.equal(order_by("adaptive", some_tokens(), choosing=plain), order_by("painted", some_tokens()))
    codes = Choosing(choosing_passes=8, look_ahead=0.0, code_share=1.0)
    assert torch.equal(order_by("adaptive", some_tokens(), choosing=codes), order_by("distortion", some_tokens()))


def test_beyond_256_tokens_strategies_ask_less_often_in_proportion_to_the_side() -> None:
    choosing = Choosing(choosing_passes=24, selective_passes=64, look_ahead=0.5, look_ahead_tokens=32)
    assert [choosing.step(tokens) for tokens in (64, 256, 1024)] == [3, 11, 85]
    assert [choosing.selective_step(tokens) for tokens in (64, 256, 1024)] == [1, 4, 32]
    assert [choosing.tried(tokens) for tokens in (16, 64, 256, 1024)] == [8, 32, 32, 16]
