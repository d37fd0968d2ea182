"""Metadata of pictures: a CSV file with a line per picture, its path and columns of numbers or classes."""

import os
from collections.abc import Sequence
from pathlib import Path

from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.sources.places import Place, check_ordinary

RESERVED = ("position", "row", "path", "class", "label", "split", "hash")  # columns that the manifest has of its own


def is_notes(place: Place, metadata: str | None) -> bool:
    """Whether a file is the one that holds the metadata, which may lie beside the pictures."""
    return metadata is not None and isinstance(place, Path) and os.path.realpath(place) == os.path.realpath(metadata)


def read_metadata(file: Path, paths: Sequence[str]) -> list[dict[str, str]]:
    """For each of the pictures (paths below data.source, with /) its columns, name -> text, without `path`.

    Raises InputError when the file is missing, has no column `path`, names a column that the manifest has of its own,
    has two lines for a picture, or none.
    """
    try:
        check_ordinary(file)
        rows = read_csv(file)
    except InputError as error:
        raise InputError(f"data.metadata {error}") from None
    except FileNotFoundError:
        raise InputError(f"data.metadata {file} is missing") from None
    except OSError as error:
        raise InputError(f"data.metadata {file} is not a CSV file in UTF-8: {error.strerror}") from error
    rows = [{(name or "").removeprefix("\ufeff"): value for name, value in row.items()} for row in rows]
    columns = [name for name in rows[0] if name] if rows else []
    if "path" not in columns or len(columns) < 2:
        raise InputError(f"data.metadata {file} has columns {', '.join(columns)}; expected path and at least one more")
    clash = [name for name in columns if name in RESERVED and name != "path"]
    if clash:
        raise InputError(f"data.metadata {file}: the manifest has a column {clash[0]} of its own; name it otherwise")
    by_path: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["path"] in by_path:
            raise InputError(f"data.metadata {file} has two lines for {row['path']}; expected one")
        by_path[row["path"]] = {name: row[name] or "" for name in columns if name != "path"}
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise InputError(
            f"data.metadata {file} has no line for {len(missing)} of {len(paths)} pictures, such as {missing[0]}; "
            "expected one for each, its path as below data.source"
        )
    return [by_path[path] for path in paths]
