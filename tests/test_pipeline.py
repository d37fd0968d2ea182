"""All stages in order on a few dozen pictures: what they leave behind, what they refuse, and killed runs."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import data_split
import reconstruct_masked
import summary
import train_classifier
import train_distil
import train_vqvae
import vqvae_reconstruction
from handoff.memory import take_memory
from handoff.split import open_split
from handoff.vqvae import take_indices, take_vqvae
from masking import mask_first, stored_bits
from measuring.tables import CURVES_HEADER
from models import distilbert
from models.distilbert import load_distilbert, masked_cross_entropy
from own_picture.completing import request_of
from own_picture.reading import box_mask
from pipeline import figures
from pipeline.files import InputError, read_csv, read_json, write_json, write_text
from pipeline.metrics import to_unit
from pipeline.runs import read_best
from recall.choosing import Choosing, choose_order
from recall.completing import complete
from recall.simple_fillers import RIVALS
from settings import loading
from settings.common import DataSection, RunSection
from settings.config import Config
from settings.kinds import Section
from settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection
from settings.strategies import STRATEGIES
from settings.train_classifier import TrainClassifierSection
from settings.train_distil import TrainDistilSection
from settings.train_vqvae import TrainVQVAESection
from settings.training import Tune
from settings.vqvae_reconstruction import VQVAEReconstructionSection
from vqvae import load_vqvae

ROOT = Path(__file__).resolve().parent.parent
STAGES = {
    "data_split": data_split,
    "train_vqvae": train_vqvae,
    "vqvae_reconstruction": vqvae_reconstruction,
    "train_classifier": train_classifier,
    "train_distil": train_distil,
    "reconstruct_masked": reconstruct_masked,
}
STUDIED = ["random", "additive", "adaptive"]
DECODINGS = ["argmax", "sample", "expected"]
TINY = {
    "run": {"threads": 1, "precision": "fp32"},
    "data": {"image_size": 16},
    "train_vqvae": {
        "epochs": 2, "batch_size": 8, "hidden": 16, "residual_blocks": 1, "codebook_size": 16, "code_dim": 8,
        "retrain": True,
        "tune": {"trials": 2, "epochs": 1, "space": {"code_dim": [4, 8], "learning_rate": {"low": 1e-3, "high": 4e-3}}},
    },
    "train_classifier": {
        "epochs": 2, "batch_size": 8,
        "tune": {"trials": 2, "epochs": 1, "space": {"architecture": ["compact", "codes"]}},
    },
    "train_distil": {
        "epochs": 2, "batch_size": 8, "dim": 16, "layers": 1, "heads": 2, "percentages": [25, 100],
        "tune": {"trials": 2, "epochs": 1, "space": {"learning_rate": {"low": 1e-3, "high": 4e-3, "log": True}}},
    },
    "reconstruct_masked": {
        "strategies": STUDIED, "percentages": [0, 50, 100], "seeds": 2, "choosing_passes": 4, "candidates": 2,
        "slow_pictures": 2, "bootstrap": 100, "grid_pictures": 2,
    },
}  # fmt: skip
UNTUNED = {f"{stage}__tune": {"trials": 0} for stage in ("train_vqvae", "train_classifier", "train_distil")}


def draw_classes(folder: Path, classes: int = 3, each: int = 14, size: int = 20) -> Path:
    """Pictures of one colour a class with noise: learnable in a moment."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for picture in range(each):
            pixels = rng.integers(0, 90, (size, size, 3))
            pixels[..., number % 3] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{number}" / f"{picture:02d}.png")
    return folder


def tiny(runs: Path, source: Path | str, **changes: object) -> Config:
    """The tiny settings; changes are dotted keys with __ for the dot."""
    values = json.loads(json.dumps(TINY))
    loading._merge(values, {"run": {"dir": str(runs)}, "data": {"source": str(source)}})
    for dotted, value in changes.items():
        for part in reversed(dotted.split("__")):
            value = {part: value}
        loading._merge(values, value)
    return loading.check(values)


def newest(runs: Path, stage: str) -> Path:
    """The run that was last written to; names tell seconds only."""
    return max((runs / stage).glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns).parent


def copied(runs: Path, to: Path, *stages: str) -> Path:
    """The runs of some stages in a folder of their own, where further runs change nothing for other tests."""
    for stage in stages:
        shutil.copytree(runs / stage, to / stage)
    return to


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are made but not drawn, which is most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figures, "save", lambda figure, path: write_text(path, ""))
        yield


@pytest.fixture
def without_drawing() -> Iterator[None]:
    with undrawn():
        yield


class Reads:
    """Notes every setting that anything reads while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[str, str]] = set()
        plain = Section.__getattribute__

        def noting(section: Section, name: str) -> object:
            if name in type.__getattribute__(type(section), "model_fields"):
                self.seen.add((type(section).__name__, name))
            return plain(section, name)

        monkeypatch.setattr(Section, "__getattribute__", noting)


class Ran(NamedTuple):
    """Every stage once, in order, with MLflow."""

    cfg: Config
    runs: Path
    source: Path
    scores: dict[str, float]
    folders: dict[str, Path]  # stage -> its run folder
    seen: set[tuple[str, str]]  # the settings that the stages read
    seen_with_image: set[tuple[str, str]]  # those that reconstruct_masked read for a picture of one's own

    def table(self, name: str) -> list[dict[str, str]]:
        return read_csv(self.folders["reconstruct_masked"] / name)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Ran:
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


def command(stage: str, runs: Path, source: Path | str, *options: object) -> list[str]:
    """What is typed behind `python`, with the tiny settings as an overlay."""
    overlay = runs.parent / f"{runs.name}.yaml"
    write_json(overlay, TINY)  # JSON is YAML
    words = [ROOT / f"{stage}.py", "--config", overlay, "--run.dir", runs, "--data.source", source]
    return [str(word) for word in (*words, "--run.mlflow", "false", *options)]


@pytest.fixture
def typed(monkeypatch, capsys):
    """Runs a stage's own main() on what is typed; returns its exit status, stdout and stderr."""

    def run(stage: str, runs: Path, source: Path | str, *options: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", command(stage, runs, source, *options))
        status = STAGES[stage].main()
        return status, *capsys.readouterr()

    return run


# --- what the stages leave behind -------------------------------------------------------------------------------------


def test_every_run_folder_is_complete(ran):
    for stage, folder in ran.folders.items():
        assert read_json(folder / "run.json")["status"] == "finished"
        assert loading.check(loading._read_yaml(folder / "config.yaml"))  # the resolved settings are settings
        assert all(np.isfinite(value) for value in read_json(folder / "metrics.json").values())
        assert list((folder / "figures").glob("*.png")) and np.isfinite(ran.scores[stage])
        assert read_best(ran.runs, stage)
    for stage in ("train_vqvae", "train_classifier", "train_distil"):
        lines = (ran.folders[stage] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
        meta = read_json(ran.folders[stage] / "model" / "meta.json")
        assert {"split_hash", "commit", "versions", "metrics", "grid", "codebook_size"} <= set(meta)


def test_history_has_every_promised_number(ran):
    line = json.loads((ran.folders["train_vqvae"] / "metrics.jsonl").read_text().splitlines()[0])
    promised = (
        "loss",
        "reconstruction_loss",
        "codebook_loss",
        "commitment_loss",
        "psnr",
        "ssim",
        "perplexity",
        "codes_used",
    )
    for part in ("train", "val"):
        assert all(f"{part}_{name}" in line for name in promised)


def test_mlflow_holds_nested_trials_the_files_and_the_champion(ran):
    from mlflow import MlflowClient

    from pipeline.tracking import database_uri, registered_run

    client = MlflowClient(database_uri(ran.runs), database_uri(ran.runs))
    for stage in STAGES:
        experiment = client.get_experiment_by_name(stage)
        found = client.search_runs([experiment.experiment_id])
        parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        assert [run.info.run_name for run in parents] == [ran.folders[stage].name]
        parent = parents[0]
        assert parent.info.status == "FINISHED" and parent.data.metrics
        assert parent.data.params["run.seed"] == "0" and "version.torch" in parent.data.params
        assert parent.inputs.dataset_inputs[0].dataset.digest == open_split(ran.cfg).hash
        stored = {file.path for file in client.list_artifacts(parent.info.run_id)}
        assert {"config.yaml", "metrics.json", "figures"} <= stored
        if stage.startswith("train"):
            children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
            assert len(children) == 2 and all(run.data.params and run.data.metrics for run in children)
            assert len(client.get_metric_history(parent.info.run_id, "val_loss")) == 2
        if stage == "reconstruct_masked":
            assert {"curves.csv", "rivals.csv", "equal_bits.csv", "error_split.csv"} <= stored
            for strategy in STUDIED:
                history = client.get_metric_history(parent.info.run_id, f"mse_to_reconstruction/{strategy}")
                assert [point.step for point in history] == [0, 50, 100]
    names = {model.name for model in client.search_registered_models()}
    assert {name.split("-")[0] for name in names} == {"vqvae", "classifier", "distil"}
    vqvae_name = next(name for name in names if name.startswith("vqvae"))
    assert registered_run(ran.runs, f"models:/{vqvae_name}@champion") == ran.folders["train_vqvae"]


@torch.no_grad()
def test_stored_indices_paint_the_reconstructions(ran):
    split = open_split(ran.cfg)
    device = torch.device("cpu")
    handed = take_vqvae(ran.cfg, "best", split, device)
    stored = take_indices(ran.cfg, "best", split, handed)
    assert stored.indices.dtype == np.uint8 and stored.indices.shape == (len(split.manifest), 4, 4)
    x = split.pictures(np.arange(5))
    assert (handed.model.encode_indices(x).numpy() == stored.indices[:5]).all()
    painted = handed.model.decode_indices(torch.from_numpy(stored.indices[:5].astype(np.int64)))
    assert torch.equal(painted, handed.model(x).reconstruction)
    rows = read_csv(stored.folder / "pictures.csv")
    assert float(rows[0]["mse"]) == pytest.approx(float(((painted[0] - x[0]) / 2).square().mean()), rel=1e-4)
    assert read_csv(stored.folder / "indices" / "manifest.csv") == split.manifest
    codebook = np.load(stored.folder / "indices" / "codebook.npy")
    assert codebook.shape == (16, handed.model.config.code_dim)


def test_validation_masks_are_fixed_and_reproduce_the_logged_loss(ran):
    folder = ran.folders["train_distil"]
    split = open_split(ran.cfg)
    indices = take_indices(ran.cfg, "best", split, take_vqvae(ran.cfg, "best", split, torch.device("cpu")))
    model = load_distilbert(folder / "model", torch.device("cpu"))
    tokens = indices.tokens(split.positions("val"))
    mask = torch.from_numpy(np.load(folder / "masks" / "val_25.npy"))
    assert (mask.sum(1) == 4).all()  # a quarter of 16
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = min(history, key=lambda line: line["val_loss"])
    with torch.no_grad():
        loss = masked_cross_entropy(model, tokens, mask)[0].mean()
    assert float(loss) == pytest.approx(best["val_loss_at_25"], rel=1e-5)


def test_own_pictures_and_the_way_back(ran, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (300, 200), "red").save(own / "a.jpg")
    Image.new("L", (16, 16), 90).save(own / "b.png")
    best = read_best(ran.runs, "vqvae_reconstruction")
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, vqvae_reconstruction__input=str(own)))
    folder = newest(ran.runs, "vqvae_reconstruction") / "own"
    painted = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    assert len(painted) == 2 and painted[0].shape == (16, 16, 3)
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, vqvae_reconstruction__indices=str(folder / "indices.npy")))
    back = sorted((newest(ran.runs, "vqvae_reconstruction") / "own").glob("*.png"))
    assert (np.asarray(Image.open(back[1])) == painted[1]).all()
    assert read_best(ran.runs, "vqvae_reconstruction") == best  # own pictures are not handed on


def test_every_setting_is_read_by_something(ran):
    """By the stages on the data; those of an own picture by reconstruct_masked with one."""
    sections = (
        RunSection, DataSection, TrainVQVAESection, VQVAEReconstructionSection,
        TrainClassifierSection, TrainDistilSection, ReconstructMaskedSection, Tune,
    )  # fmt: skip
    fields = {(section.__name__, name) for section in sections for name in section.model_fields}
    elsewhere = {  # read on ways that these runs did not take, each covered by a test of its own
        ("DataSection", "download_dir"),  # test_data_split: imagenette offline
        ("DataSection", "given_split"),  # test_data_split: given split
        ("DataSection", "skip_broken"),  # test_data_split: skip broken
        ("TrainDistilSection", "label_drop"),  # test_a_class_that_is_told_with_guidance_is_recalled
    }
    assert fields - ran.seen - elsewhere == set()
    own = {("OwnPicture", name) for name in OwnPicture.model_fields}
    assert own - ran.seen_with_image == set()
    assert len(fields) > 100 and own & ran.seen == {("OwnPicture", name) for name in ("image", "mask", "box", "label")}


#: Another value of each setting that says what to measure, or how an own picture is completed
OTHER_VALUES = {
    "strategies": ["half"], "decodings": ["sample"], "percentages": [20], "batch_size": 3, "seeds": 1,
    "choosing_passes": 2, "look_ahead": 0.9, "candidates": 3, "code_share": 0.1, "blocks": 2, "passes": 2,
    "fill_order": "halton", "temperature": 0.5, "top_k": 3, "top_p": 0.5, "tell_class": True, "guidance_scale": 2.0,
}  # fmt: skip
OTHER_OWN = {"percent": 20, "strategy": "half", "decoding": "sample", "samples": 1, "fit": "tile", "margin": 1}


def test_every_setting_of_the_study_reaches_its_plan(ran):
    section = ran.cfg.reconstruct_masked
    plan = reconstruct_masked.make_plan(section, 0)
    for key, value in OTHER_VALUES.items():
        assert reconstruct_masked.make_plan(section.replace({key: value}), 0) != plan, key
    assert reconstruct_masked.make_plan(section, 1) != plan
    elsewhere = {
        "vqvae", "indices", "distil", "classifier", "part", "pictures", "rivals", "rival_distil", "rival_pictures",
        "slow_pictures",
        "bootstrap", "grid_pictures", "own",
    }  # fmt: skip
    assert set(OTHER_VALUES) | elsewhere == set(type(section).model_fields)


def test_every_setting_of_an_own_picture_reaches_its_request(ran):
    distil = load_distilbert(ran.folders["train_distil"] / "model", torch.device("cpu"))

    def request(**changes):
        return request_of(ran.cfg.reconstruct_masked.replace(changes), distil, [], 0)

    for key, value in OTHER_OWN.items():
        assert request(own={key: value}) != request(), key
    only_of_the_study = {"strategies", "decodings", "percentages", "batch_size", "seeds", "tell_class"}
    for key, value in OTHER_VALUES.items():
        assert (request(**{key: value}) != request()) == (key not in only_of_the_study), key
    assert set(OTHER_OWN) | {"image", "mask", "box", "label"} == set(OwnPicture.model_fields)


def test_pictures_to_measure_are_chosen_by_the_seed(ran):
    split = open_split(ran.cfg)
    test, val = split.positions("test"), split.positions("val")
    assert (reconstruct_masked.choose_pictures(split, "test", None, 0) == test).all()
    assert (reconstruct_masked.choose_pictures(split, "test", 1000, 0) == test).all()
    both = reconstruct_masked.choose_pictures(split, "val+test", None, 0)
    assert sorted(both) == sorted([*val, *test])
    chosen = [list(reconstruct_masked.choose_pictures(split, "val+test", 4, seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(set(one)) == 4 and one == sorted(one) and set(one) <= set(both) for one in chosen)


def test_the_summary_names_numbers_that_the_stages_write(ran, capsys):
    """At any percentage: those of the summary are those of config.yaml."""

    def whatever_percent(name: str) -> str:
        return re.sub(r"_at_\d+", "_at_N", name)

    for stage, name, _, _ in summary.MAIN_NUMBERS:
        written = {whatever_percent(key) for key in read_json(ran.folders[stage] / "metrics.json")}
        assert whatever_percent(name) in written, name
    assert summary.run(ran.cfg) == len(STAGES)
    printed = capsys.readouterr().out
    error = read_json(ran.folders["reconstruct_masked"] / "metrics.json")["adaptive_mse_to_reconstruction_at_50"]
    assert f"{error:.4f}" in printed and "not run yet" not in printed


def test_retrain_saw_validation_too(ran):
    """With retrain the final weights are not those of the best epoch of the fit."""
    from safetensors.torch import load_file

    folder = ran.folders["train_vqvae"]
    final = load_file(folder / "model" / "model.safetensors")
    fitted = load_file(folder / "last" / "fit.safetensors")
    assert (folder / "last" / "retrain.safetensors").is_file()
    assert not torch.equal(final["decoder.0.weight"], fitted["best/decoder.0.weight"])


def test_objective_of_a_trial_is_run_with_a_trial(ran):
    """run(cfg, trial) is an Optuna objective: it returns the validation score and makes no run folder."""
    import optuna

    before = sorted((ran.runs / "train_vqvae").iterdir())
    study = optuna.create_study()
    study.optimize(lambda trial: train_vqvae.run(ran.cfg, trial), n_trials=1)
    assert 0 < study.best_value < 1 and set(study.best_params) == {"code_dim", "learning_rate"}
    assert sorted((ran.runs / "train_vqvae").iterdir()) == before


# --- the study --------------------------------------------------------------------------------------------------------

TESTED = 6  # test pictures
ENDS = {0: 16, 50: 8, 100: 0}  # percent forgotten -> tokens kept of 16


def curves_of(rows: list[dict[str, str]]) -> dict[tuple[str, int, str, str], dict[str, str]]:
    """Rows of curves.csv by strategy, percent, decoding and measure."""
    found = {(row["strategy"], int(row["percent"]), row["decoding"], row["measure"]): row for row in rows}
    assert len(found) == len(rows), "no cell is there twice"
    return found


def test_every_strategy_percentage_and_decoding_has_all_measures(ran):
    rows = ran.table("curves.csv")
    assert tuple(rows[0]) == CURVES_HEADER
    assert CURVES_HEADER == (
        "strategy", "percent", "decoding", "bits", "measure", "mean", "low", "high", "seed_sd", "seeds", "pictures",
    )  # fmt: skip
    curves = curves_of(rows)
    places = [(name, percent) for name in STUDIED for percent in (0, 50)] + [("any", 100)]
    whole = {f"{name}_to_{other}" for name in ("mse", "psnr", "ssim") for other in ("picture", "reconstruction")}
    whole |= {"classification_error", "disagreement"}
    within = {f"masked_{name}_to_reconstruction" for name in ("mse", "psnr", "ssim")}
    tokens = {"cross_entropy", "accuracy", "calibration_error"}
    expected = {(*place, decoding, name) for place in places for decoding in DECODINGS for name in whole}
    expected |= {(*place, decoding, name) for place in places if place[1] for decoding in DECODINGS for name in within}
    expected |= {(*place, "tokens", name) for place in places if place[1] for name in tokens}
    assert set(curves) == expected


def test_numbers_of_the_curves_are_numbers_with_their_intervals(ran):
    for (strategy, _, decoding, measure), row in curves_of(ran.table("curves.csv")).items():
        assert math.isfinite(float(row["mean"]))
        if measure == "calibration_error":
            assert row["low"] == row["high"] == row["seed_sd"] == ""
            continue
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        drawn = strategy == "random" and decoding in (DECODINGS[-1], "tokens")
        assert int(row["seeds"]) == (2 if drawn else 1) and (row["seed_sd"] != "") == drawn
        assert int(row["pictures"]) == TESTED or measure == "masked_ssim_to_reconstruction"
        is_share = measure in ("classification_error", "disagreement", "accuracy")
        assert not is_share or 0 <= float(row["mean"]) <= 1


def test_with_nothing_forgotten_the_recalled_picture_is_the_plain_reconstruction(ran):
    curves = curves_of(ran.table("curves.csv"))
    plain = read_csv(ran.folders["vqvae_reconstruction"] / "pictures.csv")
    test = open_split(ran.cfg).positions("test")
    quantisation = np.mean([float(plain[position]["mse"]) for position in test])
    for strategy in STUDIED:
        for decoding in DECODINGS:
            value = {name: float(row["mean"]) for (*at, name), row in curves.items() if at == [strategy, 0, decoding]}
            assert value["mse_to_reconstruction"] == value["disagreement"] == 0
            assert value["ssim_to_reconstruction"] == pytest.approx(1, abs=1e-6)
            assert value["mse_to_picture"] == pytest.approx(quantisation, rel=1e-4)
            half = float(curves[strategy, 50, decoding, "mse_to_reconstruction"]["mean"])
            assert 0 < half < float(curves["any", 100, decoding, "mse_to_reconstruction"]["mean"])


def test_bits_are_those_of_the_stored_tokens_and_their_places(ran):
    """Only random's pattern of those three is known beforehand."""
    for row in ran.table("curves.csv"):
        kept = ENDS[int(row["percent"])]
        bits = stored_bits(16, kept, 16, fixed=row["strategy"] in ("random", "any"))
        assert float(row["bits"]) == pytest.approx(bits, abs=0.01)
        assert row["strategy"] != "random" or float(row["bits"]) == 4 * kept


@torch.no_grad()
def test_a_cell_of_the_curves_can_be_computed_by_hand(ran, machine):
    split = open_split(ran.cfg)
    handed = take_memory(ran.cfg, split, machine)
    memory, positions = handed.memory, split.positions("test")
    tokens = handed.indices.tokens(positions)
    choosing = Choosing(passes=4, candidates=2)
    order = choose_order("additive", memory, tokens, torch.Generator(), choosing)
    filled = complete(memory.distil, tokens, mask_first(order, 8), memory.codebook)
    whole = memory.paint_indices(tokens)
    painted = {"argmax": memory.paint_indices(filled.indices), "expected": memory.paint(filled.expected)}
    curves = curves_of(ran.table("curves.csv"))
    for decoding, pictures in painted.items():
        cell = {name: float(row["mean"]) for (*at, name), row in curves.items() if at == ["additive", 50, decoding]}
        error = (to_unit(pictures) - to_unit(whole)).square().mean()
        assert cell["mse_to_reconstruction"] == pytest.approx(float(error), rel=1e-4)
        seen, before = (
            memory.class_probabilities(p, t).argmax(1) for p, t in ((pictures, filled.indices), (whole, tokens))
        )
        wrong = (seen.numpy() != split.labels[positions]).mean()
        assert cell["classification_error"] == pytest.approx(wrong, abs=1e-5)
        assert cell["disagreement"] == pytest.approx(float((seen != before).float().mean()), abs=1e-5)
    right = (filled.indices == tokens)[mask_first(order, 8)].float().mean()
    assert float(curves["additive", 50, "tokens", "accuracy"]["mean"]) == pytest.approx(float(right), abs=1e-5)


def test_the_score_of_the_stage_is_the_mean_over_its_last_curve(ran):
    curves = curves_of(ran.table("curves.csv"))
    cells = [("adaptive", 0), ("adaptive", 50), ("any", 100)]
    means = [float(curves[*cell, "expected", "mse_to_reconstruction"]["mean"]) for cell in cells]
    assert ran.scores["reconstruct_masked"] == pytest.approx(np.mean(means), rel=1e-4)
    metrics = read_json(ran.folders["reconstruct_masked"] / "metrics.json")
    assert metrics["adaptive_mse_to_reconstruction_at_50"] == pytest.approx(means[1], rel=1e-4)
    assert metrics["any_mse_to_reconstruction_at_100"] == pytest.approx(means[2], rel=1e-4)


def test_the_error_splits_into_quantisation_and_completion(ran):
    rows, curves = ran.table("error_split.csv"), curves_of(ran.table("curves.csv"))
    places = [(row["strategy"], int(row["percent"])) for row in rows]
    assert places == list(dict.fromkeys((key[0], key[1]) for key in curves if key[2] == "expected"))
    for row, place in zip(rows, places, strict=True):
        part = {name: float(row[name]) for name in ("quantisation", "completion", "total", "total_minus_both")}
        assert part["total"] == pytest.approx(float(curves[*place, "expected", "mse_to_picture"]["mean"]), rel=1e-4)
        completion = float(curves[*place, "expected", "mse_to_reconstruction"]["mean"])
        assert part["completion"] == pytest.approx(completion, rel=1e-4)
        rest = part["total"] - part["quantisation"] - part["completion"]
        assert part["total_minus_both"] == pytest.approx(rest, abs=1e-7)
        if place[1] == 0:
            assert part["total"] == pytest.approx(part["quantisation"], rel=1e-4)


def test_all_rivals_are_measured_on_the_same_masks(ran):
    rows = ran.table("rivals.csv")
    assert {row["rival"] for row in rows} == set(RIVALS) - {"published recipe"}
    found = {(row["rival"], int(row["percent"]), row["measure"]): row for row in rows}
    for rival in RIVALS[:-1]:
        assert {percent for name, percent, _ in found if name == rival} == {0, 50, 100}
        assert float(found[rival, 0, "mse_to_reconstruction"]["mean"]) < 1e-10
        assert float(found[rival, 50, "mse_to_reconstruction"]["mean"]) > 0
        pictures = 2 if rival == "biharmonic inpainting" else TESTED
        assert int(found[rival, 50, "mse_to_picture"]["pictures"]) == pictures
    curves = curves_of(ran.table("curves.csv"))
    for percent, strategy in ((50, "random"), (100, "any")):  # one seed each in argmax, and at 100 %
        cell = curves[strategy, percent, "argmax", "mse_to_reconstruction"]
        ours = float(found["ours, argmax", percent, "mse_to_reconstruction"]["mean"])
        assert ours == pytest.approx(float(cell["mean"]), rel=1e-4)


def test_equal_bits_has_ours_picture_formats_and_fewer_codes(ran):
    rows = ran.table("equal_bits.csv")
    formats = {"JPEG", "JPEG, data only", "WebP", "WebP, data only", "VQ-VAE, fewer codes"}
    assert {row["method"] for row in rows} == {*STUDIED, "any"} | formats
    fewer = {row["setting"]: float(row["bits"]) for row in rows if row["method"] == "VQ-VAE, fewer codes"}
    assert fewer == {"8 codes": 48, "4 codes": 32, "2 codes": 16}
    curves = curves_of(ran.table("curves.csv"))
    for row in rows:
        assert float(row["bits"]) >= 0 and 0 < float(row["mse_to_picture"]) < 1
        assert 0 <= float(row["classification_error"]) <= 1 and int(row["pictures"]) == TESTED
        if row["method"] not in formats:
            cell = curves[row["method"], int(row["setting"].split()[0]), "expected", "mse_to_picture"]
            assert (row["bits"], row["mse_to_picture"]) == (cell["bits"], cell["mean"])
    sizes = {(row["method"], row["setting"]): float(row["bits"]) for row in rows}
    for kind in ("JPEG", "WebP"):
        settings = [setting for method, setting in sizes if method == kind]
        assert settings and all(sizes[f"{kind}, data only", s] < sizes[kind, s] for s in settings)


def test_figures_and_what_folders_of_pictures_do_not_have(ran):
    folder = ran.folders["reconstruct_masked"]
    figures = {file.stem for file in (folder / "figures").glob("*.png")}
    measures = {"mse_to_reconstruction", "mse_to_picture", "ssim_to_reconstruction", "classification_error",
                "disagreement", "calibration_error", "cross_entropy"}  # fmt: skip
    others = {"decodings", "error_split", "rivals", "equal_bits", "grid_random", "grid_adaptive", "grid_strategies"}
    assert figures == measures | others
    assert not (folder / "context.csv").exists()  # nobody said where things usually are


# --- the demo's context -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Config, Path]:
    """A small part of the embedded demo through all stages: its settings, and the run folder of the study."""
    runs = tmp_path_factory.mktemp("demo") / "runs"
    one_epoch = {f"{stage}__epochs": 1 for stage in ("train_vqvae", "train_classifier", "train_distil")}
    data = {"source": "digits_in_context", "image_size": 32, "images_per_class": 14}
    study = {"strategies": ["random", "half"], "decodings": ["argmax"], "rivals": False}
    settings = {"run__mlflow": False, "train_vqvae__stride": 8, "data": data, "reconstruct_masked": study}
    cfg = tiny(runs, data["source"], **settings, **one_epoch, **UNTUNED)
    with undrawn():
        for stage in STAGES.values():
            stage.run(cfg)
    return cfg, newest(runs, "reconstruct_masked")


def test_context_tells_usual_places_from_others(demo):
    cfg, folder = demo
    rows = read_csv(folder / "context.csv")
    assert list(rows[0]) == [
        "strategy", "percent", "group", "pictures", "classification_error", "wrong_as_context_suggests",
    ]  # fmt: skip
    groups: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["strategy"], int(row["percent"])), {})[row["group"]] = row
    assert set(groups) == {(name, percent) for name in ("random", "half") for percent in (0, 50)} | {("any", 100)}
    split = open_split(cfg)
    tested = [split.manifest[position] for position in split.positions("test")]
    usual = sum(row["congruent"] == "true" for row in tested)
    assert 0 < usual < len(tested), "both kinds are there to be told apart"
    curves = curves_of(read_csv(folder / "curves.csv"))
    for place, found in groups.items():
        counts = {group: int(row["pictures"]) for group, row in found.items()}
        assert counts == {"congruent": usual, "incongruent": len(tested) - usual}
        wrong = sum(counts[group] * float(row["classification_error"]) for group, row in found.items())
        overall = float(curves[*place, "argmax", "classification_error"]["mean"])
        assert wrong / len(tested) == pytest.approx(overall, abs=1e-4)
        assert found["congruent"]["wrong_as_context_suggests"] == ""
        assert 0 <= float(found["incongruent"]["wrong_as_context_suggests"] or 0) <= 1
    assert (folder / "figures" / "context.png").is_file()


def test_a_study_without_rivals_has_no_tables_of_them(demo):
    _, folder = demo
    assert not (folder / "rivals.csv").exists() and not (folder / "equal_bits.csv").exists()
    assert not {"rivals", "equal_bits"} & {file.stem for file in (folder / "figures").glob("*.png")}
    assert (folder / "error_split.csv").is_file()


# --- classes that are told, and the published recipe ------------------------------------------------------------------


class Told(NamedTuple):
    """Three DistilBERTs on the split of `ran`: told the classes, told them always, and by the published recipe."""

    runs: Path
    source: Path
    told: Path
    always_told: Path
    published: Path
    masks: list[tuple[bool, ...]]  # of all grids in the two epochs in which `published` was trained

    def study(self, **changes: object) -> Path:
        """The run folder of a study with the DistilBERT that was told the classes."""
        section = {"distil": str(self.told), **changes}
        with undrawn():
            reconstruct_masked.run(tiny(self.runs, self.source, run__mlflow=False, reconstruct_masked=section))
        return newest(self.runs, "reconstruct_masked")


#: Long enough that the class counts: with everything forgotten it is all there is
LEARNED = {"condition_on_class": True, "label_drop": 0.3, "epochs": 30, "patience": 30, "learning_rate": 0.02,
           "batch_size": 4, "tune": {"trials": 0}}  # fmt: skip


def published_recipe() -> dict[str, object]:
    """presets/published_study.yaml's train_distil, as small and short as the other tiny models."""
    recipe = loading._read_yaml(ROOT / "presets" / "published_study.yaml")["train_distil"]
    return recipe | {"dim": 16, "layers": 1, "heads": 2, "epochs": 2, "tune": {"trials": 0}}


@pytest.fixture(scope="module")
def told(ran, tmp_path_factory) -> Told:
    runs = tmp_path_factory.mktemp("told") / "runs"
    copied(ran.runs, runs, "data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier")
    masks: list[tuple[bool, ...]] = []
    plain = distilbert.masked_cross_entropy

    def noting(model, tokens, mask, labels=None):
        if model.training:
            masks.extend(map(tuple, mask.tolist()))
        return plain(model, tokens, mask, labels)

    def trained(section: dict[str, object]) -> Path:
        train_distil.run(tiny(runs, ran.source, run__mlflow=False, train_distil=section))
        return newest(runs, "train_distil")

    with undrawn():
        folders = [trained(LEARNED), trained(LEARNED | {"label_drop": 0, "epochs": 1})]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(train_distil, "masked_cross_entropy", noting)
            folders.append(trained(published_recipe()))
    return Told(runs, ran.source, *folders, masks)


@pytest.fixture(scope="module")
def untold(told) -> Path:
    """A study in which no class is told, with the published recipe among the rivals."""
    return told.study(rival_distil=str(told.published))


def test_the_published_recipe_trains_and_stands_among_the_rivals(told, untold):
    """The zero vector for MASK, and one mask of 75 % for each picture, drawn once; all kept through training."""
    weights, learned = (
        load_distilbert(folder / "model", torch.device("cpu")).distilbert.embeddings.word_embeddings.weight
        for folder in (told.published, told.told)
    )
    assert (weights[16] == 0).all() and (weights[:16] != 0).any(1).all() and (learned[16] != 0).any()
    pictures = len(open_split(tiny(told.runs, told.source)).positions("train"))
    assert {sum(mask) for mask in told.masks} == {12}
    assert len(set(told.masks)) <= pictures < len(told.masks), "two epochs with the same masks"
    assert read_json(told.published / "model" / "meta.json")["label_drop"] is None
    found = {(row["rival"], int(row["percent"]), row["measure"]): row for row in read_csv(untold / "rivals.csv")}
    theirs = {name for name, _, _ in found if name.startswith("published recipe")}
    assert theirs == {"published recipe", "published recipe, additive"}
    assert {percent for name, percent, _ in found if name == "published recipe"} == {0, 50, 100}
    error = [float(found["published recipe", percent, "mse_to_reconstruction"]["mean"]) for percent in (0, 50, 100)]
    assert error[0] < 1e-10 < error[1]
    assert error[2] != float(found["ours, argmax", 100, "mse_to_reconstruction"]["mean"]), "another model was asked"
    assert read_json(untold / "run.json")["inputs"]["rival_distil"] == str(told.published)


def test_a_class_that_is_told_with_guidance_is_recalled(told, untold):
    """With everything forgotten and nothing told, all three classes are recalled as one."""
    folder = told.study(tell_class=True, guidance_scale=2, strategies=["additive"])
    with_class, without = (curves_of(read_csv(each / "curves.csv")) for each in (folder, untold))
    assert set(with_class) == {key for key in without if key[0] in ("additive", "any")}
    for decoding in DECODINGS:
        for name in ("mse_to_picture", "classification_error"):
            key = ("additive", 0, decoding, name)
            assert with_class[key] == without[key]
    errors = [float(each["any", 100, "argmax", "classification_error"]["mean"]) for each in (with_class, without)]
    assert errors[0] < errors[1] == pytest.approx(2 / 3, abs=1e-5)
    losses = [float(each["any", 100, "tokens", "cross_entropy"]["mean"]) for each in (with_class, without)]
    assert losses[0] < losses[1]
    assert read_json(told.told / "model" / "meta.json")["label_drop"] == 0.3


def test_without_the_strategy_random_there_are_no_rivals_and_this_is_said(told, capsys):
    """Several passes, too: what they predict before and after something is filled in is no one prediction to judge."""
    folder = told.study(strategies=["half"], decodings=["expected", "sample"], percentages=[50], passes=3)
    assert "rivals.csv is skipped" in capsys.readouterr().out
    assert not (folder / "rivals.csv").exists()
    assert {row["method"] for row in read_csv(folder / "equal_bits.csv")} >= {"half", "JPEG", "WebP"}
    curves = curves_of(read_csv(folder / "curves.csv"))
    assert {key[:3] for key in curves} == {("half", 50, "expected"), ("half", 50, "sample")}


# --- my picture, my mask ----------------------------------------------------------------------------------------------


class Mine(NamedTuple):
    """A picture of 20x12 with masks for it, right and wrong."""

    picture: Path
    mask: Path
    small: Path
    black: Path
    white: Path
    text: Path


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Mine:
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


def run_folders(runs: Path) -> list[Path]:
    return sorted((runs / "reconstruct_masked").iterdir())


@pytest.mark.parametrize("how", ["mask", "box"])
def test_known_pixels_of_my_picture_come_back_byte_by_byte(ran, mine, typed, how):
    best = (ran.runs / "reconstruct_masked" / "best.json").read_bytes()
    shown = np.asarray(Image.open(mine.picture))
    if how == "mask":
        options, missing = ["--mask", mine.mask], np.asarray(Image.open(mine.mask)) == 255
    else:
        options, missing = ["--box", 3, 2, 17, 9], box_mask((3, 2, 17, 9), (20, 12))
    status, out, err = typed(
        "reconstruct_masked", ran.runs, ran.source, "--image", mine.picture, *options, "--samples", 2
    )
    assert status == 0, err
    folder = Path(out.splitlines()[-1])
    assert folder.parent == ran.runs / "reconstruct_masked" and read_json(folder / "run.json")["status"] == "finished"
    names = ("completed", "sample_1", "sample_2")
    painted = {name: np.asarray(Image.open(folder / "own" / f"picture_{name}.png")) for name in names}
    for pixels in painted.values():
        assert pixels.shape == shown.shape and (pixels[~missing] == shown[~missing]).all()
        assert (pixels[missing] != shown[missing]).any()
    masked = np.asarray(Image.open(folder / "own" / "picture_masked.png"))
    assert (masked[missing] == 128).all() and (masked[~missing] == shown[~missing]).all()
    others = {"picture_masked.png", "picture_diversity.png", "picture_dropped.csv", "pictures.csv"}
    assert {file.name for file in (folder / "own").iterdir()} == {f"picture_{name}.png" for name in names} | others
    (row,) = read_csv(folder / "own" / "pictures.csv")
    assert int(row["pixels_missing"]) == missing.sum() and row["class_after"] in ("class0", "class1", "class2")
    assert len(read_csv(folder / "own" / "picture_dropped.csv")) == int(row["tokens_dropped"]) > 0
    assert (folder / "figures" / "own_picture.png").is_file() and not (folder / "curves.csv").exists()
    assert (ran.runs / "reconstruct_masked" / "best.json").read_bytes() == best, "own pictures are not handed on"


def test_my_picture_without_a_mask_forgets_what_the_strategy_chooses(ran, mine, typed):
    options = ["--image", mine.picture, "--percent", 25, "--strategy", "half", "--decoding", "argmax", "--run.seed", 0]
    status, out, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    assert status == 0, err
    own = Path(out.splitlines()[-1]) / "own"
    dropped = {(row["tile"], row["row"], row["column"]) for row in read_csv(own / "picture_dropped.csv")}
    assert dropped == {("0", "3", str(column)) for column in range(4)}  # the lowest of four rows
    shown, back = (np.asarray(Image.open(file)) for file in (mine.picture, own / "picture_completed.png"))
    assert (shown[:9] == back[:9]).all() and (shown[9:] != back[9:]).any()


REFUSED = {
    "a mask of another size": (["--mask", "small"], ["small.png is 5x4; expected 20x12"]),
    "an empty mask": (["--mask", "black"], ["black.png has no white pixel", "paint what is missing white"]),
    "a full mask": (["--mask", "white"], ["white.png is white all over", "--percent 100"]),
    "a mask that is no picture": (["--mask", "text"], ["--mask", "text.png is not a picture; expected PNG"]),
    "a box outside": (["--box", 3, 2, 21, 9], ["--box 3 2 21 9 reaches outside", "at most 0 0 20 12"]),
    "an empty box": (["--box", 9, 2, 9, 9], ["--box 9 2 9 9 is empty", "x0 < x1"]),
    "a box of everything": (["--box", 0, 0, 20, 12], ["takes the whole picture of 20x12", "--percent 100"]),
    "mask and box": (["--mask", "mask", "--box", 3, 2, 5, 9], ["--mask and --box exclude each other"]),
    "not a picture": (["--image", "text"], ["--image", "text.png is not a picture; expected PNG"]),
    "no such picture": (["--image", "nowhere"], ["--image nowhere does not exist; expected a picture or a folder"]),
    "more than 100 percent": (["--percent", 101], ["own.percent is 101; expected number >= 0, <= 100"]),
    "less than nothing": (["--percent", -1], ["own.percent is -1; expected number >= 0, <= 100"]),
    "percent in words": (["--percent", "half"], ["own.percent is 'half'; expected number"]),
    "an unknown strategy": (["--strategy", "best"], ["own.strategy is 'best'; expected ", *STRATEGIES]),
    "an unknown decoding": (["--decoding", "mean"], ["own.decoding is 'mean'; expected argmax | sample | expected"]),
    "another fit": (["--fit", "crop"], ["own.fit is 'crop'; expected resize | tile"]),
    "a class nobody was told": (
        ["--class", "class0"],
        ["no finished run of train_distil for", "told the class", "--train_distil.condition_on_class true"],
    ),
    "guidance without a class": (
        ["--reconstruct_masked.guidance_scale", 2],
        ["guidance_scale is 2, but no class is told", "--class NAME"],
    ),
}


def refused_in_one_line(status: int, err: str, *said: str) -> None:
    assert status == 2
    assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
    assert all(words in err for words in said), err


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_completed_is_one_line_and_leaves_no_run_folder(ran, mine, typed, case):
    words, said = REFUSED[case]
    options = [getattr(mine, word) if word in Mine._fields else word for word in words]
    if "--image" not in words:
        options = ["--image", mine.picture, *options]
    before = run_folders(ran.runs)
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, *said)
    assert run_folders(ran.runs) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reconstruct_masked.strategies", "[random, best]"], ["strategies", "'best'", *STRATEGIES]),
        (["--reconstruct_masked.percentages", "[50, 101]"], ["percentages", "is 101; expected"]),
        (["--reconstruct_masked.tell_class", "true"], ["told the class", "condition_on_class true"]),
        (["--reconstruct_masked.guidance_scale", "0"], ["guidance_scale is 0, but no class is told"]),
        (["--reconstruct_masked.rival_distil", "nowhere"], ["nowhere is not a run folder"]),
    ],
)
def test_a_study_that_cannot_be_made_is_one_line_and_leaves_no_run_folder(ran, typed, options, said):
    before = run_folders(ran.runs)
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, *said)
    assert run_folders(ran.runs) == before


def test_my_class_can_be_told_with_guidance_where_the_model_knows_both_ways(told, mine, typed):
    own = ["--reconstruct_masked.distil", told.told, "--image", mine.picture, "--box", 3, 2, 17, 9]
    completed = []
    for name in ("class0", "class1"):
        guided = [*own, "--class", name, "--reconstruct_masked.guidance_scale", 2]
        status, out, err = typed("reconstruct_masked", told.runs, told.source, *guided)
        assert status == 0, err
        completed.append((Path(out.splitlines()[-1]) / "own" / "picture_completed.png").read_bytes())
    assert completed[0] != completed[1]
    before = run_folders(told.runs)
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *own, "--class", "cow")
    refused_in_one_line(status, err, "--class cow is not a class of the data; expected one of: class0, class1, class2")
    assert run_folders(told.runs) == before


GUIDED = ["--reconstruct_masked.guidance_scale", 2]
TELL = ["--reconstruct_masked.tell_class", "true"]


@pytest.mark.parametrize("how", ["study", "own picture"])
def test_guidance_of_a_model_that_was_always_told_the_class_is_refused(told, mine, typed, how):
    before = run_folders(told.runs)
    options = TELL if how == "study" else ["--image", mine.picture, "--class", "class0"]
    distil = ["--reconstruct_masked.distil", told.always_told]
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *distil, *options, *GUIDED)
    refused_in_one_line(status, err, str(told.always_told), "guidance_scale must be 1", "--train_distil.label_drop 0.1")
    assert run_folders(told.runs) == before


def test_guidance_with_a_class_that_is_told_only_for_the_study_is_refused(told, mine, typed):
    """tell_class is about the pictures of the data, --class about my own."""
    before = run_folders(told.runs)
    options = ["--reconstruct_masked.distil", told.told, "--image", mine.picture, *TELL, *GUIDED]
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *options)
    refused_in_one_line(status, err, "guidance_scale is 2, but no class is told")
    assert run_folders(told.runs) == before


@pytest.mark.parametrize("option", [["--mask", "mask"], ["--box", 3, 2, 5, 9], ["--class", "class0"]])
def test_options_of_an_own_picture_without_one_are_refused(ran, mine, typed, option):
    before = run_folders(ran.runs)
    options = [getattr(mine, word) if word in Mine._fields else word for word in option]
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, f"{option[0]} is for a picture of yours", "--image PICTURE_OR_FOLDER")
    assert run_folders(ran.runs) == before


# --- the same seed, the same numbers; killed and resumed --------------------------------------------------------------


def numbers(folder: Path) -> dict[str, float]:
    times = ("seconds", "fit_seconds")
    return {name: value for name, value in read_json(folder / "metrics.json").items() if name not in times}


@pytest.mark.usefixtures("without_drawing")
def test_same_seed_gives_bit_identical_metrics(ran, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[:3])
    cfg = tiny(runs, ran.source, run__mlflow=False)
    for stage in ("train_vqvae", "train_classifier", "train_distil"):
        STAGES[stage].run(cfg)
        assert numbers(newest(runs, stage)) == numbers(ran.folders[stage]), stage


@pytest.mark.usefixtures("without_drawing")
def test_the_same_command_gives_the_same_tables_byte_by_byte(ran, typed, tmp_path):
    """Whatever was drawn before from generators that all share."""
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (it is what must not count)
    status, out, err = typed("reconstruct_masked", runs, ran.source)
    assert status == 0, err
    again, first = Path(out.splitlines()[-1]), ran.folders["reconstruct_masked"]
    assert again.parent == runs / "reconstruct_masked" and again.name != first.name
    for name in ("curves.csv", "error_split.csv", "rivals.csv", "equal_bits.csv"):
        assert (again / name).read_bytes() == (first / name).read_bytes(), name
    assert numbers(again) == numbers(first)


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True)


#: Ends the process with SIGKILL: in the middle of the fourth epoch of the final fit or a later one, at the latest after
#: the ninth
KILLED = """
import os, signal, sys, threading
import {stage} as stage
from pipeline.runs import RunFolder
write = RunFolder.write_history

def write_and_be_killed(folder, history):
    write(folder, history)
    if len(history) == 3:
        threading.Timer(0.004, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if len(history) == 9:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.write_history = write_and_be_killed
sys.exit(stage.main())
"""


def long(stage: str) -> list[str]:
    return [f"--{stage}.epochs", "12", f"--{stage}.patience", "12", f"--{stage}.retrain", "false"]


@pytest.fixture(scope="module")
def killed(ran, tmp_path_factory) -> dict[str, Path]:
    """stage -> the run folder of a process that was killed. Both at once, as they mostly load libraries."""
    processes, found = {}, {}
    for stage in ("train_vqvae", "train_distil"):
        handed = [name for name in ("data_split", "train_vqvae", "vqvae_reconstruction") if name != stage]
        runs = copied(ran.runs, tmp_path_factory.mktemp(f"killed_{stage}") / "runs", *handed)
        words = command(stage, runs, ran.source, *long(stage))[1:]
        processes[stage] = runs, start(["-c", KILLED.format(stage=stage), *words], runs.parent)
    for stage, (runs, process) in processes.items():
        _, err = process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL, err
        found[stage] = newest(runs, stage)
    return found


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("stage", ["train_vqvae", "train_distil"])
def test_killed_and_resumed_equals_never_killed(ran, killed, typed, stage):
    """SIGKILL in the middle of the final fit; weights, history and test numbers end bit-equal."""
    folder = killed[stage]
    runs = folder.parent.parent
    assert read_json(folder / "run.json")["status"] == "running" and not (folder / "model").exists()
    assert 3 <= len((folder / "metrics.jsonl").read_text().splitlines()) < 12
    status, out, err = typed(stage, runs, ran.source, *long(stage), "--resume")
    assert status == 0, err
    assert f"resuming {folder}" in out and out.splitlines()[-1] == str(folder)
    status, out, err = typed(stage, runs, ran.source, *long(stage))
    assert status == 0, err
    whole = Path(out.splitlines()[-1])
    assert whole != folder
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 12
    assert numbers(folder) == numbers(whole)
    assert (folder / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


# --- hand-off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(STAGES)[1:])
def test_missing_stage_output_names_the_command(ran, tmp_path, stage):
    with pytest.raises(InputError, match=r"no finished run of data_split .*type: python data_split\.py"):
        STAGES[stage].run(tiny(tmp_path, ran.source, run__mlflow=False))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split_hash", "0123456789ab", r"split_hash is 0123456789ab, but [0-9a-f]{12} is needed here"),
        ("image_size", 64, "image_size is 64, but 16 is needed here"),
        ("channels", 1, "channels is 1, but 3 is needed here"),
    ],
)
def test_vqvae_of_another_split_or_size_is_refused(ran, tmp_path, name, value, message):
    other = tmp_path / "other"
    shutil.copytree(ran.folders["train_vqvae"], other)
    meta = read_json(other / "model" / "meta.json")
    write_json(other / "model" / "meta.json", meta | {name: value})
    with pytest.raises(InputError, match=rf"{message}; type: python train_vqvae\.py"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae=str(other)))


@pytest.mark.usefixtures("without_drawing")
def test_indices_and_models_of_another_codebook_are_refused(ran, tmp_path):
    """A second VQ-VAE: what was made for the first does not fit it, and each message says what to type."""
    runs, source = copied(ran.runs, tmp_path / "runs", *STAGES), ran.source
    first = {stage: str(runs / stage / folder.name) for stage, folder in ran.folders.items()}
    train_vqvae.run(tiny(runs, source, run__mlflow=False, run__seed=5, train_vqvae__tune={"trials": 0}))
    second = str(newest(runs, "train_vqvae"))
    plain = {"run__mlflow": False, "train_distil__vqvae": second, "reconstruct_masked__vqvae": second}
    with pytest.raises(InputError, match=r"no finished run of vqvae_reconstruction .*python vqvae_reconstruction\.py"):
        train_distil.run(tiny(runs, source, **plain))
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, but [0-9a-f]{12} is needed"):
        train_distil.run(tiny(runs, source, **plain, train_distil__indices=first["vqvae_reconstruction"]))
    vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=second))
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, .*type: python train_distil\.py"):
        reconstruct_masked.run(tiny(runs, source, **plain, reconstruct_masked__distil=first["train_distil"]))


def test_wrong_kind_of_run_folder_is_refused(ran):
    wrong = str(ran.folders["train_classifier"])
    with pytest.raises(InputError, match="stage is train_classifier, but train_vqvae is needed"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae=wrong))
    with pytest.raises(InputError, match="is not a run folder"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae="nowhere"))


@pytest.mark.usefixtures("without_drawing")
def test_registered_model_is_found_by_its_alias(ran):
    from pipeline.tracking import _client

    name = next(m.name for m in _client(ran.runs).search_registered_models() if m.name.startswith("vqvae"))
    vqvae = {"run__mlflow": False, "vqvae_reconstruction__vqvae": f"models:/{name}@champion"}
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, **vqvae))
    used = read_json(newest(ran.runs, "vqvae_reconstruction") / "run.json")["inputs"]["train_vqvae"]
    assert load_vqvae(Path(used) / "model", torch.device("cpu")).config.codebook_size == 16
    bad = tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae="models:/nobody@champion")
    with pytest.raises(InputError, match=r"models:/nobody@champion is not registered .*registered are: models:/"):
        vqvae_reconstruction.run(bad)


@pytest.mark.usefixtures("without_drawing")
def test_no_classes_no_classifier_but_recall_all_the_same(tmp_path, mine, typed):
    flat, runs = tmp_path / "flat", tmp_path / "runs"
    for picture in draw_classes(tmp_path / "set").rglob("*.png"):
        flat.mkdir(exist_ok=True)
        picture.rename(flat / f"{picture.parent.name}{picture.name}")
    cfg = tiny(runs, flat, run__mlflow=False, **UNTUNED, reconstruct_masked__strategies=["random", "adaptive"])
    for stage in ("data_split", "train_vqvae", "vqvae_reconstruction", "train_distil", "reconstruct_masked"):
        STAGES[stage].run(cfg)
    folder = newest(runs, "reconstruct_masked")
    assert read_json(folder / "run.json")["status"] == "finished" and not (folder / "context.csv").exists()
    of_classes = {"classification_error", "disagreement"}
    for name in ("curves.csv", "rivals.csv"):
        measures = {row["measure"] for row in read_csv(folder / name)}
        assert "mse_to_picture" in measures and not measures & of_classes
    rows = read_csv(folder / "equal_bits.csv")
    assert all(row["mse_to_picture"] and not any(row[name] for name in of_classes) for row in rows)
    assert not {file.stem for file in (folder / "figures").glob("*.png")} & of_classes
    assert not any("classification" in name for name in read_json(folder / "metrics.json"))
    status, out, err = typed("reconstruct_masked", runs, flat, "--image", mine.picture, "--mask", mine.mask)
    assert status == 0, err
    (row,) = read_csv(Path(out.splitlines()[-1]) / "own" / "pictures.csv")
    assert row["class_before"] == row["class_after"] == ""
    with pytest.raises(InputError, match="train_classifier needs classes"):
        train_classifier.run(cfg)
    with pytest.raises(InputError, match=r"condition_on_class needs pictures with classes, these have none"):
        train_distil.run(tiny(runs, flat, run__mlflow=False, train_distil__condition_on_class=True))


@pytest.mark.usefixtures("without_drawing")
def test_diverging_trial_fails_and_the_study_goes_on(ran, tmp_path, monkeypatch):
    import optuna

    runs = copied(ran.runs, tmp_path / "runs", "data_split")
    real = train_vqvae.VQVAELearner.step
    built = []

    def poisoned(self, rows, generator):
        if self not in built:
            built.append(self)
        losses = real(self, rows, generator)
        return losses | {"loss": losses["loss"] * float("nan")} if built.index(self) == 0 else losses

    monkeypatch.setattr(train_vqvae.VQVAELearner, "step", poisoned)
    train_vqvae.run(tiny(runs, ran.source, run__mlflow=False))
    storage = f"sqlite:///{runs / 'optuna.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert "trial 0: the loss is not finite at step 0 (learning rate" in study.trials[0].user_attrs["error"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("input", "is neither a picture nor a folder"),
        ("indices", r"is not a \.npy file of whole numbers"),
    ],
)
def test_own_data_that_cannot_be_used_leave_no_run_folder(ran, option, message):
    before = sorted((ran.runs / "vqvae_reconstruction").iterdir())
    changes = {f"vqvae_reconstruction__{option}": "nowhere"}
    with pytest.raises(InputError, match=message):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, **changes))
    assert sorted((ran.runs / "vqvae_reconstruction").iterdir()) == before
