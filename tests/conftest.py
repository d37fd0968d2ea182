"""Shared by all tests: nothing asks the network, figures need no screen, one thread gives the same digits always."""

import os

import pytest
import torch
from hypothesis import settings

from pipeline.machine import Machine

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
os.environ["MPLBACKEND"] = "Agg"

torch.set_num_threads(1)
settings.register_profile("same_examples_each_time", derandomize=True, deadline=None, database=None)
settings.load_profile("same_examples_each_time")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test starts from the same global seed, so none depends on which others ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """One CPU thread in float32."""
    return Machine(torch.device("cpu"), bf16=False, threads=1)
