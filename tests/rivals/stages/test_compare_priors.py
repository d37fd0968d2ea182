"""compare_priors.py: both tables, the same numbers again, and what does not fit."""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from masked_memory.handoff.memory import take_memory
from masked_memory.handoff.split import open_split
from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.rivals import compare_priors
from masked_memory.rivals.measuring.priors import INPAINTING_HEADER, SPEED_HEADER, WHOLE_GRID
from masked_memory.rivals.measuring.samples import SAMPLES_HEADER, SWEEP_HEADER, halves
from masked_memory.rivals.priors.grids import frechet_distance
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.settings.config import Config
from masked_memory.sources.splitting import spread
from masked_memory.stages import train_classifier, train_distil, train_prior, train_vqvae
from toys import QUICK_TUNE, Counted, Made, Reads, copied, newest, prior_settings, run_folders, undrawn

pytestmark = pytest.mark.system

QUICK_COMPARISON = {
    "masks": ["block", "random"], "percentages": [25, 50], "samples": 6, "pool": 5, "passes": 2, "batch_size": 4,
    "bootstrap": 100, "draws": 2, "sweep_passes": [1, 2, 4], "timed_pictures": 3,
}  # fmt: skip


class Compared(NamedTuple):
    """A comparison of the priors of `made`, a GAN told the class, and a VQ-VAE with masked components."""

    made: Made  # in a folder of its own
    cfg: Config
    folder: Path
    section: dict[str, Any]
    plain: Path  # the VQ-VAE without masked components


@pytest.fixture(scope="module")
def own_made(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    stages = [folder.name for folder in made.runs.iterdir() if folder.is_dir()]
    return made._replace(runs=copied(made.runs, tmp_path_factory.mktemp("compared") / "runs", *stages))


@pytest.fixture(scope="module")
def compared(own_made: Made) -> Compared:
    runs, source = own_made[:2]
    plain = newest(runs, "train_vqvae")
    train_classifier.run(prior_settings(runs, source, train_classifier={"epochs": 1, "tune": QUICK_TUNE}))
    for told in (True, False):
        train_prior.run(prior_settings(runs, source, train_prior={"kind": "gan", "condition_on_class": told}))
    train_vqvae.run(prior_settings(runs, source, train_vqvae__component_masking={"enabled": True, "warmup_epochs": 1}))
    section = QUICK_COMPARISON | {"masked_vqvae": "best", "told_distil": "best"}
    cfg = prior_settings(runs, source, compare_priors=section)
    compare_priors.run(cfg)
    return Compared(own_made, cfg, newest(runs, "compare_priors"), section, plain)


def test_every_way_has_every_decoding_that_it_can_have(compared):
    rows = read_csv(compared.folder / "inpainting.csv")
    assert tuple(rows[0]) == INPAINTING_HEADER
    methods = {row["method"]: (row["decoding"], int(row["passes"])) for row in rows}
    cells = 16  # tokens of a grid
    expected = {
        "nothing forgotten": ("argmax", 0),
        "not completed": ("expected", 0),
        "PixelCNN, likeliest": ("argmax", cells),
        "PixelCNN, drawn": ("sample", cells),
        "PixelCNN, mean of 2 draws": ("expected", 2 * cells),
        "GAN, best of 5, drawn": ("sample", 1),
        "GAN, best of 5, mean of 2 draws": ("expected", 2),
        "VQ-VAE with masked components": ("argmax", 1),
    }
    for name, passes in (("DistilBERT, one pass", 1), ("DistilBERT, 2 passes", 2)):
        for decoding, shown in (("argmax", "likeliest"), ("sample", "drawn"), ("expected", "expected")):
            expected[f"{name}, {shown}"] = (decoding, passes)
    expected["DistilBERT, 2 passes, mean of 2 draws"] = ("expected", 4)
    assert methods == expected
    whole = [row for row in rows if row["method"] == "nothing forgotten" and row["measure"] == "mse_to_reconstruction"]
    assert len(whole) == 4 and all(float(row["mean"]) == 0 for row in whole)
    diverse = {row["method"] for row in rows if row["measure"] == "diversity"}
    assert diverse == {name for name, (decoding, _) in expected.items() if decoding == "sample"}
    assert read_json(compared.folder / "run.json")["status"] == "finished"
    assert {"inpainting", "samples", "sweep"} <= {file.stem for file in (compared.folder / "figures").glob("*.png")}


def test_those_who_fill_in_were_told_nothing_in_training(compared):
    inputs = read_json(compared.folder / "run.json")["inputs"]
    told = {
        name: read_json(Path(inputs[name]) / "model" / "meta.json")["conditions"]["classes"]
        for name in ("pixelcnn", "gan", "untold_pixelcnn", "untold_gan")
    }
    assert not told["untold_pixelcnn"] and not told["untold_gan"] and told["pixelcnn"] and told["gan"]


def test_speeds_are_of_all_ways_in_turn(compared):
    rows = read_csv(compared.folder / "speed.csv")
    assert tuple(rows[0]) == SPEED_HEADER
    filled = {row["method"] for row in read_csv(compared.folder / "inpainting.csv")}
    assert [row["method"] for row in rows].count(WHOLE_GRID) == 1
    assert {row["method"] for row in rows} == filled | {WHOLE_GRID}
    for row in rows:
        assert (row["precision"], row["rounds"], row["pictures"]) == ("fp32", "5", "3")
        assert 0 < float(row["low"]) <= float(row["seconds_per_picture"]) <= float(row["high"])


def test_new_pictures_stand_beside_a_floor_and_a_ceiling(compared):
    samples = read_csv(compared.folder / "samples.csv")
    assert tuple(samples[0]) == SAMPLES_HEADER
    by_method = {row["method"]: row for row in samples}
    makers = ("PixelCNN", "GAN", "DistilBERT, 2 passes", "DistilBERT, one pass")
    real = ("other test pictures", "other test pictures, from their codes", "validation pictures")
    assert set(by_method) == {*makers, *real, "shuffled codes"}
    for name in (*makers, *real):
        assert 0 <= float(by_method[name]["class_accuracy"]) <= 1
    assert by_method["shuffled codes"]["class_accuracy"] == ""
    assert all((row["seconds_per_picture"] != "") == (name in makers) for name, row in by_method.items())


def test_the_sweep_has_every_order_and_number_of_passes(compared):
    rows = read_csv(compared.folder / "sweep.csv")
    assert tuple(rows[0]) == SWEEP_HEADER
    orders = ("Halton", "confidence", "confidence with noise")
    assert [(row["order"], row["passes"]) for row in rows] == list(product(orders, ("1", "2", "4")))
    cells = {(row["order"], row["passes"]): row["frechet_distance"] for row in rows}
    assert cells["Halton", "1"] == cells["confidence", "1"], "one pass fills everything, whatever the order"
    assert cells["confidence", "4"] != cells["confidence with noise", "4"]


def test_the_numbers_of_inpainting_stand_in_their_columns(compared):
    """With nothing forgotten the errors are those that vqvae_reconstruction measured picture by picture."""
    rows = read_csv(compared.folder / "inpainting.csv")
    split, handed = open_split(compared.cfg), read_json(compared.folder / "run.json")["inputs"]
    known = read_csv(Path(handed["vqvae_reconstruction"]) / "pictures.csv")
    test = split.positions("test")
    for name in ("mse", "psnr"):
        each = np.array([float(known[position][name]) for position in test])
        where = ("nothing forgotten", f"{name}_to_picture")
        found = [row for row in rows if (row["method"], row["measure"]) == where]
        assert [(row["mask"], row["percent"]) for row in found] == list(product(["block", "random"], ["25", "50"]))
        for row in found:
            mean, low, high = (float(row[column]) for column in ("mean", "low", "high"))
            assert mean == pytest.approx(each.mean(), rel=1e-4)
            assert each.min() <= low < mean < high <= each.max()
            assert int(row["pictures"]) == len(test)


@torch.no_grad()
def test_the_numbers_of_samples_stand_in_their_columns(compared, machine):
    """Distance, distinct codes, class accuracy of the references are computed here from pictures and grids."""
    rows = {row["method"]: row for row in read_csv(compared.folder / "samples.csv")}
    split = open_split(compared.cfg)
    handed = take_memory(compared.cfg, split, machine)
    count = len(split.positions("test")) // 2
    half = halves(split.positions("test"), count)
    assert not set(half.compared) & set(half.perfect) and len(half.compared) == len(half.perfect) == count
    val = spread(split.positions("val"), count)
    judge = handed.memory.classifier
    for name, positions in (("validation pictures", val), ("other test pictures", half.perfect)):
        real, other = (judge.features(split.pictures(each)) for each in (half.compared, positions))
        assert float(rows[name]["frechet_distance"]) == pytest.approx(frechet_distance(real, other), rel=1e-3)
        right = judge(split.pictures(positions)).argmax(1).numpy() == split.labels[positions]
        assert float(rows[name]["class_accuracy"]) == pytest.approx(right.mean(), abs=1e-5)
        distinct = np.mean([len(set(grid)) for grid in handed.indices.tokens(positions).tolist()])
        assert float(rows[name]["distinct_codes"]) == pytest.approx(distinct, rel=1e-4)
    kept, mixed = (rows[name] for name in ("other test pictures, from their codes", "shuffled codes"))
    assert kept["distinct_codes"] == mixed["distinct_codes"] and float(kept["real_pairs"]) > float(mixed["real_pairs"])
    for row in rows.values():
        assert int(row["samples"]) == count and 0 <= float(row["real_pairs"]) <= 1


def test_the_same_settings_give_the_same_numbers(compared):
    runs = compared.made.runs
    compare_priors.run(compared.cfg)
    again = newest(runs, "compare_priors")
    assert again != compared.folder
    for name in ("inpainting.csv", "samples.csv", "sweep.csv"):
        one, other = (read_csv(folder / name) for folder in (compared.folder, again))
        for first, second in zip(one, other, strict=True):
            drop = {"seconds_per_picture"}
            assert {k: v for k, v in first.items() if k not in drop} == {
                k: v for k, v in second.items() if k not in drop
            }


def test_every_setting_is_read(compared, monkeypatch):
    reads = Reads(monkeypatch)
    compare_priors.run(compared.cfg)
    wanted = {("ComparePriorsSection", name) for name in ComparePriorsSection.model_fields}
    assert wanted - reads.seen == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked_vqvae": None, "told_distil": "plain"}, "was trained without classes; type: python train_distil"),
        ({"masked_vqvae": "plain"}, r"was trained without component masking; type: python train_vqvae\.py"),
        ({"pixelcnn": "pixelcnn"}, "is told nothing, but the class is to be told"),
        ({"pixelcnn": "pixelcnn by age"}, "is told age, but the class is to be told"),
        ({"gan": "pixelcnn"}, "kind is pixelcnn, but gan is needed here"),
        (
            {"told": False, "told_distil": None, "guidance_scale": 2.0},
            "guidance_scale is 2, but the priors are told noth",
        ),
        ({"told": False}, "told_distil is best, but the priors are told nothing"),
        ({"told_distil": "never without", "guidance_scale": 2.0}, "trained without label dropping, so compare_priors"),
    ],
)
def test_what_does_not_fit_is_one_line(compared, changes, message):
    runs, source = compared.made[:2]
    section = compared.section | {key: named(compared, key, value) for key, value in changes.items()}
    before = run_folders(runs, "compare_priors")
    with pytest.raises(InputError, match=message) as caught:
        compare_priors.run(prior_settings(runs, source, compare_priors=section))
    assert "\n" not in str(caught.value) and run_folders(runs, "compare_priors") == before


def named(compared: Compared, key: str, value: Any) -> Any:
    """The run folder that is meant by a word; a DistilBERT is trained for it."""
    made = compared.made
    if key == "told_distil" and value in ("plain", "never without"):
        told = {"condition_on_class": True, "label_drop": 0} if value == "never without" else {}
        train_distil.run(prior_settings(made.runs, made.source, train_distil=told))
        return str(newest(made.runs, "train_distil"))
    if value == "plain":
        return str(compared.plain)
    return made.named(value) if value in ("pixelcnn", "pixelcnn by age") else value


def test_priors_that_are_told_nothing_are_compared_without_class_accuracy(own_made):
    runs, source = own_made[:2]
    train_prior.run(prior_settings(runs, source, train_prior={"kind": "gan"}))
    compare_priors.run(prior_settings(runs, source, compare_priors=QUICK_COMPARISON | {"told": False}))
    samples = read_csv(newest(runs, "compare_priors") / "samples.csv")
    real = {row["method"] for row in samples if row["class_accuracy"] != ""}
    assert real == {"other test pictures", "other test pictures, from their codes", "validation pictures"}


def test_ways_that_were_measured_before_it_ended_are_not_measured_again(compared, monkeypatch):
    filled = Counted(monkeypatch, "masked_memory.rivals.measuring.priors.paint_way")
    drawn = Counted(monkeypatch, "masked_memory.rivals.measuring.samples.draw_samples")
    with undrawn():
        drawn.start_again(ends_at=6)  # the second setting of the sweep
        with pytest.raises(KeyboardInterrupt):
            compare_priors.run(compared.cfg)
        assert filled.start_again() > 50 and drawn.start_again() == 6
        compare_priors.run(compared.cfg, resume=True)
    settings = len(read_csv(compared.folder / "sweep.csv"))
    assert filled.calls == 0 and drawn.calls == settings - 1
    folder = newest(compared.made.runs, "compare_priors")
    assert folder != compared.folder and not (folder / "last" / "parts").exists()
    for table in ("inpainting.csv", "samples.csv", "sweep.csv"):
        rows, whole = read_csv(folder / table), read_csv(compared.folder / table)
        for row in (*rows, *whole):
            row.pop("seconds_per_picture", None)
        assert rows == whole, table
