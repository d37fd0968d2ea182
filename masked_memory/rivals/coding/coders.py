"""Who says how probable a code is: counts, the PixelCNN, the DistilBERT. Each coder serves writer and reader.

Letters: B pictures, N tokens in raster order, K codes, M symbols. A coder gives codes (B, N), 0 where nothing was sent,
and where something was, (B, N) bool. What is not sent yet is 0 or MASK for whoever is asked.
"""

from typing import Protocol

import torch
from torch import Tensor

from masked_memory.recall.choosing import Pace, unsure
from masked_memory.recall.memory import Memory
from masked_memory.recall.painted_order import Keeper
from masked_memory.rivals.coding.bitstreams import Channel
from masked_memory.rivals.coding.positions import code_positions
from masked_memory.rivals.priors.pixelcnn import PixelCNN, untold_reader
from masked_memory.stages.masking import halton_order

Sent = tuple[Tensor, Tensor]


class Completing(Protocol):
    """Whoever says how probable the codes of masked tokens are: a memory, or one over merged codes."""

    @property
    def side(self) -> int:
        """h = w."""
        ...

    @property
    def device(self) -> torch.device: ...

    def logits(self, tokens: Tensor, mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(B, N) codes, (B, N) bool -> (M, K) of the masked tokens, or of those of them that are wanted (B, N)."""
        ...


def chances_of(logits: Tensor) -> Tensor:
    """(M, K) -> (M, K) double on the CPU: the softmax in float32, as both ends compute it."""
    return logits.float().softmax(1).cpu().double()


def code_by_table(channel: Channel, chances: Tensor, device: torch.device) -> Sent:
    """Whole grids by fixed probabilities. chances: (N, K), of each position."""
    where = torch.ones(channel.count, len(chances), dtype=torch.bool, device=device)
    codes = channel.take("codes", where, chances.repeat(channel.count, 1))
    return codes.view(where.shape), where


@torch.no_grad()
def code_by_pixelcnn(channel: Channel, model: PixelCNN) -> Sent:
    """Whole grids, each code given those before it in raster order; both ends go token by token, as a pass over a whole
    grid differs in the last digits."""
    side, device = model.config.grid, model.place.device
    reader = untold_reader(model, channel.count)
    tokens = torch.zeros(channel.count, side**2, dtype=torch.long, device=device)
    sent = torch.zeros_like(tokens, dtype=torch.bool)
    for place in range(side**2):
        where = torch.zeros_like(sent)
        where[:, place] = True
        tokens[:, place] = channel.take("codes", where, chances_of(reader.logits(place)))
        reader.put(place, tokens[:, place])
        sent |= where
    return tokens, sent


@torch.no_grad()
def code_in_groups(channel: Channel, memory: Completing, kept: Tensor, passes: int) -> Sent:
    """The tokens of `kept` (B, N), as many in each row, in groups by the DistilBERT, each given those before it."""
    tokens = torch.zeros(kept.shape, dtype=torch.long, device=kept.device)
    sent = torch.zeros_like(kept)
    for group in spread_groups(kept, memory.side, passes):
        tokens[group] = channel.take("codes", group, chances_of(memory.logits(tokens, ~sent, group)))
        sent |= group
    return tokens, sent


def code_whole(channel: Channel, memory: Completing, passes: int) -> Sent:
    """Whole grids in groups by the DistilBERT."""
    everything = torch.ones(channel.count, memory.side**2, dtype=torch.bool, device=memory.device)
    return code_in_groups(channel, memory, everything, passes)


def spread_groups(kept: Tensor, side: int, passes: int) -> list[Tensor]:
    """(B, N) bool, as many in each row -> at most `passes` parts of it of nearly equal size, in Halton order."""
    count = int(kept[0].sum())
    order = halton_order(side, side).to(kept.device).expand(kept.shape).masked_fill(~kept, side**2)
    ranks = order.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    parts = min(passes, count)
    return [kept & (ranks * parts // count == part) for part in range(parts)]


def code_kept(channel: Channel, memory: Memory, odds: Tensor, count: int, passes: int) -> Sent:
    """`count` tokens of each picture: first which, then their codes. odds: (N,), see `positions.keeping_odds`."""
    kept = code_positions(channel, odds, count, memory.device)
    return code_in_groups(channel, memory, kept, passes)


@torch.no_grad()
def replay(channel: Channel, memory: Memory, pace: Pace, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` tokens that a replayed strategy keeps, one question each, and the ranks (B, N) in which they
    are forgotten; -1 where a token is not kept.

    Both ends choose as `recall.choosing.greedy` does, knowing the kept codes only, so no positions are sent. A code is
    coded given those kept in the steps before.
    """
    tokens = torch.zeros(channel.count, memory.tokens, dtype=torch.long, device=memory.device)
    keeper = Keeper(tokens)
    while (missing := count - int(keeper.kept[0].sum())) > 0:
        first = pace.first if not keeper.kept.any() else None
        parts = [
            _next(memory, tokens[rows], keeper.part(rows), min(pace.step, missing), first)
            for rows in memory.batches(len(tokens))
        ]
        chosen, chances = (torch.cat(each) for each in zip(*parts, strict=True))
        for column in range(chosen.shape[1]):
            where = torch.zeros_like(keeper.kept).scatter_(1, chosen[:, column : column + 1], True)
            tokens[where] = channel.take("codes", where, chances[:, column])
        keeper.keep(chosen)
    return tokens, keeper.ranks


def _next(memory: Memory, tokens: Tensor, keeper: Keeper, count: int, first: int | None) -> tuple[Tensor, Tensor]:
    """(B, count) the tokens to keep next, or `first`, and the probabilities (B, count, K) of their codes."""
    mask = ~keeper.kept
    logits = memory.logits(tokens, mask)  # (M, K)
    if first is not None:
        chosen = torch.full((len(tokens), 1), first, device=tokens.device)
    else:
        scores = torch.zeros(tokens.shape, device=tokens.device)
        scores[mask] = unsure(memory, logits, tokens[mask])
        chosen = keeper.best(scores, count)
    rows = (mask.flatten().cumsum(0) - 1).view(mask.shape).gather(1, chosen)  # of the logits
    return chosen, chances_of(logits[rows.flatten()]).unflatten(0, chosen.shape)


def code_replayed(channel: Channel, memory: Memory, pace: Pace, count: int) -> Sent:
    """As `replay`, as a coder."""
    tokens, ranks = replay(channel, memory, pace, count)
    return tokens, ranks >= 0
