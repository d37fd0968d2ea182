"""Do two folders of runs hold the same numbers? Every table, metric and tensor of each stage, byte by byte.

Claim: the same commands give the same numbers, on the same machine. Times are no numbers of that kind: columns and
metrics whose names say seconds or speed are left out, as are the names of run folders.

    python benchmarks/same_numbers.py runs other/runs
    python benchmarks/same_numbers.py runs other/runs --stages train_distil reconstruct_masked

Reads the newest finished run of each stage (and of each kind of model in it), writes nothing; the exit status is 1
when anything differs.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

TIMES = re.compile(r"second|times_faster")
RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def newest_runs(runs: Path) -> dict[str, Path]:
    """stage and kind -> the newest finished run. The kind is what distinguishes the keys of best.json in a stage."""
    found: dict[str, Path] = {}
    for file in sorted(runs.glob("*/*/run.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.get("status") == "finished":
            key = re.sub(r"codebook [0-9a-f]+", "codebook", str(record.get("key")))
            found[f"{file.parent.parent.name} [{key}]"] = file.parent
    return found


def differences(ours: Path, theirs: Path) -> Iterator[str]:
    """One line for each table, metric, array or tensor that is not the same in both run folders."""
    names = {file.relative_to(folder) for folder in (ours, theirs) for file in folder.rglob("*") if compared(file)}
    for name in sorted(names):
        both = [folder / name for folder in (ours, theirs)]
        if not all(file.is_file() for file in both):
            yield f"{name} is in one folder only"
        elif name.suffix == ".csv":
            yield from differing_cells(str(name), *(read_table(file) for file in both))
        elif name.suffix == ".json":
            yield from differing_metrics(str(name), *(read_metrics(file) for file in both))
        elif name.suffix == ".npy":
            if both[0].read_bytes() != both[1].read_bytes():
                yield f"{name} differs"
        else:
            yield from differing_tensors(str(name), *both)


def compared(file: Path) -> bool:
    """Tables, metrics, arrays and models; not what only serves to resume."""
    return file.name == "metrics.json" or (file.suffix in (".csv", ".npy", ".safetensors") and "last" not in file.parts)


def read_table(file: Path) -> list[dict[str, str]]:
    """Rows without times; names of run folders are blanked."""
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [row for row in csv.DictReader(opened) if not TIMES.search(row.get("measure", ""))]
    return [{key: RUN_NAME.sub("RUN", value) for key, value in row.items() if not TIMES.search(key)} for row in rows]


def read_metrics(file: Path) -> dict[str, Any]:
    """Metrics without times."""
    return {key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if not TIMES.search(key)}


def differing_cells(name: str, ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> Iterator[str]:
    if len(ours) != len(theirs):
        yield f"{name} has {len(ours)} and {len(theirs)} rows"
        return
    places = [n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if places:
        yield f"{name}: {len(places)} of {len(ours)} rows differ, first {ours[places[0]]} and {theirs[places[0]]}"


def differing_metrics(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"{name}: {key} is {ours.get(key)} and {theirs.get(key)}"


def differing_tensors(name: str, ours: Path, theirs: Path) -> Iterator[str]:
    with safe_open(ours, framework="np") as one, safe_open(theirs, framework="np") as other:
        if set(one.keys()) != set(other.keys()):
            yield f"{name}: other tensors"
            return
        for key in one.keys():  # noqa: SIM118 (not a dict)
            if not np.array_equal(one.get_tensor(key), other.get_tensor(key), equal_nan=False):
                yield f"{name}: {key} differs"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", type=Path, help="a folder of runs")
    parser.add_argument("theirs", type=Path, help="another one")
    parser.add_argument("--stages", nargs="+", help="only these [all]")
    known = parser.parse_args(argv)
    ours, theirs = newest_runs(known.ours), newest_runs(known.theirs)
    wrong = 0
    for name in sorted(ours.keys() | theirs.keys()):
        if known.stages and name.split(" [")[0] not in known.stages:
            continue
        if name not in ours or name not in theirs:
            found = [f"is in {known.ours if name in ours else known.theirs} only"]
        else:
            found = list(differences(ours[name], theirs[name]))
        wrong += bool(found)
        print(f"{'differs' if found else 'same':8}{name}")
        print("".join(f"          {line}\n" for line in found), end="")
    return 1 if wrong or not ours else 0


if __name__ == "__main__":
    sys.exit(main())
