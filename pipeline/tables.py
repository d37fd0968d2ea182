"""Tables as rows of named values, and how they are written."""

from typing import Any

import numpy as np

from pipeline.files import write_csv
from pipeline.stage import Stage


def _shortened(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


Rows = list[dict[str, Any]]  # of a table, by column


def write_rows(stage: Stage, name: str, header: tuple[str, ...], rows: Rows) -> None:
    """Rows as CSV, numbers with six digits; what a row does not have stays empty."""

    def cell(value: Any) -> Any:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.6g}"
        return value

    write_csv(stage.folder.path / name, header, [[cell(row.get(key, "")) for key in header] for row in rows])
