"""Gated PixelCNN over grids of code indices: an older way to know which grids there are, one code after the other.

Letters: B batch, h w grid, N = h*w tokens in raster order, K codes, D code dimension, F facts told about a picture,
W width. Indices are long in [0, K). Masks are bool, True = masked, to be drawn.

Architecture: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders": a vertical stack that
sees all rows above and a horizontal stack that sees the row so far, so that there is no blind spot (section 2.2,
figure 2), gates (equation 2), what is told added inside each gate (equation 4). A masked k x k convolution is computed
as a smaller one that has only the weights which the mask leaves. Guidance: Ho and Salimans 2022.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masked_memory.models.codes import Filling, choose_codes
from masked_memory.models.pretrained import Pretrained


@dataclass(frozen=True)
class PixelCNNConfig:
    """Everything needed to build the model again; it travels with the weights. Raises ValueError for an even kernel."""

    codebook_size: int  # K
    grid: int  # h = w
    code_dim: int  # D, of the embedding
    width: int = 64  # W, channels of each stack
    layers: int = 6
    kernel: int = 5  # of the masked convolutions
    dropout: float = 0.1
    facts: int = 0  # F; 0: nothing can be told

    def __post_init__(self) -> None:
        if self.kernel < 3 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; expected an odd number from 3")

    @property
    def reach(self) -> int:
        """How many rows up, and columns aside, the last layer sees."""
        return self.layers * (self.kernel // 2)


class Telling(nn.Module):
    """Facts (B, F) -> (B, W); one learnt vector for pictures of which nothing is told."""

    def __init__(self, facts: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(facts, width)
        self.untold = nn.Parameter(torch.zeros(width))

    def forward(self, batch: int, facts: Tensor | None, told: Tensor | None) -> Tensor:
        """facts None tells nothing; told (B,) bool, None: all are told."""
        untold = self.untold.expand(batch, -1)
        if facts is None:
            return untold
        vectors = self.linear(facts)
        return vectors if told is None else torch.where(told.unsqueeze(1), vectors, untold)


def gate(x: Tensor) -> Tensor:
    """(B, 2W, ...) -> (B, W, ...): tanh of one half times the sigmoid of the other, equation (2)."""
    content, opening = x.chunk(2, dim=1)
    return content.tanh() * opening.sigmoid()


class GatedLayer(nn.Module):
    """One layer of both stacks. The first one does not see the token itself (mask A), later ones do (mask B)."""

    def __init__(self, inputs: int, config: PixelCNNConfig, first: bool) -> None:
        super().__init__()
        self.first, self.around = first, config.kernel // 2
        self.taps = self.around + (0 if first else 1)  # rows of the vertical kernel, columns of the horizontal one
        width = config.width
        self.vertical = nn.Conv2d(inputs, 2 * width, (self.taps, config.kernel))
        self.horizontal = nn.Conv2d(inputs, 2 * width, (1, self.taps))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)  # from the vertical stack to the horizontal one
        self.output = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.told = nn.Linear(width, 4 * width, bias=False) if config.facts else None

    def added(self, telling: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What is told, as it is added in the gates of the vertical and of the horizontal stack: (B, 2W) each."""
        if self.told is None or telling is None:
            return None, None
        down, across = self.told(telling).chunk(2, dim=1)
        return down, across

    def forward(self, v: Tensor, h: Tensor, place: Tensor | None, telling: Tensor | None) -> tuple[Tensor, Tensor]:
        """v, h (B, C, rows, columns) -> the same of the next layer, (B, W, rows, columns)."""
        rows, columns, around = v.shape[2], v.shape[3], self.around
        down = self.vertical(F.pad(v, (around, around, around, 0)))[:, :, :rows]
        across = self.horizontal(F.pad(h, (around, 0, 0, 0)))[..., :columns]
        told_down, told_across = self.added(telling)
        if place is not None:
            place_down, place_across = place.chunk(2)
            down, across = down + place_down, across + place_across
        across = across + self.link(down)
        if told_down is not None and told_across is not None:
            down, across = down + told_down[..., None, None], across + told_across[..., None, None]
        out = self.output(self.dropout(gate(across)))
        return self.dropout(gate(down)), out if self.first else out + h


class PixelCNN(Pretrained):
    """p(grid) as a product over tokens in raster order of p(token | all tokens before it, what is told)."""

    config_class, kind, made_by = PixelCNNConfig, "PixelCNN", "train_prior"

    def __init__(self, config: PixelCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.codebook_size, config.code_dim)
        self.place = nn.Parameter(torch.zeros(4 * config.width, config.grid, config.grid))  # added in the first layer
        self.layers = nn.ModuleList(
            GatedLayer(config.code_dim if n == 0 else config.width, config, n == 0) for n in range(config.layers)
        )
        self.head = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(config.width, 2 * config.width, 1),
            nn.SiLU(),
            nn.Conv2d(2 * config.width, config.codebook_size, 1),
        )
        self.telling = Telling(config.facts, config.width) if config.facts else None

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """Start the embedding from the code vectors (K, D), scaled, so that codes that look alike start alike."""
        centred = codebook - codebook.mean(0)
        self.embed.weight.copy_(centred / centred.std().clamp(min=1e-8))

    def tell(self, batch: int, facts: Tensor | None, told: Tensor | None = None) -> Tensor | None:
        """(B, W), None for a model without facts. Raises ValueError when such a model is told something."""
        if self.telling is None:
            if facts is not None:
                raise ValueError("facts given to a prior that was trained without")
            return None
        return self.telling(batch, facts, told)

    def forward(self, indices: Tensor, facts: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        """(B, h, w) indices -> (B, K, h, w) logits. facts: (B, F); told: (B,) bool, of whom they are told."""
        embedded = self.embed(indices).permute(0, 3, 1, 2)
        return self.predict(embedded, self.tell(len(indices), facts, told))

    def predict(self, embedded: Tensor, telling: Tensor | None) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w): the logits at a token depend on the tokens before it only."""
        v = h = embedded
        for number, layer in enumerate(self.layers):
            v, h = layer(v, h, self.place if number == 0 else None, telling)
        return self.head(h).float()


def code_losses(model: PixelCNN, tokens: Tensor, facts: Tensor | None = None, told: Tensor | None = None) -> Tensor:
    """(B, N) indices -> (B, N): minus log p(token | those before it), in nats."""
    side = model.config.grid
    logits = model(tokens.view(-1, side, side), facts, told)
    return F.cross_entropy(logits.flatten(2), tokens, reduction="none")


# --- drawing ----------------------------------------------------------------------------------------------------------


class OneByOne(Protocol):
    """Gives the logits of one token after the other, and is told what was put there."""

    def logits(self, place: int) -> Tensor: ...

    def put(self, place: int, codes: Tensor) -> None: ...


@torch.no_grad()
def draw(
    model: PixelCNN,
    tokens: Tensor,
    mask: Tensor,
    filling: Filling,
    generator: torch.Generator | None,
    facts: Tensor | None = None,
    incremental: bool = True,
) -> Tensor:
    """Draw the masked tokens in raster order, each given all before it; the others stay. (B, N) -> (B, N).

    A PixelCNN does not see known tokens that come later. filling: temperature, top_k, top_p and guidance_scale count.
    generator: on the CPU; needed when the temperature is above 0. incremental False asks the whole grid for each token
    and draws the same codes, slower.
    """
    reader: OneByOne
    guided = facts is not None and filling.guidance_scale not in (0, 1)
    facts = None if filling.guidance_scale == 0 else facts
    kind = _Incremental if incremental else _Whole
    reader = kind(model, len(tokens) * (2 if guided else 1), facts, guided)
    drawn = tokens.clone()
    for place in range(tokens.shape[1]):
        if not mask[:, place:].any():
            break
        hidden = mask[:, place]
        logits = reader.logits(place)
        if hidden.any():
            if guided:
                told, untold = logits.chunk(2)
                logits = untold + filling.guidance_scale * (told - untold)
            drawn[hidden, place] = choose_codes(logits[hidden], filling, generator)
        reader.put(place, drawn[:, place].repeat(2) if guided else drawn[:, place])
    return drawn


def untold_reader(model: PixelCNN, batch: int) -> OneByOne:
    """The logits (B, K) of one token after the other in raster order, told nothing. Callers switch gradients off."""
    return _Incremental(model, batch, None, False)


def _told(model: PixelCNN, batch: int, facts: Tensor | None, guided: bool) -> Tensor | None:
    """What is told to each row; with guidance the second half of the batch is told nothing."""
    if not guided or facts is None:
        return model.tell(batch, facts)
    told = torch.arange(batch, device=facts.device) < len(facts)
    return model.tell(batch, facts.repeat(2, 1), told)


class _Whole:
    """The plain way: the whole grid for each token."""

    def __init__(self, model: PixelCNN, batch: int, facts: Tensor | None, guided: bool) -> None:
        side = model.config.grid
        self.model, self.telling = model, _told(model, batch, facts, guided)
        self.grids = torch.zeros(batch, side, side, dtype=torch.long, device=model.place.device)

    def logits(self, place: int) -> Tensor:
        embedded = self.model.embed(self.grids).permute(0, 3, 1, 2)
        return self.model.predict(embedded, self.telling).flatten(2)[:, :, place]

    def put(self, place: int, codes: Tensor) -> None:
        self.grids.flatten(1)[:, place] = codes


class _Incremental:
    """Keeps what earlier tokens left behind: the vertical stack runs once a row, the horizontal one at one column.

    above[l]: inputs of the vertical stack of layer l, (B, C, around + h, w + 2 around), with the padding; line[l]:
    those of the horizontal stack in this row, (B, C, around + w).
    """

    def __init__(self, model: PixelCNN, batch: int, facts: Tensor | None, guided: bool) -> None:
        self.model, self.side, self.around = model, model.config.grid, model.config.kernel // 2
        telling = _told(model, batch, facts, guided)
        self.layers: list[GatedLayer] = [layer for layer in model.layers if isinstance(layer, GatedLayer)]
        self.added = [layer.added(telling) for layer in self.layers]
        side, around = self.side, self.around
        channels = [model.config.code_dim, *[model.config.width] * len(self.layers)]
        blank = model.place.new_zeros
        self.above = [blank(batch, c, around + side, side + 2 * around) for c in channels]
        self.line = [blank(batch, c, around + side) for c in channels]
        self.links: list[Tensor] = []

    def logits(self, place: int) -> Tensor:
        row, column = divmod(place, self.side)
        if column == 0:
            self._start_row(row)
        here = column + self.around
        x = self.line[0][:, :, here]
        for number, layer in enumerate(self.layers):
            seen = self.line[number][:, :, column : column + layer.taps].flatten(1)
            across = F.linear(seen, layer.horizontal.weight.flatten(1), layer.horizontal.bias)
            opened = gate(across + self.links[number][:, :, column])
            out = F.linear(opened, layer.output.weight.flatten(1), layer.output.bias)
            x = out if layer.first else out + x
            self.line[number + 1][:, :, here] = x
        for step in self.model.head:
            x = F.linear(x, step.weight.flatten(1), step.bias) if isinstance(step, nn.Conv2d) else step(x)
        return x.float()

    def put(self, place: int, codes: Tensor) -> None:
        row, column = divmod(place, self.side)
        embedded = self.model.embed(codes)
        self.line[0][:, :, column + self.around] = embedded
        self.above[0][:, :, row + self.around, column + self.around] = embedded

    def _start_row(self, row: int) -> None:
        """The vertical stack at this row: all that it will say to the horizontal stack."""
        self.links = []
        for line in self.line:
            line.zero_()
        for number, layer in enumerate(self.layers):
            down = layer.vertical(self.above[number][:, :, row : row + layer.taps])  # (B, 2W, 1, w)
            link = torch.zeros_like(down)
            if number == 0:
                place_down, place_across = self.model.place[:, row : row + 1].chunk(2)
                down, link = down + place_down, link + place_across
            link = link + layer.link(down)
            told_down, told_across = self.added[number]
            if told_down is not None and told_across is not None:
                down, link = down + told_down[..., None, None], link + told_across[..., None, None]
            self.links.append(link[:, :, 0])
            self.above[number + 1][:, :, row + self.around, self.around : self.around + self.side] = gate(down)[:, :, 0]
