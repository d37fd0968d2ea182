"""What MLflow could not be told, kept in the run folder until `python summary.py --sync` delivers it.

`undelivered.jsonl` has a line for each call, in order, and `delivered.json` how many of them have arrived and which
MLflow runs were made on the way; both are gone when all has arrived. Paths start at the run folder, so that they hold
when the project was moved.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError, cannot_write, read_json, write_json
from masked_memory.pipeline.runs import run_settings
from masked_memory.pipeline.tracking import Ledger, MlflowLedger, client_of, database_uri, trouble

SPOOL, STATE = "undelivered.jsonl", "delivered.json"
KEY_TAG = "reconstruct_masked.spool"  # of an MLflow run that was made on delivery: names the line that asked for it


class Spool:
    """The file of one run folder. `pending`: something lies there, so that later calls must wait behind it.

    where: `uri` of MLflow, None for the database beside the runs, and the `experiment`.
    """

    def __init__(self, folder: Path, where: Mapping[str, str | None], say: Callable[[str], None]) -> None:
        self.folder, self.file, self.where, self.say = folder, folder / SPOOL, dict(where), say

    @property
    def pending(self) -> bool:
        return self.file.is_file()

    @property
    def uri(self) -> str:
        return database_uri(_runs(self.folder), self.where.get("uri"))

    def add(self, key: str, call: str, arguments: list[Any], why: str | None = None) -> None:
        if not self.pending:
            self._write({"where": self.where})
            why = why or "MLflow does not answer"
            self.say(f"{why}: the run goes on; {command('summary')} --sync delivers the rest later")
        noted = [self._relative(each) if isinstance(each, Path) else each for each in arguments]
        self._write({"run": key, "call": call, "arguments": noted})

    def _relative(self, path: Path) -> str:
        """From the run folder on, for what lies beside the runs."""
        folder, path = self.folder.resolve(), path.resolve()
        return os.path.relpath(path, folder) if path.is_relative_to(_runs(folder)) else str(path)

    def _write(self, entry: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()


class PatientLedger:
    """A ledger that never fails: what MLflow cannot be told is spooled. `key`: the MLflow run, or a name of our own for
    one that could not be made yet."""

    def __init__(self, inner: MlflowLedger | None, spool: Spool, key: str) -> None:
        self.inner, self.spool, self.key = inner, spool, key
        self.run_id = inner.run_id if inner else ""

    def _tell(self, call: str, *arguments: Any) -> None:
        why = None
        if self.inner is not None and not self.spool.pending:
            try:
                getattr(self.inner, call)(*arguments)
                return
            except Exception as error:
                if (why := trouble(error, self.spool.uri)) is None:
                    raise
        self.spool.add(self.key, call, [*arguments], why)

    def params(self, values: Mapping[str, Any]) -> None:
        self._tell("params", {name: str(value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int, at: int | None = None) -> None:
        now = int(time.time() * 1000) if at is None else at
        self._tell("metrics", {name: float(value) for name, value in values.items()}, step, now)

    def tags(self, values: Mapping[str, str]) -> None:
        self._tell("tags", dict(values))

    def dataset(self, name: str, digest: str, folder: Path) -> None:
        self._tell("dataset", name, digest, folder.resolve())

    def artifacts(self, path: Path, under: str = "") -> None:
        self._tell("artifacts", path.resolve(), under)

    def register(self, name: str, alias: str | None) -> None:
        self._tell("register", name, alias)

    def end(self, status: str) -> None:
        self._tell("end", status)

    def end_killed(self, run: str) -> None:
        self._tell("end_killed", run)

    def child(self, name: str) -> "PatientLedger":
        why = None
        if self.inner is not None and not self.spool.pending:
            try:
                made = self.inner.child(name)
                return PatientLedger(made, self.spool, made.run_id)
            except Exception as error:
                if (why := trouble(error, self.spool.uri)) is None:
                    raise
        key = f"{self.key}/{name}/{time.time_ns()}"
        self.spool.add(self.key, "child", [name, key], why)
        return PatientLedger(None, self.spool, key)


def undelivered(runs: Path) -> list[Path]:
    """Run folders in which something waits, oldest first."""
    return sorted(file.parent for file in runs.glob(f"*/*/{SPOOL}"))


def deliver(folder: Path) -> int:
    """Tell MLflow what waits in the folder; returns how many calls. What has arrived is noted after each, and is not
    told again. Raises InputError when MLflow or the disk fails, and for what MLflow refuses or nobody can read."""
    where, calls = _read(folder / SPOOL)
    state = folder / STATE
    known: dict[str, Any] = read_json(state) if state.is_file() else {"done": 0, "runs": {}}
    if not isinstance(known, dict) or [type(known.get(name)) for name in ("done", "runs")] != [int, dict]:
        raise InputError(f"{state} is damaged; delete it, and all that waits is told again")
    uri = _uri_of(folder, where["uri"])
    client = client_of(_runs(folder), uri)
    for number in range(known["done"], len(calls)):
        try:
            _deliver_one(folder, client, where["experiment"], calls[number], known["runs"])
        except Exception as error:
            why = trouble(error, database_uri(_runs(folder), uri))
            so = f"{why}; {number} of {len(calls)} entries have arrived, the rest waits"
            line = f"line {number + 2} of {folder / SPOOL}"
            no = f"{line} cannot be delivered ({_in_words(error)}); mend that, or delete the line to go on without it"
            raise InputError(so if why else no) from None
        known["done"] = number + 1
        write_json(state, known)
    try:
        (folder / SPOOL).unlink()
        state.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return len(calls)


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Where to deliver, and the calls. Raises InputError for a line that cannot be read."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # a torn last line is none
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            wanted = {"run", "call", "arguments"} if entries else {"where"}
            if not wanted <= entry.keys():
                raise ValueError
            entries.append(entry)
        except (ValueError, AttributeError):
            lost = "it to go on without it" if entries else "the file, of which nothing can be delivered"
            raise InputError(f"line {number} of {file} is damaged; delete {lost}") from None
    if not entries:
        raise InputError(f"{file} is empty; delete it")
    return {"uri": None, **entries[0]["where"]}, entries[1:]


def _runs(folder: Path) -> Path:
    return folder.parent.parent


def _uri_of(folder: Path, noted: str | None) -> str | None:
    """As noted; None for the database beside the runs, which spools of earlier versions noted with its whole path."""
    if noted and noted.startswith("sqlite:") and noted.endswith("/mlflow.db"):
        asked = run_settings(folder).get("run", {}).get("tracking_uri")
        return noted if asked else None
    return noted


def _path_of(folder: Path, noted: str) -> Path:
    """A path that was noted from the run folder on; or, by earlier versions, as a whole, perhaps before the folder was
    moved. Raises InputError when it is gone."""
    _, inside, rest = noted.replace(os.sep, "/").rpartition(f"/{folder.parent.name}/{folder.name}/")
    path = (folder / (rest if inside else noted)).resolve()
    if not path.exists():
        raise InputError(f"{path} is missing")
    return path


def _in_words(error: Exception) -> str:
    words = " ".join(str(error).split())[:160]
    return words if isinstance(error, InputError) else f"{type(error).__name__}: {words}"


def _deliver_one(folder: Path, client: Any, experiment: str, entry: dict[str, Any], runs: dict[str, str]) -> None:
    """runs: our names of MLflow runs -> their ids; what is made is added."""
    ledger = MlflowLedger(client, experiment, runs.get(entry["run"], entry["run"]))
    call, arguments = entry["call"], entry["arguments"]
    if call == "child":
        name, key = arguments
        runs[key] = _made_once(client, experiment, ledger, name, key)
    elif call == "artifacts":
        ledger.artifacts(_path_of(folder, arguments[0]), arguments[1])
    elif call == "dataset":
        ledger.dataset(arguments[0], arguments[1], (folder / arguments[2]).resolve())
    else:
        getattr(ledger, call)(*arguments)


def _made_once(client: Any, experiment: str, parent: Ledger, name: str, key: str) -> str:
    """The MLflow run for a child: the one of an earlier try that was killed, or a new one."""
    found = client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = parent.child(name)
    made.tags({KEY_TAG: key})
    return made.run_id
