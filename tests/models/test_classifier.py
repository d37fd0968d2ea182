"""The classifiers and their augmentation."""

import pytest
import torch
import torch.nn.functional as F

from models.classifier import Classifier, ClassifierConfig, degrade, describe_config, flip, load_classifier, shift
from pipeline.files import write_json, write_safetensors
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


def noise(count: int, height: int = 16, width: int = 16, channels: int = 3) -> torch.Tensor:
    """No pixel stays as it is under a blur."""
    return torch.rand(count, channels, height, width) * 2 - 1


def cells_of(changed: torch.Tensor, cell: int) -> torch.Tensor:
    """(B, H, W) -> (B, h, w, pixels of the cell); H and W are multiples of `cell`."""
    return changed.unfold(1, cell, cell).unfold(2, cell, cell).flatten(3)


@pytest.mark.parametrize(("height", "width", "cell"), [(16, 16, 4), (10, 14, 4), (8, 8, 16), (32, 24, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_degraded_pictures_keep_shape_range_and_type(height, width, cell, channels, draws):
    """Also when cells are cut off at the edge, or larger than the picture."""
    pictures = noise(40, height, width, channels)
    before = pictures.clone()
    found = degrade(pictures, cell, draws)
    assert found.shape == pictures.shape and found.dtype == torch.float32
    assert found.isfinite().all() and found.min() >= -1 and found.max() <= 1
    assert torch.equal(pictures, before) and not torch.equal(found, before)


def test_pictures_are_degraded_in_float32_within_bf16_training(draws):
    pictures = noise(20)
    expected = degrade(pictures, 4, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = degrade(pictures, 4, draws)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_the_same_generator_degrades_the_same_way():
    pictures = noise(20)
    first, again, other = (degrade(pictures, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_about_one_picture_in_four_stays_as_it_is(draws):
    """400 pictures: 100 are left alone, with a standard deviation of 8.7; a few more have no cell chosen by chance."""
    pictures = noise(400)
    changed = (degrade(pictures, 4, draws) != pictures).flatten(1).any(1)
    assert 75 <= 400 - int(changed.sum()) <= 135


def test_half_of_the_pictures_have_grey_cells_and_none_is_all_grey(draws):
    """At most three of four cells are grey on average."""
    grey = (degrade(noise(400, 32, 32), 4, draws) == 0).all(1).flatten(1).float().mean(1)
    assert 160 <= int((grey > 0).sum()) <= 225
    assert 0.6 < float(grey.max()) < 0.95


@pytest.mark.parametrize("cell", [4, 8])
def test_degrading_changes_whole_cells_of_the_grid(cell, draws):
    """Within a cell nearly all pixels change or none does (a faint blur may leave a few as they were); grey cells are
    grey all over."""
    pictures = noise(200, 32, 32)
    found = degrade(pictures, cell, draws)
    changed = cells_of((found != pictures).any(1), cell).float().mean(3)
    grey = cells_of((found == 0).all(1), cell).float().mean(3)
    assert ((changed == 0) | (changed > 0.9)).all()
    assert ((grey == 0) | (grey == 1)).all()
    kept = [(share == 0).flatten(1).any(1) & (share > 0).flatten(1).any(1) for share in (changed, grey)]
    assert all(mixed.float().mean() > 0.25 for mixed in kept), "some cells of a picture and not all"


def test_blurred_cells_are_nearer_to_their_surroundings(draws):
    """Blurring takes the differences between neighbours away."""

    def roughness(x: torch.Tensor) -> float:
        return float((x[..., 1:] - x[..., :-1]).square().mean())

    pictures = noise(100, 32, 32)
    assert roughness(degrade(pictures, 4, draws)) < 0.8 * roughness(pictures)


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
