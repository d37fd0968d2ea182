"""What a codebook is made from: vectors of a batch, and how often each code is chosen."""

import math

import torch
from torch import Tensor


def count_codes(indices: Tensor, size: int) -> Tensor:
    """How often each of `size` codes is chosen, (K,) float; unlike bincount it does not make a GPU wait."""
    flat = indices.flatten()
    return torch.zeros(size, device=flat.device).index_add_(0, flat, torch.ones(len(flat), device=flat.device))


def spread_rows(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` rows of (M, D) from a drawn start, in steps of the golden section, which spread over pictures and places;
    none twice while there are enough. A GPU does not have to wait for it."""
    start, step = int(torch.randint(len(rows), (1,), generator=generator)), int(0.618 * len(rows))
    while math.gcd(step, len(rows)) != 1:
        step += 1
    return rows[(start + step * torch.arange(count, device=rows.device)) % len(rows)]


def draw_rows(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` rows of (M, D), drawn without replacement while there are enough."""
    order = torch.randperm(len(rows), generator=generator)
    return rows[order.repeat(-(-count // len(rows)))[:count].to(rows.device)]
