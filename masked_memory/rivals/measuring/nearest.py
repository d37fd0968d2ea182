"""How near new pictures are to those trained on."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.pipeline.metrics import to_unit


class NearestTraining(NamedTuple):
    """For each picture the training picture that is most like it."""

    positions: np.ndarray  # (B,), in the manifest
    errors: Tensor  # (B,), mean squared error in [0, 1] pixel units


@torch.no_grad()
def nearest_training(pictures: Tensor, split: Split, batch_size: int = 500) -> NearestTraining:
    """pictures: (B, C, H, W) in [-1, 1], on the CPU. Looks at every training picture of the split, in batches."""
    found = to_unit(pictures).flatten(1)
    positions = split.positions("train")
    lowest = torch.full((len(found),), torch.inf)
    best = torch.zeros(len(found), dtype=torch.long)
    for start in range(0, len(positions), batch_size):
        others = to_unit(split.pictures(positions[start : start + batch_size])).flatten(1)
        apart = torch.cdist(found, others).min(1)
        best = torch.where(apart.values < lowest, apart.indices + start, best)
        lowest = torch.minimum(lowest, apart.values)
    chosen = positions[best.numpy()]
    starts = range(0, len(found), batch_size)
    exact = [
        (found[i : i + batch_size] - to_unit(split.pictures(chosen[i : i + batch_size])).flatten(1)).square().mean(1)
        for i in starts
    ]
    return NearestTraining(chosen, torch.cat(exact))


def share_of_copies(tokens: Tensor, train_tokens: Tensor) -> float:
    """Share of the grids that equal a training grid code by code."""
    known = {row.tobytes() for row in train_tokens.numpy()}
    return float(np.mean([row.tobytes() in known for row in tokens.numpy()]))
