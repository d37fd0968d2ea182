"""From logits to codes: the likeliest, or drawn after temperature, top-k and top-p."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

FillOrder = Literal["confidence", "halton"]


@dataclass(frozen=True)
class Filling:
    """How masked tokens are filled. `temperature` 0 takes the likeliest code, otherwise codes are drawn.

    passes: 1 fills everything at once; more fill a part each, the sure tokens ("confidence") or well spread ones
    ("halton") first, so that later ones see what was filled before. choice_noise: of the order "confidence", Gumbel
    noise on the logarithm of the confidence, which falls linearly to zero over the passes (MaskGIT's choice
    temperature).
    """

    passes: int = 1
    fill_order: FillOrder = "confidence"
    temperature: float = 0.0
    top_k: int = 0  # draw from the k likeliest codes; 0: from all
    top_p: float = 1.0  # draw from the likeliest codes that together have this probability
    guidance_scale: float = 1.0  # with labels
    choice_noise: float = 0.0


def choose_codes(logits: Tensor, filling: Filling, generator: torch.Generator | None) -> Tensor:
    """(M, K) -> (M,): the likeliest code, or one drawn after temperature, top-k and top-p.

    Raises ValueError when something is to be drawn without a generator.
    """
    if filling.temperature == 0:
        return logits.argmax(1)
    if generator is None:
        raise ValueError("drawing codes needs a generator")
    probabilities = truncate(logits / filling.temperature, filling.top_k, filling.top_p).softmax(1)
    return draw_codes(probabilities, generator)


def draw_codes(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(M, K) -> (M,): a code of each row, by inverting its distribution; never one of probability zero. generator: on
    the CPU. (torch.multinomial does the same in ten times the time on a CPU.)"""
    reached = probabilities.double().cumsum(1)
    drawn = torch.rand(len(probabilities), 1, generator=generator).to(reached) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True).squeeze(1)


def truncate(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(M, K): minus infinity for all but the `top_k` likeliest, and for the tail beyond probability `top_p`.

    The likeliest code always stays. top_k 0 and top_p 1 keep all.
    """
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, places = logits.sort(dim=1, descending=True)
        before = ordered.softmax(1).cumsum(1) - ordered.softmax(1)  # probability of all likelier codes
        tail = torch.zeros_like(ordered, dtype=torch.bool).scatter(1, places, before >= top_p)
        tail.scatter_(1, places[:, :1], False)
        logits = logits.masked_fill(tail, -math.inf)
    return logits
