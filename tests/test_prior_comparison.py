"""compare_priors.py and its measuring: the same masks for all, known distances, what is refused."""

import math

import pytest
import torch
from test_prior_stages import named, newest, settings
from test_recall import tiny_memory

import compare_priors
import train_distil
import train_vqvae
from measuring.priors import INPAINTING_HEADER, ONE_PASS, PIXELCNN, SAMPLES_HEADER, WHOLE_GRID, masks
from models.classifier import Classifier, ClassifierConfig
from pipeline.files import InputError, read_csv, read_json
from priors.grids import frechet_distance
from settings.compare_priors import ComparePriorsSection

QUICK = {"masks": ["block", "random"], "percentages": [25, 50], "samples": 6, "pool": 5, "passes": 2, "batch_size": 4,
         "bootstrap": 100}  # fmt: skip


def test_frechet_distance_of_known_gaussians():
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(noise, noise) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(noise, noise + torch.tensor([3.0, 4.0])) == pytest.approx(25, rel=1e-4)
    # N(0, 1) and N(0, 9) in each of two dimensions: (3 - 1)^2 * 2
    assert frechet_distance(noise, 3 * noise) == pytest.approx(8, rel=0.02)


def test_frechet_distance_sees_correlations_and_is_symmetric():
    noise = torch.randn(50_000, 2, generator=torch.Generator().manual_seed(0))
    tied = torch.stack([noise[:, 0], noise[:, 0]], dim=1)  # covariance [[1, 1], [1, 1]]
    # tr(I + S - 2 S^(1/2)) with eigenvalues 0 and 2 of S
    expected = 2 + 2 - 2 * math.sqrt(2)
    assert frechet_distance(noise, tied) == pytest.approx(expected, rel=0.02)
    assert frechet_distance(tied, noise) == pytest.approx(frechet_distance(noise, tied), rel=1e-6)
    assert frechet_distance(torch.randn(50, 1), torch.randn(50, 1)) >= 0


@pytest.mark.parametrize("architecture", ["compact", "codes", "resnet18"])
def test_features_are_what_the_last_layer_gets(architecture: str):
    config_ = ClassifierConfig(architecture, 4, 3, 16, 5, 0.0, (0.5,) * 3, (0.2,) * 3)
    model = Classifier(config_).eval()
    x = torch.randint(5, (2, 4, 4)) if architecture == "codes" else torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        features = model.features(x)
        last = model.net.fc if architecture == "resnet18" else model.net.head
        torch.testing.assert_close(last(features), model(x))
    assert features.ndim == 2 and len(features) == 2


def test_masks_are_exact_and_the_same_for_all_who_ask():
    memory = tiny_memory()
    for kind in ("random", "block", "half"):
        found = masks(kind, 50, 5, memory, 3, 0)
        assert found.sum(1).tolist() == [memory.tokens // 2] * 5
        assert torch.equal(found, masks(kind, 50, 5, memory, 3, 0))
    assert not torch.equal(masks("random", 50, 5, memory, 3, 0), masks("random", 50, 5, memory, 3, 5))


@pytest.fixture(scope="module")
def compared(made):
    """The priors of test_prior_stages with a GAN told the class, a VQ-VAE with masked components, and a classifier."""
    import train_classifier
    import train_prior

    runs, source = made[:2]
    quick = {"trials": 0, "epochs": 1, "space": {}}
    train_classifier.run(settings(runs, source, train_classifier={"epochs": 1, "tune": quick}))
    train_prior.run(settings(runs, source, train_prior={"kind": "gan", "condition_on_class": True}))
    train_vqvae.run(settings(runs, source, train_vqvae__component_masking={"enabled": True, "warmup_epochs": 1}))
    masked = newest(runs, "train_vqvae")
    plain = {"masked_vqvae": "best", "told_distil": "best"}
    first = next(path for path in sorted((runs / "train_vqvae").glob("2*")) if path != masked)
    changes = {"compare_priors": QUICK | plain}
    cfg = settings(runs, source, **changes)
    compare_priors.run(cfg)
    return made, cfg, newest(runs, "compare_priors"), changes, first


def test_all_ways_stand_in_both_tables(compared):
    rows = read_csv(compared[2] / "inpainting.csv")
    assert tuple(rows[0]) == INPAINTING_HEADER
    methods = {row["method"] for row in rows}
    assert {*ONE_PASS, PIXELCNN, WHOLE_GRID, "PixelCNN, likeliest", "GAN, best of 5", "not completed"} <= methods
    timed = {(row["measure"], row["mask"], row["percent"]) for row in rows if row["method"] == WHOLE_GRID}
    assert timed == {("seconds_per_picture", kind, "50") for kind in ("block", "random")}, "at the middle percentage"
    assert all(float(row["mean"]) > 0 for row in rows if row["measure"] == "seconds_per_picture")
    whole = [row for row in rows if row["method"] == "nothing forgotten" and row["measure"] == "mse_to_reconstruction"]
    assert len(whole) == 4 and all(float(row["mean"]) == 0 for row in whole)
    samples = read_csv(compared[2] / "samples.csv")
    assert tuple(samples[0]) == SAMPLES_HEADER
    by_method = {row["method"]: row for row in samples}
    assert {"PixelCNN", "GAN", "DistilBERT, 2 passes", "validation pictures", "shuffled codes"} <= set(by_method)
    for name in ("PixelCNN", "GAN", "DistilBERT, 2 passes"):
        assert 0 <= float(by_method[name]["class_accuracy"]) <= 1
    assert by_method["validation pictures"]["class_accuracy"] == ""
    assert read_json(compared[2] / "run.json")["status"] == "finished"
    assert {"inpainting", "samples"} <= {file.stem for file in (compared[2] / "figures").glob("*.png")}


def test_known_tokens_count_as_they_are(compared):
    """More is forgotten, more is wrong, on average over masks; and nothing is worse off than with all forgotten."""
    rows = read_csv(compared[2] / "inpainting.csv")
    for method in (PIXELCNN, "PixelCNN, likeliest", "GAN, best of 5", ONE_PASS[1]):
        errors = {
            row["percent"]: float(row["mean"])
            for row in rows
            if (row["method"], row["mask"], row["measure"]) == (method, "random", "mse_to_reconstruction")
        }
        assert errors["25"] < errors["50"]


def test_the_same_settings_give_the_same_numbers(compared):
    runs = compared[0][0]
    compare_priors.run(compared[1])
    again = newest(runs, "compare_priors")
    assert again != compared[2]
    for name in ("inpainting.csv", "samples.csv"):
        one, other = (read_csv(folder / name) for folder in (compared[2], again))
        for first, second in zip(one, other, strict=True):
            if first.get("measure") != "seconds_per_picture":
                drop = {"seconds_per_picture"}
                assert {k: v for k, v in first.items() if k not in drop} == {
                    k: v for k, v in second.items() if k not in drop
                }


def test_every_setting_is_read(compared, monkeypatch):
    from test_pipeline import Reads

    reads = Reads(monkeypatch)
    compare_priors.run(compared[1])
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
    made_, _, _, base, first = compared
    runs = made_[0]
    values = dict(base["compare_priors"])
    for key, value in changes.items():
        if value == "plain" and key == "told_distil":
            train_distil.run(settings(*made_[:2]))
            value = str(newest(runs, "train_distil"))
        elif value == "never without":
            train_distil.run(settings(*made_[:2], train_distil={"condition_on_class": True, "label_drop": 0}))
            value = str(newest(runs, "train_distil"))
        elif value == "plain":
            value = str(first)
        elif value in ("pixelcnn", "pixelcnn by age"):
            value = named(made_, value)
        values[key] = value
    cfg = settings(*made_[:2], **{**base, "compare_priors": values})
    before = sorted((runs / "compare_priors").iterdir())
    with pytest.raises(InputError, match=message) as caught:
        compare_priors.run(cfg)
    assert "\n" not in str(caught.value) and sorted((runs / "compare_priors").iterdir()) == before


def test_priors_that_are_told_nothing_are_compared_without_class_accuracy(made):
    runs, source = made[:2]
    import train_prior

    train_prior.run(settings(runs, source, train_prior={"kind": "gan"}))
    compare_priors.run(settings(runs, source, compare_priors=QUICK | {"told": False}))
    samples = read_csv(newest(runs, "compare_priors") / "samples.csv")
    assert all(row["class_accuracy"] == "" for row in samples)
