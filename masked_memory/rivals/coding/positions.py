"""Which k of N tokens are kept, exactly: a conditional Bernoulli distribution over all ways to choose.

Each position has odds of being kept; a choice is as probable as the product of the odds of those in it, among all
choices of k (Chen, Dempster and Liu 1994). Equal odds are the plain count, log2 of N choose k. Letters: B pictures,
N tokens, k kept. Kept masks are bool, True = stored.
"""

import math

import torch
from torch import Tensor

from masked_memory.rivals.coding.bitstreams import Channel


def keeping_odds(kept: Tensor) -> Tensor:
    """(pictures, N) bool, as many kept in each -> (N,) double: the odds of each position.

    One picture more that keeps the same share everywhere smooths them. Meaningless for none or all kept, where nothing
    is to be coded.
    """
    share = kept.double().mean()
    chances = (kept.double().sum(0) + share) / (len(kept) + 1)
    return (chances / (1 - chances)).cpu()


def _sums(odds: Tensor, count: int) -> Tensor:
    """(N + 1, k + 1): log of the sum, over all ways to choose j of the positions from n on, of the product of odds."""
    logs = torch.full((len(odds) + 1, count + 1), -math.inf, dtype=torch.float64)
    logs[-1, 0] = 0
    for place in range(len(odds) - 1, -1, -1):
        logs[place] = logs[place + 1]
        logs[place, 1:] = torch.logaddexp(logs[place, 1:], odds[place].log() + logs[place + 1, :-1])
    return logs


def choice_bits(kept: Tensor, odds: Tensor) -> Tensor:
    """(B, N) bool, as many kept in each -> (B,) double: bits of an ideal coder."""
    count = int(kept[0].sum())
    if count in (0, kept.shape[1]):
        return torch.zeros(len(kept), dtype=torch.float64)
    return (_sums(odds, count)[0, count] - kept.cpu().double() @ odds.log()) / math.log(2)


def code_positions(channel: Channel, odds: Tensor, count: int, device: torch.device) -> Tensor:
    """(B, N) bool on the device, with `count` True in each row: one position after the other, each given how many are
    left. A position that must be kept, or can not, costs nothing."""
    tokens = len(odds)
    sums = _sums(odds, count)
    kept = torch.zeros(channel.count, tokens, dtype=torch.bool)
    left = torch.full((channel.count,), count)
    for place in range(tokens):
        kept[:, place] = left == tokens - place
        unsure = (left > 0) & (left < tokens - place)
        if unsure.any():
            j = left[unsure]
            chance = (odds[place].log() + sums[place + 1, j - 1] - sums[place, j]).exp()
            where = torch.zeros_like(kept)
            where[unsure, place] = True
            table = torch.stack([1 - chance, chance], dim=1)
            kept[unsure, place] = channel.take("kept", where.to(device), table).cpu().bool()
        left = left - kept[:, place].long()
    return kept.to(device)
