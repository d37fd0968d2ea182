"""The PixelCNN: what each logit depends on, incremental drawing, inpainting, guidance."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from masked_memory.models.codes import Filling
from masked_memory.pipeline.machine import generator
from masked_memory.rivals.priors import pixelcnn
from masked_memory.rivals.priors.pixelcnn import PixelCNN, code_losses, draw
from toys import TINY_PIXELCNN, tiny_generator, tiny_pixelcnn

SIDE, K = 5, 11
DRAWN = Filling(temperature=1.0)


def influence(model: PixelCNN) -> Tensor:
    """(N, N) bool: whether the logits at n depend on the code at m, by the gradient."""
    telling = model.tell(1, torch.ones(1, model.config.facts) if model.config.facts else None)
    embedded = torch.randn(1, model.config.code_dim, SIDE, SIDE, requires_grad=True)
    logits = model.predict(embedded, telling)
    weights = torch.randn(K, dtype=logits.dtype)
    rows = []
    for n in range(SIDE * SIDE):
        (gradient,) = torch.autograd.grad((logits.flatten(2)[0, :, n] * weights).sum(), embedded, retain_graph=True)
        rows.append(gradient.abs().sum(1).flatten() > 0)
    return torch.stack(rows)


@pytest.mark.parametrize(("kernel", "layers", "facts"), [(3, 4, 0), (5, 2, 0), (5, 3, 2), (7, 2, 0)])
def test_logits_depend_on_exactly_the_positions_before(kernel: int, layers: int, facts: int) -> None:
    """None at or after the position, and all before it: no blind spot (van den Oord et al. 2016, figure 1)."""
    model = tiny_pixelcnn(kernel=kernel, layers=layers, facts=facts)
    assert model.config.reach >= SIDE - 1
    before = torch.ones(SIDE * SIDE, SIDE * SIDE).tril(-1).bool()
    assert torch.equal(influence(model), before)


def test_a_small_reach_is_known() -> None:
    """With too few layers far positions have no influence; `reach` says so, and training warns."""
    model = tiny_pixelcnn(layers=1)
    assert model.config.reach == 1 < SIDE - 1
    seen = influence(model)
    assert not seen.triu().any() and int(seen[-1].sum()) < SIDE * SIDE - 1


def test_log_likelihoods_sum_to_one() -> None:
    """Over all grids of 2x2 with 3 codes: it is a distribution."""
    grids = torch.cartesian_prod(*[torch.arange(3)] * 4)
    with torch.no_grad():
        total = (-code_losses(tiny_pixelcnn(codebook_size=3, grid=2, layers=2), grids).double().sum(1)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 2.5])
def test_incremental_drawing_draws_the_same_codes(kernel: int, guidance: float | None) -> None:
    """Code by code, with the same draws, new grids and inpainting alike."""
    model = tiny_pixelcnn(kernel=kernel, facts=0 if guidance is None else 3)
    facts = None if guidance is None else torch.randn(6, 3)
    filling = replace(DRAWN, guidance_scale=1.0 if guidance is None else guidance, top_k=7, temperature=1.2)
    tokens = torch.randint(K, (6, SIDE * SIDE))
    for mask in (torch.ones_like(tokens, dtype=torch.bool), torch.rand(tokens.shape) < 0.4):
        naive, fast = (draw(model, tokens, mask, filling, generator(1), facts, way) for way in (False, True))
        assert torch.equal(naive, fast)
        assert torch.equal(fast[~mask], tokens[~mask])
        assert (fast != tokens)[mask].any()


@pytest.mark.parametrize("told", [False, True])
def test_incremental_logits_are_those_of_the_whole_grid(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each position, given the same codes before it; and they do depend on these."""
    model, tokens = tiny_pixelcnn(kernel=5, facts=2 if told else 0), torch.randint(K, (6, SIDE * SIDE))
    facts = torch.randn(6, 2) if told else None
    with torch.no_grad():
        whole = model(tokens.view(6, SIDE, SIDE), facts).flatten(2)
    found: list[Tensor] = []

    def given_codes(logits: Tensor, *others: object) -> Tensor:
        found.append(logits)
        return tokens[:, len(found) - 1]

    monkeypatch.setattr(pixelcnn, "choose_codes", given_codes)
    drawn = draw(model, torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool), DRAWN, None, facts)
    assert torch.equal(drawn, tokens)
    assert torch.allclose(torch.stack(found, dim=2), whole, rtol=1e-4, atol=1e-4)
    assert (whole[0, :, 1:] - whole[1, :, 1:]).abs().amax(0).min() > 0.01


def test_drawing_follows_the_likelihoods() -> None:
    """2x1 codes of a 2x2 grid, drawn often, come as often as their probability says."""
    model, count = tiny_pixelcnn(codebook_size=2, grid=2, layers=2), 20000
    mask = torch.ones(count, 4, dtype=torch.bool)
    drawn = draw(model, torch.zeros(count, 4, dtype=torch.long), mask, DRAWN, generator(2))
    grids = torch.cartesian_prod(*[torch.arange(2)] * 4)
    with torch.no_grad():
        wanted = (-code_losses(model, grids).sum(1)).exp()
    found = torch.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / count
    assert torch.allclose(found, wanted, atol=4 * 0.5 / math.sqrt(count))


def test_inpainting_ignores_later_codes_and_heeds_earlier_ones() -> None:
    """What a PixelCNN can and cannot do: the known code after a hole does not matter, the one before it does."""
    model = tiny_pixelcnn()
    tokens = torch.randint(K, (100, SIDE * SIDE))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 10:13] = True
    later, earlier = tokens.clone(), tokens.clone()
    later[:, 13:] = (later[:, 13:] + 1) % K
    earlier[:, :10] = (earlier[:, :10] + 1) % K
    first, second, third = (
        draw(model, given, mask, DRAWN, generator(5))[:, 10:13] for given in (tokens, later, earlier)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_guidance_is_between_and_beyond_told_and_untold() -> None:
    """Scale 1 is plain conditioning, 0 tells nothing; equation 6 of Ho and Salimans with w = scale - 1."""
    model = tiny_pixelcnn(facts=2)
    tokens = torch.zeros(8, SIDE * SIDE, dtype=torch.long)
    mask, facts = torch.ones_like(tokens, dtype=torch.bool), torch.randn(8, 2) * 3

    def drawn(scale: float, told: Tensor | None) -> Tensor:
        return draw(model, tokens, mask, replace(DRAWN, guidance_scale=scale), generator(4), told)

    assert torch.equal(drawn(0.0, facts), drawn(1.0, None))
    assert torch.allclose(drawn(1.0 + 1e-6, facts).float(), drawn(1.0, facts).float())
    assert not torch.equal(drawn(3.0, facts), drawn(1.0, facts))
    assert not torch.equal(drawn(1.0, facts), drawn(1.0, None))


def test_facts_for_a_prior_without_are_refused() -> None:
    with pytest.raises(ValueError, match="facts given to a prior that was trained without"):
        tiny_pixelcnn()(torch.zeros(1, SIDE, SIDE, dtype=torch.long), torch.ones(1, 2))
    with pytest.raises(ValueError, match="facts given to a prior that was trained without"):
        tiny_generator()(torch.zeros(1, 6), torch.ones(1, 2))
    with pytest.raises(ValueError, match="kernel is 4; expected an odd number"):
        replace(TINY_PIXELCNN, kernel=4)


def test_dropped_labels_teach_the_untold_vector() -> None:
    """Rows that are told nothing reach the facts' weights by no gradient, and the others not the untold vector."""
    model = tiny_pixelcnn(facts=2)
    tokens, facts = torch.randint(K, (3, SIDE * SIDE)), torch.randn(3, 2)
    code_losses(model, tokens, facts, torch.zeros(3, dtype=torch.bool)).mean().backward()
    assert model.telling is not None and model.telling.linear.weight.grad is not None
    assert model.telling.linear.weight.grad.abs().sum() == 0 and model.telling.untold.grad.abs().sum() > 0
    model.zero_grad()
    code_losses(model, tokens, facts, torch.ones(3, dtype=torch.bool)).mean().backward()
    assert model.telling.linear.weight.grad.abs().sum() > 0 and model.telling.untold.grad.abs().sum() == 0
