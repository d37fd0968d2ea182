"""What a codebook is made from: vectors of a batch, and how often each code is chosen."""

import math

import torch
from torch import Tensor

from pipeline.draws import Draws, whole
from pipeline.world import World


def count_codes(indices: Tensor, size: int) -> Tensor:
    """How often each of `size` codes is chosen, (K,) float; unlike bincount it does not make a GPU wait."""
    flat = indices.flatten()
    return torch.zeros(size, device=flat.device).index_add_(0, flat, torch.ones(len(flat), device=flat.device))


def spread_rows(rows: Tensor, count: int, generator: Draws | None, world: World) -> Tensor:
    """`count` of the rows (M, D) of all processes, from a drawn start, in steps of the golden section, which spread
    over pictures and places; none twice while there are enough. A GPU does not have to wait for it."""
    total = len(rows) * world.size
    start, step = int(torch.randint(total, (1,), generator=_of(generator))), int(0.618 * total)
    while math.gcd(step, total) != 1:
        step += 1
    picked = (start + step * torch.arange(count, device=rows.device)) % total  # of all processes' rows
    if world.size == 1:
        return rows[picked]
    own = picked - world.rank * len(rows)
    mine = (own >= 0) & (own < len(rows))
    return world.sum(torch.where(mine[:, None], rows[own.clamp(0, len(rows) - 1)], 0))


def draw_rows(rows: Tensor, count: int, generator: Draws | None) -> Tensor:
    """`count` rows of (M, D), drawn without replacement while there are enough."""
    order = torch.randperm(len(rows), generator=_of(generator))
    return rows[order.repeat(-(-count // len(rows)))[:count].to(rows.device)]


def _of(generator: Draws | None) -> torch.Generator | None:
    return None if generator is None else whole(generator)
