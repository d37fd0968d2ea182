"""What MLflow could not be told, kept in the run folder until `python summary.py --sync` delivers it.

`undelivered.jsonl` has a line for each call, in order, and `delivered.json` how many of them have arrived and which
MLflow runs were made on the way; both are gone when all has arrived.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.files import InputError, read_json, write_json
from pipeline.tracking import Ledger, MlflowLedger, does_not_answer, reach

SPOOL, STATE = "undelivered.jsonl", "delivered.json"
KEY_TAG = "reconstruct_masked.spool"  # of an MLflow run that was made on delivery: names the line that asked for it


class Spool:
    """The file of one run folder. `pending`: something lies there, so that later calls must wait behind it."""

    def __init__(self, folder: Path, where: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.file, self.where, self.say = folder / SPOOL, dict(where), say

    @property
    def pending(self) -> bool:
        return self.file.is_file()

    def add(self, key: str, call: str, arguments: list[Any]) -> None:
        if not self.pending:
            self._write({"where": self.where})
            self.say("MLflow does not answer: the run goes on; python summary.py --sync delivers the rest later")
        self._write({"run": key, "call": call, "arguments": arguments})

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
        if self.inner is not None and not self.spool.pending:
            try:
                getattr(self.inner, call)(*arguments)
                return
            except Exception as error:
                if not does_not_answer(error):
                    raise
        self.spool.add(self.key, call, [str(each) if isinstance(each, Path) else each for each in arguments])

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
        if self.inner is not None and not self.spool.pending:
            try:
                made = self.inner.child(name)
                return PatientLedger(made, self.spool, made.run_id)
            except Exception as error:
                if not does_not_answer(error):
                    raise
        key = f"{self.key}/{name}/{time.time_ns()}"
        self.spool.add(self.key, "child", [name, key])
        return PatientLedger(None, self.spool, key)


def undelivered(runs: Path) -> list[Path]:
    """Run folders in which something waits, oldest first."""
    return sorted(file.parent for file in runs.glob(f"*/*/{SPOOL}"))


def deliver(folder: Path) -> int:
    """Tell MLflow what waits in the folder; returns how many calls. What has arrived is noted after each, and is not
    told again. Raises InputError when MLflow does not answer."""
    text = (folder / SPOOL).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # a torn last line is none
    where, calls, state = lines[0]["where"], lines[1:], folder / STATE
    known: dict[str, Any] = read_json(state) if state.is_file() else {"done": 0, "runs": {}}
    client = reach(where["uri"])
    for number in range(known["done"], len(calls)):
        try:
            _deliver_one(client, where["experiment"], calls[number], known["runs"])
        except Exception as error:
            if not does_not_answer(error):
                raise
            raise InputError(f"MLflow at {where['uri']} went away after {number} of {len(calls)} entries") from None
        known["done"] = number + 1
        write_json(state, known)
    (folder / SPOOL).unlink()
    state.unlink(missing_ok=True)
    return len(calls)


def _deliver_one(client: Any, experiment: str, entry: dict[str, Any], runs: dict[str, str]) -> None:
    """runs: our names of MLflow runs -> their ids; what is made is added."""
    ledger = MlflowLedger(client, experiment, runs.get(entry["run"], entry["run"]))
    call, arguments = entry["call"], entry["arguments"]
    if call == "child":
        name, key = arguments
        runs[key] = _made_once(client, experiment, ledger, name, key)
    elif call == "artifacts":
        ledger.artifacts(Path(arguments[0]), arguments[1])
    elif call == "dataset":
        ledger.dataset(arguments[0], arguments[1], Path(arguments[2]))
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
