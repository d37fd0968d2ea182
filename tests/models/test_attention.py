"""Attention in parts: the same answers as the fused one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masked_memory.models import attention
from masked_memory.models.attention import attend_in_parts
from toys import seeded

SHAPE = (3, 2, 37, 8)  # pictures, heads, tokens, numbers of each


@pytest.fixture(params=[(2**22, 256), (2**22, 16), (2 * 2 * 37 * 16, 16), (1, 5)], ids=str)
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, some queries, some pictures, one at a time; the last part is short."""
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", request.param[0])
    monkeypatch.setattr(attention, "QUERIES_AT_ONCE", request.param[1])


def drawn(kind: torch.dtype, times: float = 1.0) -> list[Tensor]:
    return [(times * torch.randn(SHAPE, generator=seeded(number))).to(kind) for number in range(3)]


def exact(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    found = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), bias, scale=scale)
    return found.transpose(1, 2)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_it_answers_as_the_fused_one(kind: torch.dtype, biased: bool, scaling: float | None) -> None:
    query, key, value = drawn(kind)
    bias = torch.randn((1, SHAPE[1], SHAPE[2], SHAPE[2]), generator=seeded(4)) if biased else None
    found, weights = attend_in_parts(nn.Identity(), query, key, value, bias, scaling)
    assert weights is None and found.dtype == kind and found.is_contiguous()
    off = (found.double() - exact(query, key, value, None if bias is None else bias.double(), scaling)).abs()
    rounding = 1e-5 if kind == torch.float32 else 0.1
    assert float(off.max()) < rounding and float(off.mean()) < rounding / 20


@pytest.mark.parametrize("times", [1.0, 10.0, 1e3, 1e15])
def test_large_scores_give_numbers(times: float) -> None:
    """exp of a score above 88 is infinite."""
    query, key, value = drawn(torch.bfloat16, times)
    found, _ = attend_in_parts(nn.Identity(), query, key, value / times, None)
    assert bool(found.isfinite().all())
    assert float((found.double() - exact(query, key, value / times)).abs().mean()) < 0.05


def test_a_large_bias_gives_numbers() -> None:
    query, key, value = drawn(torch.bfloat16)
    bias = torch.full((1, SHAPE[1], SHAPE[2], SHAPE[2]), 300.0)
    found, _ = attend_in_parts(nn.Identity(), query, key, value, bias)
    assert float((found.double() - exact(query, key, value)).abs().mean()) < 0.05
