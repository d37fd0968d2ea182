"""Attention in parts: the same answers as the fused one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import QUERIES_AT_ONCE, attend_in_parts
from toys import seeded

SHAPE = (2, 3, 2 * QUERIES_AT_ONCE + 5, 8)  # the last part is short


def drawn(kind: torch.dtype) -> list[Tensor]:
    return [torch.randn(SHAPE, generator=seeded(number)).to(kind) for number in range(3)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_it_answers_as_the_fused_one(kind: torch.dtype, biased: bool, scaling: float | None) -> None:
    query, key, value = drawn(kind)
    bias = torch.randn((1, *SHAPE[1:3], SHAPE[2]), generator=seeded(4)) if biased else None
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), bias, scale=scaling)
    found, weights = attend_in_parts(nn.Identity(), query, key, value, bias, scaling)
    assert weights is None and found.dtype == kind and found.is_contiguous()
    within = 1e-5 if kind == torch.float32 else 0.08  # some hundredths at the most, thousandths in the mean
    torch.testing.assert_close(found.float(), exact.transpose(1, 2), atol=within, rtol=0)
    assert float((found.float() - exact.transpose(1, 2)).abs().mean()) < within / 10


def test_gradients_reach_all_three() -> None:
    query, key, value = (tensor.requires_grad_() for tensor in drawn(torch.bfloat16))
    attend_in_parts(nn.Identity(), query, key, value, None)[0].float().square().sum().backward()
    assert all(float(tensor.grad.abs().sum()) > 0 for tensor in (query, key, value))
