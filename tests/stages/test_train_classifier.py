"""What the classifier is trained and judged on, and the tables made of its answers."""

import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from masked_memory.stages.train_classifier import (
    ClassifierLearner,
    build_classifier,
    class_table,
    confusion_matrix,
    top_k,
)

from masked_memory.models.augmentation import degrade
from masked_memory.settings.train_classifier import TrainClassifierSection
from masked_memory.sources.splitting import SPLITS
from masked_memory.stages import data_split
from toys import classifier_config, fake_split, fill_folder, handed_vqvae, refused_in_one_line, tiny_vqvae


def batch(architecture: str, image_size: int, channels: int, count: int = 3) -> torch.Tensor:
    if architecture == "codes":
        return torch.randint(0, 16, (count, image_size // 4, image_size // 4))
    return torch.rand(count, channels, image_size, image_size) * 2 - 1


def learner(machine, section: dict) -> ClassifierLearner:
    """On eight pictures of noise, two of each class in training and in validation."""
    torch.manual_seed(0)
    split = fake_split(["train", "val"] * 4)
    split = replace(split, labels=np.arange(8) // 2 % 2)
    vqvae = handed_vqvae(tiny_vqvae())
    made = ClassifierLearner(TrainClassifierSection.model_validate(section), split, vqvae, machine, 0, with_val=False)
    made.model.eval()
    return made


def test_degraded_pictures_count_in_the_validation_loss_and_not_in_the_error(machine):
    made = learner(machine, {})
    values = made.validate()
    kinds = ("originals", "reconstructions", "degraded")
    assert values["loss"] == pytest.approx(sum(values[f"loss_{kind}"] for kind in kinds) / 3)
    assert values["error"] == pytest.approx((values["error_originals"] + values["error_reconstructions"]) / 2)
    assert made.validate() == values, "the same draws each time"
    assert len({values[f"loss_{kind}"] for kind in kinds}) == 3


@pytest.mark.parametrize("inputs", ["originals", "reconstructions"])
def test_a_classifier_is_judged_on_what_it_is_trained_for(machine, inputs):
    values = learner(machine, {"inputs": inputs}).validate()
    assert set(values) == {"loss", "error", *(f"{n}_{k}" for n in ("loss", "error") for k in (inputs, "degraded"))}
    assert values["loss"] == pytest.approx((values[f"loss_{inputs}"] + values["loss_degraded"]) / 2)
    assert values["error"] == values[f"error_{inputs}"]


@pytest.mark.parametrize("section", [{"degrade": False}, {"architecture": "codes"}])
def test_without_degrading_validation_has_no_such_loss(machine, section):
    """A classifier of codes sees no pixels."""
    values = learner(machine, section).validate()
    assert not any("degraded" in name for name in values)
    assert values["loss"] == pytest.approx((values["loss_originals"] + values["loss_reconstructions"]) / 2)


@pytest.mark.parametrize("degraded", [False, True])
def test_training_sees_degraded_pictures_when_asked_to(machine, degraded):
    made, seen = learner(machine, {"degrade": degraded, "inputs": "originals", "augmentation": "none"}), []
    made.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    made.step(torch.arange(4), torch.Generator().manual_seed(0))
    originals = made.split.pictures(made.train_positions)
    assert torch.equal(seen[0], originals) != degraded
    if degraded:
        assert torch.equal(seen[0], degrade(originals, 4, torch.Generator().manual_seed(0)))


def test_a_split_of_an_earlier_version_with_pictures_without_a_class_is_refused_at_once(tmp_path, monkeypatch, typed):
    """Before the VQ-VAE is asked for. What is then typed makes a split that is taken."""
    for number, part in enumerate(("train/a", "train/b", "val/a", "val/b", "test")):
        fill_folder(tmp_path / "set" / part, 6, first=100 * number)
    runs, source = tmp_path / "runs", tmp_path / "set"
    with monkeypatch.context() as earlier:
        earlier.setattr(data_split, "choose", lambda found, data: (found, list(SPLITS)))
        earlier.setattr(data_split, "check_learnt", lambda pictures, data: None)
        assert typed("data_split", runs, source)[0] == 0
    status, _, error = typed("train_classifier", runs, source)
    refused_in_one_line(status, error, "6 pictures of test have no class, but others have", "--data.classes 2")
    command, _, stage = error.partition("type: ")[2].partition(" and then this stage with ")
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    assert data_split.main() == 0
    options = stage.removesuffix(", too\n").split()
    refused_in_one_line(*typed("train_classifier", runs, source, *options)[::2], "no finished run of train_vqvae")


def test_missing_pretrained_weights_are_said_plainly(capsys, monkeypatch):
    import torchvision.models

    real = torchvision.models.resnet18

    def offline(weights=None):
        if weights:
            raise OSError("no route to host")
        return real()

    monkeypatch.setattr(torchvision.models, "resnet18", offline)
    model = build_classifier(classifier_config("resnet18", 4, 3, 32, 16), pretrained=True)
    printed = capsys.readouterr()
    assert "cannot be had (no route to host): starting from random weights" in printed.out + printed.err
    assert model.eval()(batch("resnet18", 32, 3)).shape == (3, 4)


def test_top_k_known_answer():
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3]])
    labels = torch.tensor([1, 0])
    assert [top_k(logits, labels, k) for k in (1, 2, 4)] == [0.0, 0.5, 1.0]
    assert top_k(logits, labels, 5) == 1.0  # fewer than five classes


def test_confusion_and_class_table_known_answer():
    confusion = confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 2)
    assert confusion.tolist() == [[1, 2], [0, 1]]
    assert class_table(confusion, ["a", "b"]) == [["a", 3, "0.3333", "1.0000", "b"], ["b", 1, "1.0000", "0.3333", ""]]
