"""Error against bits of what is coded: whole grids, nothing forgotten; and the tokens that each strategy keeps."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from masked_memory.measuring.curves import bits_of, is_placed
from masked_memory.measuring.study import ALL_FORGOTTEN, Batch, recall_batch
from masked_memory.pipeline.batch_cache import remembering
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.choosing import PACES, choose_order
from masked_memory.recall.memory import baseline_probabilities
from masked_memory.rivals.coding.bitstreams import Coded, Coder, Sender, checked, there_and_back
from masked_memory.rivals.coding.coders import (
    code_by_pixelcnn,
    code_by_table,
    code_in_groups,
    code_kept,
    code_replayed,
    code_whole,
    replay,
)
from masked_memory.rivals.coding.positions import choice_bits, keeping_odds
from masked_memory.rivals.measuring.bits import (
    OF_THE_CODE,
    OF_THE_POSITION,
    BitsPlan,
    Entries,
    costs,
    gathered_rows,
    judge_stored,
)
from masked_memory.rivals.priors.pixelcnn import PixelCNN
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import mask_first, masked_count, position_bits, stored_bits

ALL_TOKENS = "all tokens"


def percent_setting(percent: int) -> str:
    """How a percentage is called in the column `setting`."""
    return f"{percent} % forgotten"


# --- whole grids ------------------------------------------------------------------------------------------------------


def whole_rows(plan: BitsPlan, pixelcnn: PixelCNN | None) -> Rows:
    """All tokens, by everyone who can say how probable codes are. pixelcnn: one that is told nothing; None: none."""
    memory, coders = plan.memory, whole_coders(plan, pixelcnn)

    def of_batch(batch: Batch) -> Entries:
        judged = judge_stored(memory, batch, memory.paint_tokens(batch.tokens), batch.tokens)
        plain = stored_bits(memory.tokens, memory.tokens, len(memory.codebook), fixed=True)
        for setting, coder in coders.items():
            yield ALL_TOKENS, setting, costs(there_and_back(coder, Sender(batch.tokens)), plain) | judged

    return gathered_rows(plan, "coding whole grids", of_batch)


def whole_coders(plan: BitsPlan, pixelcnn: PixelCNN | None) -> dict[str, Coder]:
    """What is called how in the column `setting`, and how it codes whole grids."""
    memory, handed = plan.memory, plan.handed
    size = len(memory.codebook)
    known = baseline_probabilities(handed.indices.tokens(handed.split.positions("train")), size)
    tables = {
        "fixed length": torch.full((memory.tokens, size), 1 / size),
        "frequencies of the codes": known[OF_THE_CODE],
        "frequencies at the position": known[OF_THE_POSITION],
    }
    coders: dict[str, Coder] = {
        setting: partial(code_by_table, chances=table, device=memory.device) for setting, table in tables.items()
    }
    if pixelcnn is not None:
        coders["PixelCNN"] = partial(code_by_pixelcnn, model=pixelcnn)
    return coders | {"DistilBERT": partial(code_whole, memory=memory, passes=plan.passes)}


# --- kept tokens ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """What both ends know before the first picture. orders: strategy -> (P, N), of those that are not replayed; odds:
    (strategy, percent) -> (N,), of those whose positions are sent."""

    orders: dict[str, Tensor]
    odds: dict[tuple[str, int], Tensor]


class _Cost(NamedTuple):
    """What a strategy keeps of a batch at one percentage, and what that costs."""

    percent: int
    kept: Tensor  # (B, N) bool
    coded: Coded
    position_bits: Tensor  # (B,) double, of an ideal coder; part of coded.ideal_bits


def kept_rows(plan: BitsPlan) -> Rows:
    """Every strategy at every percentage; nothing kept (100 %) is the same for all and costs nothing."""
    memory, study = plan.memory, plan.study
    prepared, plain = prepare_coding(plan), bits_of(memory)

    def of_batch(batch: Batch) -> Entries:
        if 100 in study.percentages:
            nothing = torch.zeros_like(batch.tokens, dtype=torch.bool)
            free = torch.zeros(len(nothing), dtype=torch.float64)
            values = {**costs(Coded(free, free), 0.0), **_places(free, 0.0), **_judge_kept(plan, batch, nothing, 100)}
            yield ALL_FORGOTTEN, percent_setting(100), values
        for strategy in study.strategies:
            counted = 0.0
            for cost in kept_costs(plan, prepared, batch, strategy):
                if not is_placed(strategy):
                    counted = position_bits(memory.tokens, int(cost.kept[0].sum()))
                values = costs(cost.coded, plain(strategy, cost.percent)) | _places(cost.position_bits, counted)
                values |= _judge_kept(plan, batch, cost.kept, cost.percent)
                yield strategy, percent_setting(cost.percent), values

    return gathered_rows(plan, "coding what is kept", of_batch)


def _places(bits: Tensor, counted: float) -> dict[str, Tensor]:
    return {"position_bits": bits, "counted_position_bits": torch.full_like(bits, counted)}


def _judge_kept(plan: BitsPlan, batch: Batch, kept: Tensor, percent: int) -> dict[str, Tensor]:
    """Complete and paint what is left of a batch, and judge it."""
    draws = generator(plan.study.seed, Stream.DRAWN_CODES, percent, 0, batch.rows.start)
    recalled = recall_batch(plan.memory, batch, ~kept, plan.study, (plan.decoding,), draws)
    return judge_stored(plan.memory, batch, *recalled.painted[plan.decoding])


def prepare_coding(plan: BitsPlan) -> Prepared:
    """Orders of the pictures, and from as many validation pictures how often each position is kept."""
    memory, study, handed = plan.memory, plan.study, plan.handed
    others = spread(handed.split.positions("val"), len(plan.positions))
    orders: dict[str, Tensor] = {}
    odds: dict[tuple[str, int], Tensor] = {}

    def orders_of(strategy: str) -> list[Tensor]:
        """Of the pictures, and of validation pictures where positions are sent."""
        asked = [plan.positions] if is_placed(strategy) else [plan.positions, others]
        return [_order(plan, strategy, handed.indices.tokens(positions)).cpu() for positions in asked]

    work = remembering(plan.notes and plan.notes / "orders", orders_of)
    for strategy in study.strategies:
        if strategy in PACES:
            continue
        orders[strategy], *seen = (order.to(memory.device) for order in work(strategy))
        if seen:
            for percent in study.percentages:
                odds[strategy, percent] = keeping_odds(~mask_first(seen[0], masked_count(percent / 100, memory.tokens)))
    return Prepared(orders, odds)


def _order(plan: BitsPlan, strategy: str, tokens: Tensor) -> Tensor:
    draws = generator(plan.study.seed, Stream.ORDERS, 0)
    return choose_order(strategy, plan.memory, tokens.to(plan.memory.device), draws, plan.study.choosing)


def kept_costs(plan: BitsPlan, prepared: Prepared, batch: Batch, strategy: str) -> Iterator[_Cost]:
    """One strategy at every percentage below 100."""
    memory, study = plan.memory, plan.study
    counts = {p: memory.tokens - masked_count(p / 100, memory.tokens) for p in study.percentages if p < 100}
    if strategy in PACES:
        pace, sender = PACES[strategy](memory, study.choosing), Sender(batch.tokens)
        _, ranks = replay(sender, memory, pace, max(counts.values(), default=0))
        for percent, count in counts.items():
            kept = ranks >= memory.tokens - count
            coder = partial(code_replayed, memory=memory, pace=pace, count=count)
            yield _Cost(percent, kept, checked(coder, sender, kept, calls=count), torch.zeros(len(kept)))
        return
    order = prepared.orders[strategy][batch.rows]
    for percent, count in counts.items():
        kept = ~mask_first(order, memory.tokens - count)
        if STRATEGIES[strategy].free:
            coder = partial(code_in_groups, memory=memory, kept=kept, passes=plan.passes)
            yield _Cost(percent, kept, there_and_back(coder, Sender(batch.tokens)), torch.zeros(len(kept)))
        else:
            odds = prepared.odds[strategy, percent]
            coder = partial(code_kept, memory=memory, odds=odds, count=count, passes=plan.passes)
            coded = there_and_back(coder, Sender(batch.tokens, kept))
            yield _Cost(percent, kept, coded, choice_bits(kept, odds))
