"""Shared by all tests: nothing asks the network, figures need no screen, one thread gives the same digits always."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
os.environ["MPLBACKEND"] = "Agg"

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from masked_memory.pipeline.files import write_csv
from masked_memory.pipeline.loopback import pass_proxies
from masked_memory.pipeline.machine import Machine
from masked_memory.stages import (
    data_split,
    reconstruct_masked,
    sample,
    train_distil,
    train_prior,
    train_vqvae,
    vqvae_reconstruction,
)
from toys import (
    STAGES,
    Made,
    Mine,
    Ran,
    Reads,
    draw_classes,
    newest,
    pictures_in,
    prior_settings,
    tiny,
    undrawn,
    words_of,
)

pass_proxies()
torch.set_num_threads(1)
settings.register_profile("same_examples_each_time", derandomize=True, deadline=None, database=None)
settings.load_profile("same_examples_each_time")


@pytest.fixture(autouse=True)
def fixed_start() -> None:
    """Each test starts from the same global seed and with one thread, so none depends on which others ran before it."""
    torch.manual_seed(0)
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def machine() -> Machine:
    """One CPU thread in float32."""
    return Machine(torch.device("cpu"), bf16=False, threads=1)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def without_drawing() -> Iterator[None]:
    with undrawn():
        yield


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("pipeline")
    runs, source = folder / "runs", draw_classes(folder / "pictures")
    cfg = tiny(runs, source)
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        scores = {name: stage.run(cfg) for name, stage in STAGES.items()}
    folders = {name: newest(runs, name) for name in STAGES}
    own = {"image": str(source / "class0" / "00.png"), "box": [2, 2, 9, 9]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_image = Reads(monkeypatch)
        reconstruct_masked.run(tiny(runs, source, run__mlflow=False, reconstruct_masked__own=own))
    return Ran(cfg, runs, source, scores, folders, reads.seen, with_image.seen)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("priors")
    runs, source = folder / "runs", draw_classes(folder / "pictures")
    write_csv(folder / "ages.csv", ("path", "age"), [(path, 20 + n % 7) for n, path in enumerate(pictures_in(source))])
    plain = prior_settings(runs, source)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(plain)
    for told in (False, True):
        train_distil.run(prior_settings(runs, source, train_distil__condition_on_class=told))
    by_age = {"condition_numbers": ["age"], "label_drop": 0}
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        space = {"learning_rate": {"low": 1e-3, "high": 2e-3}}
        tuned = {"train_prior__tune": {"trials": 2, "epochs": 1, "space": space}}
        for changes in (
            {"train_prior": by_age},
            {"train_prior__kind": "gan", **tuned},
            {"train_prior__condition_on_class": True},
            {"train_prior__retrain": True},
        ):
            train_prior.run(prior_settings(runs, source, **changes))
        sample.run(prior_settings(runs, source))
        sample.run(prior_settings(runs, source, sample={"mode": "inpainting", "prior": "gan"}))
        sample.run(prior_settings(runs, source, sample={"mode": "inpainting", "prior": "distil"}))
    return Made(runs, source, folder, reads.seen)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a stage's own main() on what is typed; returns its exit status, stdout and stderr."""

    def run(stage: str, runs: Path, source: Path | str, *options: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", words_of(stage, runs, source, *options))
        status = STAGES[stage].main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Mine:
    folder = tmp_path_factory.mktemp("mine")
    found = Mine(*(folder / f"{name}.png" for name in Mine._fields))
    rng = np.random.default_rng(3)
    Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)).save(found.picture)
    Image.fromarray(np.where(rng.random((12, 20)) < 0.3, 255, 0).astype(np.uint8)).save(found.mask)
    Image.new("L", (5, 4), 255).save(found.small)
    Image.new("L", (20, 12), 0).save(found.black)
    Image.new("L", (20, 12), 255).save(found.white)
    found.text.write_text("no picture")
    return found
