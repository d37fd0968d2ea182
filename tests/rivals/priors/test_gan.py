"""The GAN over codes: its grids, its way to the nearest codes, its losses."""

import pytest
import torch
from torch import Tensor

from masked_memory.pipeline.machine import generator
from masked_memory.rivals.priors.gan import (
    Discriminator,
    LatentGANConfig,
    discriminator_loss,
    fill_from_pool,
    generate,
    gradient_penalty,
)
from toys import tiny_generator

SIDE, K = 5, 11


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
