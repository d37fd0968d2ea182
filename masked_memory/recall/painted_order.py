"""Orders of keeping: one token after the other, judged by what would be painted."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.pipeline.metrics import to_unit
from masked_memory.recall.hole import Filled
from masked_memory.recall.memory import Memory


def painted_order(
    memory: Memory,
    tokens: Tensor,
    step: int,
    look_ahead: int = 0,
    candidates: int = 1,
    code_share: float = 0.0,
    per_bit: bool = False,
) -> Tensor:
    """Keep the tokens whose pixels would be painted most wrong, given what is kept.

    For the first `look_ahead` tokens the worst are tried, and the one is kept that leaves the least error in the whole
    picture: what one token tells about the others counts while few are kept. At first `candidates` are tried, fewer and
    fewer then: to stop at once would let the next tokens raise the error. code_share: weight of
    the distortion of the code vectors beside the painted error, each as a share of what it is when nothing is kept;
    squared pixels alone say little about what a classifier sees. per_bit: errors, and what a candidate takes away, are
    divided by the bits that the token costs.
    """
    judge = Judge(memory, tokens, code_share)
    keeper = Keeper(tokens)
    rows, errors, bits = torch.arange(len(tokens), device=tokens.device), judge.first, judge.first_bits
    while keeper.left:
        scores = errors / bits if per_bit else errors
        if (tries := candidates_at(memory.tokens - keeper.left, look_ahead, candidates)) > 0:
            tried = keeper.best(scores, tries)  # (B, m)
            m = tried.shape[1]
            kept = keeper.kept.unsqueeze(1).repeat(1, m, 1).scatter_(2, tried.unsqueeze(2), True)
            after, bits_after = judge.errors_and_bits(rows.repeat_interleave(m), kept.flatten(0, 1))
            after, bits_after = after.view(len(tokens), m, -1), bits_after.view(len(tokens), m, -1)
            gains = errors.sum(1, keepdim=True) - after.sum(2)
            winner = (gains / bits.gather(1, tried)).argmax(1) if per_bit else after.sum(2).argmin(1)
            keeper.keep(tried[rows, winner].unsqueeze(1))
            errors, bits = after[rows, winner], bits_after[rows, winner]
        else:
            keeper.keep(keeper.best(scores, step))
            if keeper.left:
                errors, bits = judge.errors_and_bits(rows, keeper.kept)
    return keeper.ranks


def candidates_at(kept: int, look_ahead: int, candidates: int) -> int:
    """How many are tried for the next token: `candidates` at first, falling evenly to 1; 0 when there is no looking
    ahead any more."""
    return -(-candidates * (look_ahead - kept) // look_ahead) if kept < look_ahead else 0


class Judge:
    """How wrong each token would be painted when only some are kept and the rest is filled with the code vectors to
    expect; shares of the error of a picture of which nothing is kept. And what it would cost to keep a token, in bits:
    the surprisal of its code given what is kept, and log2 N for its position, as if that were named by itself."""

    def __init__(self, memory: Memory, tokens: Tensor, code_share: float) -> None:
        self.memory, self.tokens, self.code_share = memory, tokens, code_share
        self.whole = to_unit(memory.paint_tokens(tokens))
        rows = torch.arange(len(tokens), device=tokens.device)
        painted, coded, self.first_bits = self._asked(rows, torch.zeros_like(tokens, dtype=torch.bool))
        self.scales = (painted.sum(1, keepdim=True).clamp(min=1e-8), coded.sum(1, keepdim=True).clamp(min=1e-8))
        self.first = self._mixed(rows, painted, coded)  # (B, N): errors while nothing is kept

    def errors(self, rows: Tensor, kept: Tensor) -> Tensor:
        """rows (R,): which pictures; kept (R, N) -> (R, N)."""
        return self.errors_and_bits(rows, kept)[0]

    def errors_and_bits(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """rows (R,): which pictures; kept (R, N) -> (R, N) each."""
        painted, coded, bits = self._asked(rows, kept)
        return self._mixed(rows, painted, coded), bits

    def _mixed(self, rows: Tensor, painted: Tensor, coded: Tensor) -> Tensor:
        mixed = (1 - self.code_share) * painted / self.scales[0][rows]
        return mixed + self.code_share * coded / self.scales[1][rows]

    def _asked(self, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, N) mean squared pixel error over each token's cell, squared distance of its code vector, and its bits."""
        memory, painted, coded, costs = self.memory, [], [], []
        for part in memory.batches(len(rows)):
            tokens, mask = self.tokens[rows[part]], ~kept[part]
            vectors = memory.codebook[tokens]
            logits = memory.logits(tokens, mask)  # (M, K)
            expected = logits.softmax(1) @ memory.codebook  # (M, D)
            distances = torch.zeros(mask.shape, device=mask.device)
            distances[mask] = (expected - vectors[mask]).square().sum(1)
            bits = torch.full(mask.shape, math.log2(memory.tokens), device=mask.device)
            bits[mask] += F.cross_entropy(logits, tokens[mask], reduction="none") / math.log(2)
            vectors[mask] = expected
            with memory.autocast():
                pictures = to_unit(memory.paint(Filled(tokens, vectors, kept=kept[part])).float())
            wrong = (pictures - self.whole[rows[part]]).square().mean(1, keepdim=True)
            painted.append(F.avg_pool2d(wrong, memory.stride).flatten(1))
            coded.append(distances)
            costs.append(bits)
        return torch.cat(painted), torch.cat(coded), torch.cat(costs)


class Keeper:
    """Tokens that are kept, one after the other: the first kept is the last forgotten."""

    def __init__(self, tokens: Tensor) -> None:
        self.kept = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
        self.ranks = torch.full(tokens.shape, -1, dtype=torch.long, device=tokens.device)
        self.left = tokens.shape[1]

    def part(self, rows: slice) -> "Keeper":
        """Of some pictures, to be looked at."""
        own = Keeper(self.kept[rows])
        own.kept, own.ranks, own.left = self.kept[rows], self.ranks[rows], self.left
        return own

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
