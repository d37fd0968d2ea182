"""The list of all pictures, held as one text for each column: a tenth of what a dictionary for each picture takes."""

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

from masked_memory.pipeline.files import InputError


class TextColumn:
    """Values of one column, in order."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q", [0])

    def append(self, value: str) -> None:
        self._text += value.encode()
        self._ends.append(len(self._text))

    def __getitem__(self, place: int) -> str:
        return self._text[self._ends[place] : self._ends[place + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return (self._text[start:end].decode() for start, end in pairwise(self._ends))


class Manifest(Sequence[dict[str, str]]):
    """Rows of manifest.csv; each is made when it is asked for."""

    def __init__(self, header: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
        self.columns = {name: TextColumn() for name in header}
        self._count = 0
        for row in rows:
            for column, value in zip(self.columns.values(), row, strict=True):
                column.append(value)
            self._count += 1

    @classmethod
    def read(cls, file: Path) -> "Manifest":
        """Raises InputError when the file is missing, or a line has another number of values than the first."""
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                reader = csv.reader(lines)
                return cls(next(reader, []), (row for row in reader if row))
        except FileNotFoundError:
            raise InputError(f"{file} is missing") from None
        except ValueError:
            raise InputError(f"{file} has a line of another length than its first; make the split anew") from None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> dict[str, str]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, str]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, str] | list[dict[str, str]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._count))]
        if not -self._count <= place < self._count:
            raise IndexError(f"picture {place} of {self._count}")
        return {name: column[place % self._count] for name, column in self.columns.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def column_of(manifest: Sequence[Mapping[str, str]], name: str) -> Iterator[str]:
    """One column, without making whole rows."""
    if isinstance(manifest, Manifest):
        return iter(manifest.columns[name])
    return (row[name] for row in manifest)
