"""Distances between sets of grids: known answers, collapse, correlations."""

import math

import pytest
import torch

from masked_memory.rivals.priors.grids import (
    describe_grids,
    energy_distance,
    frechet_distance,
    neighbours,
    pairwise_distance,
)


def test_frechet_distance_of_known_gaussians():
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(noise, noise) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(noise, noise + torch.tensor([3.0, 4.0])) == pytest.approx(25, rel=1e-4)
    # N(0, 1) and N(0, 9) in each of two dimensions: (3 - 1)^2 * 2
    assert frechet_distance(noise, 3 * noise) == pytest.approx(8, rel=0.02)


def test_frechet_distance_sees_correlations_and_is_symmetric():
    noise = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0))
    tied = torch.stack([noise[:, 0], noise[:, 0]], dim=1)  # covariance [[1, 1], [1, 1]]
    # tr(I + S - 2 S^(1/2)) with eigenvalues 0 and 2 of S
    expected = 2 + 2 - 2 * math.sqrt(2)
    assert frechet_distance(noise, tied) == pytest.approx(expected, rel=0.02)
    assert frechet_distance(tied, noise) == pytest.approx(frechet_distance(noise, tied), rel=1e-6)
    assert frechet_distance(torch.randn(50, 1), torch.randn(50, 1)) >= 0


SIDE, K = 5, 11


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
