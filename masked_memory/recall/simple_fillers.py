"""Simple ways to fill in, without a network or on its answer: what a completion must be better than.

Letters: B batch, C channels, N = h*w tokens in raster order, K codes, D code dimension. Pictures are float [-1, 1].
Masks are bool, True = masked, to be filled.

Those that work on pixels ("mean picture", "biharmonic inpainting") take the known pixels as they are in the hole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from masked_memory.recall.hole import Filled, Filler, Hole, check_decoding
from masked_memory.recall.memory import Memory
from masked_memory.stages.masking import touched_pixels


@dataclass(frozen=True)
class AsItIs:
    """Fills nothing: the tokens as they are in the hole."""

    name: str = "nothing forgotten"
    passes: int = 0
    decodings: tuple[str, ...] = ("argmax",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        return Filled(hole.tokens)


@dataclass(frozen=True)
class NotCompleted:
    """The average code vector of the training grids wherever a token is masked: what is left without completion."""

    codebook: Tensor  # (K, D)
    blank: Tensor  # (D,)
    name: str = "not completed"
    passes: int = 0
    decodings: tuple[str, ...] = ("expected",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        nearest = (self.codebook - self.blank).square().sum(1).argmin()
        vectors = torch.where(hole.mask.unsqueeze(2), self.blank, self.codebook[hole.tokens])
        return Filled(hole.tokens.masked_fill(hole.mask, int(nearest)), vectors)


@dataclass(frozen=True)
class MostFrequentCode:
    """The code that stands most often at each position of the training grids; equal ones by the lowest index."""

    memory: Memory
    name: str = "most frequent code of the position"
    passes: int = 0
    decodings: tuple[str, ...] = ("argmax",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        return Filled(torch.where(hole.mask, most_frequent_codes(self.memory), hole.tokens))


@dataclass(frozen=True)
class ExpectedCode:
    """The mean code vector of the position in the training grids."""

    memory: Memory
    name: str = "expected code of the position"
    passes: int = 0
    decodings: tuple[str, ...] = ("expected",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        memory = self.memory
        expected = memory.position_shares @ memory.codebook  # (N, D)
        grids = torch.where(hole.mask, most_frequent_codes(memory), hole.tokens)
        return Filled(grids, torch.where(hole.mask.unsqueeze(2), expected, memory.codebook[hole.tokens]))


@dataclass(frozen=True)
class NearestKept:
    """The code of the nearest token that is known."""

    memory: Memory
    name: str = "nearest kept code"
    passes: int = 0
    decodings: tuple[str, ...] = ("argmax",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        memory = self.memory
        return Filled(nearest_kept(hole.tokens, hole.mask, memory.side, most_frequent_codes(memory)))


@dataclass(frozen=True)
class MeanPicture:
    """The mean training picture (C, H, W) in masked cells, the known pixels elsewhere."""

    picture: Tensor
    stride: int
    name: str = "mean picture"
    passes: int = 0
    decodings: tuple[str, ...] = ("expected",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        pixels = known_pixels(hole, self.name)
        missing = missing_pixels(hole, pixels, self.stride).unsqueeze(1)
        return Filled(hole.tokens, pictures=torch.where(missing, self.picture.to(pixels), pixels))


@dataclass(frozen=True)
class Biharmonic:
    """Masked cells are a hole that a smooth surface closes (Damelin and Hoang 2018); a picture of which nothing is
    kept has no rim to start from and becomes the mean picture. Linear equations per picture, on the CPU: slow."""

    otherwise: MeanPicture
    name: str = "biharmonic inpainting"
    passes: int = 0
    decodings: tuple[str, ...] = ("expected",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        from skimage.restoration import inpaint_biharmonic

        check_decoding(self, decoding)
        pixels = known_pixels(hole, self.name)
        filled = self.otherwise.fill(hole, decoding, draws).pictures
        assert filled is not None
        for number, missing in enumerate(missing_pixels(hole, pixels, self.otherwise.stride)):
            if missing.all() or not missing.any():
                continue
            known = pixels[number].permute(1, 2, 0).cpu().double().numpy()  # (H, W, C); float32 loses digits
            closed = inpaint_biharmonic(known, missing.cpu().numpy(), channel_axis=-1)
            filled[number] = torch.from_numpy(closed).permute(2, 0, 1).to(pixels)
        return Filled(hole.tokens, pictures=filled)


@dataclass(frozen=True)
class Around:
    """What works on another filler's answer: its name, passes and decodings."""

    filler: Filler

    @property
    def name(self) -> str:
        return self.filler.name

    @property
    def passes(self) -> int:
        return self.filler.passes

    @property
    def decodings(self) -> tuple[str, ...]:
        return self.filler.decodings


@dataclass(frozen=True)
class KeepingPixels(Around):
    """Another filler's painting in masked cells only, the known pixels elsewhere: on the same terms as those that work
    on pixels."""

    memory: Memory

    @property
    def name(self) -> str:
        return f"{self.filler.name}, kept cells' pixels"

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        pixels = known_pixels(hole, self.name)
        filled = self.filler.fill(hole, decoding, draws)
        missing = missing_pixels(hole, pixels, self.memory.stride).unsqueeze(1)
        return Filled(filled.tokens, pictures=torch.where(missing, self.memory.paint(filled), pixels))


@dataclass(frozen=True)
class PaintedPlainly(Around):
    """Another filler's answer, for the VQ-VAE's decoder to paint also where there is a painter."""

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        return self.filler.fill(hole, decoding, draws)._replace(kept=None)


def known_pixels(hole: Hole, name: str) -> Tensor:
    """(B, C, H, W). Raises ValueError when there is no picture."""
    if hole.pixels is None:
        raise ValueError(f"{name} works on pixels, but the hole has no picture")
    return hole.pixels


def missing_pixels(hole: Hole, pixels: Tensor, stride: int) -> Tensor:
    """(B, H, W) bool: the pixels of masked cells."""
    return touched_pixels(hole.mask, pixels.shape[2], pixels.shape[3], stride)


def most_frequent_codes(memory: Memory) -> Tensor:
    """(N,): the code that stands most often at each position of the training grids; equal ones by the lowest index."""
    return memory.position_shares.argmax(1)


def nearest_kept(tokens: Tensor, mask: Tensor, side: int, otherwise: Tensor) -> Tensor:
    """(B, N) codes, in which each masked token has the code of the nearest kept one.

    Distances are Euclidean on the grid of side x side tokens; of equally near ones the first in raster order counts.
    otherwise: (N,) codes for a picture of which nothing is kept.
    """
    places = torch.arange(side * side, device=tokens.device)
    places = torch.stack([places // side, places % side], dim=1)  # (N, 2)
    distances = (places.unsqueeze(1) - places).square().sum(2)  # (N, N), squares of whole numbers: ties are exact
    rows = []
    for codes, hidden in zip(tokens, mask, strict=True):
        kept = (~hidden).nonzero().squeeze(1)
        rows.append(codes[kept[distances[:, kept].argmin(1)]] if len(kept) else otherwise)
    return torch.stack(rows)
