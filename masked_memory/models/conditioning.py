"""What a decoder or a prior can be told about a picture: numbers and classes from the split's manifest.

Numbers are standardised with mean and deviation of the training pictures; each class gets an embedding. In training
all of it is dropped now and then (`drop`), so that the model also works when nothing is told, and classifier-free
guidance is possible. Letters: B batch, n numbers, m classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from masked_memory.pipeline.draws import Draws, for_rows
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import sent


class Told(NamedTuple):
    """Metadata of some pictures, as a model takes them."""

    numbers: Tensor  # (B, n) float, standardised
    classes: Tensor  # (B, m) long
    known: Tensor  # (B,) bool; False: nothing is told about this picture

    def to(self, device: torch.device) -> "Told":
        return Told(*(sent(part, device) for part in self))

    def rows(self, chosen: Any) -> "Told":
        """Some of the pictures, by index, slice or mask."""
        return Told(*(part[chosen] for part in self))


def drop(told: Told, share: float, generator: Draws) -> Told:
    """Each picture's metadata forgotten with probability `share`."""
    dropped = for_rows(len(told.known), generator, lambda n, g: torch.rand(n, generator=g) < share)
    return told._replace(known=told.known & ~sent(dropped, told.known.device))


class Conditioning(nn.Module):
    """What is told -> a scale and a shift for each channel of the decoder at the grid, (B, 2 * hidden).

    Starts at zero, which is a decoder that is told nothing. What is not told is one learnt vector.
    """

    def __init__(self, numbers: int, class_sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.numbers = nn.Linear(numbers, hidden) if numbers else None
        self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in class_sizes)
        self.not_told = nn.Parameter(torch.zeros(hidden))
        last = nn.Linear(hidden, 2 * hidden)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

    def forward(self, told: Told | None, batch: int) -> Tensor:
        """told None: nothing is told about any of the `batch` pictures."""
        nothing = self.not_told.expand(batch, -1)
        if told is None:
            return self.layers(nothing)
        summed = torch.zeros_like(nothing)
        if self.numbers is not None:
            summed = summed + self.numbers(told.numbers)
        for place, embedding in enumerate(self.embeddings):
            summed = summed + embedding(told.classes[:, place])
        return self.layers(torch.where(told.known.unsqueeze(1), summed, nothing))


# --- from the manifest ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberColumn:
    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class ClassColumn:
    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Which columns of the manifest are told, and how their texts become numbers; it travels in meta.json."""

    numbers: tuple[NumberColumn, ...] = ()
    classes: tuple[ClassColumn, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.numbers or self.classes)

    def tell(self, rows: Sequence[Mapping[str, str]]) -> Told:
        """Lines of a manifest -> what is told about those pictures.

        Raises InputError when a column is missing, is not a number, or has a value that training did not have.
        """
        numbers = [[(_number(row, c.name) - c.mean) / c.std for c in self.numbers] for row in rows]
        classes = [[_place(row, c) for c in self.classes] for row in rows]
        return Told(
            torch.tensor(numbers, dtype=torch.float32).view(len(rows), len(self.numbers)),
            torch.tensor(classes, dtype=torch.long).view(len(rows), len(self.classes)),
            torch.ones(len(rows), dtype=torch.bool),
        )

    @property
    def names(self) -> list[str]:
        """What is told, in words: classes, then numbers."""
        return [c.name for c in self.classes] + [c.name for c in self.numbers]

    def facts(self, told: Told) -> Tensor:
        """(B, F) float: for each class 1 at the picture's own value and 0 at the others, then the numbers."""
        shares = [torch.eye(len(c.values))[told.classes[:, place]] for place, c in enumerate(self.classes)]
        return torch.cat([*shares, told.numbers], dim=1)

    def describe(self) -> dict[str, Any]:
        """As plain values, the form that `columns_of` reads back."""
        return asdict(self)


def columns_of(meta: Mapping[str, Any]) -> Columns:
    """The way back of `Columns.describe`."""
    return Columns(
        tuple(NumberColumn(**column) for column in meta["numbers"]),
        tuple(ClassColumn(column["name"], tuple(column["values"])) for column in meta["classes"]),
    )


def fit_columns(
    manifest: Sequence[Mapping[str, str]],
    train: Sequence[int] | np.ndarray,
    numbers: Sequence[str],
    classes: Sequence[str],
) -> Columns:
    """Mean and deviation of the numbers over the training pictures, and the values of the classes over all pictures.

    Raises InputError when a column is missing, is not a number somewhere, or has one value only.
    """
    found = []
    for name in numbers:
        values = np.array([_number(row, name) for row in manifest])[train]
        if not values.std() > 0:
            raise InputError(f"metadata {name} is {values[0]:g} in all training pictures; there is nothing to tell")
        found.append(NumberColumn(name, float(values.mean()), float(values.std())))
    named = []
    for name in classes:
        members = tuple(sorted({_text(row, name) for row in manifest}))
        if len(members) < 2:
            raise InputError(f"metadata {name} is {members[0]} in all pictures; there is nothing to tell")
        named.append(ClassColumn(name, members))
    return Columns(tuple(found), tuple(named))


def _text(row: Mapping[str, str], name: str) -> str:
    if name not in row:
        own = [column for column in row if column not in ("position", "row", "path", "label", "split", "hash")]
        raise InputError(f"there is no metadata {name} in the manifest; expected one of: {', '.join(own)}")
    if not row[name]:
        raise InputError(f"metadata {name} of {row['path']} is empty; expected a value")
    return row[name]


def _number(row: Mapping[str, str], name: str) -> float:
    text = _text(row, name)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"metadata {name} of {row['path']} is {text!r}; expected a number")
    return value


def _place(row: Mapping[str, str], column: ClassColumn) -> int:
    text = _text(row, column.name)
    if text not in column.values:
        raise InputError(
            f"metadata {column.name} of {row['path']} is {text!r}, which training did not have; "
            f"expected one of: {', '.join(column.values[:20])}"
        )
    return column.values.index(text)
