"""One MLflow database for all tests of this folder: it is slow to make."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.tracking import database_uri


@pytest.fixture(scope="session")
def mlflow_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "runs"


@pytest.fixture
def client(mlflow_runs: Path) -> MlflowClient:
    return MlflowClient(database_uri(mlflow_runs), database_uri(mlflow_runs))
