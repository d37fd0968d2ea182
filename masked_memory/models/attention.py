"""Attention of a DistilBERT that is asked in bfloat16 on a CPU. Imports transformers, which takes seconds: import it
where it is needed."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

IN_PARTS = "in_parts"
QUERIES_AT_ONCE, SCORES_AT_ONCE = 256, 2**22  # what stays near the processor
LARGEST_SCORE = 80.0  # up to which exp stays far from the end of bfloat16, also when 1,000s are added up


def offer_attention_in_parts() -> None:
    """From then on `set_attn_implementation("in_parts")` takes `attend_in_parts`."""
    AttentionInterface.register(IN_PARTS, attend_in_parts)
    AttentionMaskInterface.register(IN_PARTS, eager_mask)


def attend_in_parts(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **handed: Any,
) -> tuple[Tensor, None]:
    """query, key, value (B, heads, n, d), attention_mask (1, heads, n, n) added to the scores -> (B, n, heads, d), and
    no weights. The arguments are those that transformers hands on; `handed` may have dropout, and other things that
    make no difference here.

    In bfloat16 on a CPU about twice as fast as PyTorch's fused attention, which is taken in float32, with dropout and
    where scores may be large: plain products of some pictures and queries at a time, with softmax as exp(scores)
    divided by its sum. The sum is one more column of the second product.
    """
    dropout: float = handed.get("dropout", 0.0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.dtype == torch.float32 or dropout or _most(query, key, attention_mask, scale) > LARGEST_SCORE:
        mask = None if attention_mask is None else attention_mask.to(query.dtype)
        fused = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
        return fused.transpose(1, 2).contiguous(), None
    values = torch.cat([value, value.new_ones(*value.shape[:-1], 1)], 3)  # (B, heads, n, d + 1)
    found = torch.empty_like(query)
    for pictures, rows in _parts(query.shape):
        scores = (query[pictures, :, rows] * scale) @ key[pictures].transpose(2, 3)  # (pictures, heads, rows, n)
        if attention_mask is not None:
            scores += attention_mask[:, :, rows]
        summed = scores.exp_() @ values[pictures]
        found[pictures, :, rows] = summed[..., :-1] / summed[..., -1:]
    return found.transpose(1, 2).contiguous(), None


def _most(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> float:
    """No score is larger, as no product is larger than that of the lengths."""
    lengths = [each.float().square().sum(3).max().sqrt() for each in (query, key)]
    return float(lengths[0] * lengths[1] * abs(scale) + (0.0 if mask is None else mask.max()))


def _parts(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Pictures and queries, some after others."""
    count, heads, queries, _ = shape
    taken = max(1, SCORES_AT_ONCE // (heads * queries * min(queries, QUERIES_AT_ONCE)))
    for picture in range(0, count, taken):
        for first in range(0, queries, QUERIES_AT_ONCE):
            yield slice(picture, picture + taken), slice(first, first + QUERIES_AT_ONCE)
