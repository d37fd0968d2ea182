"""Those who fill in with a network: DistilBERT, PixelCNN, GAN, masked VQ-VAE, masked autoencoder. A new one goes here;
see `recall.hole`.

Letters: B batch, N = h*w tokens, K codes, M masked tokens of a batch, D code dimension, F facts. Masks are bool,
True = masked. `told` of a hole: classes (B,) for the DistilBERT, facts (B, F) for PixelCNN and GAN.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models.codes import Filling, choose_codes
from models.distilbert import guided_logits
from models.masked_autoencoder import MaskedAutoencoder
from priors.gan import Generator, fill_from_pool, generate
from priors.pixelcnn import PixelCNN, draw
from recall.completing import complete
from recall.hole import Filled, Filler, Hole, check_decoding, check_kept, joined
from recall.memory import Memory
from recall.simple_fillers import known_pixels, missing_pixels
from settings.strategies import DECODINGS
from vqvae import VQVAE

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


class Way(NamedTuple):
    """A filler asked for one decoding, as it stands in a table. shown: what it is called there.

    Raises ValueError when the filler changes tokens that are known.
    """

    filler: Filler
    decoding: str
    shown: str

    def fill(self, hole: Hole, draws: torch.Generator | None = None) -> Filled:
        return check_kept(hole, self.filler.fill(hole, self.decoding, draws))


def with_temperature(filling: Filling, decoding: str) -> Filling:
    """The likeliest codes unless they are drawn; drawn ones at temperature 1 where none is set."""
    return replace(filling, temperature=(filling.temperature or 1.0) if decoding == "sample" else 0.0)


@dataclass(frozen=True)
class MeanOfDraws:
    """What to expect, for a filler that can only draw: the mean code vector of `count` draws of the same hole. The
    codes behind it are the most frequent ones."""

    filler: Filler
    codebook: Tensor  # (K, D)
    count: int
    decodings: tuple[str, ...] = ("expected",)

    @property
    def name(self) -> str:
        return f"{self.filler.name}, mean of {self.count} draws"

    @property
    def passes(self) -> int:
        return self.filler.passes * self.count

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        check_decoding(self, decoding)
        drawn = torch.stack([self.filler.fill(hole, "sample", draws).tokens for _ in range(self.count)])
        return Filled(drawn.mode(0).values, self.codebook[drawn].mean(0))


class Prediction(NamedTuple):
    """What a DistilBERT says about a hole in one pass; all decodings come from it."""

    hole: Hole
    logits: Tensor  # (M, K)
    probabilities: Tensor  # (M, K)
    codebook: Tensor  # (K, D)
    filling: Filling

    def decode(self, decoding: str, draws: torch.Generator | None = None) -> Filled:
        """The codes of the hole, or for `expected` the code vectors to expect beside the likeliest codes."""
        tokens, mask = self.hole.tokens, self.hole.mask
        chosen = choose_codes(self.logits, with_temperature(self.filling, decoding), draws)
        grids = tokens.masked_scatter(mask, chosen)
        if decoding != "expected":
            return Filled(grids)
        vectors = self.codebook[tokens]
        vectors[mask] = (self.probabilities @ self.codebook).to(vectors)
        return Filled(grids, vectors, kept=~mask)

    def decode_all(self, decodings: Sequence[str], draws: torch.Generator | None) -> dict[str, Filled]:
        return {decoding: self.decode(decoding, draws) for decoding in decodings}


@dataclass(frozen=True)
class DistilFiller:
    """A DistilBERT, all at once or a part in each of several passes. bf16: it is asked in bfloat16. at_once: so many
    pictures at a time; which are drawn together does not change what is drawn."""

    name: str
    model: "DistilBertForMaskedLM"
    codebook: Tensor  # (K, D)
    filling: Filling = Filling()
    bf16: bool = False
    at_once: int = 250  # pictures

    @property
    def passes(self) -> int:
        return self.filling.passes

    @property
    def decodings(self) -> tuple[str, ...]:
        return tuple(DECODINGS)

    def predictions(self, hole: Hole) -> Iterator[Prediction]:
        """Everything that is masked, given what is known, in one pass; for `at_once` pictures after the other."""
        for start in range(0, len(hole.tokens), self.at_once):
            yield self._predict(hole.part(slice(start, start + self.at_once)))

    @torch.no_grad()
    def _predict(self, hole: Hole) -> Prediction:
        with torch.autocast(hole.tokens.device.type, torch.bfloat16, enabled=self.bf16):
            logits = guided_logits(self.model, hole.tokens, hole.mask, hole.told, self.filling.guidance_scale)
        return Prediction(hole, logits, logits.softmax(1), self.codebook, self.filling)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        return self.fill_all(hole, (decoding,), draws)[decoding]

    def fill_all(self, hole: Hole, decodings: Sequence[str], draws: torch.Generator | None) -> dict[str, Filled]:
        """Several decodings at once: those that draw nothing come from the same passes."""
        for decoding in decodings:
            check_decoding(self, decoding)
        if self.passes == 1:
            parts = [prediction.decode_all(decodings, draws) for prediction in self.predictions(hole)]
            return {decoding: joined([part[decoding] for part in parts]) for decoding in decodings}
        found: dict[str, Filled] = {}
        undrawn = None
        for decoding in decodings:
            if decoding == "sample":
                found[decoding] = self._in_passes(hole, decoding, draws)
                continue
            undrawn = undrawn or self._in_passes(hole, "expected", draws if self.filling.choice_noise else None)
            found[decoding] = undrawn if decoding == "expected" else Filled(undrawn.tokens)
        return found

    def _in_passes(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        filling = with_temperature(self.filling, decoding)
        found = complete(self.model, hole, self.codebook, filling, draws, self.bf16, self.at_once)
        return (
            Filled(found.indices, found.expected, kept=~hole.mask) if decoding == "expected" else Filled(found.indices)
        )


def distil_filler(
    memory: Memory, filling: Filling = Filling(), model: "DistilBertForMaskedLM | None" = None, name: str = "DistilBERT"
) -> DistilFiller:
    """The memory's own DistilBERT, or another one over the same codes, in the precision of the memory."""
    return DistilFiller(name, model or memory.distil, memory.codebook, filling, memory.bf16, memory.at_once)


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
