"""The masked autoencoder: what it may see, that it learns, that it comes back from disk. 4x4 cells of 4x4 pixels."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from masked_memory.models.positions import NearAndFar
from masked_memory.pipeline.files import InputError, write_json, write_safetensors
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder
from masked_memory.stages.masking import touched_pixels
from toys import seeded, tiny_mae

N, SIZE = 16, 16


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(4, 3, SIZE, SIZE, generator=seeded(0)) * 2 - 1


@pytest.fixture
def mask() -> Tensor:
    """Nothing, the upper half, all but cell 5, everything."""
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[1, :8] = True
    mask[2] = torch.arange(N) != 5
    mask[3] = True
    return mask


@pytest.mark.usefixtures("no_gradients")
def test_nothing_depends_on_hidden_pixels_and_something_on_each_visible_cell(pictures: Tensor, mask: Tensor) -> None:
    model = tiny_mae()
    painted = model(pictures, mask)
    assert painted.shape == pictures.shape and painted.isfinite().all()
    hidden = touched_pixels(mask, SIZE, SIZE, 4).unsqueeze(1)
    assert torch.equal(model(torch.where(hidden, float("nan"), pictures).nan_to_num(9.0), mask), painted)
    for cell in range(8, N):
        one = torch.zeros(4, N, dtype=torch.bool)
        one[1, cell] = True
        changed = torch.where(touched_pixels(one, SIZE, SIZE, 4).unsqueeze(1), -pictures, pictures)
        assert (model(changed, mask)[1, :, :8] - painted[1, :, :8]).abs().amax() > 1e-5, cell


@pytest.mark.usefixtures("no_gradients")
def test_cells_that_only_fill_up_a_batch_change_nothing(pictures: Tensor, mask: Tensor) -> None:
    model = tiny_mae()
    alone = torch.cat([model(pictures[i : i + 1], mask[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, model(pictures, mask), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("no_gradients")
def test_cells_are_where_they_are(pictures: Tensor) -> None:
    """What changes at one place changes the painting most there."""
    model = tiny_mae()
    none = torch.zeros(4, N, dtype=torch.bool)
    changed = pictures.clone()
    changed[:, :, 4:8, 8:12] *= -1
    moved = (model(changed, none) - model(pictures, none)).abs().mean((0, 1))
    cells = moved.unfold(0, 4, 4).unfold(1, 4, 4).mean((2, 3))
    assert int(cells.argmax()) == 1 * 4 + 2


def test_it_learns_to_continue_what_it_sees(draws: torch.Generator) -> None:
    """Pictures of one grey each: the visible cells tell what is hidden."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(replace(tiny_mae().config, channels=1, mean=(0.5,), std=(0.25,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def error() -> Tensor:
        greys = torch.rand(16, 1, 1, 1, generator=draws) * 2 - 1
        mask = torch.rand(16, N, generator=draws) < 0.7
        wrong = (model(greys.expand(-1, 1, SIZE, SIZE), mask) - greys).square()
        return wrong[touched_pixels(mask, SIZE, SIZE, 4).unsqueeze(1)].mean()

    for _ in range(80):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert error().item() < 0.03, "the variance of the greys is a third"


def test_every_weight_is_trained(pictures: Tensor, mask: Tensor) -> None:
    model = tiny_mae().train()
    model(pictures, mask).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_each_head_starts_with_a_direction_of_its_own() -> None:
    """The cell 5 of a 4x4 grid: right, down, left, up."""
    bias = NearAndFar(4, 4)()
    assert bias.shape == (1, 4, N + 1, N + 1) and not bias[:, :, 0].any() and not bias[:, :, :, 0].any()
    assert bias[0, :, 6, 1:].argmax(1).tolist() == [6, 9, 4, 1]


@pytest.mark.usefixtures("no_gradients")
def test_the_bias_of_some_cells_is_that_of_all(draws: torch.Generator) -> None:
    near = NearAndFar(3, 2)
    near.table.copy_(torch.rand(near.table.shape, generator=draws))
    places = torch.tensor([[4, 0, 8], [7, 2, 1]])
    whole, some = near()[0], near(places)
    for picture, cells in enumerate(places):
        chosen = torch.cat([torch.zeros(1, dtype=torch.long), cells + 1])
        assert torch.equal(some[picture], whole[:, chosen][:, :, chosen])


@pytest.mark.usefixtures("no_gradients")
def test_it_comes_back_from_disk(tmp_path: Path, pictures: Tensor, mask: Tensor) -> None:
    model = tiny_mae()
    with pytest.raises(InputError, match=r"type: python -m masked_memory train_mae"):
        MaskedAutoencoder.from_pretrained(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    write_json(tmp_path / "config.json", asdict(model.config))
    loaded = MaskedAutoencoder.from_pretrained(tmp_path)
    assert loaded.config == model.config and not loaded.training
    assert torch.equal(loaded(pictures, mask), model(pictures, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 18}, "image_size 18 is not divisible by stride 4"),
        ({"heads": 3}, "dim is 16; expected a multiple of 4 and of heads 3"),
        ({"decoder_dim": 10}, "decoder_dim is 10; expected a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_mae().config, **change)
