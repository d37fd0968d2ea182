"""MLflow as a ledger: the run folder is complete without it, and every file of it is also there.

Uses `MlflowClient` with explicit run ids, never the global "active run". Runs live in `sqlite:///<runs>/mlflow.db`,
artifacts in `<runs>/artifacts`. `NullLedger` takes its place with `run.mlflow: false`.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from masked_memory.pipeline.files import DISK_ERRORS, TEMPORARY, InputError, alone, replacing, sqlite_url
from masked_memory.pipeline.interrupts import Uninterrupted, interrupts_wait
from masked_memory.pipeline.loopback import pass_proxies
from masked_memory.pipeline.mlflow_views import tell_experiment
from masked_memory.pipeline.moved_project import follow_move, moved_from


class Ledger(Protocol):
    """What a stage writes down while it runs."""

    run_id: str

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int, at: int | None = None) -> None:
        """at: milliseconds since 1970; None: now."""
        ...

    def tags(self, values: Mapping[str, str]) -> None: ...
    def dataset(self, name: str, digest: str, folder: Path) -> None: ...
    def child(self, name: str) -> "Ledger": ...
    def artifacts(self, path: Path, under: str = "") -> None: ...
    def register(self, name: str, alias: str | None) -> None: ...
    def end(self, status: str) -> None: ...
    def end_killed(self, run: str) -> None:
        """Note another run, by id or name, and all trials under it, as killed if they still seem to run; of this one
        its trials."""
        ...


class NullLedger:
    """Writes nothing."""

    run_id = ""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], step: int, at: int | None = None) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def dataset(self, name: str, digest: str, folder: Path) -> None: ...
    def artifacts(self, path: Path, under: str = "") -> None: ...
    def register(self, name: str, alias: str | None) -> None: ...
    def end(self, status: str) -> None: ...
    def end_killed(self, run: str) -> None: ...

    def child(self, name: str) -> "NullLedger":
        return self


class MlflowLedger:
    """One MLflow run; `child` opens runs nested under it."""

    def __init__(self, client: Any, experiment_id: str, run_id: str) -> None:
        self._client = client
        self.experiment_id = experiment_id
        self.run_id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        fresh = [Param(key, str(value)) for key, value in values.items() if key not in known]
        for start in range(0, len(fresh), 100):  # the most that one call takes
            self._client.log_batch(self.run_id, params=fresh[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int, at: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000) if at is None else at
        self._client.log_batch(self.run_id, metrics=[Metric(key, float(v), now, step) for key, v in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def dataset(self, name: str, digest: str, folder: Path) -> None:
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]
        from mlflow.entities import DatasetInput

        source = LocalArtifactDatasetSource(str(folder))
        described = MetaDataset(source, name=name, digest=digest)  # type: ignore[abstract]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(described._to_mlflow_entity())])

    def child(self, name: str) -> "MlflowLedger":
        run = self._client.create_run(
            self.experiment_id, run_name=name, tags={"mlflow.parentRunId": self.run_id, "mlflow.source.type": "LOCAL"}
        )
        return MlflowLedger(self._client, self.experiment_id, run.info.run_id)

    def artifacts(self, path: Path, under: str = "") -> None:
        """A file, or a folder with all that is in it."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), under or None)
        else:
            self._client.log_artifact(self.run_id, str(path), under or None)

    def register(self, name: str, alias: str | None) -> None:
        """Register the run's model folder under `name`; the alias moves to it when given."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/model"
        made = self._client.create_model_version(name, source=source, run_id=self.run_id)
        if alias:
            self._client.set_registered_model_alias(name, alias, made.version)

    def end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)

    def end_killed(self, run: str) -> None:
        run_id = _known(self._client, self.experiment_id, run)
        if run_id is None:
            return
        left = "attributes.status = 'RUNNING'"
        under = f"tags.`mlflow.parentRunId` = '{run_id}' and {left}"
        found = [*self._client.search_runs([self.experiment_id], filter_string=under, max_results=1000)]
        if run_id != self.run_id:
            itself = f"attributes.run_id = '{run_id}' and {left}"
            found += self._client.search_runs([self.experiment_id], filter_string=itself)
        for each in found:
            self._client.set_terminated(each.info.run_id, "KILLED")


def database_uri(runs: Path, asked: str | None = None) -> str:
    """Where MLflow keeps runs: `asked`, a server or a database, else mlflow.db beside them."""
    return asked or sqlite_url(runs / "mlflow.db")


def open_ledger(
    runs: Path, stage: str, name: str, tags: Mapping[str, str], earlier: str | None, asked: str | None = None
) -> MlflowLedger:
    """A new MLflow run in the experiment named after the stage, or an earlier one, by its id, or by its name where it
    was killed before the id could be noted. asked: `run.tracking_uri`. A server keeps artifacts where it was told to;
    with a database they lie beside the runs.

    Raises InputError when MLflow does not answer, or its database cannot be written.
    """
    uri = database_uri(runs, asked)
    root = None if uri.startswith("http") else _artifacts(runs)
    with _answering(uri):
        _prepare(runs, uri)
        with alone(runs / "mlflow.db"):  # two that start at once would both make the tables, and the experiment
            client = reach(uri)
            experiment_id = _experiment(client, stage, root)
        if earlier and (run_id := _known(client, experiment_id, earlier)):
            client.update_run(run_id, status="RUNNING")
            return MlflowLedger(client, experiment_id, run_id)
        described = {"mlflow.source.name": f"{stage}.py", "mlflow.source.type": "LOCAL", **tags}
        made = client.create_run(experiment_id, run_name=name, tags=described)
        return MlflowLedger(client, experiment_id, made.info.run_id)


def _experiment(client: Any, name: str, root: str | None) -> str:
    """The experiment's id. Processes on other machines may make it at the same time."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, artifact_location=root)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)
    tell_experiment(client, experiment)
    return str(experiment.experiment_id)


def _known(client: Any, experiment_id: str, run: str) -> str | None:
    """The id of a run that is named by its id, or by its name, the newest of that; None when it is not there."""
    for what in ("run_id", "run_name"):
        if found := client.search_runs([experiment_id], filter_string=f"attributes.{what} = '{run}'", max_results=1):
            return str(found[0].info.run_id)
    return None


def registered_run(runs: Path, uri: str, asked: str | None = None) -> Path:
    """models:/NAME@ALIAS or models:/NAME/VERSION -> the run folder that made it. Raises InputError when unknown."""
    from mlflow.exceptions import MlflowException

    client = client_of(runs, asked)
    name, at, alias = uri.removeprefix("models:/").partition("@")
    try:
        if at:
            found = client.get_model_version_by_alias(name, alias)
        else:
            name, _, number = name.rpartition("/")
            found = client.get_model_version(name, number)
        run = client.get_run(found.run_id)
    except MlflowException:
        known = ", ".join(f"models:/{m.name}@champion" for m in client.search_registered_models()) or "none"
        raise InputError(f"{uri} is not registered in {asked or runs / 'mlflow.db'}; registered are: {known}") from None
    path = runs / run.data.tags["stage"] / run.info.run_name
    if not path.is_dir():
        raise InputError(f"{uri} was made by {path}, which is gone; name another run folder")
    return path


def client_of(runs: Path, asked: str | None = None) -> Any:
    """A client of where MLflow keeps runs. Raises InputError when that does not answer."""
    uri = database_uri(runs, asked)
    _prepare(runs, uri)
    return reach(uri)


def _artifacts(runs: Path) -> str:
    return (runs / "artifacts").resolve().as_uri()


def _prepare(runs: Path, uri: str) -> None:
    """The database beside the runs is made if it is not there, and follows its folder when that was moved."""
    file = runs / "mlflow.db"
    if uri == sqlite_url(file) and (not file.exists() or moved_from(file)):
        with alone(file):
            _make_whole(file, _artifacts(runs))
            follow_move(file)


def _make_whole(file: Path, artifacts: str) -> None:
    """Make the database, if it is not there. MLflow makes its tables one after another, and refuses a database with a
    part of them; so they are made in a file that takes its place when it has all, also when this process is killed."""
    if file.exists():
        return
    for left in file.parent.glob(f".{file.name}.*"):
        if TEMPORARY.fullmatch(left.name):
            left.unlink(missing_ok=True)
    _hush()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(file) as temporary, _answering(sqlite_url(temporary)), interrupts_wait():
        SqlAlchemyStore(sqlite_url(temporary), artifacts).engine.dispose()


def reach(uri: str) -> Any:
    """A client of the server or database. Raises InputError when it does not answer."""
    _hush()
    from mlflow import MlflowClient

    with _answering(uri):
        client = MlflowClient(uri, uri) if uri.startswith("http") else Uninterrupted.of(MlflowClient(uri, uri))
        client.search_experiments(max_results=1)
    return client


def _hush() -> None:
    """Before MLflow is imported."""
    pass_proxies()
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    brief = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}  # MLflow itself waits minutes
    for name, value in (quiet | brief).items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its tracebacks; what matters is said here


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Raises InputError where MLflow does not answer, or cannot write."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = trouble(error, uri)
        if why is None:
            raise
        raise InputError(f"{why}; check run.tracking_uri and run.dir, or type --run.mlflow false") from None


def trouble(error: Exception, uri: str) -> str | None:
    """Why MLflow could not be told, when its server, its database or the disk is to blame; None when it was asked for
    something wrong."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError, OperationalError

    if isinstance(error, OSError) and (error.filename or error.errno in DISK_ERRORS):
        path = error.filename2 or error.filename or "artifacts"
        return f"cannot write {path}: {error.strerror}"
    if isinstance(error, MlflowException):
        away = error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
    else:  # a bare DatabaseError: the file is no database; those derived from it are mistakes in what is asked
        away = type(error) is DatabaseError or isinstance(error, OSError | OperationalError)  # requests raise OSErrors
    said: BaseException = error
    while said.__cause__ is not None:  # of a database: what it said itself, without the question
        said = said.__cause__
    fails = "does not answer" if uri.startswith("http") else "cannot be used"
    return f"MLflow at {uri} {fails} ({' '.join(str(said).split())[:160]})" if away else None
