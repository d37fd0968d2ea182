"""Priors are compared on the same masks, and a VQ-VAE with masked components sees no masked cell."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from masked_memory.measuring.study import Batch, batches_of
from masked_memory.pipeline.machine import generator
from masked_memory.pipeline.metrics import to_unit
from masked_memory.recall.fillers import MeanOfDraws, Way
from masked_memory.recall.hole import Filled, Hole, dig
from masked_memory.recall.memory import Memory
from masked_memory.rivals.fillers import MaskedVQVAEFiller
from masked_memory.rivals.measuring.priors import INPAINTING_HEADER, measure_inpainting, middle_percent, shared_mask
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.stages.masking import random_mask, touched_pixels
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig
from toys import enlarge, fake_indices, fake_split, notes_of, tiny_memory


def test_masks_are_exact_and_the_same_for_all_who_ask():
    memory = tiny_memory()
    for kind in ("random", "block", "half"):
        found = shared_mask(kind, 50, 5, memory, 3, 0)
        assert found.sum(1).tolist() == [memory.tokens // 2] * 5
        assert torch.equal(found, shared_mask(kind, 50, 5, memory, 3, 0))
    assert not torch.equal(shared_mask("random", 50, 5, memory, 3, 0), shared_mask("random", 50, 5, memory, 3, 5))


# Masked cells for a VQ-VAE with masked components
SIDE, STRIDE = 3, 4  # of the grids of test_recall
CELLS = SIDE**2


def masked_vqvae() -> VQVAE:
    """Other weights than the memory's; its codes lie where what it encodes lies, so that most pixels matter."""
    torch.manual_seed(5)
    size = SIDE * STRIDE
    model = VQVAE(VQVAEConfig(image_size=size, hidden=16, residual_blocks=0, codebook_size=64, code_dim=8))
    with torch.no_grad():
        model.train()(torch.rand(40, 3, size, size) * 2 - 1, generator(0))
    return model.eval()


@torch.no_grad()
def painted_from(model: VQVAE, truth: Tensor, mask: Tensor) -> Tensor:
    """truth: (B, C, H, W) in [0, 1]."""
    hole = dig(torch.zeros(len(truth), CELLS, dtype=torch.long), mask, pixels=truth * 2 - 1, stride=STRIDE)
    filled = MaskedVQVAEFiller("masked", model).fill(hole, "argmax", None)
    assert filled.pictures is not None
    return filled.pictures


def unlike(truth: Tensor) -> Tensor:
    """Other pictures in [0, 1], each pixel far from its own."""
    return (truth + 0.5) % 1


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(6, 3, SIDE * STRIDE, SIDE * STRIDE, generator=generator(2))


@pytest.fixture
def cells() -> Tensor:
    """Another four of nine for each picture."""
    return random_mask(6, CELLS, 4 / 9, generator(3))


def test_pixels_in_masked_cells_are_not_looked_at(pictures: Tensor, cells: Tensor) -> None:
    model = masked_vqvae()
    inside = touched_pixels(cells, SIDE * STRIDE, SIDE * STRIDE, STRIDE).unsqueeze(1)
    before = painted_from(model, pictures, cells)
    assert torch.equal(painted_from(model, torch.where(inside, unlike(pictures), pictures), cells), before)
    nothing = torch.zeros_like(cells)
    assert not torch.equal(painted_from(model, pictures, nothing), before), "unhidden they would matter"


def test_pixels_of_every_cell_that_is_not_masked_are_looked_at(pictures: Tensor, cells: Tensor) -> None:
    """Each picture shows five cells; changing any one of them changes what is painted, in nearly all cases."""
    model = masked_vqvae()
    before = painted_from(model, pictures, cells)
    changed = torch.zeros(6, CELLS, dtype=torch.bool)
    for cell in range(CELLS):
        only = torch.zeros(6, CELLS, dtype=torch.bool)
        only[:, cell] = True
        there = touched_pixels(only, SIDE * STRIDE, SIDE * STRIDE, STRIDE).unsqueeze(1)
        after = painted_from(model, torch.where(there, unlike(pictures), pictures), cells)
        changed[:, cell] = (after != before).flatten(1).any(1)
    assert not (changed & cells).any()
    assert int(changed.sum()) >= 27, "of 30"


def test_masked_cells_are_hidden_as_in_training_in_all_components_and_nothing_else_is(
    pictures: Tensor, cells: Tensor
) -> None:
    model = masked_vqvae()
    seen = notes_of(model.encoder)
    painted = painted_from(model, pictures, cells)
    (call,) = seen
    (shown,) = call.values()
    grid = cells.view(6, SIDE, SIDE)
    for picture in range(6):
        for row in range(SIDE):
            for column in range(SIDE):
                rows, columns = (slice(place * STRIDE, (place + 1) * STRIDE) for place in (row, column))
                expected = pictures[picture, :, rows, columns] * 2 - 1
                if grid[picture, row, column]:
                    expected = torch.zeros_like(expected)
                torch.testing.assert_close(shown[picture, :, rows, columns], expected)
    with torch.no_grad():
        assert torch.equal(painted, model.decode_indices(model.encode_indices(shown)))


# What is measured of a way to fill in


@dataclass(frozen=True)
class OffBy:
    """A way that knows the truth (P, N) and paints masked cells too bright by so much (P,) in [0, 1]; it finds a
    picture by its known tokens."""

    memory: Memory
    truth: Tensor
    shifts: Tensor
    name: str = "toy"
    passes: int = 0
    decodings: tuple[str, ...] = ("argmax",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        alike = (self.truth.unsqueeze(0) == hole.tokens.unsqueeze(1)) | hole.mask.unsqueeze(1)  # (B, P, N)
        which = alike.all(2).float().argmax(1)
        inside = touched_pixels(hole.mask, SIDE * STRIDE, SIDE * STRIDE, STRIDE)[:, None]
        whole = to_unit(self.memory.paint_tokens(self.truth[which]))
        return Filled(hole.tokens, pictures=(whole + inside * self.shifts[which].view(-1, 1, 1, 1)) * 2 - 1)


@torch.no_grad()
def test_a_way_that_errs_by_known_amounts_has_known_numbers_in_each_column() -> None:
    """Picture n is 0.02 (n + 1) too bright in its masked cells: squared, and a third of that over the whole picture,
    of which the lowest of three rows of cells is masked."""
    memory, split, indices = tiny_memory(SIDE), fake_split(["test"] * 5, size=SIDE * STRIDE), fake_indices(5, SIDE)
    enlarge(memory.vqvae.decoder, 0.3)  # so that no pixel is as bright as can be
    section = ComparePriorsSection(masks=["half"], percentages=[33], bootstrap=200)
    shifts = 0.02 * torch.arange(1, 6)

    def batches() -> Iterator[Batch]:
        return batches_of(memory, split, indices, split.positions("test"), 2)

    way = Way(OffBy(memory=memory, truth=indices.tokens(split.positions("test")), shifts=shifts), "argmax", "toy")
    rows = measure_inpainting(memory, {"toy": way}, batches, section, 0)
    assert all(tuple(row) == INPAINTING_HEADER for row in rows)
    assert {(row["method"], row["mask"], row["percent"]) for row in rows} == {("toy", "half", 33)}
    found = {row["measure"]: row for row in rows}
    for name, share in (("masked_mse_to_reconstruction", 1.0), ("mse_to_reconstruction", 1 / 3)):
        row, each = found[name], share * shifts.square()
        assert row["mean"] == pytest.approx(float(each.mean()), rel=1e-3) and row["pictures"] == 5
        assert float(each.min()) <= row["low"] < row["mean"] < row["high"] <= float(each.max())
    assert (found["mse_to_picture"]["decoding"], found["mse_to_picture"]["passes"]) == ("argmax", 0)
    assert "diversity" not in found, "nothing is drawn"


def test_percentages_are_sorted_and_count_once() -> None:
    """The middle one is that of the values, wherever it stands."""
    assert middle_percent(ComparePriorsSection(percentages=[75, 25, 50])) == 50
    assert middle_percent(ComparePriorsSection(percentages=[10, 10, 10, 90, 50])) == 50


@torch.no_grad()
def test_a_mask_or_percentage_that_is_named_twice_is_measured_once() -> None:
    memory, split, indices = tiny_memory(SIDE), fake_split(["test"] * 4, size=SIDE * STRIDE), fake_indices(4, SIDE)
    way = Way(OffBy(memory, indices.tokens(split.positions("test")), torch.full((4,), 0.1)), "argmax", "toy")
    section = ComparePriorsSection(masks=["half", "half"], percentages=[33, 33], bootstrap=100)
    rows = measure_inpainting(
        memory, {"toy": way}, lambda: batches_of(memory, split, indices, split.positions("test"), 4), section, 0
    )
    assert [row["pictures"] for row in rows if row["measure"] == "mse_to_reconstruction"] == [4]


# --- decodings that are means of draws --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coin:
    """Draws code 0 with probability 3/4, else code 1."""

    name: str = "coin"
    passes: int = 2
    decodings: tuple[str, ...] = ("sample",)

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        drawn = (torch.rand(hole.tokens.shape, generator=draws) > 0.75).long()
        return Filled(torch.where(hole.mask, drawn, hole.tokens))


def test_the_mean_of_draws_tends_to_what_is_to_be_expected(draws: torch.Generator) -> None:
    codebook = torch.tensor([[0.0, 4.0], [1.0, 0.0], [7.0, 7.0]])
    mask = torch.tensor([[True, False, True]] * 50)
    hole = dig(torch.full((50, 3), 2), mask)
    mean = MeanOfDraws(Coin(), codebook, 64)
    assert (mean.name, mean.passes) == ("coin, mean of 64 draws", 128)
    filled = mean.fill(hole, "expected", draws)
    assert torch.equal(filled.vectors[:, 1], codebook[2].expand(50, -1)) and (filled.tokens[:, 1] == 2).all()
    torch.testing.assert_close(filled.vectors[mask].mean(0), torch.tensor([0.25, 3.0]), atol=0.05, rtol=0)
    assert (filled.tokens[mask] == 0).float().mean() > 0.95, "the most frequent code"
    spread = filled.vectors[mask][:, 0].std()
    assert float(spread) == pytest.approx((0.25 * 0.75 / 64) ** 0.5, rel=0.3), "as means of 64 draws differ"
    with pytest.raises(ValueError, match="cannot decode as 'sample'"):
        mean.fill(hole, "sample", draws)


@torch.no_grad()
def test_what_is_drawn_has_a_diversity_and_what_is_not_has_none() -> None:
    memory, split, indices = tiny_memory(SIDE), fake_split(["test"] * 4, size=SIDE * STRIDE), fake_indices(4, SIDE)
    section = ComparePriorsSection(masks=["half"], percentages=[33], bootstrap=100)
    ways = {
        "coin": Way(Coin(), "sample", "coin"),
        "mean": Way(MeanOfDraws(Coin(), memory.codebook, 2), "expected", "mean"),
    }
    rows = measure_inpainting(
        memory, ways, lambda: batches_of(memory, split, indices, split.positions("test"), 4), section, 0
    )
    apart = {row["method"]: row for row in rows if row["measure"] == "diversity"}
    assert set(apart) == {"coin"} and apart["coin"]["mean"] > 0 and apart["coin"]["pictures"] == 4
    assert {row["passes"] for row in rows if row["method"] == "mean"} == {4}
