"""Tables as rows of named values: means with their intervals, and how rows are written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from masked_memory.pipeline.files import write_csv
from masked_memory.pipeline.metrics import Bootstrap

Rows = list[dict[str, Any]]  # of a table, by column


def cell(value: Any) -> Any:
    """Numbers with six digits; empty for what is not a number."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value


def write_rows(file: Path, header: tuple[str, ...], rows: Rows) -> None:
    """Rows as CSV; what a row does not have, or what is not a number, stays empty."""
    write_csv(file, header, [[cell(row.get(key, "")) for key in header] for row in rows])


def mean_row(start: Mapping[str, Any], values: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    """`start` with mean, low, high (95 % bootstrap interval) and pictures of the values (B,) that are numbers."""
    values = values[~values.isnan()]
    if not len(values):
        return {**start, "mean": float("nan"), "low": float("nan"), "high": float("nan"), "pictures": 0}
    low, high = bootstrap.interval(values)
    return {**start, "mean": float(values.mean()), "low": low, "high": high, "pictures": len(values)}
