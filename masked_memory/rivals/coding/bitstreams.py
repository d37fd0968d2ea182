"""Symbols and their probabilities -> the bytes of each picture, and back.

Letters: B pictures of a batch, N tokens, M symbols, A how many symbols there could be. A coder (`coders.py`,
`positions.py`) is written once, for both ends: it asks a `Channel` for symbols and says how probable each is.
The `Sender` knows them and notes them down; the `Receiver` decodes them. Whatever else a coder knows came through the
channel before, so both ends ask the models the same questions in the same batches and get the same digits.

The range coder is that of constriction (Bamler 2022), with probabilities of 24 bits. A stream is as short as can be:
zeros behind it are left out. How long it is has to be told otherwise, as a file system tells the length of a file.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol

import constriction
import numpy as np
import torch
from torch import Tensor

Symbols = Literal["codes", "kept"]
WORD = 4  # bytes that the range coder reads at once
BEHIND = 2 * WORD  # zeros that stand behind a stream when it is read

#: Of one picture: symbols (M,) int32 and their probabilities (M, A) float64, in runs of the same A
Message = list[tuple[np.ndarray, np.ndarray]]


class Channel(Protocol):
    """The way from writer to reader, of a batch of pictures."""

    @property
    def count(self) -> int:
        """B."""
        ...

    def take(self, kind: Symbols, where: Tensor, probabilities: Tensor) -> Tensor:
        """The symbols (M,) long at `where` (B, N) bool, row by row. probabilities: (M, A), of each what it could be."""
        ...


class _Call(NamedTuple):
    """What one question put through: symbols (M,), probabilities (M, A), and where each picture's begin and end."""

    symbols: np.ndarray
    probabilities: np.ndarray
    ends: np.ndarray  # (B + 1,)


class Sender:
    """The writer's end. tokens: (B, N) codes; kept: (B, N) bool, for coders that send positions.

    Raises ValueError when a coder asks for what was not given.
    """

    def __init__(self, tokens: Tensor, kept: Tensor | None = None) -> None:
        self.known = {"codes": tokens} if kept is None else {"codes": tokens, "kept": kept.long()}
        self._calls: list[_Call] = []

    @property
    def count(self) -> int:
        return len(self.known["codes"])

    def take(self, kind: Symbols, where: Tensor, probabilities: Tensor) -> Tensor:
        if kind not in self.known:
            raise ValueError(f"{kind} are asked for; expected one of: {', '.join(self.known)}")
        symbols = self.known[kind][where]
        table = probabilities.cpu().double().numpy()
        self._calls.append(_Call(symbols.cpu().numpy().astype(np.int32), table, _ends(where)))
        return symbols

    def streams(self, calls: int | None = None) -> list[bytes]:
        """The bytes of each picture, of all questions or the first so many."""
        return [shortest_stream(self._message(row, calls)) for row in range(self.count)]

    def ideal_bits(self, calls: int | None = None) -> Tensor:
        """(B,) double: minus the sum of log2 of the probabilities."""
        bits = torch.zeros(self.count, dtype=torch.float64)
        for call in self._calls[:calls]:
            found = -np.log2(call.probabilities[np.arange(len(call.symbols)), call.symbols])
            for row in range(self.count):
                bits[row] += found[call.ends[row] : call.ends[row + 1]].sum()
        return bits

    def _message(self, row: int, calls: int | None) -> Message:
        parts = []
        for call in self._calls[:calls]:
            mine = slice(call.ends[row], call.ends[row + 1])
            parts.append((call.symbols[mine], call.probabilities[mine]))
        runs = (list(run) for _, run in groupby(parts, key=lambda part: part[1].shape[1]))
        joined = [(np.concatenate([s for s, _ in run]), np.concatenate([p for _, p in run])) for run in runs]
        return [(symbols, probabilities) for symbols, probabilities in joined if len(symbols)]


class Receiver:
    """The reader's end: it has the bytes of each picture only. Raises ValueError for bytes that no writer made."""

    def __init__(self, streams: Sequence[bytes]) -> None:
        self._decoders = [_decoder(stream) for stream in streams]

    @property
    def count(self) -> int:
        return len(self._decoders)

    def take(self, kind: Symbols, where: Tensor, probabilities: Tensor) -> Tensor:
        table, ends = probabilities.cpu().double().numpy(), _ends(where)
        found = [_decoded(decoder, table[ends[row] : ends[row + 1]]) for row, decoder in enumerate(self._decoders)]
        return torch.from_numpy(np.concatenate(found)).long().to(where.device)


def _ends(where: Tensor) -> np.ndarray:
    """(B, N) bool -> (B + 1,): where the symbols of each picture begin and end among all."""
    return np.concatenate([[0], where.sum(1).cumsum(0).cpu().numpy()])


def _family() -> Any:
    """Distributions by their probabilities, which follow with the symbols."""
    return constriction.stream.model.Categorical(perfect=False)


def _decoder(stream: bytes) -> Any:
    padded = stream + bytes(-len(stream) % WORD + BEHIND)
    return constriction.stream.queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))


def _decoded(decoder: Any, probabilities: np.ndarray) -> np.ndarray:
    """(M, A) -> (M,) int32."""
    if not len(probabilities):
        return np.zeros(0, dtype=np.int32)
    try:
        found: np.ndarray = decoder.decode(_family(), probabilities)
    except AssertionError:
        raise ValueError("these bytes do not fit the probabilities; expected those of the writer") from None
    return found


def shortest_stream(message: Message) -> bytes:
    """The fewest bytes that decode to the message with zeros behind them.

    The range coder ends with whole words, on the lowest number of its last interval. A number with fewer bytes that
    lies in the interval, too, is at the cut or just above it.
    """
    encoder = constriction.stream.queue.RangeEncoder()
    for symbols, probabilities in message:
        encoder.encode(symbols, _family(), probabilities)
    whole: bytes = encoder.get_compressed().astype(">u4").tobytes()
    for length in range(max(0, len(whole) - 2 * WORD), len(whole)):
        cut = int.from_bytes(whole[:length], "big")
        for number in (cut, cut + 1):
            if number < 256**length and _is_read(number.to_bytes(length, "big"), message):
                return number.to_bytes(length, "big")
    return whole


def _is_read(stream: bytes, message: Message) -> bool:
    """Whether a stream decodes to the message."""
    decoder = _decoder(stream)
    try:
        return all(np.array_equal(_decoded(decoder, table), symbols) for symbols, table in message)
    except ValueError:
        return False


# --- there and back ---------------------------------------------------------------------------------------------------


class Coded(NamedTuple):
    """What a batch costs: of each picture bits of its stream (whole bytes), and of an ideal coder; (B,) double."""

    bits: Tensor
    ideal_bits: Tensor


#: What goes through a channel: codes (B, N), 0 where nothing was sent, and where something was, (B, N) bool
Coder = Callable[[Channel], tuple[Tensor, Tensor]]


def there_and_back(coder: Coder, sender: Sender) -> Coded:
    """Code a batch, decode it, compare. Raises RuntimeError when a picture comes back as another one."""
    _, sent = coder(sender)
    return checked(coder, sender, sent)


def checked(coder: Coder, sender: Sender, sent: Tensor, calls: int | None = None) -> Coded:
    """The cost of what a sender has noted, or of its first so many questions, decoded by the coder as a check.

    sent: (B, N) bool, the tokens that must come back. Raises RuntimeError when a picture comes back as another one.
    """
    streams = sender.streams(calls)
    tokens, found = coder(Receiver(streams))
    wrong = (found != sent) | ((tokens != sender.known["codes"]) & sent)
    if wrong.any():
        count = int(wrong.any(1).sum())
        raise RuntimeError(f"{count} of {sender.count} pictures are not decoded as they were coded")
    bits = torch.tensor([8.0 * len(stream) for stream in streams], dtype=torch.float64)
    return Coded(bits, sender.ideal_bits(calls))
