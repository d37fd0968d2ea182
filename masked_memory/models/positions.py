"""Where cells of a grid lie to each other, as attention sees it.

A learnt bias of attention for each offset of two cells (Liu et al. 2021, arXiv 2103.14030, section 3.2) that starts
from distances (as in Press et al. 2022, arXiv 2108.12409): from a few thousand pictures, attention to near cells is
otherwise not learnt in time.

Letters: B batch, N = h*w cells in raster order, V visible cells of the picture that has most.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 2.0  # of the bias of attention at the start, per cell of distance


class NearAndFar(nn.Module):
    """The learnt bias of attention between two cells, by how many rows and columns lie between them.

    At the start each head looks in a direction of its own, at the cell beside (right, down, left, up with four heads).
    What lies farther from there counts less.
    """

    offsets: Tensor

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        span = 2 * grid - 1
        between = rows_and_columns(grid) - rows_and_columns(grid).unsqueeze(1) + grid - 1  # (N, N, 2), from 0 on
        self.register_buffer("offsets", between[..., 0] * span + between[..., 1], persistent=False)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        beside = torch.stack([angles.sin(), angles.cos()], dim=1)  # (heads, 2)
        away = rows_and_columns(span) - (grid - 1) - beside.unsqueeze(1)  # (heads, span * span, 2)
        self.table = nn.Parameter(-SLOPE * away.norm(dim=2))

    def forward(self, places: Tensor | None = None) -> Tensor:
        """(1, heads, 1+N, 1+N), or (B, heads, 1+V, 1+V) of the cells `places` (B, V); 0 to and from what stands before
        the grid."""
        offsets = self.offsets if places is None else self.offsets[places.unsqueeze(2), places.unsqueeze(1)]
        bias = self.table[:, offsets]
        bias = bias.unsqueeze(0) if places is None else bias.transpose(0, 1)
        return F.pad(bias, (1, 0, 1, 0))


def rows_and_columns(grid: int) -> Tensor:
    """(N, 2) long: row and column of each cell of a square grid, in raster order."""
    cells = torch.arange(grid**2)
    return torch.stack([cells // grid, cells % grid], dim=1)
