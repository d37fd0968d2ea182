"""All stages in order on a few dozen pictures: what they leave behind."""

import json

import numpy as np
import pytest
import torch

from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_indices, take_vqvae
from masked_memory.models.distilbert import load_distilbert, masked_cross_entropy
from masked_memory.pipeline.files import read_csv, read_json
from masked_memory.pipeline.runs import read_best
from masked_memory.settings import loading
from toys import STAGES, STUDIED

# --- what the stages leave behind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_folder_is_finished_and_can_be_repeated(ran, stage):
    folder = ran.folders[stage]
    assert read_json(folder / "run.json")["status"] == "finished"
    assert loading.load([], {}, folder / "config.yaml") == ran.cfg, "its settings are those that it ran with"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_finite_numbers_and_figures_and_is_handed_on(ran, stage):
    folder = ran.folders[stage]
    metrics = read_json(folder / "metrics.json")
    assert metrics and all(np.isfinite(value) for value in metrics.values()) and np.isfinite(ran.scores[stage])
    assert all(file.stat().st_size > 1000 for file in (folder / "figures").glob("*.png"))
    assert list((folder / "figures").glob("*.png"))
    assert read_best(ran.runs, stage)


@pytest.mark.parametrize("stage", ["train_vqvae", "train_classifier", "train_distil"])
def test_a_training_leaves_its_history_and_a_model_that_says_what_it_fits(ran, stage):
    lines = (ran.folders[stage] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    meta = read_json(ran.folders[stage] / "model" / "meta.json")
    assert {"split_hash", "commit", "versions", "metrics", "grid", "codebook_size"} <= set(meta)
    assert (meta["split_hash"], meta["grid"], meta["codebook_size"]) == (open_split(ran.cfg).hash, 4, 16)


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

    from masked_memory.pipeline.tracking import database_uri, registered_run

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
            assert {"curves.csv", "rivals.csv", "error_split.csv"} <= stored
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
