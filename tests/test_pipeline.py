"""All stages in order on a few dozen pictures: what they leave behind, what they refuse, and killed runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import config
import data_split
import reconstruct_masked
import train_classifier
import train_distil
import train_vqvae
import vqvae_reconstruction
from completion import load_distilbert, masked_cross_entropy
from handoff import take_indices, take_vqvae
from pipeline.files import InputError, read_csv, read_json, write_json
from pipeline.runs import read_best
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
    "reconstruct_masked": {"percentages": [0, 50, 100], "bootstrap": 100, "grid_pictures": 2},
}  # fmt: skip


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


def tiny(runs: Path, source: Path, **changes: object) -> config.Config:
    """The tiny settings; changes are dotted keys with __ for the dot."""
    values = json.loads(json.dumps(TINY))
    config._merge(values, {"run": {"dir": str(runs)}, "data": {"source": str(source)}})
    for dotted, value in changes.items():
        for part in reversed(dotted.split("__")):
            value = {part: value}
        config._merge(values, value)
    return config.check(values)


def newest(runs: Path, stage: str) -> Path:
    return max(path.parent for path in (runs / stage).glob("*/run.json"))


class Reads:
    """Notes every setting that anything reads while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[str, str]] = set()
        plain = config.Section.__getattribute__

        def noting(section: config.Section, name: str) -> object:
            if name in type.__getattribute__(type(section), "model_fields"):
                self.seen.add((type(section).__name__, name))
            return plain(section, name)

        monkeypatch.setattr(config.Section, "__getattribute__", noting)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Every stage once, in order, with MLflow; returns settings, runs folder, source, scores and the settings read."""
    folder = tmp_path_factory.mktemp("pipeline")
    source = draw_classes(folder / "pictures")
    cfg = tiny(folder / "runs", source)
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        scores = {name: stage.run(cfg) for name, stage in STAGES.items()}
    return cfg, folder / "runs", source, scores, reads.seen


# --- what the stages leave behind -------------------------------------------------------------------------------------


def test_every_run_folder_is_complete(ran):
    _, runs, _, scores, _ = ran
    for stage, score in scores.items():
        folder = newest(runs, stage)
        assert read_json(folder / "run.json")["status"] == "finished"
        assert config.check(config._read_yaml(folder / "config.yaml"))  # the resolved settings are settings
        assert all(np.isfinite(value) for value in read_json(folder / "metrics.json").values())
        assert list((folder / "figures").glob("*.png")) and np.isfinite(score)
        assert read_best(runs, stage)
    for stage in ("train_vqvae", "train_classifier", "train_distil"):
        lines = (newest(runs, stage) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
        meta = read_json(newest(runs, stage) / "model" / "meta.json")
        assert {"split_hash", "commit", "versions", "metrics", "grid", "codebook_size"} <= set(meta)


def test_history_has_every_promised_number(ran):
    line = json.loads((newest(ran[1], "train_vqvae") / "metrics.jsonl").read_text().splitlines()[0])
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

    cfg, runs, _, _, _ = ran
    client = MlflowClient(database_uri(runs), database_uri(runs))
    for stage in STAGES:
        experiment = client.get_experiment_by_name(stage)
        found = client.search_runs([experiment.experiment_id])
        parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        assert [run.info.run_name for run in parents] == [newest(runs, stage).name]
        parent = parents[0]
        assert parent.info.status == "FINISHED" and parent.data.metrics
        assert parent.data.params["run.seed"] == "0" and "version.torch" in parent.data.params
        assert parent.inputs.dataset_inputs[0].dataset.digest == data_split.open_split(cfg).hash
        stored = {file.path for file in client.list_artifacts(parent.info.run_id)}
        assert {"config.yaml", "metrics.json", "figures"} <= stored
        if stage.startswith("train"):
            children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
            assert len(children) == 2 and all(run.data.params and run.data.metrics for run in children)
            assert len(client.get_metric_history(parent.info.run_id, "val_loss")) == 2
    names = {model.name for model in client.search_registered_models()}
    assert {name.split("-")[0] for name in names} == {"vqvae", "classifier", "distil"}
    vqvae_name = next(name for name in names if name.startswith("vqvae"))
    assert registered_run(runs, f"models:/{vqvae_name}@champion") == newest(runs, "train_vqvae")


@torch.no_grad()
def test_stored_indices_paint_the_reconstructions(ran):
    cfg, _runs, _, _, _ = ran
    split = data_split.open_split(cfg)
    device = torch.device("cpu")
    handed = take_vqvae(cfg, "best", split, device)
    stored = take_indices(cfg, "best", split, handed)
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


def test_curves_have_every_percentage_and_agree_at_the_ends(ran):
    """Nothing forgotten: no error against the reconstruction; everything forgotten: one picture for all."""
    rows = read_csv(newest(ran[1], "reconstruct_masked") / "curves.csv")
    value = {(int(r["percent"]), r["filling"], r["measure"]): float(r["mean"]) for r in rows}
    assert {key[0] for key in value} == {0, 50, 100}
    for filling in ("likeliest", "expected", "blank"):
        assert value[0, filling, "mse_to_reconstruction"] == pytest.approx(0, abs=1e-10)
        assert value[0, filling, "disagreement"] == 0
        assert value[50, filling, "mse_to_reconstruction"] <= value[100, filling, "mse_to_reconstruction"]
    assert all(float(r["low"]) <= float(r["mean"]) <= float(r["high"]) for r in rows)
    measures = {"mse", "psnr", "ssim"}
    assert {f"{m}_to_{other}" for m in measures for other in ("picture", "reconstruction")} <= {k[2] for k in value}


def test_validation_masks_are_fixed_and_reproduce_the_logged_loss(ran):
    cfg, runs, _, _, _ = ran
    folder = newest(runs, "train_distil")
    split = data_split.open_split(cfg)
    indices = take_indices(cfg, "best", split, take_vqvae(cfg, "best", split, torch.device("cpu")))
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
    _cfg, runs, source, _, _ = ran
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (300, 200), "red").save(own / "a.jpg")
    Image.new("L", (16, 16), 90).save(own / "b.png")
    best = read_best(runs, "vqvae_reconstruction")
    vqvae_reconstruction.run(tiny(runs, source, vqvae_reconstruction__input=str(own)))
    folder = newest(runs, "vqvae_reconstruction") / "own"
    painted = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    assert len(painted) == 2 and painted[0].shape == (16, 16, 3)
    vqvae_reconstruction.run(tiny(runs, source, vqvae_reconstruction__indices=str(folder / "indices.npy")))
    back = sorted((newest(runs, "vqvae_reconstruction") / "own").glob("*.png"))
    assert (np.asarray(Image.open(back[1])) == painted[1]).all()
    assert read_best(runs, "vqvae_reconstruction") == best  # own pictures are not handed on


def test_every_setting_is_read_by_something(ran):
    _, _, _, _, seen = ran
    fields = {
        (section.__name__, name)
        for section in (
            config.RunSection, config.DataSection, config.TrainVQVAESection, config.VQVAEReconstructionSection,
            config.TrainClassifierSection, config.TrainDistilSection, config.ReconstructMaskedSection, config.Tune,
        )
        for name in section.model_fields
    }  # fmt: skip
    elsewhere = {  # read on ways that this run did not take, each covered by a test of its own
        ("DataSection", "download_dir"),  # test_data_split: imagenette offline
        ("DataSection", "given_split"),  # test_data_split: given split
        ("DataSection", "skip_broken"),  # test_data_split: skip broken
    }
    assert fields - seen - elsewhere == set()


def test_retrain_saw_validation_too(ran):
    """With retrain the final weights are not those of the best epoch of the fit."""
    from safetensors.torch import load_file

    folder = newest(ran[1], "train_vqvae")
    final = load_file(folder / "model" / "model.safetensors")
    fitted = load_file(folder / "last" / "fit.safetensors")
    assert (folder / "last" / "retrain.safetensors").is_file()
    assert not torch.equal(final["decoder.0.weight"], fitted["best/decoder.0.weight"])


def test_objective_of_a_trial_is_run_with_a_trial(ran):
    """run(cfg, trial) is an Optuna objective: it returns the validation score and makes no run folder."""
    import optuna

    cfg, runs, _, _, _ = ran
    before = sorted((runs / "train_vqvae").iterdir())
    study = optuna.create_study()
    study.optimize(lambda trial: train_vqvae.run(cfg, trial), n_trials=1)
    assert 0 < study.best_value < 1 and set(study.best_params) == {"code_dim", "learning_rate"}
    assert sorted((runs / "train_vqvae").iterdir()) == before


# --- the same seed, the same numbers; killed and resumed --------------------------------------------------------------


def numbers(folder: Path) -> dict[str, float]:
    return {name: value for name, value in read_json(folder / "metrics.json").items() if name != "seconds"}


def test_same_seed_gives_bit_identical_metrics(ran):
    cfg, runs, source, _, _ = ran
    cfg = tiny(runs, source, run__mlflow=False)
    for stage in ("train_vqvae", "train_classifier", "train_distil", "reconstruct_masked"):
        first = next(
            f for f in sorted((runs / stage).glob("*/run.json")) if read_json(f)["status"] == "finished"
        ).parent
        STAGES[stage].run(cfg)
        assert numbers(newest(runs, stage)) == numbers(first), stage


def start(stage: str, runs: Path, source: Path, *options: str) -> subprocess.Popen:
    overlay = runs.parent / f"{runs.name}.yaml"
    write_json(overlay, TINY)  # JSON is YAML
    command = [sys.executable, str(ROOT / f"{stage}.py"), "--config", str(overlay), "--run.dir", str(runs)]
    command += ["--data.source", str(source), "--run.mlflow", "false", *options]
    return subprocess.Popen(command, cwd=runs.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("stage", ["train_vqvae", "train_distil"])
def test_killed_and_resumed_equals_never_killed(ran, tmp_path, stage):
    """SIGKILL in the middle of the final fit; weights, history and test numbers end bit-equal."""
    _cfg, runs, source, _, _ = ran
    import shutil

    for name in ("data_split", "train_vqvae", "vqvae_reconstruction"):
        if name != stage:
            shutil.copytree(runs / name, tmp_path / "runs" / name)
    long = [f"--{stage}.epochs", "12", f"--{stage}.patience", "12", f"--{stage}.retrain", "false"]
    process = start(stage, tmp_path / "runs", source, *long)
    deadline = time.monotonic() + 120
    history = []
    while len(history) < 3 and time.monotonic() < deadline and process.poll() is None:
        files = list((tmp_path / "runs" / stage).glob("2*/metrics.jsonl"))
        files = [f for f in files if read_json(f.parent / "run.json")["status"] == "running"]
        history = files[0].read_text().splitlines() if files else []
        time.sleep(0.01)
    process.kill()  # SIGKILL
    process.wait()
    killed = newest(tmp_path / "runs", stage)
    assert 3 <= len(history) < 12 and not (killed / "model").exists()
    resumed = start(stage, tmp_path / "runs", source, *long, "--resume")
    out, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert f"resuming {killed}" in out and out.splitlines()[-1] == str(killed)
    straight = start(stage, tmp_path / "runs", source, *long)
    out, err = straight.communicate(timeout=200)
    assert straight.returncode == 0, err
    whole = Path(out.splitlines()[-1])
    assert whole != killed
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert numbers(killed) == numbers(whole)
    assert (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


# --- hand-off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(STAGES)[1:])
def test_missing_stage_output_names_the_command(ran, tmp_path, stage):
    _, _, source, _, _ = ran
    with pytest.raises(InputError, match=r"no finished run of data_split .*type: python data_split\.py"):
        STAGES[stage].run(tiny(tmp_path, source, run__mlflow=False))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split_hash", "0123456789ab", r"split_hash is 0123456789ab, but [0-9a-f]{12} is needed here"),
        ("image_size", 64, "image_size is 64, but 16 is needed here"),
        ("channels", 1, "channels is 1, but 3 is needed here"),
    ],
)
def test_vqvae_of_another_split_or_size_is_refused(ran, tmp_path, name, value, message):
    _cfg, runs, source, _, _ = ran
    import shutil

    other = tmp_path / "other"
    shutil.copytree(newest(runs, "train_vqvae"), other)
    meta = read_json(other / "model" / "meta.json")
    write_json(other / "model" / "meta.json", meta | {name: value})
    with pytest.raises(InputError, match=rf"{message}; type: python train_vqvae\.py"):
        vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=str(other)))


def test_indices_and_models_of_another_codebook_are_refused(ran):
    """A second VQ-VAE: what was made for the first does not fit it, and each message says what to type."""
    _cfg, runs, source, _, _ = ran
    indices = read_best(runs, "vqvae_reconstruction")
    distil = read_best(runs, "train_distil")
    other = tiny(runs, source, run__mlflow=False, run__seed=5, train_vqvae__tune={"trials": 0})
    train_vqvae.run(other)
    second = str(newest(runs, "train_vqvae"))
    first_indices = str(runs / "vqvae_reconstruction" / next(iter(indices.values()))["run"])
    plain = {"run__mlflow": False, "train_distil__vqvae": second, "reconstruct_masked__vqvae": second}
    with pytest.raises(InputError, match=r"no finished run of vqvae_reconstruction .*python vqvae_reconstruction\.py"):
        train_distil.run(tiny(runs, source, **plain))
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, but [0-9a-f]{12} is needed"):
        train_distil.run(tiny(runs, source, **plain, train_distil__indices=first_indices))
    vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=second))
    first_distil = str(runs / "train_distil" / next(iter(distil.values()))["run"])
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, .*type: python train_distil\.py"):
        reconstruct_masked.run(tiny(runs, source, **plain, reconstruct_masked__distil=first_distil))


def test_wrong_kind_of_run_folder_is_refused(ran):
    _, runs, source, _, _ = ran
    wrong = str(newest(runs, "train_classifier"))
    with pytest.raises(InputError, match="stage is train_classifier, but train_vqvae is needed"):
        vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=wrong))
    with pytest.raises(InputError, match="is not a run folder"):
        vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae="nowhere"))


def test_registered_model_is_found_by_its_alias(ran):
    from pipeline.tracking import _client

    cfg, runs, source, _, _ = ran
    name = next(m.name for m in _client(runs).search_registered_models() if m.name.startswith("vqvae"))
    cfg = tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=f"models:/{name}@champion")
    vqvae_reconstruction.run(cfg)
    used = read_json(newest(runs, "vqvae_reconstruction") / "run.json")["inputs"]["train_vqvae"]
    assert load_vqvae(Path(used) / "model", torch.device("cpu")).config.codebook_size == 16
    bad = tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae="models:/nobody@champion")
    with pytest.raises(InputError, match=r"models:/nobody@champion is not registered .*registered are: models:/"):
        vqvae_reconstruction.run(bad)


def test_no_classes_no_classifier_but_recall_all_the_same(tmp_path):
    flat = tmp_path / "flat"
    for picture in draw_classes(tmp_path / "set").rglob("*.png"):
        flat.mkdir(exist_ok=True)
        picture.rename(flat / f"{picture.parent.name}{picture.name}")
    cfg = tiny(tmp_path / "runs", flat, run__mlflow=False)
    for stage in ("data_split", "train_vqvae", "vqvae_reconstruction", "train_distil", "reconstruct_masked"):
        STAGES[stage].run(cfg)
    measures = {row["measure"] for row in read_csv(newest(tmp_path / "runs", "reconstruct_masked") / "curves.csv")}
    assert "mse_to_picture" in measures and "classification_error" not in measures
    with pytest.raises(InputError, match="train_classifier needs classes"):
        train_classifier.run(cfg)


def test_diverging_trial_fails_and_the_study_goes_on(ran, tmp_path, monkeypatch):
    _, runs, source, _, _ = ran
    import shutil

    import optuna

    shutil.copytree(runs / "data_split", tmp_path / "runs" / "data_split")
    real = train_vqvae.VQVAELearner.step
    built = []

    def poisoned(self, rows, generator):
        if self not in built:
            built.append(self)
        losses = real(self, rows, generator)
        return losses | {"loss": losses["loss"] * float("nan")} if built.index(self) == 0 else losses

    monkeypatch.setattr(train_vqvae.VQVAELearner, "step", poisoned)
    train_vqvae.run(tiny(tmp_path / "runs", source, run__mlflow=False))
    storage = f"sqlite:///{tmp_path / 'runs' / 'optuna.db'}"
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
    _, runs, source, _, _ = ran
    before = sorted((runs / "vqvae_reconstruction").iterdir())
    changes = {f"vqvae_reconstruction__{option}": "nowhere"}
    with pytest.raises(InputError, match=message):
        vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, **changes))
    assert sorted((runs / "vqvae_reconstruction").iterdir()) == before
