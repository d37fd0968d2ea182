"""The stages on brain slices: what the presets of OASIS leave behind."""

from pathlib import Path

import numpy as np
import pytest

from masked_memory.pipeline.files import read_csv, read_json
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.stages import data_split, train_vqvae, vqvae_reconstruction
from toys import draw_slices

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Made-up heads in the OASIS layout, one validation picture black."""
    counts = {"train": 10, "validate": 3, "test": 4}
    return draw_slices(tmp_path_factory.mktemp("slices"), counts, black="validate")


def settings_for(runs: Path, source: Path, preset: str, **data: object) -> Config:
    """The preset, with pictures and model made tiny."""
    small = {"run.dir": str(runs), "run.mlflow": False, "run.threads": 1, "run.precision": "fp32"}
    small |= {"data.source": str(source), "data.image_size": 32, "train_vqvae.epochs": 2, "train_vqvae.hidden": 16}
    small |= {"train_vqvae.batch_size": 5, "train_vqvae.codebook_size": 16}
    overlays = [Path(loading.BASE_FILE).parent / "presets" / f"{name}.yaml" for name in ("oasis", preset)]
    return loading.load(overlays, small | {key.replace("__", "."): value for key, value in data.items()})


@pytest.mark.parametrize("preset", ["oasis", "oasis_plain"])
def test_the_presets_run_and_leave_the_brain_report(tmp_path, slices, preset, capsys):
    cfg = settings_for(tmp_path, slices, preset)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        assert np.isfinite(stage.run(cfg))
    history = (next((tmp_path / "train_vqvae").glob("2*")) / "metrics.jsonl").read_text()
    assert ("val_ssim_loss" in history) == (cfg.train_vqvae.ssim_weight > 0)
    folder = next((tmp_path / "vqvae_reconstruction").glob("2*"))
    metrics, rows = read_json(folder / "metrics.json"), read_csv(folder / "mri.csv")
    assert all(np.isfinite(value) for value in metrics.values())
    for row in rows:
        name = f"{row['split']}_{'' if row['way'] == 'vqvae' else 'copy_'}{row['measure']}"
        assert metrics[name] == pytest.approx(float(row["mean"]), rel=1e-4)
    assert {row["pictures"] for row in rows if row["split"] == "val" and row["measure"] == "ssim_brain"} == {"2"}
    pictures = read_csv(folder / "pictures.csv")
    assert np.mean([float(row["ssim_brain"]) for row in pictures if row["split"] == "test"]) == pytest.approx(
        metrics["test_ssim_brain"], rel=1e-4
    )
    assert (folder / "figures" / "brain.png").is_file() and (folder / "figures" / "brain.gif").is_file()
    printed = capsys.readouterr().out
    assert "test, VQ-VAE: SSIM" in printed and "test, 2x bicubic copy: SSIM" in printed


def test_without_the_setting_there_is_no_brain_report(tmp_path, slices):
    cfg = settings_for(tmp_path, slices, "oasis", vqvae_reconstruction__brain=False)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(cfg)
    folder = next((tmp_path / "vqvae_reconstruction").glob("2*"))
    assert not (folder / "mri.csv").exists() and not list((folder / "figures").glob("brain*"))
    assert "test_copy_ssim" not in read_json(folder / "metrics.json")
