"""Priors over grids: what each logit depends on, incremental drawing, inpainting, guidance, the GAN's way to codes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from measuring.nearest import share_of_copies
from models.codes import Filling
from pipeline.machine import generator
from priors.gan import (
    Discriminator,
    Generator,
    LatentGANConfig,
    discriminator_loss,
    fill_from_pool,
    generate,
    gradient_penalty,
)
from priors.grids import describe_grids, energy_distance, neighbours, pairwise_distance
from priors.pixelcnn import PixelCNN, PixelCNNConfig, _Incremental, code_losses, draw

SIDE, K = 5, 11
CONFIG = PixelCNNConfig(codebook_size=K, grid=SIDE, code_dim=4, width=8, layers=4, kernel=3, dropout=0.0)
DRAWN = Filling(temperature=1.0)


def lively(config: PixelCNNConfig = CONFIG) -> PixelCNN:
    """Random weights large enough that everything that can matter does."""
    torch.manual_seed(3)
    model = PixelCNN(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.embed.weight.mul_(3)
        model.head[-1].bias.zero_()
    return model


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
    model = lively(replace(CONFIG, kernel=kernel, layers=layers, facts=facts))
    assert model.config.reach >= SIDE - 1
    before = torch.ones(SIDE * SIDE, SIDE * SIDE).tril(-1).bool()
    assert torch.equal(influence(model), before)


def test_a_small_reach_is_known() -> None:
    """With too few layers far positions have no influence; `reach` says so, and training warns."""
    model = lively(replace(CONFIG, layers=1))
    assert model.config.reach == 1 < SIDE - 1
    seen = influence(model)
    assert not seen.triu().any() and int(seen[-1].sum()) < SIDE * SIDE - 1


def test_log_likelihoods_sum_to_one() -> None:
    """Over all grids of 2x2 with 3 codes: it is a distribution."""
    config = replace(CONFIG, codebook_size=3, grid=2, layers=2)
    grids = torch.cartesian_prod(*[torch.arange(3)] * 4)
    with torch.no_grad():
        total = (-code_losses(lively(config), grids).double().sum(1)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 2.5])
def test_incremental_drawing_draws_the_same_codes(kernel: int, guidance: float | None) -> None:
    """Code by code, with the same draws, new grids and inpainting alike."""
    model = lively(replace(CONFIG, kernel=kernel, facts=0 if guidance is None else 3))
    facts = None if guidance is None else torch.randn(6, 3)
    filling = replace(DRAWN, guidance_scale=1.0 if guidance is None else guidance, top_k=7, temperature=1.2)
    tokens = torch.randint(K, (6, SIDE * SIDE))
    for mask in (torch.ones_like(tokens, dtype=torch.bool), torch.rand(tokens.shape) < 0.4):
        naive, fast = (draw(model, tokens, mask, filling, generator(1), facts, way) for way in (False, True))
        assert torch.equal(naive, fast)
        assert torch.equal(fast[~mask], tokens[~mask])
        assert (fast != tokens)[mask].any()


@pytest.mark.parametrize("told", [False, True])
def test_incremental_logits_are_those_of_the_whole_grid(told: bool) -> None:
    """At each position, given the same codes before it; and they do depend on these."""
    model, tokens = lively(replace(CONFIG, kernel=5, facts=2 if told else 0)), torch.randint(K, (6, SIDE * SIDE))
    facts = torch.randn(6, 2) if told else None
    with torch.no_grad():
        whole = model(tokens.view(6, SIDE, SIDE), facts).flatten(2)
        reader, found = _Incremental(model, 6, facts, False), []
        for place in range(SIDE * SIDE):
            found.append(reader.logits(place))
            reader.put(place, tokens[:, place])
    assert torch.allclose(torch.stack(found, dim=2), whole, rtol=1e-4, atol=1e-4)
    assert (whole[0, :, 1:] - whole[1, :, 1:]).abs().amax(0).min() > 0.01


def test_drawing_follows_the_likelihoods() -> None:
    """2x1 codes of a 2x2 grid, drawn often, come as often as their probability says."""
    config = replace(CONFIG, codebook_size=2, grid=2, layers=2)
    model, count = lively(config), 20000
    mask = torch.ones(count, 4, dtype=torch.bool)
    drawn = draw(model, torch.zeros(count, 4, dtype=torch.long), mask, DRAWN, generator(2))
    grids = torch.cartesian_prod(*[torch.arange(2)] * 4)
    with torch.no_grad():
        wanted = (-code_losses(model, grids).sum(1)).exp()
    found = torch.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / count
    assert torch.allclose(found, wanted, atol=4 * 0.5 / math.sqrt(count))


def test_inpainting_ignores_later_codes_and_heeds_earlier_ones() -> None:
    """What a PixelCNN can and cannot do: the known code after a hole does not matter, the one before it does."""
    model = lively()
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
    model = lively(replace(CONFIG, facts=2))
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
        lively()(torch.zeros(1, SIDE, SIDE, dtype=torch.long), torch.ones(1, 2))
    with pytest.raises(ValueError, match="facts given to a prior that was trained without"):
        tiny_generator()(torch.zeros(1, 6), torch.ones(1, 2))
    with pytest.raises(ValueError, match="kernel is 4; expected an odd number"):
        replace(CONFIG, kernel=4)


def test_dropped_labels_teach_the_untold_vector() -> None:
    """Rows that are told nothing reach the facts' weights by no gradient, and the others not the untold vector."""
    model = lively(replace(CONFIG, facts=2))
    tokens, facts = torch.randint(K, (3, SIDE * SIDE)), torch.randn(3, 2)
    code_losses(model, tokens, facts, torch.zeros(3, dtype=torch.bool)).mean().backward()
    assert model.telling is not None and model.telling.linear.weight.grad is not None
    assert model.telling.linear.weight.grad.abs().sum() == 0 and model.telling.untold.grad.abs().sum() > 0
    model.zero_grad()
    code_losses(model, tokens, facts, torch.ones(3, dtype=torch.bool)).mean().backward()
    assert model.telling.linear.weight.grad.abs().sum() > 0 and model.telling.untold.grad.abs().sum() == 0


# --- the GAN ----------------------------------------------------------------------------------------------------------


def tiny_generator(grid: int = SIDE, facts: int = 0) -> Generator:
    torch.manual_seed(1)
    model = Generator(LatentGANConfig(K, grid, code_dim=4, width=8, noise_dim=6, facts=facts))
    model.start_from(torch.randn(K, 4) * 5 + 2, torch.randint(K, (20, grid * grid)))
    return model.eval()


@pytest.mark.parametrize("grid", [2, 4, 5, 8, 14, 32])
def test_generator_makes_grids_of_any_side(grid: int) -> None:
    model = tiny_generator(grid)
    made = model(torch.randn(3, 6))
    assert made.indices.shape == (3, grid, grid) and made.vectors.shape == (3, 4, grid, grid)
    assert 0 <= int(made.indices.min()) <= int(made.indices.max()) < K
    scores = Discriminator(model.config)(made.vectors)
    assert scores.shape == (3,)


def test_codes_are_the_nearest_to_the_vectors_that_carry_the_gradient() -> None:
    model = tiny_generator(facts=2)
    kept: list[Tensor] = []
    model.output.register_forward_hook(lambda module, inputs, output: kept.append(output))
    made = model(torch.randn(2, 6), torch.randn(2, 2))
    kept[0].retain_grad()
    flat = kept[0].detach().permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(torch.cdist(flat, model.codebook).argmin(1).view(2, SIDE, SIDE), made.indices)
    weights = torch.randn_like(made.vectors)
    (made.vectors * weights).sum().backward()
    assert torch.equal(kept[0].grad, weights)
    loss = (kept[0] - model.embed(made.indices.flatten(1))).detach().square().mean()
    assert float(made.commitment_loss.detach()) == pytest.approx(float(loss), rel=1e-5)


def test_hinge_loss_of_known_scores() -> None:
    assert float(discriminator_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.0]))) == pytest.approx(1.0)


def test_pool_fills_with_what_fits_the_known_codes() -> None:
    model = tiny_generator()
    pool = generate(model, 50, generator(0))
    mask = torch.rand(10, SIDE * SIDE) < 0.4
    filled = fill_from_pool(model, pool[:10].masked_fill(mask, 0), mask, pool)
    assert torch.equal(filled[~mask], pool[:10][~mask])
    assert (filled == pool[:10]).float().mean() > 0.9  # the grid itself is in the pool
    assert torch.equal(generate(model, 50, generator(0)), pool)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_collapse_shows_in_the_measures(draws: torch.Generator) -> None:
    varied = torch.randint(K, (40, 16), generator=draws)
    known = neighbours(varied, K).unique()
    one_grid = varied[:1].expand(40, -1)
    one_code = torch.full((40, 16), 3)
    measures = [describe_grids(tokens, K, known) for tokens in (varied, one_grid, one_code)]
    assert [m["pairwise_distance"] for m in measures[1:]] == [0, 0] and measures[0]["pairwise_distance"] > 0.8
    assert measures[2]["distinct_codes"] == 1 and measures[2]["perplexity"] == pytest.approx(1)
    assert measures[0]["real_pairs"] == measures[1]["real_pairs"] == 1
    assert pairwise_distance(varied[:1]) == 0


def test_pairs_tell_beside_from_above() -> None:
    grid = torch.tensor([[0, 1, 2, 3]])  # 0 1 over 2 3
    known = neighbours(grid, K)
    assert known.shape == (1, 4)
    turned = torch.tensor([[0, 2, 1, 3]])
    assert describe_grids(turned, K, known.unique())["real_pairs"] == 0


def test_energy_distance_sees_shift_and_collapse(draws: torch.Generator) -> None:
    a, b = torch.randn(300, 5, generator=draws), torch.randn(300, 5, generator=draws)
    assert abs(energy_distance(a, b)) < 0.02
    assert energy_distance(a, b + 1) > 0.2 and energy_distance(a, b[:1].expand(300, -1)) > 0.2


def test_copies_are_counted() -> None:
    train = torch.arange(12).view(3, 4)
    assert share_of_copies(torch.cat([train[:1], train[:1] + 1]), train) == 0.5
    assert np.isclose(share_of_copies(train, train), 1)


def test_gradient_penalty_is_half_the_squared_slope():
    """Scores w . x have the slope w everywhere; twice as steep is four times as much, and it can be learnt from."""
    weight = torch.tensor([3.0, -4.0], requires_grad=True)
    seen = torch.randn(6, 2, 1, 1).requires_grad_()
    penalty = gradient_penalty((seen.flatten(1) @ weight), seen)
    assert float(penalty) == pytest.approx(25 / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())
    assert float(gradient_penalty(seen.flatten(1) @ (2 * weight), seen)) == pytest.approx(50)


def test_the_discriminator_sees_whether_all_grids_are_alike():
    torch.manual_seed(0)
    judge = Discriminator(LatentGANConfig(8, 4, 3, width=8)).eval()
    grids = torch.randn(5, 3, 4, 4)
    alike = grids[:1].expand(5, -1, -1, -1)
    with torch.no_grad():
        assert float((judge(grids)[0] - judge(alike)[0]).abs()) > 1e-6, "the same grid among others"
        torch.testing.assert_close(judge(alike), judge(alike[:2])[:1].expand(5))


def test_the_discriminator_adds_the_projection_of_what_is_told_in_full():
    """Equation 4 of Miyato and Koyama 2018: an inner product with the features, so that its weight does not shrink with
    the number of channels."""
    torch.manual_seed(0)
    judge = Discriminator(LatentGANConfig(8, 4, 3, width=8, facts=5)).eval()
    grids, facts = torch.randn(6, 3, 4, 4), torch.eye(5)[[0, 1, 2, 3, 4, 0]]
    with torch.no_grad():
        plain = judge(grids, facts, torch.zeros(6, dtype=torch.bool))
        added = judge(grids, facts) - plain
        pooled = judge.body(grids).mean((2, 3))  # (B, W)
        vectors = judge.telling.linear(facts) - judge.telling.untold
        torch.testing.assert_close(added, torch.einsum("bw,bw->b", pooled, vectors), atol=1e-6, rtol=1e-4)
    assert float(added.abs().min()) > 1e-6
