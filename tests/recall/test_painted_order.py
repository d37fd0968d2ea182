"""Keeping one token after the other, judged by what is painted. K = 8 codes."""

import pytest
import torch
from torch import Tensor

from masked_memory.pipeline.metrics import to_unit
from masked_memory.recall.memory import Memory
from masked_memory.recall.painted_order import Judge, Keeper, candidates_at, painted_order
from toys import certain_memory, painted_vectors, tiny_memory

K, N = 8, 16


def some_tokens(batch: int = 5, side: int = 4) -> Tensor:
    return torch.randint(0, K, (batch, side**2), generator=torch.Generator().manual_seed(3))


# Keeping one after the other


def test_a_keeper_by_hand() -> None:
    keeper = Keeper(torch.zeros(2, 4, dtype=torch.long))
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, -1.0]])
    assert keeper.best(scores, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    keeper.keep(keeper.best(scores, 2))
    assert keeper.left == 2
    assert keeper.kept.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert keeper.ranks.tolist() == [[-1, 3, -1, 2], [3, 2, -1, -1]]
    assert keeper.best(scores, 9).tolist() == [[2, 0], [2, 3]], "what is kept is not found again; no more than are left"
    keeper.keep(torch.tensor([[0], [2]]))
    keeper.keep(keeper.best(scores, 1))
    assert keeper.ranks.tolist() == [[1, 3, 0, 2], [3, 2, 1, 0]]
    assert keeper.left == 0 and keeper.kept.all()


# Painted error


def whole_error(memory: Memory, tokens: Tensor, kept: Tensor) -> tuple[float, float]:
    """Of one picture (1, N): mean squared pixel error, and squared distances of the code vectors, both over all."""
    mask = ~kept
    vectors = memory.codebook[tokens].clone()
    if mask.any():
        vectors[mask] = memory.logits(tokens, mask).softmax(1) @ memory.codebook
    wrong = to_unit(painted_vectors(memory, vectors)) - to_unit(memory.paint_tokens(tokens))
    return float(wrong.square().mean()), float((vectors - memory.codebook[tokens]).square().sum())


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("code_share", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_with_full_look_ahead_each_step_is_the_greedy_optimum(side: int, code_share: float) -> None:
    """Brute force over all tokens not kept yet: none leaves less error in the whole picture than the one chosen."""
    memory, tokens = tiny_memory(side), some_tokens(3, side)
    count = side**2
    orders = painted_order(memory, tokens, 1, count, count, code_share)
    for row, order in zip(tokens, orders, strict=True):
        kept = torch.zeros(1, count, dtype=torch.bool)
        scales = whole_error(memory, row[None], kept)
        for step, place in enumerate(order.argsort(descending=True).tolist()):
            totals = {}
            for candidate in (~kept[0]).nonzero().flatten().tolist():
                tried = kept.clone()
                tried[0, candidate] = True
                pixels, codes = whole_error(memory, row[None], tried)
                totals[candidate] = (1 - code_share) * pixels / scales[0] + code_share * codes / scales[1]
            assert totals[place] <= min(totals.values()) + 1e-5
            assert step > 0 or max(totals.values()) - min(totals.values()) > 1e-2, "there is something to choose"
            kept[0, place] = True


@torch.no_grad()
def test_the_painted_error_by_hand() -> None:
    """Mid grey is expected at tokens 1 to 3; half of the range off is 0.25. Token 0 is right without being kept."""
    memory, tokens = certain_memory(), torch.tensor([[2, 0, 1, 2]])
    judge = Judge(memory, tokens, code_share=0.0)
    row, kept = torch.tensor([0]), torch.zeros(1, 4, dtype=torch.bool)
    errors = judge.errors(row, kept)
    torch.testing.assert_close(errors, torch.tensor([[0.0, 0.5, 0.0, 0.5]]))  # shares of 0.25 + 0.25
    kept[0, 1] = True
    torch.testing.assert_close(judge.errors(row, kept), torch.tensor([[0.0, 0.0, 0.0, 0.5]]))
    assert painted_order(memory, tokens, 1).tolist() == [[1, 3, 0, 2]]


@torch.no_grad()
def test_the_bits_of_a_token_are_surprisal_and_position_by_hand() -> None:
    """White is certain at token 0, black or white equally likely elsewhere: 0 and 1 bits; a position of 4: 2 bits."""
    judge = Judge(certain_memory(), torch.tensor([[2, 0, 2, 2]]), code_share=0.0)
    torch.testing.assert_close(judge.first_bits, torch.tensor([[2.0, 3.0, 3.0, 3.0]]))
    kept = torch.tensor([[False, True, False, False]])
    _, bits = judge.errors_and_bits(torch.tensor([0]), kept)
    torch.testing.assert_close(bits[~kept], torch.tensor([2.0, 3.0, 3.0]))


@torch.no_grad()
def test_per_bit_a_cheap_token_is_kept_before_a_dear_one_of_the_same_error() -> None:
    """Tokens 1 and 3 err alike; white at 3 is likelier than black at 1."""
    memory, tokens = certain_memory(), torch.tensor([[2, 0, 1, 2]])
    believed = torch.tensor([[0.0, 0.0, 1.0], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    memory.logits = lambda tokens, mask: (believed + 1e-30).log().expand(len(tokens), -1, -1)[mask]
    assert painted_order(memory, tokens, 1)[0].argsort(descending=True).tolist()[:2] == [1, 3]
    for look_ahead in (0, 4):
        order = painted_order(memory, tokens, 1, look_ahead, 4, per_bit=True)
        assert order[0].argsort(descending=True).tolist()[:2] == [3, 1]


@torch.no_grad()
def test_with_full_look_ahead_per_bit_each_step_takes_away_most_for_a_bit() -> None:
    """Brute force over all tokens not kept yet."""
    memory, tokens = tiny_memory(3), some_tokens(3, 3)
    judge = Judge(memory, tokens, 0.5)
    orders = painted_order(memory, tokens, 1, 9, 9, 0.5, per_bit=True)
    for row in range(3):
        kept = torch.zeros(1, 9, dtype=torch.bool)
        for place in orders[row].argsort(descending=True).tolist():
            errors, bits = judge.errors_and_bits(torch.tensor([row]), kept)
            gains = {}
            for candidate in (~kept[0]).nonzero().flatten().tolist():
                tried = kept.clone()
                tried[0, candidate] = True
                left = judge.errors(torch.tensor([row]), tried).sum()
                gains[candidate] = float((errors.sum() - left) / bits[0, candidate])
            assert gains[place] >= max(gains.values()) - 1e-5
            kept[0, place] = True


@torch.no_grad()
def test_a_token_that_is_kept_is_painted_without_error() -> None:
    memory, tokens = tiny_memory(), some_tokens()
    errors = Judge(memory, tokens, code_share=0.5).errors(torch.arange(5), torch.ones(5, N, dtype=torch.bool))
    assert errors.abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("code_share", [0.0, 0.3, 1.0])
def test_errors_are_shares_of_those_of_a_picture_of_which_nothing_is_kept(code_share: float) -> None:
    memory, tokens = tiny_memory(batch_size=2), some_tokens()
    judge = Judge(memory, tokens, code_share)
    rows = torch.tensor([3, 0, 3])
    errors = judge.errors(rows, torch.zeros(3, N, dtype=torch.bool))
    torch.testing.assert_close(errors.sum(1), torch.ones(3))
    torch.testing.assert_close(errors[0], errors[2])
    assert not torch.allclose(errors[0], errors[1]), "each row asks about its own picture"


def test_fewer_and_fewer_candidates_are_tried() -> None:
    assert [candidates_at(kept, 4, 8) for kept in range(6)] == [8, 6, 4, 2, 0, 0]
    assert [candidates_at(kept, 3, 1) for kept in range(4)] == [1, 1, 1, 0]
    assert candidates_at(0, 0, 8) == 0
    assert all(candidates_at(kept, 9, 9) == 9 - kept for kept in range(9)), "a full look-ahead tries all that are left"
