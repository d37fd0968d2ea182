"""Random draws for the rows of a batch, of which each process may have a part.

All processes draw for the whole batch from equal generators, and each takes what belongs to its own rows: so two
processes with B rows draw what one with 2 B would.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A generator that is equal in all `size` processes, of which this is number `rank`; rows lie in their order."""

    generator: torch.Generator
    rank: int
    size: int


Draws = torch.Generator | Part


def whole(draws: Draws) -> torch.Generator:
    """The generator, to draw what is one for all processes."""
    return draws.generator if isinstance(draws, Part) else draws


def for_rows(count: int, draws: Draws, draw: Callable[[int, torch.Generator], Tensor], dim: int = 0) -> Tensor:
    """What belongs to the `count` rows of this process of draw(rows of all processes, generator); rows lie at `dim`."""
    if not isinstance(draws, Part):
        return draw(count, draws)
    return draw(count * draws.size, draws.generator).narrow(dim, draws.rank * count, count)
