"""Masks: True = masked, exact counts, nested over percentages, the same generator gives the same mask."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label
from torch import Tensor

from masked_memory.pipeline.files import InputError
from masked_memory.stages.masking import (
    all_but,
    block_order,
    check_percentages,
    component_mask,
    half_order,
    halton_order,
    hide,
    hide_components,
    mask_first,
    masked_count,
    masked_probability,
    outpaint_order,
    position_bits,
    random_mask,
    random_order,
    stored_bits,
    touched_pixels,
    touched_tokens,
    training_mask,
)
from toys import seeded

# Halton order


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (8, 8), (5, 7), (16, 16)])
def test_the_halton_order_ranks_each_token_once(height: int, width: int) -> None:
    order = halton_order(height, width)
    assert order.sort().values.tolist() == list(range(height * width))


def test_the_first_tokens_of_the_halton_order_by_hand() -> None:
    """Points (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) of a grid of 8x8: rows 4, 2, 6, 1, columns 2, 5, 0, 3."""
    assert halton_order(8, 8).argsort()[:4].tolist() == [4 * 8 + 2, 2 * 8 + 5, 6 * 8 + 0, 1 * 8 + 3]


def largest_gap(places: Tensor) -> int:
    """How many steps (also diagonal) the token of 8x8 that is farthest from all `places` has to the nearest."""
    every, chosen = torch.arange(64), places
    rows = (every[:, None] // 8 - chosen // 8).abs()
    columns = (every[:, None] % 8 - chosen % 8).abs()
    return int(torch.maximum(rows, columns).amin(1).max())


@pytest.mark.parametrize(("first", "gap"), [(8, 3), (16, 2), (32, 1)])
def test_early_tokens_of_the_halton_order_are_spread(first: int, gap: int) -> None:
    """In raster order the gaps would be 7, 6 and 4."""
    places = halton_order(8, 8).argsort()[:first]
    assert largest_gap(places) <= gap < largest_gap(torch.arange(first))
    quadrants = torch.bincount(places // 8 // 4 * 2 + places % 8 // 4, minlength=4)
    assert (quadrants - first / 4).abs().max() <= 1


def pictures(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 5, 16, 16) * 2 - 1


# --- masks of components ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.7, 1.0])
def test_masked_rows_keep_exactly_one_component_and_are_as_many_as_asked(probability, draws):
    counts, kept = [], torch.zeros(5)
    for _ in range(200):
        mask = component_mask(31, 5, probability, draws)
        hidden = mask.sum(1)
        assert set(hidden.tolist()) <= {0, 4}
        counts.append(int((hidden == 4).sum()))
        kept += (~mask[hidden == 4]).sum(0)
    assert all(abs(count - 31 * probability) < 1 for count in counts)
    assert np.mean(counts) == pytest.approx(31 * probability, abs=0.15)
    if probability:
        assert (kept / kept.sum() - 0.2).abs().max() < 0.04  # each component equally often


def test_the_same_generator_gives_the_same_masks():
    first, second = (component_mask(9, 3, 0.5, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_share_of_masked_pictures_rises_to_its_highest():
    rising = [masked_probability(epoch, 0.7, 20) for epoch in range(40)]
    assert rising[0] == 0 and rising[10] == pytest.approx(0.35) and rising[20:] == [0.7] * 20
    assert masked_probability(0, 0.7, 0) == 0.7


def test_hidden_components_are_zero_and_the_others_untouched(draws):
    x, mask = pictures(), component_mask(4, 5, 1.0, draws)
    hidden = hide_components(x, mask)
    assert (hidden[mask] == 0).all() and torch.equal(hidden[~mask], x[~mask])
    assert torch.equal(hide_components(x, all_but(5, [2]))[:, 2], x[:, 2])


def test_one_component_cannot_be_masked(draws):
    with pytest.raises(ValueError, match="needs at least 2"):
        component_mask(3, 1, 0.5, draws)


# Bits of a memory


@pytest.mark.parametrize(
    ("kept", "fixed", "bits"),
    [
        (2, False, 2 * 2 + math.log2(6)),  # {01, 02, 03, 12, 13, 23}
        (1, False, 2 + 2),
        (4, False, 4 * 2),
        (0, False, 0),
        (2, True, 2 * 2),
        (0, True, 0),
    ],
)
def test_a_memory_of_four_tokens_and_four_codes(kept: int, fixed: bool, bits: float) -> None:
    assert stored_bits(4, kept, 4, fixed) == pytest.approx(bits, abs=1e-12)


def test_positions_of_half_of_64_tokens_cost_nearly_a_bit_each() -> None:
    assert stored_bits(64, 32, 256, False) == pytest.approx(32 * 8 + math.log2(math.comb(64, 32)), abs=1e-9)
    positions = stored_bits(64, 32, 256, False) - stored_bits(64, 32, 256, True)
    assert positions == pytest.approx(position_bits(64, 32), abs=1e-9) and 0.9 * 64 < positions < 64


@pytest.mark.parametrize("kept", [-1, 5])
def test_keeping_more_than_there_is_or_less_than_nothing_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"kept is {kept}; expected 0 to 4"):
        stored_bits(4, kept, 4, True)


@given(tokens=st.integers(1, 300), ratio=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_every_picture_has_exactly_round_ratio_n_masked_tokens(tokens: int, ratio: float, seed: int) -> None:
    mask = random_mask(5, tokens, ratio, seeded(seed))
    assert mask.dtype == torch.bool and mask.shape == (5, tokens)
    assert mask.sum(1).tolist() == [round(ratio * tokens)] * 5


@pytest.mark.parametrize("percentage", [0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100])
def test_the_percentages_of_the_headline_figure_hide_what_they_say(percentage: int) -> None:
    mask = random_mask(50, 64, percentage / 100, seeded(1))
    assert set(mask.sum(1).tolist()) == {round(percentage / 100 * 64)}


@pytest.mark.parametrize("ratio", [-0.01, 1.01, 50, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused_with_its_value(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"{ratio}; expected 0 to 1"):
        masked_count(ratio, 64)


@given(tokens=st.integers(1, 100), seed=st.integers(0, 2**31), ratios=st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_what_is_forgotten_at_a_low_percentage_is_forgotten_at_every_higher_one(
    tokens: int, seed: int, ratios: list[float]
) -> None:
    order = random_order(3, tokens, seeded(seed))
    masks = [mask_first(order, masked_count(ratio, tokens)) for ratio in sorted(ratios)]
    for smaller, larger in pairwise(masks):
        assert not (smaller & ~larger).any()


def test_an_order_ranks_each_token_once_and_differs_between_pictures() -> None:
    order = random_order(20, 30, seeded(0))
    assert torch.equal(order.sort(dim=1).values, torch.arange(30).expand(20, 30))
    assert len({tuple(row) for row in order.tolist()}) == 20


def test_every_token_is_masked_equally_often() -> None:
    """20,000 masks of half of 16 tokens: each share is 0.5 with a standard deviation of 0.0035."""
    shares = random_mask(20_000, 16, 0.5, seeded(2)).float().mean(0)
    assert (shares - 0.5).abs().max() < 0.02


def test_each_picture_may_have_its_own_count() -> None:
    counts = torch.tensor([0, 3, 10])
    assert torch.equal(mask_first(random_order(3, 10, seeded(0)), counts).sum(1), counts)


@pytest.mark.parametrize("schedule", ["cosine", "uniform", "fixed"])
def test_the_same_generator_gives_the_same_mask_whatever_the_global_seed(schedule: str) -> None:
    first = training_mask(6, 40, schedule, seeded(5))
    torch.manual_seed(123)
    assert torch.equal(training_mask(6, 40, schedule, seeded(5)), first)
    assert not torch.equal(training_mask(6, 40, schedule, seeded(6)), first)


@pytest.mark.parametrize("schedule", ["cosine", "uniform"])
def test_training_masks_reach_from_one_token_to_all(schedule: str) -> None:
    counts = training_mask(2000, 16, schedule, seeded(0)).sum(1)
    assert counts.min() == 1 and counts.max() == 16
    assert set(counts.tolist()) == set(range(1, 17))


def test_cosine_ratios_have_the_mean_of_maskgit_and_uniform_counts_are_uniform() -> None:
    """The mean of cos(pi u / 2) is 2 / pi; the mean of 1..64 is 32.5."""
    cosine = training_mask(20_000, 64, "cosine", seeded(0)).sum(1).float()
    uniform = training_mask(20_000, 64, "uniform", seeded(0)).sum(1).float()
    assert float(cosine.mean()) / 64 == pytest.approx(2 / torch.pi, abs=0.01)
    assert float(uniform.mean()) == pytest.approx(32.5, abs=0.5)


@given(tokens=st.integers(1, 100), ratio=st.floats(0, 1))
def test_a_fixed_ratio_is_exact_but_never_masks_nothing(tokens: int, ratio: float) -> None:
    mask = training_mask(4, tokens, "fixed", seeded(0), fixed_ratio=ratio)
    assert mask.sum(1).tolist() == [max(1, round(ratio * tokens))] * 4


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'linear'.*cosine.*uniform.*fixed"):
        training_mask(2, 4, "linear", seeded(0))


def test_true_means_masked() -> None:
    indices = torch.tensor([[5, 6, 7]])
    hidden = hide(indices, torch.tensor([[True, False, True]]), 99)
    assert hidden.tolist() == [[99, 6, 99]]
    assert indices.tolist() == [[5, 6, 7]], "the grid that is handed in stays as it is"


# Orders with a shape
ORDERS = ("random", "block", "blocks", "half", "outpaint")


def order_of(name: str, batch: int, height: int, width: int, seed: int) -> Tensor:
    """(B, N) ranks of each kind of order."""
    if name == "random":
        return random_order(batch, height * width, seeded(seed))
    if name in ("block", "blocks"):
        return block_order(batch, height, width, seeded(seed), blocks=1 if name == "block" else 3)
    return half_order(batch, height, width) if name == "half" else outpaint_order(batch, height, width)


@pytest.mark.parametrize("name", ORDERS)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_every_order_ranks_each_token_once_with_exact_nested_masks(
    name: str, height: int, width: int, seed: int
) -> None:
    order, tokens = order_of(name, 3, height, width, seed), height * width
    assert order.dtype == torch.long
    assert torch.equal(order.sort(dim=1).values, torch.arange(tokens).expand(3, -1))
    masks = [mask_first(order, masked_count(percent / 100, tokens)) for percent in (0, 10, 50, 85, 100)]
    assert [mask.sum(1).tolist() for mask in masks] == [
        [round(percent / 100 * tokens)] * 3 for percent in (0, 10, 50, 85, 100)
    ]
    for smaller, larger in pairwise(masks):
        assert not (smaller & ~larger).any()


@pytest.mark.parametrize("name", ["random", "block", "blocks"])
def test_drawn_orders_depend_on_their_generator_only_and_differ_between_pictures(name: str) -> None:
    first = order_of(name, 8, 6, 6, seed=5)
    torch.manual_seed(123)
    assert torch.equal(order_of(name, 8, 6, 6, seed=5), first)
    assert not torch.equal(order_of(name, 8, 6, 6, seed=6), first)
    assert len({tuple(row) for row in first.tolist()}) == 8


@pytest.mark.parametrize("name", ["half", "outpaint"])
def test_fixed_orders_are_the_same_for_every_picture_and_batch(name: str) -> None:
    order = order_of(name, 5, 4, 6, seed=0)
    assert torch.equal(order, order_of(name, 1, 4, 6, seed=1).expand(5, -1))
    order[0] = 0
    assert order[1].unique().numel() == 24, "each picture has a row of its own, not a view of the first"


def test_half_of_half_is_the_lower_half_and_goes_row_by_row() -> None:
    order = half_order(2, 4, 6)
    lower = torch.arange(24).view(4, 6) >= 12
    assert torch.equal(mask_first(order, 12).view(2, 4, 6), lower.expand(2, -1, -1))
    assert torch.equal(mask_first(order, 6).view(2, 4, 6).any(2), torch.tensor([[False, False, False, True]] * 2))


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (8, 8, (3, 5), (3, 5)),
        (8, 8, (2, 6), (2, 6)),
        (8, 8, (1, 7), (1, 7)),
        (4, 8, (1, 3), (2, 6)),
        (5, 5, (2, 3), (2, 3)),
    ],
)
def test_outpainting_keeps_a_rectangle_in_the_middle(
    height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    middle = torch.zeros(height, width, dtype=torch.bool)
    middle[slice(*rows), slice(*columns)] = True
    mask = mask_first(outpaint_order(1, height, width), height * width - int(middle.sum()))
    assert torch.equal(~mask.view(height, width), middle)


def box_of(cells: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left, right (exclusive) of the True cells of (h, w)."""
    rows, columns = cells.any(1).nonzero().flatten(), cells.any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def open_cells(cells: Tensor) -> tuple[int, int]:
    """Cells of the bounding box that are False: in all, and inside its outermost ring."""
    top, bottom, left, right = box_of(cells)
    box, inside = cells[top:bottom, left:right], cells[top + 1 : bottom - 1, left + 1 : right - 1]
    return int((~box).sum()), int((~inside).sum())


@pytest.mark.parametrize("percent", [10, 25, 50])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_one_block_is_a_rectangle_with_at_most_its_ring_open(percent: int, height: int, width: int) -> None:
    """Distances to a random centre hardly ever tie, so the rectangle even grows line by line: one line is open."""
    masks = mask_first(block_order(40, height, width, seeded(0)), masked_count(percent / 100, height * width))
    for cells in masks.view(-1, height, width):
        missing, missing_inside = open_cells(cells)
        assert missing_inside == 0
        assert missing < max(height, width)
    scattered = random_mask(40, height * width, percent / 100, seeded(0)).view(-1, height, width)
    assert max(open_cells(cells)[1] for cells in scattered) > 0, "a mask that is no rectangle would be noticed"


def test_blocks_lie_in_different_places() -> None:
    """Over 200 pictures the centre of the block of one token is everywhere, also on the border."""
    places = mask_first(block_order(200, 4, 4, seeded(0)), 1).float().mean(0)
    assert (places > 0).all()


def test_several_blocks_are_several_rectangles() -> None:
    masks = mask_first(block_order(60, 12, 12, seeded(0), blocks=3), masked_count(0.15, 144)).view(-1, 12, 12)
    pieces = [int(label(cells.numpy(), connectivity=1).max()) for cells in masks]
    assert max(pieces) == 3, "never more pieces than blocks"
    assert sum(count > 1 for count in pieces) > 30
    alone = mask_first(block_order(60, 12, 12, seeded(0)), masked_count(0.15, 144)).view(-1, 12, 12)
    assert {int(label(cells.numpy(), connectivity=1).max()) for cells in alone} == {1}


@pytest.mark.parametrize("blocks", [0, -1])
def test_less_than_one_block_is_refused(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"blocks is {blocks}; expected at least 1"):
        block_order(1, 4, 4, seeded(0), blocks=blocks)


# Pixels and tokens


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    stride=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 2**31),
)
def test_tokens_to_pixels_and_back(rows: int, columns: int, stride: int, seed: int) -> None:
    mask = random_mask(3, rows * columns, 0.4, seeded(seed))
    pixels = touched_pixels(mask, rows * stride, columns * stride, stride)
    assert pixels.dtype == torch.bool and pixels.shape == (3, rows * stride, columns * stride)
    assert int(pixels.sum()) == int(mask.sum()) * stride**2
    assert torch.equal(touched_tokens(pixels, stride), mask)


def tokens_hit(row: int, column: int, margin: int) -> list[int]:
    """Tokens of a picture of 8x12 pixels (2x3 tokens of 4x4) that one missing pixel takes with it."""
    pixels = torch.zeros(1, 8, 12, dtype=torch.bool)
    pixels[0, row, column] = True
    touched = touched_tokens(pixels, 4, margin)
    assert touched.dtype == torch.bool and touched.shape == (1, 6)
    return touched[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("row", "column", "margin", "expected"),
    [
        (0, 0, 0, [0]),
        (7, 11, 0, [5]),
        (3, 3, 0, [0]),
        (4, 3, 0, [3]),
        (1, 1, 1, [0]),  # one pixel around it stays inside the cell
        (1, 3, 1, [0, 1]),  # the cell to the right sees one pixel further left
        (1, 2, 1, [0]),
        (1, 2, 2, [0, 1]),
        (3, 3, 1, [0, 1, 3, 4]),
        (4, 4, 3, [0, 1, 3, 4]),
        (4, 4, 4, [0, 1, 2, 3, 4, 5]),
        (0, 0, 3, [0]),
        (0, 0, 4, [0, 1, 3, 4]),
    ],
)
def test_a_missing_pixel_takes_every_token_whose_cell_and_margin_hold_it(
    row: int, column: int, margin: int, expected: list[int]
) -> None:
    assert tokens_hit(row, column, margin) == expected


def test_no_missing_pixel_takes_no_token() -> None:
    assert not touched_tokens(torch.zeros(2, 8, 8, dtype=torch.bool), 4, margin=3).any()


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 10)])
def test_a_size_that_the_stride_does_not_divide_is_refused_with_both(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height}x{width} pixels.*4x4"):
        touched_tokens(torch.zeros(1, height, width, dtype=torch.bool), 4)


# Bits


def test_which_two_of_four_takes_the_logarithm_of_six() -> None:
    """12, 13, 14, 23, 24, 34."""
    assert position_bits(4, 2) == pytest.approx(math.log2(6))
    assert position_bits(64, 1) == pytest.approx(6)


@pytest.mark.parametrize("tokens", [1, 4, 64, 1024])
def test_none_or_all_take_no_bits(tokens: int) -> None:
    assert position_bits(tokens, 0) == 0
    assert position_bits(tokens, tokens) == 0


@given(tokens=st.integers(1, 1024), share=st.floats(0, 1))
def test_bits_of_positions_are_those_of_the_exact_count(tokens: int, share: float) -> None:
    kept = round(share * tokens)
    assert position_bits(tokens, kept) == pytest.approx(math.log2(math.comb(tokens, kept)), abs=1e-8, rel=1e-9)


def test_percentages_that_mask_nothing_are_refused_with_those_that_do() -> None:
    """10 % of 4 tokens are none, 25 % are one."""
    check_percentages("train_distil", [25, 100], 4)
    with pytest.raises(
        InputError, match=r"has 5, 10, which masks none of 4 tokens; type .*percentages \"\[25, 100\]\""
    ):
        check_percentages("train_distil", [5, 10, 25, 100], 4)
