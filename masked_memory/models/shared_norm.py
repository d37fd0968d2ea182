"""Batch normalisation over a batch of which each process has a part.

torch.nn.SyncBatchNorm does the same between GPUs only.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from masked_memory.pipeline.world import World

M = TypeVar("M", bound=nn.Module)


class _Sum(torch.autograd.Function):
    """The sum over all processes, forwards and, as each depends on all, backwards."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """As BatchNorm2d of the whole batch, forwards and backwards. x: (B, C, H, W), B the same in all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        own = x.float()
        size = torch.distributed.get_world_size()
        mean = _Sum.apply(own.mean((0, 2, 3))) / size
        centred = own - mean[:, None, None]
        variance = _Sum.apply(centred.square().mean((0, 2, 3))) / size
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            count = size * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_statistics(model: M, world: World) -> M:
    """The model, in which every BatchNorm2d sees the whole batch; names and values of its parameters stay."""
    if world.size > 1:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SharedBatchNorm2d
    return model
