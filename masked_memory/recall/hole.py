"""The one seam for filling in: what is known goes in, what stands in the gap comes out.

Letters: B batch, C channels, H W pixels, N = h*w tokens in raster order, D code dimension. Pictures are float [-1, 1].
Masks are bool, True = masked, to be filled.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from masked_memory.stages.masking import touched_pixels


class Hole(NamedTuple):
    """What is known. Whoever fills cannot look at what is masked: tokens are 0 there, pixels mid-grey."""

    tokens: Tensor  # (B, N) long
    mask: Tensor  # (B, N) bool
    told: Tensor | None = None  # what each picture is said to be, in the form of the filler; None tells nothing
    pixels: Tensor | None = None  # (B, C, H, W), for those who work on them; None: there is no picture

    def part(self, rows: slice) -> "Hole":
        """Those of some pictures."""
        return Hole(*(None if each is None else each[rows] for each in self))  # type: ignore[arg-type]


class Filled(NamedTuple):
    """What a filler answers. At most one of vectors and pictures is set; `Memory.paint` paints all three."""

    tokens: Tensor  # (B, N) the grids that stand for it; a classifier of codes looks at these
    vectors: Tensor | None = None  # (B, N, D): paint these instead of the tokens
    pictures: Tensor | None = None  # (B, C, H, W): already painted
    kept: Tensor | None = None  # (B, N) bool, True = known; beside vectors that are to be expected in the others

    def part(self, rows: slice) -> "Filled":
        """Those of some pictures."""
        return Filled(*(None if each is None else each[rows] for each in self))  # type: ignore[arg-type]


def joined(parts: Sequence[Filled]) -> Filled:
    """Parts of the same kind, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Filled(*(None if each[0] is None else torch.cat(each) for each in zip(*parts, strict=True)))  # type: ignore[arg-type]


class Filler(Protocol):
    """A way to fill in."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        ...

    @property
    def passes(self) -> int:
        """Runs of a network for each picture; 0: none is asked."""
        ...

    @property
    def decodings(self) -> tuple[str, ...]:
        """Which of settings.strategies.DECODINGS it can answer with."""
        ...

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        """Known tokens stay as they are. draws: on the CPU, for decodings that draw.

        Raises ValueError for a decoding that it does not have.
        """
        ...


def dig(
    tokens: Tensor, mask: Tensor, told: Tensor | None = None, pixels: Tensor | None = None, stride: int | None = None
) -> Hole:
    """The hole that a mask (B, N) makes in grids (B, N), and in their pictures (B, C, H, W) with `stride` pixels per
    token along each side. Raises ValueError for pixels without a stride."""
    if pixels is not None:
        if stride is None:
            raise ValueError("pixels are given without the stride, their number per token along each side")
        missing = touched_pixels(mask, pixels.shape[2], pixels.shape[3], stride)
        pixels = pixels.masked_fill(missing.unsqueeze(1), 0.0)
    return Hole(tokens.masked_fill(mask, 0), mask, told, pixels)


def nothing_known(count: int, tokens: int, device: torch.device, told: Tensor | None = None) -> Hole:
    """`count` empty grids: a filler makes new ones of them."""
    blank = torch.zeros(count, tokens, dtype=torch.long, device=device)
    return Hole(blank, torch.ones_like(blank, dtype=torch.bool), told)


def check_kept(hole: Hole, filled: Filled) -> Filled:
    """What was filled, as it is. Raises ValueError when a filler changed tokens that are known."""
    changed = (filled.tokens != hole.tokens) & ~hole.mask
    if changed.any():
        raise ValueError(f"{int(changed.sum())} known tokens were changed by filling in; expected none")
    return filled


def check_decoding(filler: Filler, decoding: str) -> None:
    """Raises ValueError for a decoding that the filler does not have."""
    if decoding not in filler.decodings:
        raise ValueError(f"{filler.name} cannot decode as {decoding!r}; expected one of: {', '.join(filler.decodings)}")
