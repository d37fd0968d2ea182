"""Which tokens (or components of a picture) are forgotten, without asking any model: pure functions, exact counts.

A mask is bool, **True = masked, to be predicted**. Letters: B batch, N = h*w tokens in raster order. A mask ratio r
hides exactly `round(r * N)` tokens of each picture. An *order* is (B, N) long: the rank 0..N-1 of each token, in the
order in which tokens are forgotten; one order gives a mask for every percentage (`mask_first`), and these are nested.
All randomness comes from the `torch.Generator` that is passed in. Orders that ask a model are in
`masked_memory/recall/choosing.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.pipeline.draws import Draws, for_rows
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import sent

RatioSchedule = Literal["cosine", "uniform", "fixed"]


def masked_count(ratio: float, tokens: int) -> int:
    """How many of N tokens a ratio in [0, 1] hides: round(ratio * N). Raises ValueError outside [0, 1]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"mask ratio is {ratio}; expected 0 to 1")
    return round(ratio * tokens)


def check_percentages(stage: str, percentages: Sequence[int], tokens: int) -> None:
    """Raises InputError for a percentage of the setting `stage`.percentages that masks none of N tokens: there would be
    nothing to measure."""
    empty = [percent for percent in percentages if masked_count(percent / 100, tokens) == 0]
    if empty:
        fitting = [percent for percent in percentages if percent not in empty] or [100]
        raise InputError(
            f"{stage}.percentages has {', '.join(map(str, empty))}, which masks none of {tokens} tokens; "
            f'type --{stage}.percentages "{fitting}"'
        )


def random_order(batch: int, tokens: int, generator: Draws) -> Tensor:
    """(B, N) long: for each picture a random rank 0..N-1 of each token, in the order in which they are forgotten."""
    return _ranks(for_rows(batch, generator, lambda n, g: torch.rand(n, tokens, generator=g)))


def block_order(batch: int, height: int, width: int, generator: torch.Generator, blocks: int = 1) -> Tensor:
    """(B, N): `blocks` rectangles grow from random centres until they cover the picture.

    A token's turn comes by its distance to the nearest centre, max(|dy| / height, |dx| / width); equal distances in
    raster order, so the outermost ring of a rectangle may be open. Raises ValueError for less than one block.
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks}; expected at least 1")
    rows, columns = _places(height, width)
    centres = torch.rand(batch, blocks, 2, generator=generator) * torch.tensor([height - 1.0, width - 1.0])
    down = (rows.view(1, 1, -1) - centres[..., :1]).abs() / height
    across = (columns.view(1, 1, -1) - centres[..., 1:]).abs() / width
    return _ranks(torch.maximum(down, across).amin(1))


def half_order(batch: int, height: int, width: int) -> Tensor:
    """(B, N): row by row from the bottom, so that at 50 % the lower half is gone (the attention of Fayyaz et al. 2022,
    which drops consecutive entries in the lower part of the index matrix)."""
    return torch.arange(height * width - 1, -1, -1).expand(batch, -1).clone()


def outpaint_order(batch: int, height: int, width: int) -> Tensor:
    """(B, N): from the border inwards, so that a rectangle in the middle is kept; equal distances in raster order."""
    rows, columns = _places(height, width)
    down = (rows - (height - 1) / 2).abs() / height
    across = (columns - (width - 1) / 2).abs() / width
    return _ranks(-torch.maximum(down, across).expand(batch, -1))


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of each token, (N,) float each."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return rows.flatten().float(), columns.flatten().float()


def _ranks(values: Tensor) -> Tensor:
    """(B, N) -> (B, N) long: the place of each value in its row, smallest first; equal ones in raster order."""
    return values.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def touched_tokens(pixels: Tensor, stride: int, margin: int = 0) -> Tensor:
    """(B, H, W) bool, True = pixel is missing -> (B, N) bool: the tokens that must be predicted.

    A token goes when a missing pixel lies in its receptive cell: the stride x stride pixels it stands for and `margin`
    pixels around them. Raises ValueError when stride does not divide H and W.
    """
    height, width = pixels.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(f"a mask of {height}x{width} pixels has no grid of cells of {stride}x{stride}")
    missing = F.max_pool2d(pixels.unsqueeze(1).float(), 2 * margin + 1, stride=1, padding=margin)
    return F.max_pool2d(missing, stride).flatten(1) > 0


def touched_pixels(mask: Tensor, height: int, width: int, stride: int) -> Tensor:
    """(B, N) bool for h = height/stride rows of tokens -> (B, height, width) bool: the pixels they stand for."""
    cells = mask.view(len(mask), height // stride, width // stride)
    return cells.repeat_interleave(stride, 1).repeat_interleave(stride, 2)


def position_bits(tokens: int, kept: int) -> float:
    """Bits that say which `kept` of N tokens are stored: log2 of N choose kept."""
    return (math.lgamma(tokens + 1) - math.lgamma(kept + 1) - math.lgamma(tokens - kept + 1)) / math.log(2)


def mask_first(order: Tensor, counts: int | Tensor) -> Tensor:
    """(B, N) ranks -> (B, N) bool: the `counts` tokens of lowest rank are masked; an int, or one number per picture.

    Masks of one order are nested: what is forgotten at 10 % is also forgotten at 20 %.
    """
    counts = torch.as_tensor(counts, device=order.device)
    return order < counts.reshape(-1, 1)


def masks_of(kind: str, percent: float, count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, N) bool on a grid of side x side tokens: `percent` masked at random, in a block, or the lower part.

    kind: random, block or half. Raises ValueError for another.
    """
    tokens = side * side
    if kind == "random":
        order = random_order(count, tokens, generator)
    elif kind == "block":
        order = block_order(count, side, side, generator)
    elif kind == "half":
        order = half_order(count, side, side)
    else:
        raise ValueError(f"kind of mask is {kind!r}; expected random, block or half")
    return mask_first(order, masked_count(percent / 100, tokens))


def random_mask(batch: int, tokens: int, ratio: float, generator: Draws) -> Tensor:
    """(B, N) bool with exactly `round(ratio * N)` True in each row."""
    return mask_first(random_order(batch, tokens, generator), masked_count(ratio, tokens))


def training_mask(
    batch: int, tokens: int, schedule: RatioSchedule, generator: Draws, fixed_ratio: float = 0.5
) -> Tensor:
    """(B, N) bool for one training step: each picture gets its own ratio, and at least one masked token.

    cosine: r = cos(pi u / 2) with u uniform, many high ratios (MaskGIT, Chang et al. 2022, section 3.2);
    uniform: every count 1..N equally likely; fixed: always `fixed_ratio`. The first two include 100 %.
    """
    if schedule == "cosine":
        ratios = torch.cos(for_rows(batch, generator, lambda n, g: torch.rand(n, generator=g)) * math.pi / 2)
        counts = (ratios * tokens).round().long().clamp(min=1)
    elif schedule == "uniform":
        counts = for_rows(batch, generator, lambda n, g: torch.randint(1, tokens + 1, (n,), generator=g))
    elif schedule == "fixed":
        counts = torch.full((batch,), max(1, masked_count(fixed_ratio, tokens)))
    else:
        raise ValueError(f"ratio schedule is {schedule!r}; expected one of {get_args(RatioSchedule)}")
    return mask_first(random_order(batch, tokens, generator), counts)


# --- components (channels) of pictures --------------------------------------------------------------------------------


def masked_probability(epoch: int, maximum: float, warmup_epochs: int) -> float:
    """Share of the pictures that show one component only, in epoch 0, 1, ...: `maximum` * min(1, epoch / warmup)."""
    return maximum if warmup_epochs == 0 else maximum * min(1.0, epoch / warmup_epochs)


def component_mask(batch: int, components: int, probability: float, generator: Draws) -> Tensor:
    """(B, C) bool, True = masked: rows that keep exactly one component, drawn uniformly, and rows that keep all.

    A row is masked with `probability`; how many are is the whole number below or above B * probability, so that a
    batch is always as near to it as can be. Raises ValueError for less than two components.
    """
    if components < 2:
        raise ValueError(f"pictures have {components} component; masking needs at least 2")

    def draw(rows: int, numbers: torch.Generator) -> Tensor:
        count = min(rows, math.floor(rows * probability + float(torch.rand((), generator=numbers))))
        chosen = torch.randperm(rows, generator=numbers) < count
        kept = torch.randint(components, (rows,), generator=numbers)
        return chosen.unsqueeze(1) & (torch.arange(components) != kept.unsqueeze(1))

    return for_rows(batch, generator, draw)


def all_but(components: int, kept: Sequence[int]) -> Tensor:
    """(C,) bool, True = masked: everything but the components `kept`. Raises ValueError for one that is not there."""
    unknown = [place for place in kept if not 0 <= place < components]
    if unknown:
        raise ValueError(f"component {unknown[0]} is not one of 0 to {components - 1}")
    mask = torch.ones(components, dtype=torch.bool)
    mask[list(kept)] = False
    return mask


def hide_components(pictures: Tensor, mask: Tensor) -> Tensor:
    """(B, C, H, W) in [-1, 1] with masked components (mask (B, C) or (C,), True = masked) set to 0, which is mid-grey,
    127.5 of 255."""
    return pictures.masked_fill(sent(mask, pictures.device)[..., None, None], 0.0)


def hide(indices: Tensor, mask: Tensor, mask_id: int) -> Tensor:
    """(B, N) indices with MASK where `mask` is True."""
    return indices.masked_fill(mask, mask_id)


def stored_bits(tokens_total: int, kept: int, codebook_size: int, fixed: bool) -> float:
    """Bits per picture of a memory that keeps `kept` of N tokens: kept * log2 K, and which ones they are.

    fixed: the pattern is known beforehand, or follows from the kept codes, so positions cost nothing; how many are kept
    is always known. No entropy coding.
    Raises ValueError when kept is not 0 to N.
    """
    if not 0 <= kept <= tokens_total:
        raise ValueError(f"kept is {kept}; expected 0 to {tokens_total}")
    return kept * math.log2(codebook_size) + (0.0 if fixed else position_bits(tokens_total, kept))


def halton_order(height: int, width: int) -> Tensor:
    """(N,) long: the rank of each token in the Halton sequence of bases 2 and 3, which spreads early ones evenly."""
    seen: dict[int, int] = {}
    number = 0
    while len(seen) < height * width:
        number += 1
        token = int(_radical_inverse(number, 2) * height) * width + int(_radical_inverse(number, 3) * width)
        seen.setdefault(token, len(seen))
    ranks = torch.empty(height * width, dtype=torch.long)
    ranks[torch.tensor(list(seen))] = torch.arange(height * width)
    return ranks


def _radical_inverse(number: int, base: int) -> float:
    """The digits of `number` mirrored behind the point: 6 = 110 in base 2 gives .011 = 3/8."""
    value, scale = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value, scale = value + digit * scale, scale / base
    return value
