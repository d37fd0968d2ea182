"""Changes of pictures in training: moved, mirrored, turned, blurred.

Pictures are float (B, C, H, W) in [-1, 1]. All draws come from a generator on the CPU; every picture has its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.pipeline.draws import Draws, for_rows
from masked_memory.pipeline.machine import sent


def augment(x: Tensor, kind: str, generator: Draws) -> Tensor:
    """(B, C, H, W) square: `flip` mirrors every second picture left-right; `shift` also moves each by up to a sixteenth
    of its side, its border repeated; `dihedral` mirrors also upside down and across the diagonal, so that each of the
    eight is equally likely. `none` draws nothing."""
    if kind == "none":
        return x
    coins = for_rows(len(x), generator, lambda n, g: torch.rand(3, n, 1, 1, 1, generator=g) < 0.5, dim=1)
    drawn = sent(coins, x.device)
    x = torch.where(drawn[0], x.flip(3), x)
    if kind == "shift":
        x = shift_repeated(x, max(1, x.shape[-1] // 16), generator)
    if kind == "dihedral":
        x = torch.where(drawn[1], x.flip(2), x)
        x = torch.where(drawn[2], x.transpose(2, 3), x)
    return x.contiguous(memory_format=torch.channels_last)


def shift_repeated(pictures: Tensor, most: int, generator: Draws) -> Tensor:
    """Each picture moved by -most to most pixels down and across; what is missing repeats the border."""
    padded = F.pad(pictures, (most, most, most, most), mode="replicate")
    tops, lefts = for_rows(len(pictures), generator, lambda n, g: torch.randint(2 * most + 1, (n, 2), generator=g)).T
    return _cut_out(padded, tops, lefts, *pictures.shape[2:])


def shift_reflected(pictures: Tensor, most: int, generator: Draws) -> Tensor:
    """Each picture moved by -most to most pixels down and across; edges are reflected in."""
    if most == 0:
        return pictures
    padded = F.pad(pictures, (most, most, most, most), mode="reflect")
    tops, lefts = for_rows(
        len(pictures), generator, lambda n, g: torch.randint(0, 2 * most + 1, (2, n), generator=g), dim=1
    )
    return _cut_out(padded, tops, lefts, *pictures.shape[2:])


def _cut_out(pictures: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) -> (B, C, height, width), from each picture's own corner; tops, lefts: (B,)."""
    device = pictures.device
    rows = sent(tops, device)[:, None] + torch.arange(height, device=device)  # (B, height)
    columns = sent(lefts, device)[:, None] + torch.arange(width, device=device)  # (B, width)
    batch = torch.arange(len(pictures), device=device)
    cut = pictures.permute(0, 2, 3, 1)[batch[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, h, w, C)
    return cut.permute(0, 3, 1, 2)


def flip(pictures: Tensor, generator: Draws) -> Tensor:
    """Each picture left-right with probability one half, by its own coin."""
    coins = sent(for_rows(len(pictures), generator, lambda n, g: torch.rand(n, generator=g) < 0.5), pictures.device)
    return torch.where(coins[:, None, None, None], pictures.flip(3), pictures)


def degrade(pictures: Tensor, cell: int, generator: Draws) -> Tensor:
    """(B, C, H, W) in [-1, 1] with random cells of `cell` x `cell` pixels blurred, and in half of the pictures others
    in mid grey. A recalled picture is blurred where the memory is unsure; who judges it must have seen such pictures.

    Each picture has its own share of blurred cells (0 to 1), strength (0 to 1) and share of grey cells (0 to 3/4); one
    in four stays as it is.
    """
    from torchvision.transforms.v2.functional import gaussian_blur

    b, _, height, width = pictures.shape
    size = 2 * (5 * cell // 4) + 1
    with torch.autocast(pictures.device.type, enabled=False):
        blurred = gaussian_blur(pictures, [min(size, 2 * height - 1), min(size, 2 * width - 1)], [0.6 * cell] * 2)
    drawn = for_rows(b, generator, lambda n, g: torch.rand(4, n, 1, 1, 1, generator=g), dim=1)
    shares, strengths, grey_shares, coins = sent(drawn, pictures.device)

    def cells(share: Tensor) -> Tensor:
        grid = (1, -(-height // cell), -(-width // cell))
        noise = for_rows(b, generator, lambda n, g: torch.rand(n, *grid, generator=g))
        chosen = (sent(noise, pictures.device) < share).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        return chosen[:, :, :height, :width].to(pictures.dtype)

    strengths = strengths * (coins < 0.75)
    mixed = torch.lerp(pictures, blurred, cells(shares) * strengths)
    return mixed * (1 - cells(0.75 * grey_shares * (coins < 0.5)))
