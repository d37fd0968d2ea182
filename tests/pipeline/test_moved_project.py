"""A project that was moved or copied: MLflow's artifacts follow it."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from masked_memory.pipeline.files import sqlite_url
from masked_memory.pipeline.moved_project import moved_from
from masked_memory.pipeline.tracking import client_of, open_ledger, registered_run


@pytest.fixture
def old(mlflow_runs: Path, tmp_path: Path) -> Path:
    """Runs with a figure, a registered model, a data set and an experiment whose artifacts lie elsewhere on purpose."""
    open_ledger(mlflow_runs, "train_vqvae", "x", {}, None).end("FINISHED")
    runs = tmp_path / "old ü_" / "runs"
    shutil.copytree(mlflow_runs, runs)
    client_of(runs)  # itself a copy
    folder = runs / "train_vqvae" / "first"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "curves.png").write_bytes(b"a picture")
    ledger = open_ledger(runs, "train_vqvae", "first", {"stage": "train_vqvae"}, None)
    ledger.artifacts(folder / "model", "model")
    ledger.dataset("digits of here", "abc", runs / "data_split" / "first")
    ledger.register("moved", "champion")
    ledger.end("FINISHED")
    client_of(runs).create_experiment("mine", artifact_location=(tmp_path / "elsewhere").as_uri())
    return runs


def newest(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name("train_vqvae")
    (found,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return found.info.run_id


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "moved"])
def test_a_stage_writes_to_the_new_place_and_earlier_figures_are_found_there(
    old: Path, tmp_path: Path, copied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / "new ä b" / "runs", tmp_path / "old ü_" / "runs2"]
    for before, runs in zip([old, *places], places, strict=False):
        shutil.copytree(before, runs) if copied else shutil.move(before, runs)
        there = listing(before)
        capsys.readouterr()
        ledger = open_ledger(runs, "train_vqvae", "second", {}, None)
        assert capsys.readouterr().out == (
            f"{runs / 'mlflow.db'} came from {before}: its artifact places now lead to {runs / 'artifacts'}\n"
        )
        ledger.artifacts(runs / "train_vqvae" / "first" / "model", "model")
        assert listing(before) == there, "nothing is written where it was"
        client = client_of(runs)
        assert capsys.readouterr().out == "" and moved_from(runs / "mlflow.db") == []
        for run in (newest(client, "first"), ledger.run_id):
            place = client.get_run(run).info.artifact_uri
            assert place == f"{(runs / 'artifacts').as_uri()}/{run}/artifacts"
            assert Path(client.download_artifacts(run, "model/curves.png")).read_bytes() == b"a picture"
        source = client.get_model_version_by_alias("moved", "champion").source
        assert source.startswith((runs / "artifacts").as_uri() + "/")
        (used,) = client.get_run(newest(client, "first")).inputs.dataset_inputs
        assert json.loads(used.dataset.source) == {"uri": str(runs / "data_split" / "first")}
        ledger.end("FINISHED")
        client.delete_run(ledger.run_id)


def test_what_lies_elsewhere_on_purpose_stays(old: Path, tmp_path: Path) -> None:
    shutil.move(old, tmp_path / "runs")
    client = client_of(tmp_path / "runs")
    elsewhere = (tmp_path / "elsewhere").as_uri()
    mine = client.get_experiment_by_name("mine")
    assert mine.artifact_location == elsewhere
    assert client.create_run(mine.experiment_id).info.artifact_uri.startswith(elsewhere)


def test_a_registered_model_is_found_after_a_move(old: Path, tmp_path: Path) -> None:
    shutil.move(old, tmp_path / "runs")
    assert registered_run(tmp_path / "runs", "models:/moved@champion") == tmp_path / "runs" / "train_vqvae" / "first"
    assert moved_from(tmp_path / "runs" / "mlflow.db") == []


def test_files_of_registered_and_of_logged_models_are_asked_for_at_the_new_place(old: Path, tmp_path: Path) -> None:
    before = client_of(old)
    logged = before.create_logged_model(before.get_experiment_by_name("train_vqvae").experiment_id, "logged").model_id
    shutil.move(old, tmp_path / "runs")
    client, home = client_of(tmp_path / "runs"), (tmp_path / "runs" / "artifacts").as_uri()
    version = client.get_model_version_by_alias("moved", "champion").version
    assert client.get_model_version_download_uri("moved", version).startswith(f"{home}/")
    assert client.get_logged_model(logged).artifact_location.startswith(f"{home}/")


def test_a_database_that_was_asked_for_is_never_changed(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old, tmp_path / "shared")
    database = tmp_path / "shared" / "mlflow.db"
    open_ledger(tmp_path / "runs", "train_vqvae", "x", {}, None, sqlite_url(database)).end("FINISHED")
    assert moved_from(database) == [(old / "artifacts").as_uri()]
    assert not (tmp_path / "runs" / "mlflow.db").exists()
