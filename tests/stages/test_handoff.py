"""What a stage needs of an earlier one: missing, of another split, of another codebook, by its registered name."""

import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import reconstruct_masked
import train_distil
import train_vqvae
import vqvae_reconstruction
from pipeline.files import InputError, read_json, write_json
from pipeline.tracking import database_uri
from toys import STAGES, copied, newest, tiny
from vqvae import load_vqvae

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
    client = MlflowClient(database_uri(ran.runs), database_uri(ran.runs))
    name = next(m.name for m in client.search_registered_models() if m.name.startswith("vqvae"))
    vqvae = {"run__mlflow": False, "vqvae_reconstruction__vqvae": f"models:/{name}@champion"}
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, **vqvae))
    used = read_json(newest(ran.runs, "vqvae_reconstruction") / "run.json")["inputs"]["train_vqvae"]
    assert load_vqvae(Path(used) / "model", torch.device("cpu")).config.codebook_size == 16
    bad = tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae="models:/nobody@champion")
    with pytest.raises(InputError, match=r"models:/nobody@champion is not registered .*registered are: models:/"):
        vqvae_reconstruction.run(bad)
