"""train_prior.py on a few dozen pictures: what it leaves behind, what it refuses, killed runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_indices, take_vqvae
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_csv
from masked_memory.pipeline.runs import read_best
from masked_memory.rivals.handoff.priors import take_prior
from masked_memory.rivals.priors import learners
from masked_memory.rivals.priors.pixelcnn import PixelCNN, code_losses
from masked_memory.settings.sample import SampleSection
from masked_memory.settings.train_prior import TrainPriorSection
from masked_memory.stages import data_split, train_prior
from toys import CPU, newest, pictures_in, prior_settings


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
    cfg = prior_settings(*made[:2])
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, CPU)
    tokens = take_indices(cfg, "best", split, vqvae).tokens(split.positions("test"))
    handed = take_prior(cfg, "best", "pixelcnn", split, vqvae, True, 0)
    assert isinstance(handed.model, PixelCNN) and handed.columns.classes[0].values == ("class0", "class1", "class2")
    metrics = read_json(handed.folder / "metrics.json")
    told = handed.columns.tell(split.manifest).rows(split.positions("test"))
    facts = handed.columns.facts(told)
    with torch.no_grad():
        told, untold = (float(code_losses(handed.model, tokens, f).mean()) / np.log(2) for f in (facts, None))
    assert metrics["test_bits_per_code"] == pytest.approx(told, rel=1e-5)
    assert metrics["test_untold_bits_per_code"] == pytest.approx(untold, rel=1e-5)


def test_numbers_are_standardised_on_train(made):
    cfg = prior_settings(*made[:2])
    split = open_split(cfg)
    asked = TrainPriorSection(condition_on_class=True, condition_numbers=["age"])
    columns = train_prior.columns_told(asked, split)
    told = columns.facts(columns.tell(split.manifest))
    train = told[torch.from_numpy(split.positions("train"))]
    assert told.shape == (len(split.manifest), 4) and columns.names == ["class", "age"]
    assert torch.allclose(train[:, 3].mean(), torch.zeros(()), atol=1e-6)
    assert torch.allclose(train[:, 3].std(correction=0), torch.ones(()), atol=1e-5)
    assert (told[:, :3].argmax(1).numpy() == split.labels).all() and (told[:, :3].sum(1) == 1).all()


# --- killed and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("kind", ["gan", "pixelcnn"])
def test_killed_and_resumed_ends_with_the_same_weights(made, monkeypatch, kind):
    """For the GAN that includes the discriminator and its optimizer, without which the generator would differ."""
    cfg = prior_settings(*made[:2], train_prior={"kind": kind, "epochs": 4, "patience": 9}, run__seed=7)
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
    for file in ("model/model.safetensors", "metrics.jsonl", "samples.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file
    left, right = (load_file(folder / "last" / "fit.safetensors") for folder in (killed, whole))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


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
    data_split.run(prior_settings(runs, source, data__metadata=str(tmp_path / "ages.csv")))
    split = open_split(prior_settings(runs, source, data__metadata=str(tmp_path / "ages.csv")))
    with pytest.raises(InputError, match=message) as caught:
        train_prior.columns_told(TrainPriorSection(condition_numbers=["age"]), split)
    assert "\n" not in str(caught.value)


def test_metadata_that_is_not_there_leaves_no_folder(made):
    before = sorted((made[0] / "train_prior").iterdir())
    with pytest.raises(InputError, match="there is no metadata height in the manifest; expected one of: class, age"):
        train_prior.run(prior_settings(*made[:2], train_prior__condition_numbers=["height"]))
    assert sorted((made[0] / "train_prior").iterdir()) == before


def test_samples_are_asked_for_what_is_told_of_pictures_of_all_classes():
    facts = torch.eye(3).repeat_interleave(5, dim=0)  # as in the manifest: class by class
    for count in (3, 7, 14, 15, 40):
        asked = train_prior.val_facts(SimpleNamespace(data=SimpleNamespace(val_facts=facts)), count)
        per_class = asked.sum(0)
        assert len(asked) == count and per_class.max() - per_class.min() <= max(1, count // len(facts) + 1)
