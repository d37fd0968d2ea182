"""The classifiers."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from masked_memory.models.classifier import Classifier, ClassifierConfig
from masked_memory.pipeline.files import write_json, write_safetensors
from toys import classifier_config


def batch(architecture: str, image_size: int, channels: int, count: int = 3) -> torch.Tensor:
    if architecture == "codes":
        return torch.randint(0, 16, (count, image_size // 4, image_size // 4))
    return torch.rand(count, channels, image_size, image_size) * 2 - 1


@pytest.mark.parametrize("architecture", ["compact", "codes", "resnet18", "resnet50"])
@pytest.mark.parametrize(("image_size", "channels"), [(32, 3), (128, 1)])
def test_each_architecture_gives_a_logit_per_class(architecture, image_size, channels):
    model = Classifier(classifier_config(architecture, 4, channels, image_size, 16)).eval()
    assert model(batch(architecture, image_size, channels)).shape == (3, 4)


@pytest.mark.parametrize("architecture", ["compact", "codes"])
def test_one_batch_can_be_learnt_by_heart(architecture):
    model = Classifier(classifier_config(architecture, 4, 3, 16, 16))
    x, labels = batch(architecture, 16, 3, 16), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert (model(x).argmax(1) == labels).all()


def test_small_pictures_keep_more_positions_through_the_stem():
    small, large = (
        Classifier(classifier_config("resnet18", 4, 3, 32, 16)).net,
        Classifier(classifier_config("resnet18", 4, 3, 128, 16)).net,
    )
    assert small.conv1.stride == (1, 1) and large.conv1.stride == (2, 2)


def test_pictures_are_normalised_by_the_training_mean():
    """A constant picture of the mean colour and one shifted with its config's mean give the same logits."""
    model = Classifier(classifier_config("compact", 4, 3, 32, 16)).eval()
    x = batch("compact", 32, 3)
    before = model(x)
    model.mean += 0.1
    assert torch.allclose(model(x + 0.2), before, atol=1e-4)  # 0.1 of [0, 1] is 0.2 of [-1, 1]


def test_saved_and_loaded_gives_the_same_logits(tmp_path):
    model = Classifier(classifier_config("compact", 4, 3, 32, 16)).eval()
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    write_json(tmp_path / "config.json", asdict(model.config))
    x = batch("compact", 32, 3)
    assert torch.equal(Classifier.from_pretrained(tmp_path)(x), model(x))


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


@pytest.mark.parametrize("architecture", ["compact", "codes"])
def test_a_wider_classifier_has_more_channels_and_says_so_when_it_is_built_again(architecture: str) -> None:
    plain, wide = (Classifier(replace(classifier_config(architecture), width=width)) for width in (1, 2))
    last = [model.net.head[1].in_features for model in (plain, wide)]
    assert last[1] == 2 * last[0]
    weights = [sum(p.numel() for p in model.parameters()) for model in (plain, wide)]
    assert 3 < weights[1] / weights[0] < 4, "nearly the square of the width"
    seen = torch.zeros(2, 4, 4, dtype=torch.long) if architecture == "codes" else torch.zeros(2, 3, 16, 16)
    assert wide.eval()(seen).shape == (2, 3)
