"""The codebook merged to fewer codes: a memory that keeps every token, each with fewer bits."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from masked_memory.recall.hole import Filled
from masked_memory.recall.memory import Memory

LLOYD_ROUNDS = 100


# --- smaller codebooks ------------------------------------------------------------------------------------------------


def reduced_codebook(vectors: Tensor, counts: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(K, D) code vectors and (K,) how often each is used -> (size, D) centres, (K,) long: the centre of each code.

    k-means weighted by use: k-means++ start (Arthur and Vassilvitskii 2007), then Lloyd's rounds until nothing changes
    or LLOYD_ROUNDS are over. The same generator state gives the same centres. Codes never used move no centre.
    Raises ValueError when size is not 1 to K, or counts are negative, none, or not one for each code.
    """
    if not 1 <= size <= len(vectors):
        raise ValueError(f"size is {size}; expected 1 to {len(vectors)}, the codes there are")
    if counts.shape != vectors.shape[:1] or (counts < 0).any() or not (counts > 0).any():
        raise ValueError(f"counts {tuple(counts.shape)} for {len(vectors)} codes; expected one for each, not all zero")
    points, weights = vectors.detach().cpu().double(), counts.detach().cpu().double()
    centres = _spread_start(points, weights, size, generator)
    assignment = _nearest(points, centres)
    for _ in range(LLOYD_ROUNDS):
        mass = torch.zeros(size, dtype=weights.dtype).index_add_(0, assignment, weights)
        total = torch.zeros_like(centres).index_add_(0, assignment, weights.unsqueeze(1) * points)
        centres = torch.where((mass > 0).unsqueeze(1), total / mass.clamp(min=1e-300).unsqueeze(1), centres)
        before, assignment = assignment, _nearest(points, centres)
        if torch.equal(before, assignment):
            break
    return centres.to(vectors), assignment.to(vectors.device)


def _spread_start(points: Tensor, weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is a point drawn by weight times squared distance to the centres so far.

    When all points of weight are centres, by the distance alone; when all points are, any.
    """
    chosen = [int(torch.multinomial(weights, 1, generator=generator))]
    distances = torch.full_like(weights, math.inf)
    while len(chosen) < size:
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(1))
        chances = next(c for c in (weights * distances, distances, torch.ones_like(weights)) if c.any())
        chosen.append(int(torch.multinomial(chances, 1, generator=generator)))
    return points[chosen]


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """(K, D), (size, D) -> (K,): the nearest centre, of equally near ones the first."""
    return torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


class Merging(NamedTuple):
    """K codes merged to fewer."""

    size: int
    centres: Tensor  # (size, D)
    assignment: Tensor  # (K,) long: the centre of each code
    shown: Tensor  # (size,) long: of each centre the code that is used most


def merge_codes(memory: Memory, size: int, generator: torch.Generator) -> Merging:
    """The codebook of a memory merged to `size` codes by their use in the training grids, on its device."""
    used = memory.position_shares.sum(0).cpu()
    centres, assignment = reduced_codebook(memory.codebook.cpu(), used, size, generator)
    members = assignment == torch.arange(size).unsqueeze(1)  # (size, K)
    shown = torch.where(members, used, -1.0).argmax(1)
    return Merging(size, *(tensor.to(memory.device) for tensor in (centres, assignment, shown)))


class MergedMemory:
    """A memory asked about merged codes: its DistilBERT sees of each the code that is used most, and the probabilities
    of those that are merged are added up."""

    def __init__(self, memory: Memory, merging: Merging) -> None:
        self.memory, self.merging = memory, merging
        self.side, self.device = memory.side, memory.device
        self.members = torch.nn.functional.one_hot(merging.assignment, merging.size).float()  # (K, size)

    def logits(self, tokens: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B, N) merged codes -> (M, size) of the masked ones."""
        probabilities = self.memory.logits(self.merging.shown[tokens], mask, wanted).softmax(1) @ self.members
        return probabilities.clamp(min=1e-30).log()


@torch.no_grad()
def paint_reduced(memory: Memory, tokens: Tensor, centres: Tensor, assignment: Tensor) -> Tensor:
    """(B, N) tokens -> pictures (B, C, H, W) in [-1, 1], each code vector replaced by its centre.

    This is the trained decoder with codes merged afterwards, not a VQ-VAE trained with a
    codebook of that size; what that one could do is not measured here.
    """
    return memory.paint(Filled(tokens, centres[assignment[tokens]]))
