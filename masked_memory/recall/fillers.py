"""Who fills in: the DistilBERT. Others, such as the rivals, have the same form; see `recall.hole`.

Letters: B batch, N = h*w tokens, K codes, M masked tokens of a batch, D code dimension. Masks are bool, True = masked.
`told` of a hole: classes (B,).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from masked_memory.models.codes import Filling, choose_codes
from masked_memory.models.distilbert import guided_logits
from masked_memory.recall.completing import complete
from masked_memory.recall.hole import Filled, Filler, Hole, check_decoding, check_kept, joined
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import DECODINGS

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
