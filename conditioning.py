"""What a prior is told about a picture: its class, numbers of its metadata, or both.

Numbers are standardised by mean and standard deviation of the training pictures. A fact is a number: one for each
class (1 for the picture's own, 0 for the others), then one for each metadata column.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_split import Split
from pipeline.files import InputError, read_csv


@dataclass(frozen=True)
class Facts:
    """The facts that a prior knows how to use; they travel with the model."""

    classes: list[str]  # empty: the class is not told
    columns: list[str]
    means: list[float]
    deviations: list[float]

    @property
    def count(self) -> int:
        """F."""
        return len(self.classes) + len(self.columns)

    @property
    def names(self) -> list[str]:
        """What is told, in words."""
        return (["class"] if self.classes else []) + self.columns

    def tensor(self, labels: np.ndarray, values: np.ndarray) -> Tensor:
        """(B,) class numbers and (B, M) numbers in their own units -> (B, F). Labels count with classes only."""
        parts = []
        if self.classes:
            parts.append(torch.eye(len(self.classes))[torch.from_numpy(np.asarray(labels, np.int64))])
        if self.columns:
            scaled = (np.asarray(values) - np.array(self.means)) / np.array(self.deviations)
            parts.append(torch.from_numpy(scaled).float())
        return torch.cat(parts, dim=1)

    def described(self) -> dict[str, Any]:
        """Plain values, the form that `Facts(**...)` reads back."""
        return asdict(self)


def facts_of(split: Split, by_class: bool, columns: list[str], file: str | None) -> tuple[Facts, Tensor | None]:
    """What is to be told of each picture of the split: (pictures, F) in manifest order, None for nothing.

    Raises InputError without classes, or for metadata that cannot be used.
    """
    if by_class and not split.classes:
        raise InputError(
            "train_prior.condition_on_class needs pictures with classes, these have none; "
            "type --train_prior.condition_on_class false"
        )
    values = read_metadata(split, columns, file)
    train = values[split.positions("train")]
    means, deviations = train.mean(0), train.std(0)
    facts = Facts(
        split.classes if by_class else [],
        list(columns),
        means.tolist(),
        np.where(deviations > 0, deviations, 1).tolist(),
    )
    return facts, facts.tensor(split.labels, values) if facts.count else None


def read_metadata(split: Split, columns: list[str], file: str | None) -> np.ndarray:
    """(pictures, M) float64 in manifest order, from columns of manifest.csv or of a CSV with a column `path`.

    Raises InputError for an unknown column, a picture without a row, and what is not a number.
    """
    source = Path(file) if file else split.folder / "manifest.csv"
    rows = {row.get("path", ""): row for row in read_csv(source)} if columns else {}
    known = [name for name in next(iter(rows.values()), {}) if name not in ("path", "class")]
    for column in columns:
        if column not in known:
            raise InputError(
                f"train_prior.metadata: {source} has no column {column} of numbers; it has {', '.join(known) or 'none'}"
            )
    values = np.empty((len(split.manifest), len(columns)))
    for number, picture in enumerate(split.manifest):
        row = rows.get(picture["path"])
        if columns and row is None:
            raise InputError(f"{source} has no row for {picture['path']}; add one, or leave train_prior.metadata empty")
        for place, column in enumerate(columns):
            values[number, place] = _number(row or {}, column, source, picture["path"])
    return values


def _number(row: dict[str, str], column: str, source: Path, path: str) -> float:
    text = row.get(column)
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{source}: {column} of {path} is {text!r}; expected a number")
    return value
