"""Simple rivals of the DistilBERT: other ways to fill what was forgotten, on the same masks.

Letters: B batch, C channels, N = h*w tokens in raster order, K codes, D code dimension. Pictures are float [-1, 1].
Masks are bool, True = masked, to be predicted.

No rival sees what a masked token was. The two that work on pixels ("mean picture" and "biharmonic inpainting") take the
pixels of kept cells from the painting of the whole grid; there the decoder knew the neighbours, too, which is a slight
advantage for these two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from masking import touched_pixels
from recall.memory import Memory

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


@dataclass(frozen=True)
class Ladder:
    """What the rivals know. `mean_picture`: (C, H, W), mean of the training pictures; `published`: a DistilBERT trained
    by the published recipe on the same codes, None when there is none (then that rival cannot be asked)."""

    memory: Memory
    mean_picture: Tensor
    published: "DistilBertForMaskedLM | None"


@torch.no_grad()
def fill(name: str, ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The pictures (B, C, H, W) as the rival `name` completes them, in [-1, 1].

    tokens: (B, N), masked ones may hold anything; mask: (B, N); whole: (B, C, H, W), painted from all true tokens,
    which is also the answer when nothing is masked. All on the memory's device. Raises ValueError for an unknown name,
    with the list of all, and for "published recipe" without such a model.
    """
    if name not in _FILLERS:
        raise ValueError(f"rival is {name!r}; expected one of: {', '.join(RIVALS)}")
    return _FILLERS[name](ladder, tokens.masked_fill(mask, 0), mask, whole)


def most_frequent_codes(memory: Memory) -> Tensor:
    """(N,): the code that stands most often at each position of the training grids; equal ones by the lowest index."""
    return memory.position_shares.argmax(1)


def nearest_kept(tokens: Tensor, mask: Tensor, side: int, otherwise: Tensor) -> Tensor:
    """(B, N) codes, in which each masked token has the code of the nearest kept one.

    Distances are Euclidean on the grid of side x side tokens; of equally near ones the first in raster order counts.
    otherwise: (N,) codes for a picture of which nothing is kept.
    """
    places = torch.arange(side * side, device=tokens.device)
    places = torch.stack([places // side, places % side], dim=1)  # (N, 2)
    distances = (places.unsqueeze(1) - places).square().sum(2)  # (N, N), squares of whole numbers: ties are exact
    rows = []
    for codes, hidden in zip(tokens, mask, strict=True):
        kept = (~hidden).nonzero().squeeze(1)
        rows.append(codes[kept[distances[:, kept].argmin(1)]] if len(kept) else otherwise)
    return torch.stack(rows)


def _holes(ladder: Ladder, mask: Tensor) -> Tensor:
    """(B, N) -> (B, H, W) bool: the pixels of masked cells."""
    size = ladder.memory.vqvae.config.image_size
    return touched_pixels(mask, size, size, ladder.memory.stride)


def _mean_picture(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The mean training picture in masked cells, the painting of the whole grid elsewhere."""
    return torch.where(_holes(ladder, mask).unsqueeze(1), ladder.mean_picture.to(whole), whole)


def _not_completed(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The average code vector wherever a token is masked."""
    return ladder.memory.paint_blank(tokens, mask)


def _most_frequent_code(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    return ladder.memory.paint_indices(torch.where(mask, most_frequent_codes(ladder.memory), tokens))


def _expected_code(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The mean code vector of the position in the training grids."""
    memory = ladder.memory
    expected = memory.position_shares @ memory.codebook  # (N, D)
    return memory.paint(torch.where(mask.unsqueeze(2), expected, memory.codebook[tokens]))


def _nearest_kept_code(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    memory = ladder.memory
    return memory.paint_indices(nearest_kept(tokens, mask, memory.side, most_frequent_codes(memory)))


def _biharmonic(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """Masked cells are a hole that a smooth surface closes (Damelin and Hoang 2018); a picture of which nothing is
    kept has no rim to start from and becomes the mean picture. Linear equations per picture, on the CPU: slow."""
    from skimage.restoration import inpaint_biharmonic

    holes = _holes(ladder, mask)
    filled = _mean_picture(ladder, tokens, mask, whole)
    for number, hole in enumerate(holes):
        if hole.all() or not hole.any():
            continue
        pixels = whole[number].permute(1, 2, 0).double().cpu().numpy()  # (H, W, C); float32 loses digits in big holes
        closed = inpaint_biharmonic(pixels, hole.cpu().numpy(), channel_axis=-1)
        filled[number] = torch.from_numpy(closed).permute(2, 0, 1).to(whole)
    return filled


def _ours_argmax(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """Our DistilBERT in one pass, likeliest codes."""
    memory = ladder.memory
    return memory.paint_indices(memory.complete(tokens, mask).indices)


def _ours_expected(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """Our DistilBERT in one pass, expected code vectors."""
    memory = ladder.memory
    return memory.paint(memory.complete(tokens, mask).expected)


def _ours_keeping_pixels(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """Our DistilBERT, expected code vectors, in masked cells only: on the same terms as those that work on pixels."""
    painted = _ours_expected(ladder, tokens, mask, whole)
    return torch.where(_holes(ladder, mask).unsqueeze(1), painted, whole)


def _published_recipe(ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The likeliest codes of the other DistilBERT, all at once."""
    if ladder.published is None:
        raise ValueError("there is no DistilBERT of the published recipe to ask")
    memory = ladder.memory
    return memory.paint_indices(memory.complete(tokens, mask, distil=ladder.published).indices)


#: name -> (ladder, tokens with masked ones blanked, mask, whole) -> pictures
_FILLERS: dict[str, Callable[[Ladder, Tensor, Tensor, Tensor], Tensor]] = {
    "mean picture": _mean_picture,
    "not completed": _not_completed,
    "most frequent code of the position": _most_frequent_code,
    "expected code of the position": _expected_code,
    "nearest kept code": _nearest_kept_code,
    "biharmonic inpainting": _biharmonic,
    "ours, argmax": _ours_argmax,
    "ours, expected": _ours_expected,
    "ours, expected, kept cells' pixels": _ours_keeping_pixels,
    "published recipe": _published_recipe,
}
RIVALS = tuple(_FILLERS)
#: They take long for each picture, so they are asked about few.
SLOW = ("biharmonic inpainting",)
