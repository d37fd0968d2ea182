"""Bytes of each picture and back: exact, short, and nothing but what was sent."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from masked_memory.rivals.coding.bitstreams import (
    Channel,
    Message,
    Receiver,
    Sender,
    checked,
    shortest_stream,
    there_and_back,
)
from toys import seeded

B, N = 6, 9


def some_chances(rows: int, symbols: int, seed: int = 0, sharp: float = 3.0) -> Tensor:
    return (torch.randn(rows, symbols, generator=seeded(seed)) * sharp).double().softmax(1)


def some_symbols(symbols: int, seed: int = 1) -> Tensor:
    return torch.randint(0, symbols, (B, N), generator=seeded(seed))


class TwoQuestions:
    """A coder that sends an uneven part of each grid, then the rest by what came first."""

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols
        self.first = torch.rand(B, N, generator=seeded(5)) < 0.4
        self.first[0] = False

    def __call__(self, channel: Channel) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(B, N, dtype=torch.long)
        for where in (self.first, ~self.first):
            shift = int(tokens.sum())  # of all that is known
            tokens[where] = channel.take("codes", where, some_chances(int(where.sum()), self.symbols, shift))
        return tokens, torch.ones(B, N, dtype=torch.bool)


@pytest.mark.parametrize("symbols", [2, 3, 300])
def test_what_is_sent_comes_back_and_costs_what_it_must(symbols: int) -> None:
    tokens = some_symbols(symbols)
    sender = Sender(tokens)
    coded = there_and_back(TwoQuestions(symbols), sender)
    assert (coded.bits % 8 == 0).all()
    assert coded.bits.sum() > coded.ideal_bits.sum() and (coded.bits < coded.ideal_bits + 9).all()


def test_ideal_bits_are_those_of_the_probabilities() -> None:
    sender = Sender(torch.tensor([[0, 1, 2], [2, 2, 0]]))
    where = torch.tensor([[True, False, True], [False, True, False]])
    chances = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.25, 0.625, 0.125]])
    assert sender.take("codes", where, chances).tolist() == [0, 2, 2]
    assert sender.ideal_bits().tolist() == [2, 3]
    assert sender.ideal_bits(0).tolist() == [0, 0]


def test_nothing_sent_is_no_bytes() -> None:
    assert Sender(some_symbols(3)).streams() == [b""] * B


def test_the_first_questions_alone_are_a_stream_of_their_own() -> None:
    coder, tokens = TwoQuestions(5), some_symbols(5)
    sender = Sender(tokens)
    coder(sender)

    def first_only(channel: Channel) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(B, N, dtype=torch.long)
        tokens[coder.first] = channel.take("codes", coder.first, some_chances(int(coder.first.sum()), 5))
        return tokens, coder.first

    part, whole = checked(first_only, sender, coder.first, calls=1), checked(coder, sender, coder.first | True)
    assert part.bits[0] == 0 and (part.ideal_bits < whole.ideal_bits).all()
    assert part.ideal_bits.tolist() == sender.ideal_bits(1).tolist()


def message_of(seed: int, length: int) -> Message:
    rng = np.random.default_rng(seed)
    parts = []
    for symbols in (2, 7):
        table = rng.dirichlet(np.full(symbols, 0.3), length) + 1e-9
        table /= table.sum(1, keepdims=True)
        parts.append((np.array([rng.choice(symbols, p=row) for row in table], dtype=np.int32), table))
    return parts


def reads(stream: bytes, message: Message) -> bool:
    receiver = Receiver([stream])
    try:
        found = [
            receiver.take("codes", torch.ones(1, len(symbols), dtype=torch.bool), torch.from_numpy(table)).tolist()
            for symbols, table in message
        ]
    except ValueError:
        return False
    return found == [symbols.tolist() for symbols, _ in message]


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_no_shorter_stream_is_read_as_the_message(seed: int, length: int) -> None:
    """All streams of one byte less that could be near, and every stream of a few bytes."""
    message = message_of(seed, length)
    stream = shortest_stream(message)
    assert reads(stream, message)
    ideal = sum(-np.log2(table[np.arange(len(symbols)), symbols]).sum() for symbols, table in message)
    assert 8 * len(stream) < ideal + 9
    if len(stream) == 2:
        assert not any(reads(bytes([byte]), message) for byte in range(256))
    elif stream:
        shorter = int.from_bytes(stream[:-1], "big")
        near = [number for number in range(shorter - 3, shorter + 4) if 0 <= number < 256 ** (len(stream) - 1)]
        assert not any(reads(number.to_bytes(len(stream) - 1, "big"), message) for number in near)


def test_a_coder_that_looks_at_what_was_not_sent_is_found_out() -> None:
    """The probabilities of the reader are others than those of the writer."""
    tokens = some_symbols(4)

    def peeking(channel: Channel) -> tuple[Tensor, Tensor]:
        seed = int(tokens.sum()) if isinstance(channel, Sender) else 0
        where = torch.ones(B, N, dtype=torch.bool)
        return channel.take("codes", where, some_chances(B * N, 4, seed)).view(B, N), where

    with pytest.raises((RuntimeError, ValueError), match=r"not decoded as they were coded|do not fit"):
        there_and_back(peeking, Sender(tokens))


def test_other_places_than_those_sent_are_found_out() -> None:
    tokens = torch.zeros(B, N, dtype=torch.long)

    def coder(channel: Channel) -> tuple[Tensor, Tensor]:
        where = torch.zeros(B, N, dtype=torch.bool)
        where[:, 0 if isinstance(channel, Sender) else 1] = True
        tokens = torch.zeros(B, N, dtype=torch.long)
        tokens[where] = channel.take("codes", where, some_chances(B, 2, sharp=0))
        return tokens, where

    with pytest.raises(RuntimeError, match="6 of 6 pictures are not decoded"):
        there_and_back(coder, Sender(tokens))


def test_positions_that_were_not_given_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="kept are asked for; expected one of: codes"):
        Sender(some_symbols(2)).take("kept", torch.ones(B, N, dtype=torch.bool), some_chances(B * N, 2))


def test_bytes_that_no_writer_made_are_refused() -> None:
    """A table whose intervals do not fill the whole range: the highest number lies in none."""
    chances = torch.full((1, 1000), 1 / 1000, dtype=torch.float64)
    receiver = Receiver([b"\xff" * 16])
    with pytest.raises(ValueError, match="do not fit the probabilities"):
        for _ in range(50):
            receiver.take("codes", torch.ones(1, 1, dtype=torch.bool), chances)


def test_a_uniform_table_costs_its_logarithm() -> None:
    sender = Sender(some_symbols(4))
    sender.take("codes", torch.ones(B, N, dtype=torch.bool), torch.full((B * N, 4), 0.25))
    assert sender.ideal_bits().tolist() == [N * math.log2(4)] * B
    assert [len(stream) for stream in sender.streams()] == pytest.approx([18 / 8] * B, abs=0.8)
