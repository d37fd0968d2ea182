"""Filling masked tokens in one pass and in several: order, confidence, draws, classes. K = 11 codes, N = 9."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import DistilBertForMaskedLM

from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import (
    guided_logits,
    masked_cross_entropy,
    masked_logits,
)
from masked_memory.recall.completing import noisy
from masked_memory.stages.masking import halton_order, hide, random_mask
from toys import complete, tiny_distil

K, N, C = 11, 9, 3


@pytest.fixture
def model() -> DistilBertForMaskedLM:
    return tiny_distil(K, N)


@pytest.fixture
def conditioned() -> DistilBertForMaskedLM:
    """Trained, as it were, with C classes."""
    return tiny_distil(K, N, classes=C)


@pytest.fixture
def grids() -> Tensor:
    return torch.randint(0, K, (4, N))


@pytest.fixture
def codebook() -> Tensor:
    """(K, D) with D = 3."""
    return torch.randn(K, 3)


@pytest.fixture
def mask(draws: torch.Generator) -> Tensor:
    return random_mask(4, N, 0.5, draws)


def test_complete_fills_what_is_masked_and_leaves_the_rest(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0, :3] = True
    mask[2] = True  # all of this picture; nothing of pictures 1 and 3
    before = grids.clone()
    completed = complete(model, grids, mask, codebook)
    assert torch.equal(grids, before), "the grid that is handed in stays as it is"
    assert torch.equal(completed.indices[~mask], grids[~mask])
    assert torch.equal(completed.indices[mask], masked_logits(model, grids, mask).argmax(1))
    assert completed.indices.max() < K


def test_the_expected_vector_is_the_mean_of_the_codes_by_their_probability(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    """Visible tokens have their own code's vector; a masked one lies at sum_k p(k) e_k."""
    expected = complete(model, grids, mask, codebook).expected
    assert expected.shape == (4, N, 3)
    assert torch.equal(expected[~mask], codebook[grids[~mask]])
    probabilities = masked_logits(model, grids, mask).softmax(1)
    by_hand = torch.stack([sum(p * e for p, e in zip(row, codebook, strict=True)) for row in probabilities])
    torch.testing.assert_close(expected[mask], by_hand, atol=1e-5, rtol=1e-5)


def test_masked_tokens_may_already_hold_mask(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    """What is forgotten need not be known: a grid with MASK in it is completed like the grid that it came from."""
    known = complete(model, grids, mask, codebook)
    forgotten = complete(model, hide(grids, mask, K), mask, codebook)
    assert torch.equal(forgotten.indices, known.indices)
    assert torch.equal(forgotten.expected, known.expected)


def test_an_empty_mask_changes_nothing(model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor) -> None:
    nothing = torch.zeros(4, N, dtype=torch.bool)
    completed = complete(model, grids, nothing, codebook)
    assert torch.equal(completed.indices, grids)
    assert torch.equal(completed.expected, codebook[grids])
    losses, hits = masked_cross_entropy(model, grids, nothing)
    assert losses.shape == (0,)
    assert hits.shape == (0,)


# Filling in several passes


def grids_seen(model: DistilBertForMaskedLM) -> list[Tensor]:
    """Grows by the grids (B, N) that the model is asked about, one entry a pass."""
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append(named["input_ids"].clone())

    model.distilbert.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def counts_seen(seen: list[Tensor]) -> list[list[int]]:
    """Masked tokens of each picture in each pass."""
    return [(ids == K).sum(1).tolist() for ids in seen]


def one_by_one(model: DistilBertForMaskedLM, grid: Tensor, mask: Tensor) -> Tensor:
    """The plain loop: again and again fill the masked token of (N,) whose likeliest code is most probable."""
    grid, mask = grid.clone(), mask.clone()
    while mask.any():
        probabilities = masked_logits(model, grid[None], mask[None]).softmax(1)
        surest = int(probabilities.amax(1).argmax())
        place = int(mask.nonzero()[surest])
        grid[place] = probabilities[surest].argmax()
        mask[place] = False
    return grid


@pytest.mark.parametrize("order", ["confidence", "halton"])
@pytest.mark.parametrize("passes", [1, 2, 5, 9, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_however_many_passes_all_masked_tokens_are_filled_and_no_other_changes(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, order: str, passes: int, temperature: float
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0, :5], mask[1], mask[2, 4] = True, True, True  # nothing of picture 3
    seen = grids_seen(model)
    draws = torch.Generator().manual_seed(0)
    completed = complete(model, hide(grids, mask, K), mask, codebook, Filling(passes, order, temperature), draws)
    assert torch.equal(completed.indices[~mask], grids[~mask])
    assert completed.indices.max() < K
    assert (completed.confidence[~mask] == 1).all()
    assert (completed.confidence[mask] > 0).all() and (completed.confidence[mask] <= 1).all()
    assert torch.equal(completed.expected[~mask], codebook[grids[~mask]])
    assert len(seen) == min(passes, N), "there is nothing left to do after as many passes as masked tokens"


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_one_pass_of_likeliest_codes_is_one_look_at_the_model(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor, order: str
) -> None:
    completed = complete(model, grids, mask, codebook, Filling(fill_order=order))
    probabilities = masked_logits(model, grids, mask).softmax(1)
    assert torch.equal(completed.indices[mask], probabilities.argmax(1))
    torch.testing.assert_close(completed.confidence[mask], probabilities.amax(1))


@pytest.mark.parametrize(
    ("masked", "passes", "expected"),
    [
        (9, 1, [9]),
        (9, 2, [9, 6]),  # floor(9 cos(pi/4)) = floor(6.36)
        (9, 4, [9, 8, 6, 3]),  # 9 cos(pi/8) = 8.31, 6.36, 9 cos(3 pi/8) = 3.44
        (4, 4, [4, 3, 2, 1]),  # 3.70, 2.83, 1.53
    ],
)
def test_each_pass_leaves_the_cosine_of_the_masked_tokens(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, masked: int, passes: int, expected: list[int]
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[:, :masked] = True
    seen = grids_seen(model)
    complete(model, grids, mask, codebook, Filling(passes))
    assert counts_seen(seen) == [[count] * 4 for count in expected]


def test_the_cosine_counts_from_each_pictures_own_masked_tokens(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0], mask[1, :4], mask[2, 0] = True, True, True
    seen = grids_seen(model)
    complete(model, grids, mask, codebook, Filling(4))
    assert counts_seen(seen) == [[9, 4, 1, 0], [8, 3, 0, 0], [6, 2, 0, 0], [3, 1, 0, 0]]


def test_what_was_filled_stays_and_is_seen_by_later_passes(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    seen = grids_seen(model)
    final = complete(model, grids, mask, codebook, Filling(3)).indices
    assert len(seen) == 3
    for ids in seen:
        assert torch.equal(ids[ids != K], final[ids != K])


def test_with_many_passes_the_surest_token_goes_first_given_those_before(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.ones(4, N, dtype=torch.bool)
    mask[:, 4] = False
    completed = complete(model, grids, mask, codebook, Filling(100)).indices
    with torch.no_grad():
        assert torch.equal(completed, torch.stack([one_by_one(model, *row) for row in zip(grids, mask, strict=True)]))
    assert not torch.equal(completed, complete(model, grids, mask, codebook).indices), "one pass answers otherwise"


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_a_picture_is_filled_as_if_it_were_alone(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, order: str
) -> None:
    mask = torch.rand(4, N) < torch.tensor([0.2, 0.5, 0.8, 1.0])[:, None]
    together = complete(model, grids, mask, codebook, Filling(4, order))
    for row in range(4):
        alone = complete(model, grids[row : row + 1], mask[row : row + 1], codebook, Filling(4, order))
        assert torch.equal(alone.indices[0], together.indices[row])
        torch.testing.assert_close(alone.confidence[0], together.confidence[row])


def test_with_many_passes_halton_fills_one_by_one_in_its_order(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    seen = grids_seen(model)
    complete(model, grids[:1], torch.ones(1, N, dtype=torch.bool), codebook, Filling(100, "halton"))
    waiting = [set((ids[0] == K).nonzero().flatten().tolist()) for ids in seen] + [set()]
    filled = [(before - after).pop() for before, after in pairwise(waiting)]
    assert filled == halton_order(3, 3).argsort().tolist()


def test_drawing_without_a_generator_is_refused(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        complete(model, grids, mask, codebook, Filling(temperature=1.0))


@pytest.mark.parametrize("passes", [1, 3])
def test_the_same_generator_draws_the_same_codes_whatever_the_global_seed(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, passes: int
) -> None:
    def drawn(seed: int) -> Tensor:
        mask = torch.ones(4, N, dtype=torch.bool)
        return complete(
            model, grids, mask, codebook, Filling(passes, temperature=1.0), torch.Generator().manual_seed(seed)
        ).indices

    first = drawn(1)
    torch.manual_seed(123)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


def test_confidence_is_the_probability_of_the_drawn_code(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor, draws: torch.Generator
) -> None:
    completed = complete(model, grids, mask, codebook, Filling(temperature=2.0), draws)
    probabilities = masked_logits(model, grids, mask).softmax(1)
    chosen = completed.indices[mask]
    assert not torch.equal(chosen, probabilities.argmax(1)), "some draws are not the likeliest code"
    torch.testing.assert_close(completed.confidence[mask], probabilities.gather(1, chosen[:, None])[:, 0])


def test_labels_are_refused_by_a_model_without_classes(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    with pytest.raises(ValueError, match="trained without classes"):
        masked_logits(model, grids, mask, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="trained without classes"):
        complete(model, grids, mask, codebook, labels=torch.zeros(4, dtype=torch.long))


def test_complete_fills_by_the_guided_logits(
    conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    guided = complete(conditioned, grids, mask, codebook, Filling(guidance_scale=8.0), labels=labels).indices
    with torch.no_grad():
        assert torch.equal(guided[mask], guided_logits(conditioned, grids, mask, labels, 8.0).argmax(1))
    assert not torch.equal(guided, complete(conditioned, grids, mask, codebook).indices)
    assert guided.max() < K, "a class is never an answer"


# --- noise on the confidence ------------------------------------------------------------------------------------------


def test_noise_falls_to_nothing_in_the_last_pass_and_needs_a_generator(draws: torch.Generator) -> None:
    sure = torch.rand(4, 9, generator=draws)
    filling = Filling(passes=4, choice_noise=4.5)
    assert torch.equal(noisy(sure, 3, filling, None), sure), "in the last pass everything is filled anyway"
    assert torch.equal(noisy(sure, 0, Filling(passes=4), None), sure)
    assert torch.equal(noisy(sure, 0, replace(filling, fill_order="halton"), None), sure)
    with pytest.raises(ValueError, match="choice_noise needs a generator"):
        noisy(sure, 0, filling, None)


def test_noise_is_gumbel_on_the_log_of_the_confidence(draws: torch.Generator) -> None:
    """The scale of pass s of S is choice_noise * (1 - s/S); a Gumbel variable has mean .5772, deviation 1.2825."""
    sure = torch.full((200, 200), 0.25)
    for step, scale in ((0, 3.0), (2, 1.0)):
        added = noisy(sure, step, Filling(passes=4, choice_noise=4.0), draws) - sure.log()
        assert float(added.mean()) == pytest.approx(0.5772 * scale, abs=0.03 * scale)
        assert float(added.std()) == pytest.approx(1.2825 * scale, abs=0.03 * scale)


def test_much_noise_makes_the_order_random_and_none_keeps_it(draws: torch.Generator) -> None:
    """By confidence the same tokens come first each time; with noise others do."""
    model, grids = tiny_distil(), torch.zeros(30, 16, dtype=torch.long)
    mask, codebook = torch.ones(30, 16, dtype=torch.bool), torch.randn(8, 4, generator=draws)
    plain = Filling(passes=4)
    found = complete(model, grids, mask, codebook, plain, draws).confidence
    assert torch.equal(found[0], found[1]), "alike grids are filled alike"
    noised = complete(model, grids, mask, codebook, replace(plain, choice_noise=50.0), draws).confidence
    assert len(noised.unique(dim=0)) > 20
