"""train_prior.py and sample.py on a few dozen pictures: what they leave behind, what they refuse, killed runs."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_pipeline import Reads, draw_classes, tiny

import data_split
import sample
import train_distil
import train_prior
import train_vqvae
import vqvae_reconstruction
from handoff.priors import take_prior
from handoff.split import open_split
from handoff.vqvae import take_indices, take_vqvae
from pipeline.files import InputError, read_csv, read_json, write_csv, write_json
from pipeline.runs import read_best
from priors import learners
from priors.grids import spread
from priors.pixelcnn import PixelCNN, code_losses
from settings import loading
from settings.config import Config
from settings.sample import SampleSection
from settings.train_prior import TrainPriorSection
from sources import pixels

QUICK = {"trials": 0, "epochs": 1, "space": {}}
PRIOR = {"epochs": 2, "batch_size": 8, "width": 8, "layers": 3, "kernel": 3, "noise_dim": 8, "samples": 3,
         "sample_every": 2, "judged_samples": 6, "tune": QUICK}  # fmt: skip
SAMPLE = {"num_samples": 4, "passes": 2, "pool": 5, "batch_size": 3}
CPU = torch.device("cpu")


def pictures_in(source: Path) -> list[str]:
    return sorted(file.relative_to(source).as_posix() for file in source.rglob("*.png"))


def settings(runs: Path, source: Path, **changes: object) -> Config:
    """The tiny settings of the pipeline with those of the priors; changes are dotted keys with __ for the dot.

    Metadata are those of ages.csv beside the pictures, where there is one."""
    values = tiny(runs, source, run__mlflow=False).model_dump()
    ages = source.parent / "ages.csv"
    loading._merge(values, {"data": {"metadata": str(ages) if ages.exists() else None}})
    quick = {
        "train_vqvae": {"epochs": 1, "retrain": False, "tune": QUICK},
        "train_distil": {"epochs": 1, "tune": QUICK},
    }
    loading._merge(values, {**quick, "train_prior": PRIOR, "sample": SAMPLE})
    for dotted, value in changes.items():
        for part in reversed(dotted.split("__")):
            value = {part: value}
        loading._merge(values, value)
    return loading.check(values)


def newest(runs: Path, stage: str) -> Path:
    """By the time it was made: these runs are short, and names have seconds only."""
    return max((runs / stage).glob("2*"), key=lambda path: (path / "config.yaml").stat().st_mtime_ns)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures, VQ-VAE, indices, DistilBERT, and four priors: plain, by class, by metadata (always told), GAN."""
    folder = tmp_path_factory.mktemp("priors")
    runs, source = folder / "runs", draw_classes(folder / "pictures")
    write_csv(folder / "ages.csv", ("path", "age"), [(path, 20 + n % 7) for n, path in enumerate(pictures_in(source))])
    plain = settings(runs, source)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(plain)
    for told in (False, True):
        train_distil.run(settings(runs, source, train_distil__condition_on_class=told))
    by_age = {"condition_numbers": ["age"], "label_drop": 0}
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        space = {"learning_rate": {"low": 1e-3, "high": 2e-3}}
        tuned = {"train_prior__tune": {"trials": 2, "epochs": 1, "space": space}}
        for changes in (
            {"train_prior": by_age},
            {"train_prior__kind": "gan", **tuned},
            {"train_prior__condition_on_class": True},
            {"train_prior__retrain": True},
        ):
            train_prior.run(settings(runs, source, **changes))
        sample.run(settings(runs, source))
        sample.run(settings(runs, source, sample={"mode": "inpainting", "prior": "gan"}))
        sample.run(settings(runs, source, sample={"mode": "inpainting", "prior": "distil"}))
    return runs, source, folder, reads.seen


def test_every_setting_of_both_sections_is_read(made):
    wanted = {(s.__name__, n) for s in (TrainPriorSection, SampleSection) for n in s.model_fields}
    assert wanted - made[3] == set()


def test_priors_are_kept_apart_by_kind_and_by_what_they_are_told(made):
    keys = [key.split("-prior ")[1] for key in read_best(made[0], "train_prior")]
    assert sorted(keys) == ["gan", "pixelcnn", "pixelcnn by age", "pixelcnn by class"]
    for path in (made[0] / "train_prior").glob("2*"):
        assert read_json(path / "run.json")["status"] == "finished"
        figures = {file.stem for file in (path / "figures").glob("*.png")}
        assert {"curves", "nearest", "samples_epoch_001", "samples_epoch_002"} <= figures
        metrics = read_json(path / "metrics.json")
        assert all(np.isfinite(value) for value in metrics.values())
        assert {"samples_distinct_codes", "test_perplexity", "samples_real_pairs"} <= set(metrics)
        assert len(read_csv(path / "samples.csv")) == 6
        is_gan = read_json(path / "model" / "meta.json")["kind"] == "gan"
        assert ("test_bits_per_code" in metrics) != is_gan


def test_bits_per_code_are_those_of_the_model_that_was_kept(made):
    cfg = settings(*made[:2])
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, CPU)
    tokens = take_indices(cfg, "best", split, vqvae).tokens(split.positions("test"))
    handed = take_prior(cfg, "best", "pixelcnn", split, vqvae, CPU, True, 0)
    assert isinstance(handed.model, PixelCNN) and handed.columns.classes[0].values == ("class0", "class1", "class2")
    metrics = read_json(handed.folder / "metrics.json")
    told = handed.columns.tell(split.manifest).rows(split.positions("test"))
    facts = handed.columns.facts(told)
    with torch.no_grad():
        told, untold = (float(code_losses(handed.model, tokens, f).mean()) / np.log(2) for f in (facts, None))
    assert metrics["test_bits_per_code"] == pytest.approx(told, rel=1e-5)
    assert metrics["test_untold_bits_per_code"] == pytest.approx(untold, rel=1e-5)


def test_numbers_are_standardised_on_train(made):
    cfg = settings(*made[:2])
    split = open_split(cfg)
    asked = TrainPriorSection(condition_on_class=True, condition_numbers=["age"])
    columns = train_prior.columns_told(asked, split)
    told = columns.facts(columns.tell(split.manifest))
    train = told[torch.from_numpy(split.positions("train"))]
    assert told.shape == (len(split.manifest), 4) and columns.names == ["class", "age"]
    assert torch.allclose(train[:, 3].mean(), torch.zeros(()), atol=1e-6)
    assert torch.allclose(train[:, 3].std(correction=0), torch.ones(()), atol=1e-5)
    assert (told[:, :3].argmax(1).numpy() == split.labels).all() and (told[:, :3].sum(1) == 1).all()


@pytest.mark.parametrize(
    "asked",
    [
        {"prior": "pixelcnn"},
        {"prior": "gan"},
        {"prior": "distil"},
        {"prior": "pixelcnn", "mode": "conditional", "guidance_scale": 2.0, "temperature": 0.8, "top_k": 5},
        {"prior": "pixelcnn", "mode": "conditional", "values": [23]},
        {"prior": "distil", "mode": "conditional", "label": "class1", "guidance_scale": 3.0},
        {"prior": "pixelcnn", "mode": "inpainting", "label": "class2"},
        {"prior": "pixelcnn", "mode": "inpainting", "mask": "random"},
        {"prior": "gan", "mode": "inpainting", "mask": "half"},
    ],
)
def test_samples_are_pictures_codes_and_lines(made, asked):
    cfg = settings(*made[:2], sample=asked)
    assert sample.run(cfg) > 0
    folder = newest(made[0], "sample")
    indices, rows = np.load(folder / "indices.npy"), read_csv(folder / "samples.csv")
    assert indices.shape == (4, 4, 4) and len(rows) == 4 and indices.min() >= 0 and indices.max() < 16
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, CPU)
    painted = pixels.from_model(vqvae.paint(torch.from_numpy(indices).flatten(1)))
    assert (np.asarray(Image.open(folder / rows[2]["file"])) == painted[2]).all()
    assert (folder / "figures" / "grid.png").is_file() and not (made[0] / "sample" / "best.json").exists()
    if asked.get("mode") == "conditional" and "values" not in asked:
        classes = ["class1"] * 4 if "label" in asked else ["class0", "class1", "class2", "class0"]
        assert [row["class"] for row in rows] == classes
    if asked.get("mode") == "inpainting":
        tokens = take_indices(cfg, "best", split, vqvae)
        at = {row["path"]: n for n, row in enumerate(split.manifest)}
        mask = sample.missing_tokens(cfg.sample, 4, 4, 0).view(4, 4, 4).numpy()
        assert mask.sum() == 4 * 8
        for number, row in enumerate(rows):
            known = tokens.indices[at[row["path"]]]
            assert (indices[number] == known)[~mask[number]].all() and row["missing_tokens"] == "8"
            assert float(row["right_codes"]) == pytest.approx((indices[number] == known)[mask[number]].mean())


def test_the_seed_decides_what_is_drawn(made):
    drawn = []
    for seed in (0, 0, 1):
        sample.run(settings(*made[:2], run__seed=seed))
        drawn.append(np.load(newest(made[0], "sample") / "indices.npy"))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


# --- killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gan", "pixelcnn"])
def test_killed_and_resumed_ends_with_the_same_weights(made, monkeypatch, kind):
    """For the GAN that includes the discriminator and its optimizer, without which the generator would differ."""
    cfg = settings(*made[:2], train_prior={"kind": kind, "epochs": 4, "patience": 9}, run__seed=7)
    learner = learners.GANLearner if kind == "gan" else learners.PixelCNNLearner
    plain, steps = learner.step, []

    def dying(self, rows, generator):
        steps.append(1)
        if len(steps) == 11:  # in the third epoch of four steps
            raise KeyboardInterrupt
        return plain(self, rows, generator)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train_prior.run(cfg)
    killed = newest(made[0], "train_prior")
    torch.manual_seed(99)
    train_prior.run(cfg, resume=True)
    assert newest(made[0], "train_prior") == killed and read_json(killed / "run.json")["status"] == "finished"
    train_prior.run(cfg)
    whole = newest(made[0], "train_prior")
    assert whole != killed and read_json(whole / "run.json")["digest"] == read_json(killed / "run.json")["digest"]
    for file in ("model/model.safetensors", "last/fit.safetensors", "metrics.jsonl", "samples.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"mode": "conditional", "label": "cat"},
            "--class cat is not a class of the data; it has class0, class1, class2",
        ),
        ({"label": "class0"}, "mode unconditional is told nothing, but --class or --values is given"),
        ({"guidance_scale": 2.0}, "--guidance-scale is 2, but mode unconditional is told nothing"),
        ({"prior": "gan", "top_k": 3}, "a GAN makes all codes at once"),
        (
            {"prior": "gan", "mode": "conditional"},
            r"no finished run of train_prior for gan told the class .*type: python ",
        ),
        ({"prior": "distil", "mode": "conditional", "values": [3]}, "the DistilBERT can be told classes only"),
        ({"mode": "conditional", "values": [3], "guidance_scale": 2.0}, "trained without label dropping, so --guid"),
        ({"mode": "conditional", "values": [3, 4]}, "no finished run of train_prior for pixelcnn told 2 values"),
        ({"mode": "conditional", "values": [3], "label": "class0"}, "told the class and 1 value "),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_no_folder(made, asked, message):
    before = sorted((made[0] / "sample").iterdir())
    with pytest.raises(InputError, match=message) as caught:
        sample.run(settings(*made[:2], sample=asked))
    assert "\n" not in str(caught.value) and sorted((made[0] / "sample").iterdir()) == before


def named(made, told: str) -> str:
    best = read_best(made[0], "train_prior")
    return str(made[0] / "train_prior" / next(v["run"] for k, v in best.items() if k.endswith(f"-prior {told}")))


def test_a_named_prior_is_asked_for_what_it_knows_only(made):
    with pytest.raises(InputError, match="was trained to be told nothing, but is asked for class"):
        sample.run(settings(*made[:2], sample={"mode": "conditional", "prior_run": named(made, "pixelcnn")}))
    with pytest.raises(InputError, match="without label dropping, so it must be told something"):
        sample.run(settings(*made[:2], sample={"prior_run": named(made, "pixelcnn by age")}))
    with pytest.raises(InputError, match=r"kind is gan, but pixelcnn is needed here; type: python train_prior\.py"):
        sample.run(settings(*made[:2], sample={"prior_run": named(made, "gan")}))
    sample.run(settings(*made[:2], sample={"prior_run": named(made, "pixelcnn by class")}))  # it can do without


def test_prior_of_another_codebook_is_refused(made, tmp_path):
    other = tmp_path / "other"
    import shutil

    shutil.copytree(named(made, "pixelcnn"), other)
    meta = read_json(other / "model" / "meta.json")
    write_json(other / "model" / "meta.json", meta | {"codebook": "0123456789ab"})
    with pytest.raises(InputError, match=r"codebook is 0123456789ab, but [0-9a-f]{12} is needed here; type: python "):
        sample.run(settings(*made[:2], sample={"prior_run": str(other)}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("old", r"age of .*png is 'old'; expected a number"),
        ("", r"age of .*png is empty"),
        ("inf", r"is 'inf'; expected"),
    ],
)
def test_metadata_that_is_no_number(made, tmp_path, value, message):
    runs, source = tmp_path / "runs", made[1]
    (*others, last) = pictures_in(source)
    write_csv(tmp_path / "ages.csv", ("path", "age"), [*((path, 1) for path in others), (last, value)])
    data_split.run(settings(runs, source, data__metadata=str(tmp_path / "ages.csv")))
    split = open_split(settings(runs, source, data__metadata=str(tmp_path / "ages.csv")))
    with pytest.raises(InputError, match=message) as caught:
        train_prior.columns_told(TrainPriorSection(condition_numbers=["age"]), split)
    assert "\n" not in str(caught.value)


def test_metadata_that_is_not_there_leaves_no_folder(made):
    before = sorted((made[0] / "train_prior").iterdir())
    with pytest.raises(InputError, match="there is no metadata height in the manifest; expected one of: class, age"):
        train_prior.run(settings(*made[:2], train_prior__condition_numbers=["height"]))
    assert sorted((made[0] / "train_prior").iterdir()) == before


def test_a_study_of_two_kinds_is_refused():
    with pytest.raises(loading.ConfigError, match="expected one kind of prior in a study"):
        loading.check({"train_prior": {"tune": {"space": {"kind": ["gan", "pixelcnn"]}}}})


def test_without_classes_both_stages_say_so(made, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in made[1].rglob("*.png"):
        (flat / f"{picture.parent.name}{picture.name}").write_bytes(picture.read_bytes())
    cfg = settings(tmp_path / "runs", flat)
    data_split.run(cfg)
    with pytest.raises(InputError, match="condition_on_class needs pictures with classes, these have none"):
        train_prior.run(settings(tmp_path / "runs", flat, train_prior__condition_on_class=True))
    with pytest.raises(InputError, match="mode conditional with classes needs pictures with classes, these have none"):
        sample.run(settings(tmp_path / "runs", flat, sample={"mode": "conditional"}))


# --- what priors can be told ------------------------------------------------------------------------------------------


def test_columns_of_numbers_and_classes_are_told_and_asked_for_in_that_order(made):
    _, source, folder, _ = made
    sites = [(path, 20 + n % 7, "north" if n % 2 else "south") for n, path in enumerate(pictures_in(source))]
    write_csv(folder / "sites.csv", ("path", "age", "site"), sites)
    other = folder / "told"
    facts = {"data__metadata": str(folder / "sites.csv"), "train_prior__condition_numbers": ["age"]}
    facts["train_prior__condition_classes"] = ["site"]
    for stage in (data_split, train_vqvae, vqvae_reconstruction, train_prior):
        stage.run(settings(other, source, **facts))
    ask = {"mode": "conditional", "prior": "pixelcnn"}
    sample.run(settings(other, source, **facts, sample=ask | {"values": ["23", "north"]}))
    assert len(read_csv(newest(other, "sample") / "samples.csv")) == 4
    for values, message in (
        (["north", "23"], "metadata age of --values is 'north'; expected a number"),
        (
            ["23", "east"],
            "metadata site of --values is 'east', which training did not have; expected one of: north, so",
        ),
    ):
        with pytest.raises(InputError, match=message):
            sample.run(settings(other, source, **facts, sample=ask | {"values": values}))
    train_prior.run(settings(other, source, **facts | {"train_prior__condition_numbers": []}))
    only_age = {"train_prior__condition_classes": []}
    train_prior.run(settings(other, source, **facts | only_age))
    with pytest.raises(InputError, match="may be one that is told site or age; name its run folder"):
        sample.run(settings(other, source, **facts, sample=ask | {"values": ["23"]}))


def test_more_samples_than_test_pictures_are_as_many_as_there_are(made):
    asked = {"mode": "inpainting", "label": "class1", "num_samples": 500}
    sample.run(settings(*made[:2], sample=asked))
    split = open_split(settings(*made[:2]))
    assert len(read_csv(newest(made[0], "sample") / "samples.csv")) == len(split.positions("test"))


def test_what_priors_are_measured_on_is_spread_over_all_classes(made):
    """The manifest lies class by class."""
    cfg = settings(*made[:2])
    split = open_split(cfg)
    test = split.positions("test")
    few = spread(test, len(split.classes))
    assert sorted(split.labels[few]) == list(range(len(split.classes)))
    assert (spread(test, 10**6) == test).all()


def test_samples_are_asked_for_what_is_told_of_pictures_of_all_classes():
    facts = torch.eye(3).repeat_interleave(5, dim=0)  # as in the manifest: class by class
    for count in (3, 7, 14, 15, 40):
        asked = train_prior.val_facts(SimpleNamespace(data=SimpleNamespace(val_facts=facts)), count)
        per_class = asked.sum(0)
        assert len(asked) == count and per_class.max() - per_class.min() <= max(1, count // len(facts) + 1)
