"""Pictures without classes: everything but what needs classes."""

from pathlib import Path

import pytest

from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.rivals import compare_bits
from masked_memory.stages import data_split, sample, train_classifier, train_distil, train_prior
from toys import STAGES, UNTUNED, draw_classes, newest, prior_settings, tiny


@pytest.mark.system
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
    compare_bits.run(cfg.replace({"compare_bits": {"strategies": ["adaptive"], "percentages": [50], "bootstrap": 100}}))
    stored = newest(runs, "compare_bits")
    rows = read_csv(stored / "bits.csv")
    assert all(row["mse_to_picture"] and not any(row[name] for name in of_classes) for row in rows)
    assert {row["measure"] for row in read_csv(stored / "envelope.csv")} == {"mse_to_picture"}
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


def test_without_classes_both_stages_say_so(made, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in made[1].rglob("*.png"):
        (flat / f"{picture.parent.name}{picture.name}").write_bytes(picture.read_bytes())
    cfg = prior_settings(tmp_path / "runs", flat)
    data_split.run(cfg)
    with pytest.raises(InputError, match="condition_on_class needs pictures with classes, these have none"):
        train_prior.run(prior_settings(tmp_path / "runs", flat, train_prior__condition_on_class=True))
    with pytest.raises(InputError, match="mode conditional with classes needs pictures with classes, these have none"):
        sample.run(prior_settings(tmp_path / "runs", flat, sample={"mode": "conditional"}))
