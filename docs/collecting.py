"""From the runs to docs/tables: which file of which run becomes which CSV stands in docs/tables/sources.yaml."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docs.shelf import TABLES, TableError, shown_path, write_table

SOURCES = TABLES / "sources.yaml"


@dataclass(frozen=True)
class Origin:
    """Where --collect looks, and what it notes. run None: the newest run of the group's stage."""

    runs: Path
    run: Path | None
    machine: str
    command: str | None = None


def collect(group: str, origin: Origin, sources: Path = SOURCES, folder: Path = TABLES) -> list[Path]:
    """Copy the tables of a group from the runs to docs/tables. Returns the files written.

    Raises TableError for an unknown group and for runs or files that are not there.
    """
    known = yaml.safe_load(sources.read_text(encoding="utf-8"))
    if group not in known:
        raise TableError(f"{group} is not a group of {shown_path(sources)}; expected one of: {', '.join(known)}")
    wanted = known[group]
    start = origin.run or newest(origin.runs, wanted["stage"])
    record = _json(start / "run.json")
    places = {wanted["stage"]: start}
    for stage, path in record["inputs"].items():  # as typed when it ran: its last two parts are stage and run
        places[stage] = origin.runs / Path(path).parent.name / Path(path).name
    facts = {
        "run": start.name,
        "commit": str(record["commit"])[:12],
        "machine": origin.machine,
        "command": origin.command or wanted["command"],
    }
    written = []
    for name, entry in wanted["tables"].items():
        missing = [stage for stage in entry["from"] if stage not in places]
        if missing:
            raise TableError(
                f"{shown_path(sources)}: {name}: {start} took no run of {missing[0]}; has {', '.join(places)}"
            )
        taken = [(stage, places[stage] / entry["file"]) for stage in entry["from"]]
        rows = [row for stage, file in taken for row in _read_result(stage, file, several=len(taken) > 1)]
        kept = [row for row in rows if all(row[key] in map(str, only) for key, only in entry.get("keep", {}).items())]
        written.append(write_table(folder / f"{name}.csv", facts, kept))
    return written


def newest(runs: Path, stage: str) -> Path:
    """The newest of the runs that best.json of a stage names: of stages that train nothing, the newest for each split
    and codebook."""
    best = _json(runs / stage / "best.json")
    return runs / stage / max(entry["run"] for entry in best.values())


def _read_result(stage: str, file: Path, several: bool) -> list[dict[str, str]]:
    """Rows of a CSV as they are, with the stage where `several` have such a file; metrics.json as a row a number."""
    if file.suffix == ".json":
        return [{"stage": stage, "metric": name, "value": f"{value:.6g}"} for name, value in _json(file).items()]
    if not file.is_file():
        raise TableError(f"{file} does not exist; has the stage ended?")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [{"stage": stage, **row} for row in rows] if several else rows


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise TableError(f"{file} does not exist; has the stage ended?")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values
