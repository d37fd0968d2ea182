"""In which order examples are trained on: one pass after another, drawn as they are needed. An epoch may have so many
steps that the order of all of them would not fit into memory."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from masked_memory.pipeline.machine import generator


def orders_of_passes(first: Tensor, numbers: tuple[int, int] | None) -> Iterator[Tensor]:
    """The examples in the order `first`, and then in one of its own for each further pass, drawn from the numbers and
    that of the pass; numbers None: no further passes."""
    yield first
    if numbers is None:
        return
    for passed in itertools.count(1):
        yield torch.randperm(len(first), generator=generator(*numbers, passed))


def split_orders(orders: Iterator[Tensor], steps: int, size: int) -> Iterator[Tensor]:
    """`steps` batches of `size` rows, from one order after another as far as they are needed; a batch may begin in one
    and end in the next. Where there are too few, what there is."""
    rows = next(orders)
    for _ in range(steps):
        while len(rows) < size and (more := next(orders, None)) is not None:
            rows = torch.cat([rows, more])
        yield rows[:size]
        rows = rows[size:]


def asked_ahead(batches: Iterator[Tensor], ask: Callable[[Tensor], None]) -> Iterator[Tensor]:
    """The batches; `ask` gets the first at once, each other one before work on its predecessor."""
    rows = next(batches)
    ask(rows)
    for coming in batches:
        ask(coming)
        yield rows
        rows = coming
    yield rows
