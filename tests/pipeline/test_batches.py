"""Orders of passes, and batches cut from them."""

from itertools import count, islice

import torch

from masked_memory.pipeline.batches import asked_ahead, orders_of_passes, split_orders


def test_batches_go_through_one_order_after_another() -> None:
    orders = [torch.arange(10 * number, 10 * number + 7) for number in range(3)]
    found = list(split_orders(iter(orders), 5, 4))
    assert torch.equal(torch.cat(found), torch.cat(orders)[:20]) and {len(each) for each in found} == {4}


def test_a_single_order_with_too_few_rows_is_one_batch() -> None:
    (found,) = split_orders(iter([torch.arange(3)]), 1, 8)
    assert torch.equal(found, torch.arange(3))


def test_orders_are_drawn_when_they_are_needed() -> None:
    """An epoch may have so many steps that the order of all of them would not fit into memory."""
    drawn = []
    orders = (drawn.append(number) or torch.arange(5) for number in count())
    assert len(list(islice(split_orders(orders, 10**12, 2), 6))) == 6
    assert drawn == [0, 1, 2]


def test_without_numbers_there_is_one_pass() -> None:
    (only,) = orders_of_passes(torch.arange(4), None)
    assert torch.equal(only, torch.arange(4))


def test_passes_are_drawn_from_all_numbers() -> None:
    """The same numbers, the same orders; other numbers, others."""

    def three(*numbers: int) -> list[list[int]]:
        return [order.tolist() for order in islice(orders_of_passes(torch.arange(50), numbers), 1, 4)]

    assert three(1, 2) == three(1, 2)
    every = [tuple(order) for numbers in ((1, 2), (2, 1), (1, 3)) for order in three(*numbers)]
    assert len(set(every)) == 9 and all(sorted(order) == list(range(50)) for order in every)


def test_each_batch_is_asked_for_before_the_one_that_precedes_it_is_worked_on() -> None:
    """By the very tensor that comes later: a reader knows what it was asked for by that."""
    batches = [torch.tensor([number]) for number in range(3)]
    asked: list[torch.Tensor] = []
    for number, rows in enumerate(asked_ahead(iter(batches), asked.append)):
        assert rows is batches[number]
        assert len(asked) == min(number + 2, 3)
        assert all(one is other for one, other in zip(asked, batches, strict=False))


def test_a_single_batch_is_asked_for_once() -> None:
    only = torch.arange(3)
    asked: list[torch.Tensor] = []
    assert [rows is only for rows in asked_ahead(iter([only]), asked.append)] == [True] and len(asked) == 1
