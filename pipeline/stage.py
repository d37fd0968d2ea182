"""The frame around each stage: run folder, MLflow run, machine, what was inherited, and a clean end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import yaml
from matplotlib.figure import Figure
from tqdm import tqdm

from pipeline import figures
from pipeline.files import alone, digest, file_digests, read_json, write_json, write_safetensors
from pipeline.interrupts import interrupts_wait
from pipeline.machine import Machine, commit, versions
from pipeline.runs import RunFolder, bury_gone, duration, note_best, read_best
from pipeline.spool import PatientLedger, Spool
from pipeline.tracking import Ledger, NullLedger, database_uri, open_ledger
from pipeline.world import OnlyAsked, is_first


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

    def finish(
        self,
        key: str | None,
        score: float | None = None,
        metric: str = "",
        lower_is_better: bool = True,
        registered_as: str | None = None,
        extra_artifacts: Sequence[str] = (),
    ) -> None:
        """Write the final numbers, enter the run in best.json, hand everything to MLflow.

        score: the validation number that decides between runs with the same `key`; None lets the newest win.
        key None: the run is not handed on (someone's own pictures).
        """
        self._write_meta()
        self.metrics["seconds"] = time.monotonic() - self.started
        self.folder.write_metrics(self.metrics)
        self.ledger.metrics(self.metrics, step=0)
        for entry in ("config.yaml", "metrics.json", "metrics.jsonl", "figures", "model", *extra_artifacts):
            path = self.folder.path / entry
            if path.exists():
                self.ledger.artifacts(path, entry if path.is_dir() else "")
        before = read_best(self.folder.path.parent.parent, self.name).get(key or "", {}).get("score")
        won = key is not None and note_best(self.folder, key, score, metric, lower_is_better)
        if registered_as:
            self.ledger.register(registered_as, "champion" if won else None)
        self.folder.update(status="finished", error=None, key=key, score=score, metric=metric)
        if score is not None:
            best = "as good as the best so far, which it replaces" if score == before else "the best so far"
            say(f"validation {metric} {score:.4g}: {best if won else 'an earlier run is better'}")


def inputs_of(handed: Sequence[Input], **named: Input | None) -> dict[str, str]:
    """name -> run folder of what a stage was handed: under the name of its stage, or as `named`; None: not there."""
    found = {one.stage: str(one.folder) for one in handed}
    return found | {name: str(one.folder) for name, one in named.items() if one is not None}


def _patient_ledger(cfg: Any, name: str, folder: RunFolder, made_by: str, resumed: bool) -> Ledger:
    """An MLflow run whose entries wait in the run folder when MLflow is away. Raises InputError when it is from the
    start."""
    runs, uri = Path(cfg.run.dir), cfg.run.tracking_uri
    tags = {"stage": name, "mlflow.source.git.commit": made_by, "mlflow.note.content": f"run folder: {folder.path}"}
    earlier = (folder.record().get("mlflow_run") or folder.name) if resumed else None
    made = open_ledger(runs, name, folder.name, tags, earlier, uri)
    where = {"uri": database_uri(runs, uri), "experiment": made.experiment_id}
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
            ledger.params(cfg.flat("run", "data", name))
            beside = {"version": versions(), "input": inputs}
            ledger.params({f"{kind}.{k}": v for kind, values in beside.items() for k, v in values.items()})
        known = {"mlflow_run": ledger.run_id, "inputs": dict(inputs), "commit": made_by, "versions": versions()}
        folder.update(status="running", **known)
        yield Stage(name, folder, ledger, machine, folder.last, resumed, made_by)
    except BaseException as error:
        status = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
        folder.update(status=status, error=str(error) or type(error).__name__)
        ledger.end(status.upper())
        raise
    ledger.end("FINISHED")
    machine.world.same(None)
    say(str(folder.path))
