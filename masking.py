"""Which tokens are forgotten: pure functions with exact counts.

A mask is bool, **True = masked, to be predicted**. Letters: B batch, N tokens. A mask ratio r hides exactly
`round(r * N)` tokens of each picture. All randomness comes from the `torch.Generator` that is passed in.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

RatioSchedule = Literal["cosine", "uniform", "fixed"]


def masked_count(ratio: float, tokens: int) -> int:
    """How many of N tokens a ratio in [0, 1] hides: round(ratio * N). Raises ValueError outside [0, 1]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"mask ratio is {ratio}; expected 0 to 1")
    return round(ratio * tokens)


def random_order(batch: int, tokens: int, generator: torch.Generator) -> Tensor:
    """(B, N) long: for each picture a random rank 0..N-1 of each token, in the order in which they are forgotten."""
    noise = torch.rand(batch, tokens, generator=generator)
    return noise.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def mask_first(order: Tensor, counts: int | Tensor) -> Tensor:
    """(B, N) ranks -> (B, N) bool: the `counts` tokens of lowest rank are masked; an int, or one number per picture.

    Masks of one order are nested: what is forgotten at 10 % is also forgotten at 20 %.
    """
    counts = torch.as_tensor(counts, device=order.device)
    return order < counts.reshape(-1, 1)


def random_mask(batch: int, tokens: int, ratio: float, generator: torch.Generator) -> Tensor:
    """(B, N) bool with exactly `round(ratio * N)` True in each row."""
    return mask_first(random_order(batch, tokens, generator), masked_count(ratio, tokens))


def training_mask(
    batch: int, tokens: int, schedule: RatioSchedule, generator: torch.Generator, fixed_ratio: float = 0.5
) -> Tensor:
    """(B, N) bool for one training step: each picture gets its own ratio, and at least one masked token.

    cosine: r = cos(pi u / 2) with u uniform, many high ratios (MaskGIT, Chang et al. 2022, section 3.2);
    uniform: every count 1..N equally likely; fixed: always `fixed_ratio`. The first two include 100 %.
    """
    if schedule == "cosine":
        ratios = torch.cos(torch.rand(batch, generator=generator) * math.pi / 2)
        counts = (ratios * tokens).round().long().clamp(min=1)
    elif schedule == "uniform":
        counts = torch.randint(1, tokens + 1, (batch,), generator=generator)
    elif schedule == "fixed":
        counts = torch.full((batch,), max(1, masked_count(fixed_ratio, tokens)))
    else:
        raise ValueError(f"ratio schedule is {schedule!r}; expected one of {get_args(RatioSchedule)}")
    return mask_first(random_order(batch, tokens, generator), counts)


def hide(indices: Tensor, mask: Tensor, mask_id: int) -> Tensor:
    """(B, N) indices with MASK where `mask` is True."""
    return indices.masked_fill(mask, mask_id)
