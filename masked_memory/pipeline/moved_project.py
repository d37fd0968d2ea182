"""MLflow's own database in a project that was moved or copied. It holds whole addresses of artifacts, which would lead
to the old folder, where another project may live."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.request import url2pathname

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.mlflow_views import VIEWS

ARTIFACTS = "/artifacts"
#: Which there are differs between versions of MLflow.
COLUMNS_WITH_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


def moved_from(file: Path) -> list[str]:
    """Addresses of the folders `artifacts` that the database had elsewhere; none where it was not moved, or is none."""
    try:
        with closing(sqlite3.connect(file)) as database:
            found = database.execute(
                "SELECT experiment_id, name, artifact_location FROM experiments WHERE artifact_location LIKE 'file:%'"
            ).fetchall()
    except sqlite3.Error:
        return []  # MLflow says what is wrong with it
    of_default = {
        place.removesuffix("/0") for number, _, place in found if number == 0 and place.endswith(f"{ARTIFACTS}/0")
    }
    of_stages = {place for _, name, place in found if name in VIEWS and place.endswith(ARTIFACTS)}
    return sorted((of_default or of_stages) - {_home(file)})


def follow_move(file: Path) -> None:
    """Let all that leads into these folders lead to the one beside the database, and say so. To be called by one
    process at a time. Raises InputError when it cannot be written."""
    places, home = moved_from(file), _home(file)
    try:
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            for old in places:
                _rewrite(database, old, home)
    except sqlite3.Error as error:
        raise InputError(f"{file} came from {_path(places[0]).parent} and cannot be changed: {error}") from None
    for old in places:
        print(f"{file} came from {_path(old).parent}: its artifact places now lead to {_path(home)}")


def _rewrite(database: sqlite3.Connection, old: str, home: str) -> None:
    for table, column in COLUMNS_WITH_PLACES:
        if _has(database, table, column):
            database.execute(
                f"UPDATE {table} SET {column} = :home || substr({column}, length(:old) + 1)"
                f" WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                {"old": old, "home": home},
            )
    if _has(database, "datasets", "dataset_source"):  # JSON, of data sets that lie beside the runs
        database.execute(
            "UPDATE datasets SET dataset_source = replace(dataset_source, ?, ?)", (_quoted(old), _quoted(home))
        )


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    return column in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _home(file: Path) -> str:
    return (file.parent / ARTIFACTS[1:]).resolve().as_uri()


def _path(address: str) -> Path:
    return Path(url2pathname(address.removeprefix("file://")))


def _quoted(address: str) -> str:
    """The start of a path beside the folder, as it stands in JSON."""
    return json.dumps(f"{_path(address).parent}")[:-1] + "/"
