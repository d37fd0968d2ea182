"""Each preset runs through its stages on a few dozen drawn pictures, with what costs time made tiny."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masked_memory.pipeline.files import read_csv, read_json
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.stages import train_prior
from toys import ROOT, STAGES, Made, Ran, copied, draw_classes, newest, undrawn

pytestmark = pytest.mark.system

PRESETS = sorted(file.stem for file in (ROOT / "presets").glob("*.yaml"))
EVERY_STAGE = tuple(STAGES)
#: Whole data sets, with the stages that their first lines name
DATA_SETS = {
    "imagenet100": EVERY_STAGE,
    "imagenet100_32": EVERY_STAGE,
    "imagenette": EVERY_STAGE,
    "imagenet1k": EVERY_STAGE,
    "components": EVERY_STAGE[:3],
}
#: On top of a data set: the stage that each is for
PRIORS = {
    "prior_pixelcnn": "train_prior",
    "prior_gan": "train_prior",
    "prior_distil": "train_distil",
    "prior_components": "train_vqvae",
}
ELSEWHERE = {"oasis", "oasis_plain"}  # test_brain_slices
TINY_TRAINING = {"epochs": 1, "least_steps": 0, "patience": 1, "batch_size": 8, "retrain": False, "tune.trials": 0}
TINY_MODEL = {
    "train_vqvae.hidden": 8, "train_vqvae.residual_blocks": 1, "train_vqvae.codebook_size": 16,
    "train_vqvae.code_dim": 8, "train_distil.dim": 16, "train_distil.layers": 1, "train_distil.heads": 2,
    "train_prior.width": 8, "train_prior.layers": 3, "train_prior.judged_samples": 6, "train_prior.samples": 3,
    "reconstruct_masked.strategies": ["random", "adaptive"], "reconstruct_masked.percentages": [50, 100],
    "reconstruct_masked.choosing_passes": 2, "reconstruct_masked.candidates": 2, "reconstruct_masked.pictures": 3,
    "reconstruct_masked.bootstrap": 100, "reconstruct_masked.grid_pictures": 2, "reconstruct_masked.seeds": 1,
    "reconstruct_masked.rivals": False, "reconstruct_masked.clean_classifier": None,
    "reconstruct_masked.elsewhere_judge": False,
}  # fmt: skip
TRAINING = ("train_vqvae", "train_classifier", "train_distil", "train_prior")


def with_preset(name: str, runs: Path, source: object, **changes: Any) -> Config:
    """The preset over config.yaml, and the tiny values over both; __ stands for the dot in changes."""
    values: dict[str, Any] = {"run.dir": str(runs), "run.mlflow": False, "run.threads": 1, "run.precision": "fp32"}
    values |= {"data.source": str(source), "data.image_size": 16}
    values |= {f"{stage}.{key}": value for stage in TRAINING for key, value in TINY_TRAINING.items()} | TINY_MODEL
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return loading.load([ROOT / "presets" / f"{name}.yaml"], values)


def finished(cfg: Config, stages: Iterable[str]) -> None:
    """Run the stages; each scores a number and leaves a finished run."""
    for stage in stages:
        with undrawn():
            assert np.isfinite((STAGES | {"train_prior": train_prior})[stage].run(cfg)), stage
        assert read_json(newest(Path(cfg.run.dir), stage) / "run.json")["status"] == "finished"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("presets") / "pictures", each=10)


def test_every_preset_is_run_by_one_of_these_tests() -> None:
    assert {*DATA_SETS, *PRIORS, *ELSEWHERE, "published_study"} == set(PRESETS)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "components"])
def test_a_preset_of_classes_runs_from_pictures_to_the_study(name: str, pictures: Path, tmp_path: Path) -> None:
    changes = {} if name == "imagenette" else {"data__classes": 3}
    changes |= {"data__image_size": {"imagenet100": 32, "imagenet1k": 32}.get(name, 16)}
    changes |= {"train_vqvae__stride": 8} if name == "imagenet1k" else {}  # 4x4 tokens
    cfg = with_preset(name, tmp_path / "runs", pictures, **changes)
    finished(cfg, DATA_SETS[name])
    assert (newest(tmp_path / "runs", "reconstruct_masked") / "curves.csv").is_file()


def test_the_preset_of_components_paints_each_from_each_other(tmp_path: Path) -> None:
    changes = {"data__image_size": 32, "data__images_per_class": 4}
    finished(with_preset("components", tmp_path / "runs", "five_components", **changes), DATA_SETS["components"])
    assert (newest(tmp_path / "runs", "vqvae_reconstruction") / "components.csv").is_file()


@pytest.mark.parametrize("name", PRIORS)
def test_a_preset_of_a_prior_trains_what_it_is_for(name: str, made: Made, tmp_path: Path) -> None:
    runs = copied(made.runs, tmp_path / "runs", *EVERY_STAGE[:3])
    ages = str(made.folder / "ages.csv")
    cfg = with_preset(name, runs, made.source, data__metadata=ages)
    finished(cfg, [PRIORS[name]])
    meta = read_json(newest(runs, PRIORS[name]) / "model" / "meta.json")
    if PRIORS[name] == "train_prior":
        assert name.endswith(meta["kind"])


def test_the_preset_of_the_published_study_trains_and_is_studied(ran: Ran, tmp_path: Path) -> None:
    runs = copied(ran.runs, tmp_path / "runs", *EVERY_STAGE[:5])
    rival = {"reconstruct_masked__rivals": True, "reconstruct_masked__rival_distil": "best"}
    finished(with_preset("published_study", runs, ran.source, **rival), ("train_distil", "reconstruct_masked"))
    rows = read_csv(newest(runs, "reconstruct_masked") / "rivals.csv")
    assert "published recipe, argmax" in {row["rival"] for row in rows}
    steps = read_csv(newest(runs, "reconstruct_masked") / "published.csv")
    assert {row["model"] for row in steps} == {"published", "ours"}
