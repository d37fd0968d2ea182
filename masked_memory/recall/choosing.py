"""What to keep: orders of forgetting that ask the models of the memory.

All give (B, N) long ranks, as in `masking.py`: the rank of each token in the order in which it is forgotten, so that
one order serves every percentage. Each row depends on its own picture only. Letters: B batch, N tokens, K codes,
M masked tokens of a batch. Masks are bool, True = masked; `kept` is the opposite, True = stored.

The memory knows its picture while it stores it: it may compare what the model expects with what is there. `selective`,
`additive` and `direct` do not look and go by the model's confidence alone (Fayyaz and colleagues, ICANN 2024).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.pipeline.files import InputError
from masked_memory.recall.memory import Memory
from masked_memory.recall.painted_order import Keeper, painted_order
from masked_memory.settings.strategies import STRATEGIES, Strategy
from masked_memory.stages.masking import block_order, half_order, halton_order, outpaint_order, random_order

GROUPS = 8  # passes of the strategies that rank once
ASKED_IN_FULL = 256  # tokens


@dataclass(frozen=True)
class Choosing:
    """How hard to think. choosing_passes: of the greedy strategies, each keeps N / choosing_passes tokens more, and
    "selective" N / selective_passes; look_ahead: share of the tokens that "adaptive" tries out, look_ahead_tokens at
    most, `candidates` for the first; code_share: weight of code vectors beside pixels there; blocks: rectangles of
    "block".

    On grids of more than ASKED_IN_FULL tokens the three counts are less, in proportion to the side, since a pass over
    them takes more than in proportion to their tokens."""

    choosing_passes: int = 24
    selective_passes: int = 64
    look_ahead: float = 0.5
    look_ahead_tokens: int = 32
    candidates: int = 8
    code_share: float = 0.5
    blocks: int = 1

    def step(self, tokens: int) -> int:
        """Tokens that the greedy strategies keep in a pass over a grid of so many."""
        return max(1, round(tokens / _fewer(self.choosing_passes, tokens)))

    def selective_step(self, tokens: int) -> int:
        """The same of "selective"."""
        return max(1, round(tokens / _fewer(self.selective_passes, tokens)))

    def tried(self, tokens: int) -> int:
        """How many tokens of so many "adaptive" tries out."""
        return min(round(self.look_ahead * tokens), round(_fewer(self.look_ahead_tokens, tokens)))


def _fewer(count: int, tokens: int) -> float:
    return count * min(1.0, math.sqrt(ASKED_IN_FULL / tokens))


#: (memory, grids (B, N), draws, how hard to think) -> ranks (B, N)
Order = Callable[[Memory, Tensor, torch.Generator, Choosing], Tensor]


@torch.no_grad()
def choose_order(
    strategy: str, memory: Memory, tokens: Tensor, generator: torch.Generator, choosing: Choosing
) -> Tensor:
    """(B, N) indices -> (B, N) ranks. Raises ValueError for an unknown strategy, with the list of all."""
    if strategy not in ORDERS:
        raise ValueError(f"strategy is {strategy!r}; expected one of: {', '.join(ORDERS)}")
    order = ORDERS[strategy]
    if STRATEGIES[strategy].free:
        return order(memory, tokens, generator, choosing).to(tokens.device)
    return torch.cat([order(memory, tokens[rows], generator, choosing) for rows in memory.batches(len(tokens))])


# --- patterns that do not look at the picture -------------------------------------------------------------------------


def at_random(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return random_order(len(tokens), memory.tokens, draws)


def in_blocks(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return block_order(len(tokens), memory.side, memory.side, draws, choosing.blocks)


def from_below(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return half_order(len(tokens), memory.side, memory.side)


def from_the_border(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return outpaint_order(len(tokens), memory.side, memory.side)


# --- orders that ask the models ---------------------------------------------------------------------------------------


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


def direct(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return by_score(leave_out(memory, tokens, unsure))


class Pace(NamedTuple):
    """How a strategy that can be replayed goes on: by `unsure`, so many tokens at a time, from a first one or none."""

    step: int
    first: int | None = None


def from_the_centre(memory: Memory, choosing: Choosing) -> Pace:
    return Pace(choosing.selective_step(memory.tokens), memory.side // 2 * memory.side + memory.side // 2)


def few_at_a_time(memory: Memory, choosing: Choosing) -> Pace:
    return Pace(choosing.step(memory.tokens))


#: Those that settings.strategies calls replayed. `coding.replay` goes through the same steps without the other codes.
PACES: dict[str, Callable[[Memory, Choosing], Pace]] = {"selective": from_the_centre, "additive": few_at_a_time}


def selective(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return greedy(memory, tokens, unsure, *from_the_centre(memory, choosing))


def additive(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return greedy(memory, tokens, unsure, *few_at_a_time(memory, choosing))


def most_surprising(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return by_score(leave_out(memory, tokens, surprisal))


def greedy_surprisal(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return greedy(memory, tokens, surprisal, choosing.step(memory.tokens))


def most_distorted(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return greedy(memory, tokens, distortion, choosing.step(memory.tokens))


def painted(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    return painted_order(memory, tokens, choosing.step(memory.tokens))


def adaptive(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    """The tokens that are painted most wrong, in pixels and code vectors, with a look ahead while few are kept."""
    return _looking_ahead(memory, tokens, choosing, per_bit=False)


def distortion_per_bit(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
    """As `adaptive`, but by the error that a token takes away for each bit that it costs."""
    return _looking_ahead(memory, tokens, choosing, per_bit=True)


def _looking_ahead(memory: Memory, tokens: Tensor, choosing: Choosing, per_bit: bool) -> Tensor:
    step, tried = choosing.step(memory.tokens), choosing.tried(memory.tokens)
    return painted_order(memory, tokens, step, tried, choosing.candidates, choosing.code_share, per_bit)


#: strategy -> how it orders. The names, and what is said of them, are those of settings.strategies.STRATEGIES.
ORDERS: dict[str, Order] = {
    "random": at_random,
    "block": in_blocks,
    "half": from_below,
    "outpaint": from_the_border,
    "direct": direct,
    "selective": selective,
    "additive": additive,
    "surprisal": most_surprising,
    "greedy-surprisal": greedy_surprisal,
    "distortion": most_distorted,
    "painted": painted,
    "adaptive": adaptive,
    "distortion-per-bit": distortion_per_bit,
}

# --- strategies of a user's own ---------------------------------------------------------------------------------------

#: (memory, grids (B, N), draws) -> (B, N): how much each token is worth; the least is forgotten first
Worth = Callable[[Memory, Tensor, torch.Generator], Tensor]


def strategy(
    name: str, says: str = "", asks: str = "the memory and the true codes", free: bool = False, drawn: bool = False
) -> Callable[[Worth], Worth]:
    """Register a function as a strategy, for `recall`, the study and the settings: a decorator.

    The function is given the memory (`memory.codebook` (K, D); `memory.logits(tokens, mask)`, what the DistilBERT says
    of masked tokens; `memory.paint_tokens(tokens)`, pictures (B, C, H, W) in [-1, 1]; `memory.side`, tokens along each
    side), the grids (B, N) long on the memory's device, and a generator on the CPU. It returns (B, N) numbers, how much
    each token is worth: the token that is worth least is forgotten first, equal ones in raster order. Each row has to
    depend on its own picture only.

    name: letters, digits and hyphens; not one of those that come with the project. says: in a few words, for help
    and figures. free: it does not look at the picture, so that positions cost no bits. drawn: it uses the generator, so
    that the study repeats it. A second registration under a name of one's own replaces the first.

    Raises InputError for a name that cannot be taken, and later for what is not (B, N) finite numbers.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or name == "any":
        raise InputError(
            f"a strategy cannot be called {name!r}; expected letters, digits and hyphens, such as brightest"
        )
    if name in STRATEGIES and not STRATEGIES[name].own:
        raise InputError(f"{name} is a strategy that comes with the project; give yours another name")

    def register(worth: Worth) -> Worth:
        said = says or (worth.__doc__ or "").strip().partition("\n")[0] or "a strategy of one's own"
        STRATEGIES[name] = Strategy(said, said, asks, len(STRATEGIES), free, drawn, own=True)

        def order(memory: Memory, tokens: Tensor, draws: torch.Generator, choosing: Choosing) -> Tensor:
            return by_score(_checked_worth(name, worth(memory, tokens, draws), tokens))

        ORDERS[name] = order
        return worth

    return register


def _checked_worth(name: str, found: object, tokens: Tensor) -> Tensor:
    values = torch.as_tensor(found)
    if values.shape != tokens.shape:
        raise InputError(
            f"strategy {name} returned numbers of shape {tuple(values.shape)}; expected {tuple(tokens.shape)}, one for "
            "each token of each picture"
        )
    if values.is_floating_point() and not values.isfinite().all():
        raise InputError(f"strategy {name} returned numbers that are not finite; expected how much each token is worth")
    return values.to(tokens.device)
