"""A memory at work: the VQ-VAE, the DistilBERT and the classifier together, for all who recall pictures.

Letters: B batch, C channels, N = h*w tokens, K codes, D code dimension. Pictures are float [-1, 1]. Masks are bool,
True = masked, to be predicted.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masked_memory.models.distilbert import masked_logits
from masked_memory.models.sizes import completing_bytes, painting_bytes
from masked_memory.pipeline.machine import rows_within
from masked_memory.pipeline.world import Alone, World
from masked_memory.recall.hole import Filled
from masked_memory.settings.judges import DEGRADED
from masked_memory.stages.vqvae import VQVAE

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

    from masked_memory.models.classifier import Classifier
    from masked_memory.models.elsewhere import ImageNetJudge


#: code vectors (B, N, D) and which tokens are known (B, N), True = known -> pictures (B, C, H, W) in [-1, 1]
PaintsVectors = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Memory:
    """All that recall needs, on one device.

    `position_shares`: (N, K), how often each code stands at each position of the training grids. `bf16`: the DistilBERT
    is asked in bfloat16, and choosing paints in it; whatever is measured is painted in float32. `classifier`: the judge
    trained with blurred and grey cells; `second_judges`: others, by their name in settings.judges.JUDGES. `painter`:
    None where the VQ-VAE's decoder paints everything. `world`: the processes that measure together. No more than
    `batch_size` pictures are asked about at once, and no more than `budget` has room for.
    """

    vqvae: VQVAE
    distil: "DistilBertForMaskedLM"
    classifier: "Classifier | None"
    position_shares: Tensor
    device: torch.device
    bf16: bool = False
    batch_size: int = 250
    budget: int = 2**30  # bytes
    second_judges: "Mapping[str, Classifier | ImageNetJudge]" = field(default_factory=dict)
    painter: "PaintsVectors | None" = None
    world: World = field(default_factory=Alone)

    def __post_init__(self) -> None:
        self.codebook = self.vqvae.codebook_vectors().detach()  # (K, D)
        self.blank = average_code(self.position_shares, self.codebook)  # (D,)
        self.side = self.vqvae.config.grid

    @property
    def at_once(self) -> int:
        """Pictures that are asked about at once."""
        completing = completing_bytes(self.tokens, len(self.codebook), self.distil.config.dim)
        return rows_within(self.budget, completing + painting_bytes(self.vqvae.config), self.batch_size)

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.side**2)

    @property
    def stride(self) -> int:
        return int(self.vqvae.config.stride)

    def grid(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, h, w)."""
        return tokens.view(len(tokens), self.side, self.side)

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N) indices."""
        found = [self.vqvae.encode_indices(pictures[rows].to(self.device)) for rows in self.batches(len(pictures))]
        return torch.cat(found).flatten(1)

    def paint(self, filled: Filled) -> Tensor:
        """What a filler answered -> (B, C, H, W); vectors to expect by the painter, where there is one."""
        return torch.cat([self._paint(filled.part(rows)) for rows in self.batches(len(filled.tokens))])

    def _paint(self, filled: Filled) -> Tensor:
        if self.painter is not None and filled.vectors is not None and filled.kept is not None:
            return self.painter(filled.vectors, filled.kept)
        return paint(self.vqvae, filled)

    def paint_tokens(self, tokens: Tensor) -> Tensor:
        """(B, N) whole grids -> (B, C, H, W)."""
        return self.paint(Filled(tokens))

    def autocast(self) -> torch.autocast:
        """The precision in which the DistilBERT is asked."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def logits(self, tokens: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(M, K) of the masked tokens, in batches, in the precision of choosing. wanted: (B, N), those of the masked
        ones that are asked for; None: all."""
        parts = []
        for rows in self.batches(len(tokens)):
            with self.autocast():
                found = masked_logits(self.distil, tokens[rows], mask[rows])
            parts.append(found if wanted is None else found[wanted[rows][mask[rows]]])
        return torch.cat(parts)

    def grids_behind(self, filled: Filled, painted: Tensor) -> Tensor:
        """(B, N): the codes that a classifier of codes looks at; of pictures that were painted without any, those that
        the VQ-VAE makes of them."""
        seen = any(judge.sees_codes for judge in self.judges.values())
        return self.encode(painted) if seen and filled.pictures is not None else filled.tokens

    @property
    def judges(self) -> "dict[str, Classifier | ImageNetJudge]":
        """All who say whether a picture is still recognisable, by name, the classifier first; empty without any."""
        first = {} if self.classifier is None else {DEGRADED: self.classifier}
        return {**first, **self.second_judges}

    def class_probabilities(self, pictures: Tensor, tokens: Tensor) -> Tensor | None:
        """(B, classes) of painted pictures and the codes (B, N) behind them; None without a classifier."""
        return None if self.classifier is None else self._ask(self.classifier, pictures, tokens).softmax(1)

    def classes_seen(self, pictures: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """judge -> (B,) the class that it sees in painted pictures with the codes (B, N) behind them."""
        return {name: self._ask(judge, pictures, tokens).argmax(1) for name, judge in self.judges.items()}

    def _ask(self, judge: "Classifier | ImageNetJudge", pictures: Tensor, tokens: Tensor) -> Tensor:
        seen = self.grid(tokens) if judge.sees_codes else pictures
        return torch.cat([judge(seen[rows]).float() for rows in self.batches(len(seen))])

    def batches(self, count: int) -> Iterator[slice]:
        """Slices of so many pictures that are asked about at once."""
        step = self.at_once
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))


def paint(vqvae: VQVAE, filled: Filled) -> Tensor:
    """What a filler answered -> (B, C, H, W) in [-1, 1]: its picture, its code vectors, or its tokens."""
    sides = (vqvae.config.grid, vqvae.config.grid)
    if filled.pictures is not None:
        return filled.pictures
    if filled.vectors is not None:
        return vqvae.decode_codes(filled.vectors.transpose(1, 2).unflatten(2, sides))
    return vqvae.decode_indices(filled.tokens.unflatten(1, sides))


def shares_by_position(tokens: Tensor, codebook_size: int) -> Tensor:
    """(pictures, N) training grids -> (N, K): how often each code stands at each position, rows sum to one."""
    counts = [torch.bincount(tokens[:, n], minlength=codebook_size) for n in range(tokens.shape[1])]
    return torch.stack(counts).float() / len(tokens)


def average_code(position_shares: Tensor, codebook: Tensor) -> Tensor:
    """(N, K) shares, (K, D) code vectors -> (D,): the mean code vector of the training grids, what is painted where
    nothing is known and nothing is completed."""
    return position_shares.mean(0) @ codebook


def baseline_probabilities(train_tokens: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """What is known without looking at the picture: (N, K) for the code and for the code of the position.

    Counts over the training grids. The code gets one pseudo-count each; the position is smoothed towards the code
    with a weight of K/8 pictures, so that rare codes do not cost infinitely much.
    """
    tokens = train_tokens.shape[1]
    overall = torch.bincount(train_tokens.flatten(), minlength=codebook_size).double() + 1
    overall = overall / overall.sum()
    counts = torch.stack([torch.bincount(train_tokens[:, n], minlength=codebook_size) for n in range(tokens)]).double()
    weight = codebook_size / 8
    by_position = (counts + weight * overall) / (len(train_tokens) + weight)
    return {"most frequent code": overall.expand(tokens, -1), "most frequent code of the position": by_position}
