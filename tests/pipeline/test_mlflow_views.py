"""What MLflow shows first: numbers and settings that the runs really have."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.files import read_json
from masked_memory.pipeline.mlflow_views import KEY, SHARED, VIEWS, links, tags_of
from masked_memory.pipeline.tracking import database_uri, open_ledger, reach
from masked_memory.rivals import train_mae, train_painter
from masked_memory.settings import loading
from masked_memory.settings.config import Config

STAGES = ("train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil", "reconstruct_masked")


@pytest.mark.system
@pytest.mark.parametrize("stage", STAGES)
def test_columns_are_numbers_that_a_stage_writes(ran, stage):
    written = read_json(ran.folders[stage] / "metrics.json")
    percents = {name.rpartition("_at_")[0] for name in written if "_at_" in name}  # at any percentage
    for name in (VIEWS[stage].decides, *VIEWS[stage].beside):
        plain = name.replace("_clean_", "_")  # the tiny study has one judge
        assert name in written or plain.rpartition("_at_")[0] in percents, name


@pytest.mark.parametrize("stage", ["train_vqvae", "train_classifier", "train_distil"])
def test_what_decides_is_what_the_stage_compares_runs_by(ran, stage):
    assert VIEWS[stage].decides == f"best_val_{read_json(ran.folders[stage] / 'run.json')['metric']}"


@pytest.mark.parametrize("stage", [train_mae, train_painter], ids=lambda stage: stage.__name__)
def test_the_views_of_rivals_are_sorted_by_their_goal(stage):
    view = VIEWS[stage.__name__.rpartition(".")[2]]
    assert view.decides == f"best_val_{stage.GOAL.objective}" and stage.GOAL.lower_is_better


def test_settings_in_columns_are_logged():
    keys = {name for name, _ in loading.options(Config)}
    for stage, view in VIEWS.items():
        for name in view.params:
            own = name.removeprefix("best.")
            assert name in keys or f"{stage}.{own}" in keys, name


def client_of(runs: Path) -> MlflowClient:
    return reach(database_uri(runs))


def test_an_experiment_opens_on_the_number_that_decides(tmp_path):
    opened = open_ledger(tmp_path, "train_vqvae", "a run", {}, None)
    tags = client_of(tmp_path).get_experiment(opened.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(tags[SHARED])
    assert state["orderByKey"] == "metrics.`best_val_mse`" and state["orderByAsc"] is True
    assert state["selectedColumns"][0] == "metrics.`best_val_mse`"
    ((stage, link),) = links(client_of(tmp_path), "http://127.0.0.1:5000")
    assert stage == "train_vqvae"
    place = f"http://127.0.0.1:5000/#/experiments/{opened.experiment_id}/runs"
    assert link == f"{place}?workflowType=machine_learning&viewStateShareKey={KEY}"


def test_experiments_of_before_get_their_view_and_keep_what_someone_wrote(tmp_path):
    client = client_of(tmp_path)
    (tmp_path / "artifacts").mkdir()
    made = client.create_experiment("train_distil", tags={"mlflow.note.content": "my own words", SHARED: "{}"})
    assert [stage for stage, _ in links(client, "")] == ["train_distil"]
    tags = client.get_experiment(made).tags
    assert tags["mlflow.note.content"] == "my own words"
    assert tags[SHARED] == tags_of("train_distil")[SHARED]


def test_a_stage_without_a_view_has_no_tags():
    assert tags_of("sample") == {}
