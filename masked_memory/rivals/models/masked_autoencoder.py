"""A masked autoencoder over pixels (He et al. 2022, arXiv 2111.06377): visible cells in, pixels of hidden cells out. It
knows no codes: a rival of those who complete them.

Letters: B batch, C channels, H W pixels, h w grid, N = h*w cells of stride x stride pixels, P = C*stride*stride numbers
of a cell, V visible cells of the picture that has most. Pictures are float [-1, 1]. Masks are bool, True = masked, to
be predicted.

Only visible cells go through the encoder. The decoder, which is lighter, sees them and a learnt vector for each masked
cell. Beside the position embeddings, attention has a learnt bias for where two cells lie to each other, see
`models/positions.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masked_memory.models.positions import NearAndFar, rows_and_columns
from masked_memory.models.pretrained import Pretrained


@dataclass(frozen=True)
class MaskedAutoencoderConfig:
    """Everything needed to build the model again; it travels with the weights. `mean`, `std`: of the training pictures,
    per channel, in [0, 1].

    Raises ValueError when the values do not fit together.
    """

    image_size: int  # H = W, pixels
    channels: int  # C
    stride: int  # pixels per cell along each side
    dim: int  # width of the encoder
    layers: int  # of the encoder
    heads: int  # of encoder and decoder
    decoder_dim: int
    decoder_layers: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        if self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} is not divisible by stride {self.stride}")
        for name in ("dim", "decoder_dim"):
            width = getattr(self, name)
            if width % self.heads or width % 4:
                raise ValueError(f"{name} is {width}; expected a multiple of 4 and of heads {self.heads}")

    @property
    def grid(self) -> int:
        """h = w, cells along each side."""
        return self.image_size // self.stride

    @property
    def cells(self) -> int:
        """N."""
        return self.grid**2


class Attending(nn.Module):
    """A layer of a transformer: norm, attention, norm, two linear layers; each added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.asks = nn.Linear(dim, 3 * dim)
        self.answers = nn.Linear(dim, dim)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, n, dim); bias (1 or B, heads, n, n), -inf where nothing may be looked at.

        Written out: on CPU that is faster to train at these sizes than the fused attention.
        """
        query, key, value = self.asks(self.before_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5 + bias  # (B, heads, n, n)
        seen = scores.softmax(3).to(value.dtype) @ value  # (B, heads, n, dim / heads)
        x = x + self.answers(seen.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class MaskedAutoencoder(Pretrained):
    """Encoder of visible cells, decoder of all. A summary, one vector more, is always visible: so a picture of which
    nothing is kept has something to look at."""

    config_class, kind, made_by = MaskedAutoencoderConfig, "masked autoencoder", "train_mae"
    mean: Tensor
    std: Tensor

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1))
        numbers, dim, narrow = config.channels * config.stride**2, config.dim, config.decoder_dim
        self.embed = nn.Linear(numbers, dim)
        self.positions = nn.Parameter(waves(config.grid, dim))
        self.summary = nn.Parameter(torch.randn(dim) * 0.02)
        self.near_encoder = NearAndFar(config.grid, config.heads)
        self.encoder = nn.ModuleList(Attending(dim, config.heads) for _ in range(config.layers))
        self.narrow = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, narrow))
        self.hidden = nn.Parameter(torch.randn(narrow) * 0.02)
        self.decoder_positions = nn.Parameter(waves(config.grid, narrow))
        self.near_decoder = NearAndFar(config.grid, config.heads)
        self.decoder = nn.ModuleList(Attending(narrow, config.heads) for _ in range(config.decoder_layers))
        self.paint = nn.Sequential(nn.LayerNorm(narrow), nn.Linear(narrow, numbers))
        self.apply(start_linear)

    def forward(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """(B, C, H, W) and (B, N) -> (B, C, H, W), about in [-1, 1]: what masked cells are expected to look like.

        What is painted of visible cells means nothing. Nothing depends on the pixels of masked cells.
        """
        config = self.config
        cells = F.pixel_unshuffle(((pictures + 1) / 2 - self.mean) / self.std, config.stride)
        cells = cells.flatten(2).transpose(1, 2)  # (B, N, P)
        painted = self.paint(self._decode(*self._encode(cells, mask)))  # (B, N, P)
        painted = painted.transpose(1, 2).unflatten(2, (config.grid, config.grid)).float()
        return (F.pixel_shuffle(painted, config.stride) * self.std + self.mean) * 2 - 1

    def _encode(self, cells: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, P) -> (B, 1+V, decoder_dim), the summary first; which cells these are (B, V), and which of them are
        visible (B, V): pictures with fewer than V are filled up with masked ones, which nobody looks at."""
        count = int((~mask).sum(1).max())
        places = mask.long().argsort(dim=1, stable=True)[:, :count]  # (B, V), visible ones first
        visible = ~mask.gather(1, places)
        x = (self.embed(cells) + self.positions).gather(1, spread_over(places, self.config.dim))
        x = torch.cat([self.summary.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B, 1+V, dim)
        unseen = F.pad(~visible, (1, 0), value=False)[:, None, None, :]
        bias = self.near_encoder(places).masked_fill(unseen, float("-inf"))
        for layer in self.encoder:
            x = layer(x, bias)
        return self.narrow(x), places, visible

    def _decode(self, x: Tensor, places: Tensor, visible: Tensor) -> Tensor:
        """What `_encode` gives -> (B, N, decoder_dim)."""
        hidden = self.hidden.to(x.dtype)
        cells = hidden.expand(len(x), self.config.cells, -1)
        found = torch.where(visible.unsqueeze(2), x[:, 1:], hidden)
        cells = cells.scatter(1, spread_over(places, self.config.decoder_dim), found) + self.decoder_positions
        x, bias = torch.cat([x[:, :1], cells], dim=1), self.near_decoder()
        for layer in self.decoder:
            x = layer(x, bias)
        return x[:, 1:]


def spread_over(places: Tensor, width: int) -> Tensor:
    """(B, V) -> (B, V, width), for gather and scatter of vectors."""
    return places.unsqueeze(2).expand(-1, -1, width)


def waves(grid: int, dim: int) -> Tensor:
    """(N, dim): sines and cosines of row and column, wave lengths from 6 cells to far beyond the grid; the start of the
    learnt positions."""
    steps = 50.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = rows_and_columns(grid).unsqueeze(2) * steps  # (N, 2, dim / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)


def start_linear(module: nn.Module) -> None:
    """Weights as in He et al. (appendix A.1): Xavier uniform, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
