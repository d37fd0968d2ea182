"""compare_priors.py: both tables, the same numbers again, and what does not fit."""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import compare_priors
import train_classifier
import train_distil
import train_prior
import train_vqvae
from handoff.memory import take_memory
from handoff.split import open_split
from measuring.priors import EXPECTED, INPAINTING_HEADER, PIXELCNN, SAMPLES_HEADER, WHOLE_GRID
from pipeline.files import InputError, read_csv, read_json
from priors.grids import frechet_distance
from settings.compare_priors import ComparePriorsSection
from settings.config import Config
from toys import QUICK_TUNE, Made, Reads, copied, newest, prior_settings, run_folders

QUICK_COMPARISON = {
    "masks": ["block", "random"], "percentages": [25, 50], "samples": 6, "pool": 5, "passes": 2, "batch_size": 4,
    "bootstrap": 100,
}  # fmt: skip


LIKELIEST = "DistilBERT, one pass, likeliest"


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
    train_prior.run(prior_settings(runs, source, train_prior={"kind": "gan", "condition_on_class": True}))
    train_vqvae.run(prior_settings(runs, source, train_vqvae__component_masking={"enabled": True, "warmup_epochs": 1}))
    section = QUICK_COMPARISON | {"masked_vqvae": "best", "told_distil": "best"}
    cfg = prior_settings(runs, source, compare_priors=section)
    compare_priors.run(cfg)
    return Compared(own_made, cfg, newest(runs, "compare_priors"), section, plain)


def test_all_ways_stand_in_both_tables(compared):
    rows = read_csv(compared.folder / "inpainting.csv")
    assert tuple(rows[0]) == INPAINTING_HEADER
    methods = {row["method"] for row in rows}
    assert {
        EXPECTED,
        LIKELIEST,
        "VQ-VAE with masked components",
        PIXELCNN,
        WHOLE_GRID,
        "PixelCNN, likeliest",
        "GAN, best of 5",
        "not completed",
    } <= methods
    timed = {(row["measure"], row["mask"], row["percent"]) for row in rows if row["method"] == WHOLE_GRID}
    assert timed == {("seconds_per_picture", kind, "50") for kind in ("block", "random")}, "at the middle percentage"
    assert all(float(row["mean"]) > 0 for row in rows if row["measure"] == "seconds_per_picture")
    whole = [row for row in rows if row["method"] == "nothing forgotten" and row["measure"] == "mse_to_reconstruction"]
    assert len(whole) == 4 and all(float(row["mean"]) == 0 for row in whole)
    samples = read_csv(compared.folder / "samples.csv")
    assert tuple(samples[0]) == SAMPLES_HEADER
    by_method = {row["method"]: row for row in samples}
    assert {"PixelCNN", "GAN", "DistilBERT, 2 passes", "validation pictures", "shuffled codes"} <= set(by_method)
    for name in ("PixelCNN", "GAN", "DistilBERT, 2 passes"):
        assert 0 <= float(by_method[name]["class_accuracy"]) <= 1
    assert by_method["validation pictures"]["class_accuracy"] == ""
    assert read_json(compared.folder / "run.json")["status"] == "finished"
    assert {"inpainting", "samples"} <= {file.stem for file in (compared.folder / "figures").glob("*.png")}


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
    batches = -(-len(test) // QUICK_COMPARISON["batch_size"])
    for row in rows:
        assert row["mask"] in QUICK_COMPARISON["masks"] and int(row["percent"]) in QUICK_COMPARISON["percentages"]
        one_batch = row["method"] == WHOLE_GRID
        if row["measure"] == "seconds_per_picture":
            assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
            assert int(row["pictures"]) == (1 if one_batch else batches), "a time is of a batch"


@torch.no_grad()
def test_the_numbers_of_samples_stand_in_their_columns(compared, machine):
    """Distance, distinct codes and share of known pairs of the references are computed here from pictures and grids."""
    rows = {row["method"]: row for row in read_csv(compared.folder / "samples.csv")}
    split = open_split(compared.cfg)
    handed = take_memory(compared.cfg, split, machine)
    test, val = split.positions("test"), split.positions("val")
    real, other = (handed.memory.classifier.features(split.pictures(positions)) for positions in (test, val))
    distance = float(rows["validation pictures"]["frechet_distance"])
    assert distance == pytest.approx(frechet_distance(real, other), rel=1e-3)
    for name, positions in (("validation pictures", val), ("test pictures, from their codes", test)):
        distinct = np.mean([len(set(grid)) for grid in handed.indices.tokens(positions).tolist()])
        assert float(rows[name]["distinct_codes"]) == pytest.approx(distinct, rel=1e-4)
    kept, mixed = (rows[name] for name in ("test pictures, from their codes", "shuffled codes"))
    assert kept["distinct_codes"] == mixed["distinct_codes"] and float(kept["real_pairs"]) > float(mixed["real_pairs"])
    priors = {"PixelCNN", "GAN", "DistilBERT, 2 passes", "DistilBERT, one pass"}
    for name, row in rows.items():
        assert int(row["samples"]) == QUICK_COMPARISON["samples"] and 0 <= float(row["real_pairs"]) <= 1
        assert (row["class_accuracy"] != "") == (row["seconds_per_picture"] != "") == (name in priors)
        if name in priors:
            right = QUICK_COMPARISON["samples"] * float(row["class_accuracy"])
            assert right == pytest.approx(round(right), abs=1e-3) and 0 < float(row["seconds_per_picture"]) < 10


def test_the_same_settings_give_the_same_numbers(compared):
    runs = compared.made.runs
    compare_priors.run(compared.cfg)
    again = newest(runs, "compare_priors")
    assert again != compared.folder
    for name in ("inpainting.csv", "samples.csv"):
        one, other = (read_csv(folder / name) for folder in (compared.folder, again))
        for first, second in zip(one, other, strict=True):
            if first.get("measure") != "seconds_per_picture":
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
    assert all(row["class_accuracy"] == "" for row in samples)
