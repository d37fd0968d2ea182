"""The frame around each stage: run folder, MLflow run, machine, what was inherited, and a clean end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import yaml
from matplotlib.figure import Figure
from tqdm import tqdm

from masked_memory.pipeline import figures
from masked_memory.pipeline.files import (
    InputError,
    alone,
    digest,
    file_digests,
    read_json,
    write_json,
    write_safetensors,
    write_text,
)
from masked_memory.pipeline.interrupts import interrupts_wait
from masked_memory.pipeline.machine import Machine, commit, versions
from masked_memory.pipeline.runs import (
    RunFolder,
    bury_gone,
    duration,
    finished_runs,
    of_shape,
    run_settings,
    used_settings,
)
from masked_memory.pipeline.tracking import Ledger, NullLedger, database_uri, open_ledger
from masked_memory.pipeline.undelivered import PatientLedger, Spool
from masked_memory.pipeline.world import OnlyAsked, is_first

#: stage -> the setting that names a run of it
NAMED_AS = {
    "train_vqvae": "vqvae",
    "vqvae_reconstruction": "indices",
    "train_distil": "distil",
    "train_classifier": "classifier",
    "train_painter": "painter",
    "train_prior": "prior_run",
}


def say(text: str) -> None:
    """A line to the user that does not tear a progress bar; of several processes the first says it."""
    if is_first():
        tqdm.write(text)


class Input(Protocol):
    """What an earlier stage made and this one reads."""

    @property
    def stage(self) -> str:
        """The stage that made it."""
        ...

    @property
    def folder(self) -> Path:
        """Its run folder."""
        ...


@dataclass
class Stage:
    """An open run of a stage. `metrics` collects the final numbers, flat name -> number.

    Of several processes the first has the run's folder and its ledger; the others do the same in a folder that is
    thrown away. `last`: where checkpoints lie, for all.
    """

    name: str
    folder: RunFolder
    ledger: Ledger
    machine: Machine
    last: Path
    resumed: bool
    commit: str = "unknown"  # of the project, when the run was opened
    asked: Any = None  # the settings, as `open_stage` got them
    metrics: dict[str, float] = field(default_factory=dict)
    made_for: dict[str, Any] | None = None  # of the model, with the digests of its files, once they are written
    started: float = field(default_factory=time.monotonic)

    def figure(self, name: str, figure: Figure) -> None:
        """Save under figures/, as PNG."""
        figures.save_png(figure, self.folder.path / "figures" / f"{name}.png")

    def model(self, tensors: dict[str, Any], config: dict[str, Any], meta: dict[str, Any]) -> None:
        """Write model/: weights, what builds the model again, and what it was made for.

        To be called as soon as the model is trained, before it is measured and drawn; `finish` adds the metrics.
        """
        write_safetensors(self.folder.model / "model.safetensors", tensors, metadata={"format": "pt"})
        write_json(self.folder.model / "config.json", config)
        self.made_for = meta | {"files": file_digests(self.folder.model, ("model.safetensors", "config.json"))}
        self._write_meta()

    def _write_meta(self) -> None:
        if self.made_for is not None:
            write_json(self.folder.model / "meta.json", self.described(self.made_for))

    def described(self, meta: dict[str, Any]) -> dict[str, Any]:
        """`meta` with what every hand-over carries: run, commit, versions, metrics."""
        made = {"commit": self.commit, "versions": versions(), "metrics": self.metrics}
        return {"stage": self.name, "run": self.folder.name, **meta, **made}

    def fitted_with(self, section: Any) -> None:
        """Note the settings of the stage as tuning left them: in used.yaml, and in MLflow. Without a word of tuning, so
        that used.yaml makes the same model again."""
        if self.asked is None:
            return
        settled = section.replace({"tune": section.tune.model_dump() | {"trials": 0}})
        _write_used(
            self.folder, self.asked.model_copy(update={self.name: settled}), self.folder.record().get("inputs", {})
        )
        self.ledger.params({f"{self.name}.{key}": getattr(section, key) for key in section.tune.space})

    def finish(
        self,
        key: str | None,
        score: float | None = None,
        metric: str = "",
        lower_is_better: bool = True,
        registered_as: str | None = None,
        extra_artifacts: Sequence[str] = (),
    ) -> None:
        """Write the final numbers, hand everything to MLflow, and say which run later stages take.

        score: the validation number that decides between runs with the same `key`; None lets the newest win.
        key None: the run is not handed on (someone's own pictures).
        """
        self._write_meta()
        self.metrics["seconds"] = time.monotonic() - self.started
        self.folder.write_metrics(self.metrics)
        self.ledger.metrics(self.metrics, step=0)
        entries = ("config.yaml", "used.yaml", "metrics.json", "metrics.jsonl", "figures", "model", *extra_artifacts)
        for entry in entries:
            path = self.folder.path / entry
            if path.exists():
                self.ledger.artifacts(path, entry if path.is_dir() else "")
        self.folder.finish(key, score, metric, lower_is_better)
        best = self._compared(key)
        if registered_as:
            self.ledger.register(registered_as, "champion" if best else None)

    def _compared(self, key: str | None) -> bool:
        """Say whether later stages take this run from now on, where a number decides. Returns whether it is the best of
        all, whatever their shape."""
        runs, here, section = self.folder.path.parent.parent, self.folder.path, getattr(self.asked, self.name, None)
        every = finished_runs(runs, self.name, key) if key is not None else []
        like = of_shape(self.name, section)
        same = [one for one in every if one.folder == here or like(one.folder)]
        mine = next((one for one in every if one.folder == here), None)
        if mine is None or mine.score is None:
            return mine is not None and every[0] is mine
        said, first = f"validation {mine.metric} {mine.score:.4g}: ", same[0]
        if first is not mine:
            named = f"; to take this one there, name it, such as --{section.TAKEN_AS} {here.name}" if section else ""
            say(f"{said}{first.folder} is better ({first.score:.4g}) and stays the one that later stages take{named}")
            return False
        better = every[0] is not mine and every[0].score != mine.score
        best = f"the best so far{' of its shape' if better else ''}"
        equal = len(same) > 1 and same[1].score == mine.score
        said += f"as good as {best}, which it replaces" if equal else best
        say(said + (f"; {every[0].folder} is of another shape and has {every[0].score:.4g}" if better else ""))
        return every[0] is mine


def inputs_of(handed: Sequence[Input], **named: Input | None) -> dict[str, str]:
    """name -> run folder of what a stage was handed: under the name of its stage, or as `named`; None: not there."""
    found = {one.stage: str(one.folder) for one in handed}
    return found | {name: str(one.folder) for name, one in named.items() if one is not None}


def _known_before(cfg: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What MLflow is told at the start: settings, but for those that tuning is to find, versions and inputs."""
    tuned = getattr(getattr(cfg, name, None), "tune", None)
    later = {f"{name}.{key}" for key in tuned.space} if tuned and tuned.trials else set()  # see Stage.fitted_with
    known = {key: value for key, value in cfg.flat("run", "data", name).items() if key not in later}
    beside = {"version": versions(), "input": inputs}
    return known | {f"{kind}.{key}": value for kind, values in beside.items() for key, value in values.items()}


def _write_used(folder: RunFolder, settings: Any, inputs: Mapping[str, str]) -> None:
    """used.yaml: the settings, with the runs that were taken by their names, and the section of a stage that made one
    as that was made."""
    values = settings.model_dump(mode="json")
    own = values.get(folder.path.parent.name, {})
    for role, made in inputs.items():
        if own.get(setting := NAMED_AS.get(role, role)) is not None:
            beside = Path(made).resolve().is_relative_to(folder.path.parent.parent.resolve())
            own[setting] = Path(made).name if beside else str(Path(made).resolve())
        with suppress(InputError):
            if role in values and isinstance(section := used_settings(Path(made)).get(role), dict):
                values[role] = section | {"tune": run_settings(Path(made)).get(role, {}).get("tune")}
    write_text(folder.path / "used.yaml", yaml.safe_dump(values, sort_keys=False))


def _patient_ledger(cfg: Any, name: str, folder: RunFolder, made_by: str, resumed: bool) -> Ledger:
    """An MLflow run whose entries wait in the run folder when MLflow is away. Raises InputError when it is from the
    start."""
    runs, uri = Path(cfg.run.dir), cfg.run.tracking_uri
    tags = {"stage": name, "mlflow.source.git.commit": made_by, "mlflow.note.content": f"run folder: {folder.path}"}
    earlier = (folder.record().get("mlflow_run") or folder.name) if resumed else None
    made = open_ledger(runs, name, folder.name, tags, earlier, uri)
    where = {"uri": uri, "experiment": made.experiment_id}
    return PatientLedger(made, Spool(folder.path, where, say), made.run_id)


def say_what_would_be(runs: Path, name: str, key: str, inputs: Mapping[str, str], resume: bool) -> None:
    """The runs that would be used, the one that would be made or gone on with, and how long it took last time."""
    for role, folder in inputs.items():
        say(f"would use {role}: {folder}")
    unfinished = RunFolder.find(runs, name, lambda record: record["digest"] == key and record["status"] != "finished")
    if unfinished and resume:
        say(f"would go on with {unfinished.path}")
    else:
        say(f"would make {runs / name}/TIME-ID")
        if unfinished:
            say(f"with --resume it would go on with {unfinished.path}")
    finished = RunFolder.find(runs, name, lambda record: record["status"] == "finished" and record["digest"] == key)
    alike = finished is not None
    finished = finished or RunFolder.find(runs, name, lambda record: record["status"] == "finished")
    if finished is None:
        say("no earlier run tells how long it takes")
        return
    seconds = read_json(finished.path / "metrics.json")["seconds"]
    say(f"with {'these' if alike else 'other'} settings and inputs it last took {duration(seconds)}: {finished.path}")


@contextmanager
def open_stage(
    name: str, cfg: Any, inputs: Mapping[str, str], machine: Machine, resume: bool, identity: str | None = None
) -> Iterator[Stage]:
    """A run folder and an MLflow run that end as finished, or as failed when the block raises.

    cfg: the settings (cfg.run, cfg.flat, cfg.model_dump, and a section named as the stage); inputs: see `inputs_of`.
    `resume` goes on with an earlier run of the same inputs, seed and section; identity: what counts instead of the
    latter two. The last line that the stage prints is its run folder. Raises OnlyAsked in a dry run, which makes
    neither.
    """
    runs, settings = Path(cfg.run.dir), yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False)
    database_uri(runs)  # a folder whose name no database takes is refused before there is a run folder
    identity = identity or f"{cfg.run.seed} {getattr(cfg, name).model_dump_json()}"
    key = digest(name, identity, *(f"{k}={v}" for k, v in sorted(inputs.items())))
    if cfg.run.dry_run:
        say_what_would_be(runs, name, key, inputs, resume)
        raise OnlyAsked

    def found() -> tuple[RunFolder, bool, list[str]]:
        """The run's folder, whether it was there already, and MLflow runs, by id or name, whose process is gone."""
        with alone(runs / name / "start"):
            gone = bury_gone(runs, name, cfg.run.mlflow)
            earlier = RunFolder.take_unfinished(runs, name, key) if resume else None
        for each in gone:
            say(f"noted as killed, as its process is gone: {each.path}")
        if resume:
            say(f"resuming {earlier.path}" if earlier else "nothing to resume with these settings: starting a new run")
        left = [each.record().get("mlflow_run") or each.name for each in gone]
        return earlier or RunFolder.create(runs, name, settings, key), earlier is not None, left

    shared, resumed, left_running = machine.world.made_by_first(found)
    made_by = commit()
    if machine.world.rank:
        with TemporaryDirectory() as scratch:
            folder = RunFolder.create(Path(scratch), name, settings, key)
            yield Stage(name, folder, NullLedger(), machine, shared.last, resumed, made_by)
        machine.world.same(None)  # until the first has written everything
        return
    folder = shared
    ledger: Ledger = NullLedger()
    try:
        if cfg.run.mlflow:
            with interrupts_wait():  # or MLflow's run would be known to nobody
                ledger = _patient_ledger(cfg, name, folder, made_by, resumed)
            for run in left_running:
                ledger.end_killed(run)
            ledger.params(_known_before(cfg, name, inputs))
        known = {"mlflow_run": ledger.run_id, "inputs": dict(inputs), "commit": made_by, "versions": versions()}
        folder.update(status="running", **known)
        _write_used(folder, cfg, inputs)
        yield Stage(name, folder, ledger, machine, folder.last, resumed, made_by, cfg)
    except BaseException as error:
        status = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
        folder.update(status=status, error=str(error) or type(error).__name__)
        ledger.end(status.upper())
        raise
    ledger.end("FINISHED")
    machine.world.same(None)
    say(str(folder.path))
