"""The painter: the VQ-VAE's decoder, trained on with the code vectors to expect, and told which tokens are known.

The VQ-VAE's own decoder has seen codes only. A vector to expect is a mean of many, and it is painted greyer than the
mean of what it may stand for.

Letters: B batch, C channels, H W pixels, N = h*w tokens, D code dimension. Pictures are float [-1, 1].
"""

import copy
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from masked_memory.models.pretrained import read_weights
from masked_memory.stages.vqvae import VQVAE


class CodePainter(nn.Module):
    """A copy of the decoder with one channel more at its entrance: 1 where the token is known, 0 where it was filled
    in. It starts out as the decoder, which the channel does not change. A decoder that can be told metadata is told
    nothing."""

    def __init__(self, vqvae: VQVAE) -> None:
        super().__init__()
        self.config = vqvae.config
        self.decoder = cast(nn.Sequential, copy.deepcopy(vqvae.decoder))
        self.decoder[0] = with_one_more(cast(nn.Conv2d, self.decoder[0]))
        self.conditioning = copy.deepcopy(vqvae.conditioning)
        self.requires_grad_(True)

    def forward(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """(B, N, D) and (B, N) bool, True = known -> (B, C, H, W) in [-1, 1]."""
        channels = torch.cat([vectors, kept.unsqueeze(2).to(vectors.dtype)], dim=2)
        grids = channels.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
        untold = () if self.conditioning is None else (self.conditioning(None, len(vectors)),)
        output = self.decoder(grids, *untold).float()
        return output.sigmoid() * 2 - 1 if self.config.reconstruction_loss == "bce" else output.clamp(-1, 1)


@torch.no_grad()
def with_one_more(layer: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with one more channel that goes in, the last, of weight zero."""
    size, padding = cast(tuple[int, int], layer.kernel_size), cast(tuple[int, int], layer.padding)
    wider = nn.Conv2d(layer.in_channels + 1, layer.out_channels, size, padding=padding)
    wider.weight.zero_()
    wider.weight[:, :-1] = layer.weight
    cast(Tensor, wider.bias).copy_(cast(Tensor, layer.bias))
    return wider.to(layer.weight.device)


def load_painter(folder: str | Path, vqvae: VQVAE) -> CodePainter:
    """The painter in `folder` that was made for this VQ-VAE, in evaluation mode. Raises InputError when there is
    none."""
    painter = CodePainter(vqvae)
    painter.load_state_dict(read_weights(folder, "train_painter"))
    return painter.eval()
