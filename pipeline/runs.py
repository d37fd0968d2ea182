"""Run folders and the hand-off between stages.

`runs/<stage>/<time>-<id>/` holds config.yaml (as resolved), run.json, metrics.json (flat name -> number),
metrics.jsonl (a line per epoch), figures/, last/ (to resume) and model/ (model.safetensors, config.json, meta.json).
`runs/<stage>/best.json` names, for each split (and codebook), the run with the best validation score.
"""

import json
import math
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import InputError, alone, cannot_write, clear_leftovers, read_json, write_json, write_text
from pipeline.processes import is_gone, is_here, this_process

ENOUGH = 5  # runs that are named in an error


@dataclass(frozen=True)
class RunFolder:
    """One run of one stage on disk."""

    path: Path

    @classmethod
    def create(cls, runs: Path, stage: str, settings: str, digest: str) -> "RunFolder":
        """A new folder with the resolved settings in it. Raises InputError when it cannot be written."""
        folder = cls(_new_folder(runs / stage))
        write_text(folder.path / "config.yaml", settings)
        folder.update(stage=stage, status="running", digest=digest, process=this_process())
        return folder

    @classmethod
    def take_unfinished(cls, runs: Path, stage: str, digest: str) -> "RunFolder | None":
        """The newest run of the stage with the same settings and inputs that has not ended well; it is this process's
        from now on. Raises InputError when another process of this machine is still at it."""
        folder = cls.find(runs, stage, lambda record: record["digest"] == digest and record["status"] != "finished")
        if folder:
            folder._take_over(folder.record())
        return folder

    @classmethod
    def find(cls, runs: Path, stage: str, fits: Callable[[dict[str, Any]], bool]) -> "RunFolder | None":
        """The newest run of the stage whose run.json fits."""
        for path in sorted((runs / stage).glob("*/run.json"), reverse=True):
            if fits(read_json(path)):
                return cls(path.parent)
        return None

    def _take_over(self, record: dict[str, Any]) -> None:
        noted, me = record.get("process", {}), this_process()
        if record["status"] == "running" and is_here(noted) and not is_gone(noted) and noted["pid"] != me["pid"]:
            raise InputError(f"{self.path} is being run by process {noted['pid']}; wait until it ends, or end it first")
        self.update(status="running", process=me)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def last(self) -> Path:
        return self.path / "last"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def record(self) -> dict[str, Any]:
        """run.json: stage, status (running, finished, failed, killed), digest and what the stage adds."""
        file = self.path / "run.json"
        return read_json(file) if file.is_file() else {}

    def update(self, **values: Any) -> None:
        write_json(self.path / "run.json", self.record() | values)

    def write_metrics(self, metrics: dict[str, float]) -> None:
        write_json(self.path / "metrics.json", metrics)

    def write_history(self, history: list[dict[str, float]]) -> None:
        """One line per epoch, written whole, so that a resumed run has no line twice."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in history))


def bury_gone(runs: Path, stage: str, tracked: bool) -> list[RunFolder]:
    """Note those runs of the stage as killed whose process ended without a word, clear what they had half written, and
    return them. tracked: also those that MLflow was told of, where they are then to be ended, too. A run whose run.json
    cannot be read is left as it is: nobody else has to fail for it."""
    found = []
    for file in sorted((runs / stage).glob("*/run.json")):
        folder = RunFolder(file.parent)
        try:
            record = folder.record()
        except InputError:
            continue
        left = record.get("status") == "running" and is_gone(record.get("process", {}))
        if left and (tracked or not _is_tracked(folder)):
            clear_leftovers(folder.path)
            folder.update(status="killed", error="its process ended without a word")
            found.append(folder)
    return found


def _is_tracked(folder: RunFolder) -> bool:
    """Whether MLflow may know the run, also where it was killed before that could be noted."""
    try:
        settings = run_settings(folder.path).get("run")
    except InputError:
        return True
    return bool(settings.get("mlflow", True)) if isinstance(settings, dict) else True


def _new_folder(parent: Path) -> Path:
    """A folder that no other process has made. Raises InputError when it cannot be written."""
    while True:
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not parent.is_dir():
                raise InputError(f"cannot write {path}: {parent} is no folder; name another with --run.dir") from None
        except OSError as error:
            raise cannot_write(path, error) from error


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def run_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was made with, section -> key -> value. Raises InputError when they are gone or cannot be
    read."""
    file = folder / "config.yaml"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}


def read_best(runs: Path, stage: str) -> dict[str, dict[str, Any]]:
    file = runs / stage / "best.json"
    return read_json(file) if file.is_file() else {}


def note_best(folder: RunFolder, key: str, score: float | None, metric: str, lower_is_better: bool) -> bool:
    """Enter the run in best.json if no run with this key scored better. Returns whether it was entered.

    score None: the stage has nothing to compare, its newest run counts.
    """
    if score is not None and not math.isfinite(score):
        return False
    file = folder.path.parent / "best.json"
    with alone(file):
        best = read_json(file) if file.is_file() else {}
        known = best.get(key)
        if score is not None and known and (folder.path.parent / known["run"]).is_dir():
            worse = known["score"] < score if lower_is_better else known["score"] > score
            if worse:
                return False
        best[key] = {"run": folder.name, "score": score, "metric": metric, "lower_is_better": lower_is_better}
        write_json(file, best)
    return True


def named_run(runs: Path, word: str, stage: str = "*") -> Path:
    """The run folder that a path, a name or a part of a name stands for, among those of the stage; *: of all stages.
    Raises InputError when there is none, or several."""
    if (Path(word) / "run.json").is_file():
        return Path(word)
    folders = sorted(file.parent for file in runs.glob(f"{stage}/*/run.json"))
    found = [folder for folder in folders if folder.name == word] or [
        folder for folder in folders if word and word in folder.name
    ]
    if len(found) == 1:
        return found[0]
    if found:
        named = ", ".join(str(folder) for folder in found[:ENOUGH]) + (", ..." if len(found) > ENOUGH else "")
        raise InputError(f"{word} stands for {len(found)} runs: {named}; type one of them whole")
    where = runs if stage == "*" else runs / stage
    empty = word and Path(word).is_dir()
    why = "has no run.json in it" if empty else f"is neither a run folder nor the name of a run in {where}"
    example = runs / ("train_vqvae" if stage == "*" else stage) / "20260101-120000-ab12"
    raise InputError(f"{shlex.quote(word)} {why}; expected such as {example}{'' if stage == '*' else ', or best'}")


def _usable(folder: Path) -> Path:
    """Raises InputError for a run that was ended before it had made what others read."""
    record = RunFolder(folder).record()
    stage, status = record.get("stage"), record.get("status")
    if status == "finished" or (folder / "model" / "meta.json").is_file():
        return folder
    raise InputError(
        f"{folder} is not finished (run.json says {status}); to go on with it, type: python {stage}.py --resume, "
        "with the options that it was begun with"
    )


def resolve_run(
    runs: Path, stage: str, asked: str, key: str, wanted: str, mend: str, tracking: str | None = None
) -> Path:
    """The run folder a later stage reads: the best for `key`, or the one that is named, see `named_run`.

    tracking: `run.tracking_uri`, for models:/ names. `wanted` says in words what `key` stands for and `mend` what
    command makes such a run; both go into the error.
    Raises InputError when there is none.
    """
    if asked.startswith("models:/"):
        from pipeline.tracking import registered_run

        return registered_run(runs, asked, tracking)
    if asked != "best":
        return _usable(named_run(runs, asked, stage))
    best = read_best(runs, stage)
    if key not in best:
        others = f" ({len(best)} for others)" if best else ""
        raise InputError(f"no finished run of {stage} for {wanted} in {runs / stage}{others}; type: {mend}")
    path = runs / stage / best[key]["run"]
    if not path.is_dir():
        raise InputError(f"{runs / stage / 'best.json'} names {path}, which is gone; type: {mend}")
    return path


def check_handed(file: Path, found: dict[str, Any], expected: dict[str, Any], mend: str) -> None:
    """Compare what a model was made for with what it is to be used for. Raises InputError naming both values."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(f"{file}: {name} is {found.get(name)}, but {value} is needed here; type: {mend}")
