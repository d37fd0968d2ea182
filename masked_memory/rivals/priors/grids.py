"""What generated grids are like beside real ones: collapse, neighbourhoods, copies of training pictures.

Letters: B batch, N = h*w tokens in raster order, K codes, P numbers of a picture. Tokens are long (B, N).
"""

import torch
from torch import Tensor

from masked_memory.pipeline.metrics import perplexity


def describe_grids(tokens: Tensor, codebook_size: int, known_pairs: Tensor) -> dict[str, float]:
    """Collapse shows as few distinct codes in a grid, a low perplexity of all codes, or grids that are alike.

    distinct_codes: mean over grids. pairwise_distance: mean share of tokens that differ between two grids.
    real_pairs: share of neighbouring codes (beside or above each other) that stand so in some training grid, too.
    """
    ordered = tokens.sort(dim=1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1
    pairs = neighbours(tokens, codebook_size).flatten()
    return {
        "distinct_codes": float(distinct.float().mean()),
        "perplexity": perplexity(torch.bincount(tokens.flatten(), minlength=codebook_size)),
        "pairwise_distance": pairwise_distance(tokens),
        "real_pairs": float(torch.isin(pairs, known_pairs).float().mean()),
    }


def neighbours(tokens: Tensor, codebook_size: int) -> Tensor:
    """(B, pairs): a number for each pair of neighbours, other ones for side by side than for one above the other."""
    side = round(tokens.shape[1] ** 0.5)
    grids = tokens.view(-1, side, side)
    beside = grids[:, :, :-1] * codebook_size + grids[:, :, 1:]
    above = grids[:, :-1] * codebook_size + grids[:, 1:] + codebook_size**2
    return torch.cat([beside.flatten(1), above.flatten(1)], dim=1)


def pairwise_distance(tokens: Tensor, shifts: int = 16) -> float:
    """Mean share of tokens that differ between two grids, over up to `shifts` partners of each; 0 for one grid."""
    partners = range(1, min(len(tokens), shifts + 1))
    found = [(tokens != tokens.roll(shift, 0)).float().mean() for shift in partners]
    return float(torch.stack(found).mean()) if found else 0.0


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| over the rows of (A, P) and (B, P), divided by the root of P (Szekely and
    Rizzo 2013). 0 for equal distributions; large when b is unlike a, or less varied. Unbiased: it can fall below 0."""
    within = [torch.cdist(x, x).sum() / (len(x) * max(1, len(x) - 1)) for x in (a, b)]
    return float((2 * torch.cdist(a, b).mean() - within[0] - within[1]) / a.shape[1] ** 0.5)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between Gaussians fitted to the rows of (A, F) and (B, F): |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^0.5)
    (Heusel et al. 2017, equation 6, with other features). Fewer rows make it larger: compare as many with as many."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).view(a.shape[1], -1), torch.cov(b.T).view(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # S_a^(1/2); S_a S_b and root S_b root share eigenvalues
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float((apart + cov_a.trace() + cov_b.trace() - 2 * overlap).clamp(min=0))


def shuffled(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """The same codes at other places of their grid: what a prior without any idea of neighbourhood would make."""
    order = torch.rand(tokens.shape, generator=generator).argsort(1)
    return tokens.gather(1, order)
