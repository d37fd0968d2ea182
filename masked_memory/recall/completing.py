"""Completion of masked grids by a DistilBERT, in one pass or several (MaskGIT, Chang et al. 2022, section 3.2)."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from masked_memory.models.codes import Filling, choose_codes
from masked_memory.models.distilbert import guided_logits
from masked_memory.recall.hole import Hole
from masked_memory.stages.masking import halton_order

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


class Completed(NamedTuple):
    """A completed batch of grids. Tokens that were not masked are as they were, with confidence 1."""

    indices: Tensor  # (B, N) long
    expected: Tensor  # (B, N, D): mean of all code vectors weighted by their probability when the token was filled
    confidence: Tensor  # (B, N): the probability of the code that was filled in


@torch.no_grad()
def complete(
    model: "DistilBertForMaskedLM",
    hole: Hole,
    codebook: Tensor,
    filling: Filling = Filling(),
    generator: torch.Generator | None = None,
    bf16: bool = False,
    at_once: int = 250,
) -> Completed:
    """Fill all masked tokens; the others stay as they are. codebook: (K, D) code vectors; hole.told: classes (B,).

    generator: on the CPU; needed when temperature or choice_noise > 0. bf16: the model is asked in bfloat16, all else
    is float32. at_once: pictures that it is asked about at once.
    """
    completed, mask, expected = hole.tokens.clone(), hole.mask, codebook[hole.tokens]
    confidence = torch.ones_like(expected[..., 0])
    waiting = mask.clone()
    for step in range(filling.passes):
        if not waiting.any():
            break
        candidates, vectors, sure = completed.clone(), expected.clone(), torch.full_like(confidence, -1)
        for start in range(0, len(mask), at_once):
            rows = slice(start, start + at_once)
            asked, told = waiting[rows], None if hole.told is None else hole.told[rows]
            with torch.autocast(mask.device.type, torch.bfloat16, enabled=bf16):
                logits = guided_logits(model, completed[rows], asked, told, filling.guidance_scale)  # (M, K)
            chosen, probabilities = choose_codes(logits, filling, generator), logits.softmax(1)
            candidates[rows][asked] = chosen
            vectors[rows][asked] = (probabilities @ codebook).to(vectors)
            sure[rows][asked] = probabilities.gather(1, chosen.unsqueeze(1)).squeeze(1)
        now = waiting & _take_now(waiting, mask, noisy(sure, step, filling, generator), step, filling)
        completed = torch.where(now, candidates, completed)
        expected = torch.where(now.unsqueeze(2), vectors, expected)
        confidence = torch.where(now, sure, confidence)
        waiting = waiting & ~now
    return Completed(completed, expected, confidence)


def noisy(sure: Tensor, step: int, filling: Filling, generator: torch.Generator | None) -> Tensor:
    """(B, N) confidences -> what decides who is filled first: log confidence plus Gumbel noise, whose scale falls from
    choice_noise to zero in the last pass (Chang et al. 2022, the annealed choice temperature of their code). Without
    noise the confidences themselves. Raises ValueError for noise without a generator."""
    scale = filling.choice_noise * (1 - (step + 1) / filling.passes)
    if scale <= 0 or filling.fill_order != "confidence":
        return sure
    if generator is None:
        raise ValueError("choice_noise needs a generator")
    uniform = torch.rand(sure.shape, generator=generator).clamp(min=1e-9).to(sure.device)
    return sure.clamp(min=1e-9).log() - scale * (-uniform.log()).log()


def _take_now(waiting: Tensor, mask: Tensor, sure: Tensor, step: int, filling: Filling) -> Tensor:
    """(B, N) bool: the tokens to fill in this pass. After pass s of S, cos(pi/2 * s/S) of the masked still wait."""
    total = mask.sum(1)
    share = math.cos(math.pi / 2 * (step + 1) / filling.passes) if step + 1 < filling.passes else 0.0
    count = (waiting.sum(1) - (total * share).floor().long()).clamp(min=1)
    if filling.fill_order == "halton":
        side = math.isqrt(waiting.shape[1])
        early = halton_order(side, waiting.shape[1] // side).to(sure.device).expand_as(waiting).float()
        preference = -early
    else:
        preference = sure
    preference = preference.masked_fill(~waiting, -math.inf)
    ranks = preference.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return ranks < count.unsqueeze(1)
