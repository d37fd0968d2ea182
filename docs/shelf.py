"""The CSVs of docs/tables: their origin in comments at the top, then the rows."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "docs" / "tables"
FACTS = ("run", "commit", "machine", "command")  # comments at the top of a CSV

Row = dict[str, Any]


class TableError(ValueError):
    """One line: where, what was found, what was expected."""


@dataclass(frozen=True)
class Table:
    """A CSV of docs/tables with the comments at its top."""

    facts: dict[str, str]
    rows: list[Row]
    columns: list[str] = field(default_factory=list)


def take_table(name: str, folder: Path = TABLES) -> Table:
    """docs/tables/NAME.csv, its numbers as numbers and empty cells as None."""
    file = folder / f"{name}.csv"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.csv")))
        raise TableError(f"{shown_path(file)} does not exist; there are: {known}")
    text = file.read_text(encoding="utf-8").splitlines()
    comments = [line[2:].split(": ", 1) for line in text if line.startswith("# ")]
    facts = {parts[0]: parts[1] for parts in comments if len(parts) == 2}
    lacking = [fact for fact in FACTS if fact not in facts]
    if lacking:
        raise TableError(f"{shown_path(file)} has no comment # {lacking[0]}: ... at its top")
    reader = csv.DictReader(line for line in text if not line.startswith("# "))
    rows: list[Row] = [{key: _value(cell) for key, cell in row.items()} for row in reader]
    for row in rows:
        if "half" not in row and isinstance(row.get("low"), float | int) and isinstance(row.get("high"), float | int):
            row["half"] = (row["high"] - row["low"]) / 2
    return Table(facts, rows, list(reader.fieldnames or []))


def _value(cell: str | None) -> Any:
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def write_table(file: Path, facts: dict[str, str], rows: Sequence[dict[str, Any]]) -> Path:
    """A CSV with its origin in comments at the top."""
    if not rows:
        raise TableError(f"{shown_path(file)}: no rows are left; look at `keep` in sources.yaml")
    text = io.StringIO()
    text.writelines(f"# {fact}: {facts[fact]}\n" for fact in FACTS)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")
    return file


def shown_path(file: Path) -> str:
    """A path as messages show it: from the root of the project."""
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)
