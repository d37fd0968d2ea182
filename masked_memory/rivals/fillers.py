"""Rivals that fill in with a network: PixelCNN, GAN, masked VQ-VAE, masked autoencoder. A new one goes here; see
`recall.hole`.

Letters: B batch, N = h*w tokens, F facts. Masks are bool, True = masked. `told` of a hole: facts (B, F).
"""

from dataclasses import dataclass

import torch

from masked_memory.models.codes import Filling
from masked_memory.recall.fillers import with_temperature
from masked_memory.recall.hole import Filled, Hole, check_decoding
from masked_memory.recall.simple_fillers import known_pixels, missing_pixels
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder
from masked_memory.rivals.priors.gan import Generator, fill_from_pool, generate
from masked_memory.rivals.priors.pixelcnn import PixelCNN, draw
from masked_memory.stages.vqvae import VQVAE


@dataclass(frozen=True)
class PixelCNNFiller:
    """Code after code, given those before it in raster order; known codes that come later are not seen.

    incremental False asks the whole grid for each code and gives the same codes, slower.
    """

    name: str
    model: PixelCNN
    filling: Filling = Filling()
    incremental: bool = True
    decodings: tuple[str, ...] = ("argmax", "sample")

    @property
    def passes(self) -> int:
        return self.model.config.grid**2

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        filling = with_temperature(self.filling, decoding)
        return Filled(draw(self.model, hole.tokens, hole.mask, filling, draws, hole.told, self.incremental))


@dataclass(frozen=True)
class GANFiller:
    """All codes at once; a part that is missing comes from the best of a pool of generated grids."""

    name: str
    model: Generator
    pool: int
    passes: int = 1
    decodings: tuple[str, ...] = ("sample",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        if draws is None:
            raise ValueError("a GAN draws noise, which needs a generator")
        told = hole.told
        if hole.mask.all():
            return Filled(generate(self.model, len(hole.tokens), draws, told))
        asked = None if told is None else told[torch.arange(self.pool, device=told.device) % len(told)]
        pool = generate(self.model, self.pool, draws, asked)
        return Filled(fill_from_pool(self.model, hole.tokens, hole.mask, pool))


@dataclass(frozen=True)
class MaskedVQVAEFiller:
    """A VQ-VAE trained to paint hidden components gets the picture with all components hidden in the masked cells: one
    pass, no prior. It was not trained on holes, only on missing components."""

    name: str
    model: VQVAE
    passes: int = 1
    decodings: tuple[str, ...] = ("argmax",)

    @torch.no_grad()
    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        if hole.pixels is None:
            raise ValueError("a masked VQ-VAE fills in pictures, but there is none")
        painted = self.model.decode_indices(self.model.encode_indices(hole.pixels))
        return Filled(hole.tokens, pictures=painted)


@dataclass(frozen=True)
class MAEFiller:
    """A masked autoencoder predicts the pixels of masked cells from the known ones, which stay; one pass, no codes."""

    name: str
    model: MaskedAutoencoder
    passes: int = 1
    decodings: tuple[str, ...] = ("expected",)

    @property
    def stride(self) -> int:
        """Pixels per cell along each side."""
        return self.model.config.stride

    @torch.no_grad()
    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        pixels = known_pixels(hole, self.name)
        missing = missing_pixels(hole, pixels, self.stride).unsqueeze(1)
        predicted = self.model(pixels, hole.mask).clamp(-1, 1)
        return Filled(hole.tokens, pictures=torch.where(missing, predicted, pixels))
