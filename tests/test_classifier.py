"""The classifiers, their augmentation, and the tables made of their answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from classifier import Classifier, ClassifierConfig, describe_config, flip, load_classifier, shift
from pipeline.files import write_json, write_safetensors
from train_classifier import build_classifier, class_table, confusion_matrix, top_k


def config(architecture: str, image_size: int = 32, channels: int = 3) -> ClassifierConfig:
    mean, std = (0.5,) * channels, (0.25,) * channels
    return ClassifierConfig(architecture, 4, channels, image_size, 16, 0.0, mean, std)


def batch(architecture: str, image_size: int, channels: int, count: int = 3) -> torch.Tensor:
    if architecture == "codes":
        return torch.randint(0, 16, (count, image_size // 4, image_size // 4))
    return torch.rand(count, channels, image_size, image_size) * 2 - 1


@pytest.mark.parametrize("architecture", ["compact", "codes", "resnet18", "resnet50"])
@pytest.mark.parametrize(("image_size", "channels"), [(32, 3), (128, 1)])
def test_each_architecture_gives_a_logit_per_class(architecture, image_size, channels):
    model = Classifier(config(architecture, image_size, channels)).eval()
    assert model(batch(architecture, image_size, channels)).shape == (3, 4)


@pytest.mark.parametrize("architecture", ["compact", "codes"])
def test_one_batch_can_be_learnt_by_heart(architecture):
    model = Classifier(config(architecture, 16))
    x, labels = batch(architecture, 16, 3, 16), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert (model(x).argmax(1) == labels).all()


def test_small_pictures_keep_more_positions_through_the_stem():
    small, large = Classifier(config("resnet18", 32)).net, Classifier(config("resnet18", 128)).net
    assert small.conv1.stride == (1, 1) and large.conv1.stride == (2, 2)


def test_pictures_are_normalised_by_the_training_mean():
    """A constant picture of the mean colour and one shifted with its config's mean give the same logits."""
    model = Classifier(config("compact")).eval()
    x = batch("compact", 32, 3)
    before = model(x)
    model.mean += 0.1
    assert torch.allclose(model(x + 0.2), before, atol=1e-4)  # 0.1 of [0, 1] is 0.2 of [-1, 1]


def test_saved_and_loaded_gives_the_same_logits(tmp_path):
    model = Classifier(config("compact")).eval()
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    write_json(tmp_path / "config.json", describe_config(model.config))
    x = batch("compact", 32, 3)
    assert torch.equal(load_classifier(tmp_path, torch.device("cpu"))(x), model(x))


def test_missing_model_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python train_classifier\.py"):
        load_classifier(tmp_path, torch.device("cpu"))


def test_shift_moves_each_picture_by_itself_and_by_no_more_than_allowed():
    dot = torch.full((64, 1, 16, 16), -1.0)
    dot[:, :, 8, 8] = 1
    moved = shift(dot, 2, torch.Generator().manual_seed(0))
    where = moved.flatten(1).argmax(1)
    rows, columns = where // 16, where % 16
    assert (moved.flatten(1).max(1).values == 1).all()
    assert (rows - 8).abs().max() == 2 and (columns - 8).abs().max() == 2
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) > 10


def test_flip_tosses_a_coin_for_each_picture():
    x = torch.rand(200, 1, 4, 4)
    flipped = flip(x, torch.Generator().manual_seed(0))
    turned = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, x, strict=True)])
    assert (turned | kept).all() and 70 < turned.sum() < 130


def test_missing_pretrained_weights_are_said_plainly(capsys, monkeypatch):
    import torchvision.models

    real = torchvision.models.resnet18

    def offline(weights=None):
        if weights:
            raise OSError("no route to host")
        return real()

    monkeypatch.setattr(torchvision.models, "resnet18", offline)
    model = build_classifier(config("resnet18"), pretrained=True)
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
