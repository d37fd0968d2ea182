"""Pictures changed in training: moved, mirrored, turned, degraded."""

import pytest
import torch

from masked_memory.models.augmentation import augment, degrade, flip, shift_reflected


@pytest.mark.parametrize(("kind", "ways"), [("none", 1), ("flip", 2), ("dihedral", 8)])
def test_augmentation_shows_each_way_about_equally_often(kind, ways, draws):
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(800, 1, 1, 1)
    before = draws.get_state()
    found = augment(x, kind, draws)
    assert found.shape == x.shape and (found.sum((1, 2, 3)) == x.sum((1, 2, 3))).all()
    _, counts = torch.unique(found.flatten(1), dim=0, return_counts=True)
    assert len(counts) == ways and counts.min() > 0.6 * 800 / ways
    assert (kind == "none") == torch.equal(before, draws.get_state()), "none must leave other draws as they were"


def test_shifted_pictures_are_windows_of_the_picture_with_its_border_repeated(draws):
    x = torch.rand(1, 2, 32, 32).repeat(400, 1, 1, 1)
    found = augment(x, "shift", draws)
    assert found.shape == x.shape and found.is_contiguous(memory_format=torch.channels_last)
    most, index = 2, torch.arange(32)  # a sixteenth of the side
    ways = {}
    for down in range(-most, most + 1):
        for across in range(-most, most + 1):
            for mirrored, picture in ((False, x[0]), (True, x[0].flip(2))):
                window = picture[:, (index + down).clamp(0, 31)][:, :, (index + across).clamp(0, 31)]
                ways[down, across, mirrored] = int((found == window).all((1, 2, 3)).sum())
    assert sum(ways.values()) == 400 and len(ways) == 50
    assert min(ways.values()) > 0 and max(ways.values()) < 30, "each way about equally often"


def test_pictures_smaller_than_sixteen_pixels_can_be_shifted(draws):
    assert augment(torch.rand(3, 1, 8, 8), "shift", draws).shape == (3, 1, 8, 8)


def test_shift_moves_each_picture_by_itself_and_by_no_more_than_allowed():
    dot = torch.full((64, 1, 16, 16), -1.0)
    dot[:, :, 8, 8] = 1
    moved = shift_reflected(dot, 2, torch.Generator().manual_seed(0))
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
