"""What to keep: orders of forgetting that ask the models of the memory.

All give (B, N) long ranks, as in `masking.py`: the rank of each token in the order in which it is forgotten, so that
one order serves every percentage. Each row depends on its own picture only. Letters: B batch, N tokens, K codes,
M masked tokens of a batch. Masks are bool, True = masked; `kept` is the opposite, True = stored.

The memory knows its picture while it stores it: it may compare what the model expects with what is there. `selective`,
`additive` and `direct` do not look and go by the model's confidence alone (Fayyaz and colleagues, ICANN 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from completion import halton_order
from masking import block_order, half_order, outpaint_order, random_order
from pipeline.metrics import to_unit
from recall import Memory

#: name -> what it does, in a few words (help, error messages, the web page)
STRATEGIES = {
    "random": "tokens at random",
    "block": "rectangles that grow from random places",
    "half": "rows from the bottom",
    "outpaint": "from the border inwards",
    "direct": "the surest first, ranked once",
    "selective": "keep the least sure one by one, from the centre on",
    "additive": "keep the least sure, a few at a time",
    "surprisal": "keep the most surprising, ranked once",
    "greedy-surprisal": "keep the most surprising, given what is kept",
    "distortion": "keep what is farthest from what is expected",
    "painted": "keep what would be painted most wrong",
    "adaptive": "keep what helps most to paint the whole picture",
}
#: Their pattern does not depend on the picture, so positions need not be stored.
FIXED = ("random", "block", "half", "outpaint")
#: Their pattern is drawn, so several seeds say more.
DRAWN = ("random", "block")
GROUPS = 8  # passes of the strategies that rank once


@dataclass(frozen=True)
class Choosing:
    """How hard to think. passes: of the greedy strategies, each keeps N / passes tokens more ("selective" always one);
    look_ahead: share of the tokens that "adaptive" tries out, `candidates` for each place."""

    passes: int = 24
    look_ahead: float = 0.15
    candidates: int = 8
    code_share: float = 0.5
    blocks: int = 1


def choose_order(
    strategy: str, memory: Memory, tokens: Tensor, generator: torch.Generator, choosing: Choosing
) -> Tensor:
    """(B, N) indices -> (B, N) ranks. Raises ValueError for an unknown strategy, with the list of all."""
    batch, side = len(tokens), memory.side
    if strategy == "random":
        return random_order(batch, memory.tokens, generator).to(tokens.device)
    if strategy == "block":
        return block_order(batch, side, side, generator, choosing.blocks).to(tokens.device)
    if strategy == "half":
        return half_order(batch, side, side).to(tokens.device)
    if strategy == "outpaint":
        return outpaint_order(batch, side, side).to(tokens.device)
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy is {strategy!r}; expected one of: {', '.join(STRATEGIES)}")
    parts = [_ask(strategy, memory, tokens[rows], choosing) for rows in memory.batches(batch)]
    return torch.cat(parts)


@torch.no_grad()
def _ask(strategy: str, memory: Memory, tokens: Tensor, choosing: Choosing) -> Tensor:
    step = max(1, round(memory.tokens / choosing.passes))
    if strategy in ("direct", "surprisal"):
        return by_score(leave_out(memory, tokens, unsure if strategy == "direct" else surprisal))
    if strategy in ("painted", "adaptive"):
        if strategy == "painted":
            return painted_order(memory, tokens, step)
        look_ahead = round(choosing.look_ahead * memory.tokens)
        return painted_order(memory, tokens, step, look_ahead, choosing.candidates, choosing.code_share)
    if strategy == "selective":
        centre = memory.side // 2 * memory.side + memory.side // 2
        return greedy(memory, tokens, unsure, 1, first=centre)
    scores = {"additive": unsure, "greedy-surprisal": surprisal, "distortion": distortion}
    return greedy(memory, tokens, scores[strategy], step)


#: (memory, logits (M, K), true codes (M,)) -> (M,): the higher, the longer a token is kept
Score = Callable[[Memory, Tensor, Tensor], Tensor]


def unsure(memory: Memory, logits: Tensor, true: Tensor) -> Tensor:
    """One minus the probability of the likeliest code. (The published study takes the logit itself, which is not
    comparable between positions.)"""
    return 1 - logits.softmax(1).amax(1)


def surprisal(memory: Memory, logits: Tensor, true: Tensor) -> Tensor:
    """-log p(code | the others), nats."""
    return F.cross_entropy(logits, true, reduction="none")


def distortion(memory: Memory, logits: Tensor, true: Tensor) -> Tensor:
    """|| E[e | kept] - e ||^2: how far the code vector to expect lies from the true one."""
    return (logits.softmax(1) @ memory.codebook - memory.codebook[true]).square().sum(1)


def by_score(scores: Tensor) -> Tensor:
    """(B, N) -> ranks: the lowest score is forgotten first; equal ones in raster order."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def leave_out(memory: Memory, tokens: Tensor, score: Score) -> Tensor:
    """(B, N) scores given (nearly) all others: in GROUPS passes a well spread share of the grid is masked."""
    groups = halton_order(memory.side, memory.side).to(tokens.device) % min(GROUPS, memory.tokens)
    scores = torch.zeros(tokens.shape, device=tokens.device)
    for group in groups.unique():
        mask = (groups == group).expand_as(tokens)
        scores[mask] = score(memory, memory.logits(tokens, mask), tokens[mask])
    return scores


def greedy(memory: Memory, tokens: Tensor, score: Score, step: int, first: int | None = None) -> Tensor:
    """Start from nothing (or from the token `first`), again and again keep the `step` tokens of highest score given
    those kept."""
    keeper = Keeper(tokens)
    if first is not None:
        keeper.keep(torch.full((len(tokens), 1), first, device=tokens.device))
    while keeper.left:
        mask = ~keeper.kept
        scores = torch.zeros(tokens.shape, device=tokens.device)
        scores[mask] = score(memory, memory.logits(tokens, mask), tokens[mask])
        keeper.keep(keeper.best(scores, step))
    return keeper.ranks


def painted_order(
    memory: Memory, tokens: Tensor, step: int, look_ahead: int = 0, candidates: int = 1, code_share: float = 0.0
) -> Tensor:
    """Keep the tokens whose pixels would be painted most wrong, given what is kept.

    For the first `look_ahead` tokens each of the `candidates` worst is tried, and the one is kept that leaves the least
    error in the whole picture: what one token tells about the others counts while few are kept. code_share: weight of
    the distortion of the code vectors beside the painted error, each as a share of what it is when nothing is kept;
    squared pixels alone say little about what a classifier sees.
    """
    judge = Judge(memory, tokens, code_share)
    keeper = Keeper(tokens)
    rows, errors = torch.arange(len(tokens), device=tokens.device), judge.first
    while keeper.left:
        if memory.tokens - keeper.left < look_ahead:
            tried = keeper.best(errors, candidates)  # (B, m)
            m = tried.shape[1]
            kept = keeper.kept.unsqueeze(1).repeat(1, m, 1).scatter_(2, tried.unsqueeze(2), True)
            after = judge.errors(rows.repeat_interleave(m), kept.flatten(0, 1)).view(len(tokens), m, -1)
            winner = after.sum(2).argmin(1)
            keeper.keep(tried[rows, winner].unsqueeze(1))
            errors = after[rows, winner]
        else:
            keeper.keep(keeper.best(errors, step))
            if keeper.left:
                errors = judge.errors(rows, keeper.kept)
    return keeper.ranks


class Judge:
    """How wrong each token would be painted when only some are kept and the rest is filled with the code vectors to
    expect; shares of the error of a picture of which nothing is kept."""

    def __init__(self, memory: Memory, tokens: Tensor, code_share: float) -> None:
        self.memory, self.tokens, self.code_share = memory, tokens, code_share
        self.whole = to_unit(memory.paint_indices(tokens))
        rows = torch.arange(len(tokens), device=tokens.device)
        painted, coded = self._both(rows, torch.zeros_like(tokens, dtype=torch.bool))
        self.scales = (painted.sum(1, keepdim=True).clamp(min=1e-8), coded.sum(1, keepdim=True).clamp(min=1e-8))
        self.first = self._mixed(rows, painted, coded)  # (B, N): errors while nothing is kept

    def errors(self, rows: Tensor, kept: Tensor) -> Tensor:
        """rows (R,): which pictures; kept (R, N) -> (R, N)."""
        return self._mixed(rows, *self._both(rows, kept))

    def _mixed(self, rows: Tensor, painted: Tensor, coded: Tensor) -> Tensor:
        mixed = (1 - self.code_share) * painted / self.scales[0][rows]
        return mixed + self.code_share * coded / self.scales[1][rows]

    def _both(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(R, N) mean squared pixel error over each token's cell, and squared distance of its code vector."""
        memory, painted, coded = self.memory, [], []
        for part in memory.batches(len(rows)):
            tokens, mask = self.tokens[rows[part]], ~kept[part]
            vectors = memory.codebook[tokens]
            expected = memory.logits(tokens, mask).softmax(1) @ memory.codebook  # (M, D)
            distances = torch.zeros(mask.shape, device=mask.device)
            distances[mask] = (expected - vectors[mask]).square().sum(1)
            vectors[mask] = expected
            with memory.autocast():
                pictures = to_unit(memory.paint(vectors).float())
            wrong = (pictures - self.whole[rows[part]]).square().mean(1, keepdim=True)
            painted.append(F.avg_pool2d(wrong, memory.stride).flatten(1))
            coded.append(distances)
        return torch.cat(painted), torch.cat(coded)


class Keeper:
    """Tokens that are kept, one after the other: the first kept is the last forgotten."""

    def __init__(self, tokens: Tensor) -> None:
        self.kept = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        self.ranks = torch.full(tokens.shape, -1, dtype=torch.long, device=tokens.device)
        self.left = tokens.shape[1]

    def best(self, scores: Tensor, count: int) -> Tensor:
        """(B, count): the tokens of highest score that are not kept yet; equal ones in raster order."""
        ordered = scores.masked_fill(self.kept, float("-inf")).argsort(dim=1, descending=True, stable=True)
        return ordered[:, : min(count, self.left)]

    def keep(self, chosen: Tensor) -> None:
        """chosen: (B, count) places, the most wanted first."""
        count = chosen.shape[1]
        ranks = torch.arange(self.left - 1, self.left - 1 - count, -1, device=chosen.device)
        self.ranks.scatter_(1, chosen, ranks.expand_as(chosen))
        self.kept.scatter_(1, chosen, True)
        self.left -= count
