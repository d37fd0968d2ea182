"""Run folders and the hand-off between stages.

`runs/<stage>/<time>-<id>/` holds config.yaml (as asked), used.yaml (as fitted), run.json, metrics.json (flat name ->
number), metrics.jsonl (a line per epoch), figures/, last/ (to resume) and model/ (model.safetensors, config.json,
meta.json). Which run is the best for a split (and codebook) is found from the run.json of finished runs;
`runs/<stage>/best.json` names them for readers.
"""

import json
import math
import secrets
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import (
    InputError,
    alone,
    cannot_write,
    clear_leftovers,
    read_json,
    write_json,
    write_text,
)
from masked_memory.pipeline.processes import is_gone, is_here, this_process

ENOUGH = 5  # runs that are named in an error
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as quick


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
            with suppress(KeyError, TypeError):  # of a file that says something else than a run
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

    def finish(self, key: str | None, score: float | None, metric: str, lower_is_better: bool) -> None:
        """Note that the run has ended well, and what it competes for: from now on later stages may take it."""
        ended = {"status": "finished", "error": None, "ended": time.time()}
        self.update(**ended, key=key, score=score, metric=metric, lower_is_better=lower_is_better)
        if key is not None:
            write_best(self.path.parent.parent, self.path.parent.name)

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


def run_settings(folder: Path, name: str = "config.yaml") -> dict[str, Any]:
    """The settings that a run was asked for, section -> key -> value. Raises InputError when they are gone or cannot be
    read."""
    file = folder / name
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), YAML_LOADER)
    except FileNotFoundError:
        raise InputError(f"{file} is missing") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Finished:
    """A run that has ended well, as its run.json says. key: what it competes for; score None: nothing to compare."""

    folder: Path
    key: str
    score: float | None
    metric: str
    lower_is_better: bool
    ended: float  # seconds since 1970; 0 where an earlier version did not note it

    @property
    def rank(self) -> tuple[float, float, str]:
        """The best last: by score, and of equal ones the newest."""
        score = 0.0 if self.score is None else -self.score if self.lower_is_better else self.score
        return score, self.ended, self.folder.name


def finished_runs(runs: Path, stage: str, key: str | None = None) -> list[Finished]:
    """All of the stage, or those that compete for `key`, the best first. What cannot be read is passed over, as are
    runs without a number where one decides."""
    found = []
    for file in (runs / stage).glob("*/run.json"):
        try:
            record = read_json(file)
            fits = record["status"] == "finished" and (
                record["key"] is not None if key is None else record["key"] == key
            )
            score = record["score"]
        except (InputError, KeyError, TypeError):
            continue
        if fits and (score is None or math.isfinite(score)):
            lower, ended = record.get("lower_is_better", True), record.get("ended", 0.0)
            found.append(Finished(file.parent, record["key"], score, record["metric"], lower, ended))
    return sorted(found, key=lambda one: one.rank, reverse=True)


def best_like(found: list[Finished], like: Callable[[Path], bool]) -> Finished:
    """The first of the runs that is like what is wanted, else the first of all."""
    return next((one for one in found if like(one.folder)), found[0])


def read_best(runs: Path, stage: str) -> dict[str, dict[str, Any]]:
    """Key -> its best run, from what is there: a run that is gone or was renamed needs no mending. Keys stand in the
    order of their first runs."""
    found = finished_runs(runs, stage)
    best = {one.key: one for one in reversed(found)}
    first = sorted(found, key=lambda one: (one.ended, one.folder.name))
    shown = ("score", "metric", "lower_is_better")
    return {
        one.key: {"run": best[one.key].folder.name} | {name: getattr(best[one.key], name) for name in shown}
        for one in first
    }


def write_best(runs: Path, stage: str) -> None:
    """best.json of the stage, for people and other programs; nothing here reads it."""
    with alone(runs / stage / "best.json"):
        write_json(runs / stage / "best.json", read_best(runs, stage))


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


def used_settings(folder: Path) -> dict[str, Any]:
    """The settings that a run was made with: used.yaml. Of an earlier version config.yaml, where a key that was
    searched is as its model says, and left out where that does not say it. Raises InputError as `run_settings`."""
    if (folder / "used.yaml").is_file():
        return run_settings(folder, "used.yaml")
    settings, stage = run_settings(folder), str(RunFolder(folder).record().get("stage"))
    section = settings.get(stage)
    if isinstance(section, dict) and isinstance(tune := section.get("tune"), dict) and tune.get("trials"):
        model = said_by_model(folder)
        for name in tune.get("space") or {}:
            section.pop(name, None)
            section |= {name: model[name]} if name in model else {}
    return settings


def used_section(folder: Path, section: str) -> dict[str, Any]:
    """A section of `used_settings`; of a run whose settings are gone or damaged what its model says of itself."""
    with suppress(InputError):
        if isinstance(found := used_settings(folder).get(section), dict):
            return found
    return said_by_model(folder)


def of_shape(stage: str, section: Any) -> Callable[[Path], bool]:
    """Whether a run of the stage has a model, of the shape that the section of the settings says: see
    `settings.training.Training`. A section without a shape fits all."""

    def fits(folder: Path) -> bool:
        whole = (folder / "model" / "meta.json").is_file()
        return whole and not section.unlike(used_section(folder, stage), section.SHAPE)

    return fits if hasattr(section, "SHAPE") else lambda folder: True


def said_by_model(folder: Path) -> dict[str, Any]:
    """What a model says of itself, by the names of settings; nothing where there is no model."""
    try:
        model = read_json(folder / "model" / "config.json")
    except InputError:
        return {}
    return model | {name.removeprefix("n_"): model[name] for name in ("n_layers", "n_heads") if name in model}


def _usable(folder: Path) -> Path:
    """Raises InputError for a run that was ended before it had made what others read."""
    record = RunFolder(folder).record()
    stage, status = record.get("stage"), record.get("status")
    if status == "finished" or (folder / "model" / "meta.json").is_file():
        return folder
    raise InputError(
        f"{folder} is not finished (run.json says {status}); to go on with it, type: {command(str(stage))} --resume, "
        "with the options that it was begun with"
    )


def renew_best(runs: Path, stage: str) -> None:
    """best.json as the runs are now: some may have been deleted, renamed or copied. Raises InputError where it cannot
    be written."""
    file = runs / stage / "best.json"
    try:
        noted = read_json(file) if file.is_file() else {}
    except InputError:
        noted = None
    if noted != read_best(runs, stage):
        write_best(runs, stage)


class Sought(NamedTuple):
    """A run that a later stage looks for, of `stage`: the best of those that compete for `key`. words: what the key
    stands for; mend: the command that makes such a run."""

    stage: str
    key: str
    words: str
    mend: str


def resolve_run(
    runs: Path,
    asked: str,
    sought: Sought,
    tracking: str | None = None,
    like: Callable[[Path], bool] = lambda folder: True,
) -> Path:
    """The run folder a later stage reads: the best of those that are sought, or the one that is named, see `named_run`.

    tracking: `run.tracking_uri`, for models:/ names. like: which runs come before all others, whatever their score.
    Raises InputError when there is none.
    """
    stage = sought.stage
    if asked.startswith("models:/"):
        from masked_memory.pipeline.tracking import registered_run

        return registered_run(runs, asked, tracking)
    if asked != "best":
        return _usable(named_run(runs, asked, stage))
    found = finished_runs(runs, stage, sought.key)
    with suppress(InputError):  # where nothing can be written
        renew_best(runs, stage)
    if not found:
        others = len(finished_runs(runs, stage))
        said = f" ({others} for others)" if others else ""
        raise InputError(f"no finished run of {stage} for {sought.words} in {runs / stage}{said}; type: {sought.mend}")
    return best_like(found, like).folder


def check_handed(file: Path, found: dict[str, Any], expected: dict[str, Any], mend: str) -> None:
    """Compare what a model was made for with what it is to be used for. Raises InputError naming both values."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(f"{file}: {name} is {found.get(name)}, but {value} is needed here; type: {mend}")
