"""The rivals fill the same masks: what each puts in, what none may see. 4x4 tokens of 4x4 pixels, K = 12 codes."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import DistilBertForMaskedLM

from masked_memory.handoff.handed import Handed
from masked_memory.handoff.memory import HandedDistil
from masked_memory.models.distilbert import masked_logits
from masked_memory.recall.fillers import Way
from masked_memory.recall.hole import Filled, dig
from masked_memory.recall.memory import Memory, shares_by_position
from masked_memory.recall.simple_fillers import most_frequent_codes, nearest_kept
from masked_memory.rivals.handoff.trained_rivals import TrainedRivals
from masked_memory.rivals.measuring.study_rivals import rival_ways
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder
from masked_memory.stages.masking import touched_pixels
from toys import tiny_distil, tiny_mae, tiny_memory

K, SIDE, N, PIXELS = 12, 4, 16, 16
PIXEL_RIVALS = ("mean picture", "biharmonic inpainting", "masked autoencoder of originals")
RIVALS = (
    "mean picture",
    "not completed",
    "most frequent code of the position",
    "expected code of the position",
    "nearest kept code",
    "biharmonic inpainting",
    "ours, argmax",
    "ours, expected",
    "ours, expected, kept cells' pixels",
    "masked autoencoder of originals",
    "published recipe, argmax",
    "published recipe, expected",
)


class Ladder(NamedTuple):
    """What the rivals know."""

    memory: Memory
    mean_picture: Tensor
    published: DistilBertForMaskedLM | None
    mae: MaskedAutoencoder

    def ways(self) -> dict[str, Way]:
        rivals = TrainedRivals(
            self.published and HandedDistil("train_distil", Path("-"), self.published, {}),
            Handed("train_mae", Path("-"), self.mae, {"inputs": "originals"}),
        )
        return {way.shown: way for way in rival_ways(self.memory, self.mean_picture, rivals)}


@torch.no_grad()
def fill(name: str, ladder: Ladder, tokens: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """The pictures as the rival completes them."""
    return ladder.memory.paint(ladder.ways()[name].fill(dig(tokens, mask, pixels=whole, stride=4)))


def ladder_of(channels: int) -> Ladder:
    memory = tiny_memory(SIDE, K, channels)
    memory.position_shares = shares_by_position(torch.randint(0, K, (40, N)), K)
    mean = torch.rand(channels, PIXELS, PIXELS) * 2 - 1
    return Ladder(replace(memory), mean, tiny_distil(K, N, layers=1), tiny_mae(channels=channels))


@pytest.fixture
def ladder() -> Ladder:
    return ladder_of(3)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, K, (4, N))


@pytest.fixture
def mask() -> Tensor:
    """Nothing, the upper half, all but token 5, everything."""
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[1, :8] = True
    mask[2] = torch.arange(N) != 5
    mask[3] = True
    return mask


@torch.no_grad()
def painted(ladder: Ladder, tokens: Tensor) -> Tensor:
    return ladder.memory.paint_tokens(tokens)


def test_all_rivals_stand_side_by_side_and_only_simple_ones_ask_no_network(ladder: Ladder) -> None:
    ways = ladder.ways()
    assert tuple(ways) == RIVALS
    assert [name for name, way in ways.items() if way.filler.passes] == [*RIVALS[6:]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RIVALS)
def test_pictures_come_back_in_shape_and_range_and_differ_from_the_whole(
    name: str, channels: int, tokens: Tensor, mask: Tensor
) -> None:
    ladder = ladder_of(channels)
    whole = painted(ladder, tokens)
    before = tokens.clone(), mask.clone(), whole.clone()
    found = fill(name, ladder, tokens, mask, whole)
    assert found.shape == (4, channels, PIXELS, PIXELS) and found.dtype == torch.float32
    assert found.isfinite().all() and found.min() >= -1 and found.max() <= 1
    assert ((found - whole).abs().amax((1, 2, 3)) > 1e-3).tolist() == [False, True, True, True]
    assert all(torch.equal(a, b) for a, b in zip(before, (tokens, mask, whole), strict=True)), "inputs stay as they are"


@pytest.mark.parametrize("name", RIVALS)
def test_nothing_masked_gives_the_painting_of_the_whole_grid(name: str, ladder: Ladder, tokens: Tensor) -> None:
    whole = painted(ladder, tokens)
    found = fill(name, ladder, tokens, torch.zeros(4, N, dtype=torch.bool), whole)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_what_a_masked_token_was_cannot_be_seen(name: str, ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    """Nor what it looked like; masked tokens may also hold MASK, which is no code."""
    whole = painted(ladder, tokens)
    hole = touched_pixels(mask, PIXELS, PIXELS, 4).unsqueeze(1)
    found = fill(name, ladder, tokens, mask, whole)
    other_tokens, other_whole = tokens.masked_fill(mask, K), torch.where(hole, torch.rand_like(whole), whole)
    assert torch.equal(fill(name, ladder, other_tokens, mask, other_whole), found)


@pytest.mark.parametrize("name", RIVALS)
def test_with_everything_masked_all_pictures_are_completed_alike(name: str, ladder: Ladder, tokens: Tensor) -> None:
    found = fill(name, ladder, tokens, torch.ones(4, N, dtype=torch.bool), painted(ladder, tokens))
    torch.testing.assert_close(found, found[:1].expand_as(found), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_a_picture_is_completed_alike_alone_and_among_others(
    name: str, ladder: Ladder, tokens: Tensor, mask: Tensor
) -> None:
    whole = painted(ladder, tokens)
    together = fill(name, ladder, tokens, mask, whole)
    alone = [fill(name, ladder, tokens[i : i + 1], mask[i : i + 1], whole[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RIVALS)
def test_the_same_question_has_the_same_answer(name: str, ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    whole = painted(ladder, tokens)
    first = fill(name, ladder, tokens, mask, whole)
    torch.manual_seed(99)
    assert torch.equal(fill(name, ladder, tokens, mask, whole), first)


@pytest.mark.parametrize("name", PIXEL_RIVALS)
def test_rivals_on_pixels_leave_kept_cells_exactly_as_painted(
    name: str, ladder: Ladder, tokens: Tensor, mask: Tensor
) -> None:
    whole = painted(ladder, tokens)
    kept = ~touched_pixels(mask, PIXELS, PIXELS, 4).unsqueeze(1).expand_as(whole)
    assert torch.equal(fill(name, ladder, tokens, mask, whole)[kept], whole[kept])


def test_the_mean_picture_stands_in_the_masked_cells(ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    found = fill("mean picture", ladder, tokens, mask, painted(ladder, tokens))
    assert torch.equal(found[1, :, :8], ladder.mean_picture[:, :8]), "the upper half of picture 1"
    assert torch.equal(found[3], ladder.mean_picture)


def test_not_completed_means_the_average_code_vector(ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    memory = ladder.memory
    vectors = torch.where(mask.unsqueeze(2), memory.blank, memory.codebook[tokens])
    with torch.no_grad():
        expected = memory.paint(Filled(tokens, vectors))
    torch.testing.assert_close(fill("not completed", ladder, tokens, mask, painted(ladder, tokens)), expected)


def test_each_position_has_its_own_most_frequent_and_expected_code(ladder: Ladder, tokens: Tensor) -> None:
    """Position n has code n % 4 in three of four training grids and code 11 in the fourth."""
    often = torch.arange(N) % 4
    memory = ladder.memory
    memory.position_shares = shares_by_position(torch.stack([often, often, often, torch.full((N,), 11)]), K)
    assert torch.equal(most_frequent_codes(memory), often)
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[:, 3:9] = True
    whole = painted(ladder, tokens)
    found = fill("most frequent code of the position", ladder, tokens, mask, whole)
    assert torch.equal(found, painted(ladder, torch.where(mask, often, tokens)))
    vectors = memory.codebook[tokens]
    vectors[:, 3:9] = 0.75 * memory.codebook[often[3:9]] + 0.25 * memory.codebook[11]
    with torch.no_grad():
        expected = memory.paint(Filled(tokens, vectors))
    found = fill("expected code of the position", ladder, tokens, mask, whole)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def kept_only(side: int, *places: tuple[int, int]) -> Tensor:
    """(1, N) mask that leaves the (row, column) places."""
    mask = torch.ones(1, side * side, dtype=torch.bool)
    for row, column in places:
        mask[0, row * side + column] = False
    return mask


def test_the_nearest_kept_code_on_a_grid_filled_by_hand() -> None:
    """Two opposite corners are kept, codes 1 and 2; the diagonal between is equally near to both: the first counts."""
    codes = torch.tensor([[1, 9, 9, 9, 9, 9, 9, 9, 2]])
    filled = nearest_kept(codes, kept_only(3, (0, 0), (2, 2)), 3, torch.zeros(9, dtype=torch.long))
    assert filled.view(3, 3).tolist() == [[1, 1, 1], [1, 1, 2], [1, 2, 2]]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ((0, 3), (2, 2), "3 against 2.83: as steps along the grid it would be 3 against 4"),
        ((1, 4), (3, 3), "4.12 against 4.24: as the larger of rows and columns it would be 4 against 3"),
    ],
)
def test_near_means_the_straight_line(first: tuple[int, int], second: tuple[int, int], why: str) -> None:
    codes = torch.arange(25).unsqueeze(0)
    near = min((first, second), key=lambda place: place[0] ** 2 + place[1] ** 2)
    filled = nearest_kept(codes, kept_only(5, first, second), 5, torch.zeros(25, dtype=torch.long))
    assert int(filled[0, 0]) == near[0] * 5 + near[1], why


def test_each_picture_has_its_own_kept_tokens_and_kept_ones_stay() -> None:
    codes = torch.arange(8).view(2, 4)
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    filled = nearest_kept(codes, mask, 2, torch.tensor([20, 21, 22, 23]))
    assert filled.tolist() == [[0, 0, 0, 3], [20, 21, 22, 23]]


def test_the_nearest_kept_code_is_painted(ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    """With nothing kept it is the most frequent code of each position."""
    common = most_frequent_codes(ladder.memory)
    expected = tokens.clone()
    expected[1, :8] = tokens[1, 8:12].repeat(2)  # the upper half has what lies below it
    expected[2], expected[3] = tokens[2, 5], common
    assert torch.equal(
        fill("nearest kept code", ladder, tokens, mask, painted(ladder, tokens)), painted(ladder, expected)
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_biharmonic_inpainting_continues_a_slope(channels: int, tokens: Tensor) -> None:
    """A plane has no curvature, so a hole in one is closed without a trace, in each channel for itself."""
    ladder = ladder_of(channels)
    steps = torch.linspace(-0.4, 0.4, PIXELS)
    plane = steps.view(-1, 1) + steps.view(1, -1) / 2
    whole = torch.stack([plane, -plane, plane.T][:channels]).unsqueeze(0)
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[0, [5, 6, 10]] = True
    hole = touched_pixels(mask, PIXELS, PIXELS, 4).unsqueeze(1)
    found = fill("biharmonic inpainting", ladder, tokens[:1], mask, whole.masked_fill(hole, 0.9))
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_biharmonic_inpainting_of_nothing_kept_is_the_mean_picture(ladder: Ladder, tokens: Tensor) -> None:
    found = fill("biharmonic inpainting", ladder, tokens, torch.ones(4, N, dtype=torch.bool), painted(ladder, tokens))
    assert torch.equal(found, ladder.mean_picture.expand_as(found))


def test_the_published_recipe_asks_the_other_model_once(ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    found = fill("published recipe, argmax", ladder, tokens, mask, painted(ladder, tokens))
    with torch.no_grad():
        answers = {
            name: tokens.masked_scatter(mask, masked_logits(model, tokens, mask).argmax(1))
            for name, model in (("published", ladder.published), ("own", ladder.memory.distil))
        }
    assert not torch.equal(answers["published"], answers["own"]), "else this shows nothing"
    torch.testing.assert_close(found, painted(ladder, answers["published"]), atol=1e-6, rtol=0)


def test_without_a_published_model_only_that_rival_is_left_out(ladder: Ladder) -> None:
    assert tuple(ladder._replace(published=None).ways()) == RIVALS[:-2]


@pytest.mark.parametrize("name", RIVALS)
def test_a_decoding_that_a_rival_does_not_have_is_refused_with_those_it_has(
    name: str, ladder: Ladder, tokens: Tensor, mask: Tensor
) -> None:
    filler = ladder.ways()[name].filler
    hole = dig(tokens, mask, pixels=painted(ladder, tokens), stride=4)
    with pytest.raises(ValueError, match=f"'blurred'; expected one of: {', '.join(filler.decodings)}"):
        filler.fill(hole, "blurred", None)


@pytest.mark.parametrize("name", PIXEL_RIVALS)
def test_a_rival_on_pixels_needs_a_picture(name: str, ladder: Ladder, tokens: Tensor, mask: Tensor) -> None:
    with pytest.raises(ValueError, match="works on pixels, but the hole has no picture"):
        ladder.ways()[name].fill(dig(tokens, mask))
