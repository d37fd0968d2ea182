"""What a codebook is made from: vectors of a batch, and how often each code is chosen; and a gradient through it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.pipeline.draws import Draws, whole
from masked_memory.pipeline.world import World


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


def rotate(z: Tensor, e: Tensor) -> Tensor:
    """Rotation trick (Fifty et al. 2024, arXiv 2410.06424, eq. 4): value e, gradient rotated and scaled back onto z.

    z, e: (M, D). The rotation that takes z to e, and the scale |e|/|z|, count as constants.
    """
    length_z, length_e = z.norm(dim=1, keepdim=True), e.norm(dim=1, keepdim=True)
    z_hat = (z / length_z.clamp(min=1e-6)).detach()
    e_hat = (e / length_e.clamp(min=1e-6)).detach()
    r = F.normalize(z_hat + e_hat, dim=1)
    turned = z - 2 * (z * r).sum(1, keepdim=True) * r + 2 * (z * z_hat).sum(1, keepdim=True) * e_hat
    return turned * (length_e / length_z.clamp(min=1e-6)).detach()
