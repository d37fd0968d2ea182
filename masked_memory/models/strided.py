"""The plain encoder and decoder of van den Oord et al. 2017 (section 4.1): strided 4x4 convolutions and residual blocks
of ReLU, 3x3, ReLU, 1x1, without normalisation. A rival for those of `vqvae.py`, chosen by `stem: strided`.

Letters as in `vqvae.py`: B batch, C channels, H W pixels, h w grid, D code dimension.
"""

from torch import Tensor, nn


class PlainBlock(nn.Module):
    """ReLU, 3x3, ReLU, 1x1; plus the input. Nothing in place, so that the input stays what it was."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def plain_encoder(channels: int, hidden: int, halvings: int, blocks: int, code_dim: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, D, h, w), a 4x4 convolution with stride 2 for each halving of the side."""
    layers: list[nn.Module] = []
    for number in range(halvings):
        layers += [nn.Conv2d(hidden if number else channels, hidden, 4, stride=2, padding=1), nn.ReLU()]
    layers = layers[:-1] + [PlainBlock(hidden) for _ in range(blocks)]  # the blocks begin with ReLU themselves
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(hidden, code_dim, 1))


def plain_decoder(channels: int, hidden: int, halvings: int, blocks: int, code_dim: int) -> nn.Sequential:
    """(B, D, h, w) -> (B, C, H, W), a transposed 4x4 convolution with stride 2 for each doubling of the side."""
    layers: list[nn.Module] = [nn.Conv2d(code_dim, hidden, 3, padding=1)]
    layers += [PlainBlock(hidden) for _ in range(blocks)]
    for number in range(halvings):
        width = channels if number == halvings - 1 else hidden
        layers += [nn.ReLU(), nn.ConvTranspose2d(hidden, width, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)
