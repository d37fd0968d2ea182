"""Merged codebooks: centres weighted by use, and what is painted with them."""

import pytest
import torch
from torch import Tensor

from masked_memory.recall.memory import Memory
from masked_memory.rivals.measuring.fewer_codes import (
    MergedMemory,
    Merging,
    merge_codes,
    paint_reduced,
    reduced_codebook,
)
from toys import seeded, tiny_memory

# Smaller codebooks


@pytest.mark.parametrize("seed", range(5))
def test_two_far_groups_become_two_centres_weighted_by_use(seed: int) -> None:
    vectors = torch.tensor([[0.0, 0], [4, 0], [100, 0], [100, 2]])
    centres, assignment = reduced_codebook(vectors, torch.tensor([3, 1, 1, 1]), 2, seeded(seed))
    assert assignment[0] == assignment[1] != assignment[2] == assignment[3]
    torch.testing.assert_close(centres[assignment], torch.tensor([[1.0, 0], [1, 0], [100, 1], [100, 1]]))


def test_codes_never_used_follow_the_others_and_move_no_centre() -> None:
    vectors = torch.tensor([[0.0], [2], [50], [1000]])
    centres, assignment = reduced_codebook(vectors, torch.tensor([1, 1, 2, 0]), 2, seeded(0))
    torch.testing.assert_close(centres[assignment].flatten(), torch.tensor([1.0, 1, 50, 50]))


@pytest.mark.parametrize("counts", [torch.arange(20), torch.ones(20), torch.eye(20)[7]])
def test_as_many_centres_as_codes_changes_nothing(counts: Tensor) -> None:
    """Even when most codes are never used."""
    vectors = torch.randn(20, 5)
    centres, assignment = reduced_codebook(vectors, counts, 20, seeded(0))
    assert torch.equal(centres[assignment], vectors)
    assert len(assignment.unique()) == 20


def test_one_centre_is_the_average_code_vector() -> None:
    vectors, counts = torch.randn(20, 5), torch.randint(0, 9, (20,))
    centres, assignment = reduced_codebook(vectors, counts, 1, seeded(0))
    assert assignment.tolist() == [0] * 20
    torch.testing.assert_close(centres[0], (counts.unsqueeze(1) * vectors).sum(0) / counts.sum())


def test_no_round_of_lloyd_would_change_what_comes_out() -> None:
    """Each code has its nearest centre, each centre is the weighted mean of its codes."""
    vectors, counts = torch.randn(200, 4), torch.randint(1, 50, (200,))
    centres, assignment = reduced_codebook(vectors, counts, 16, seeded(3))
    assert centres.shape == (16, 4) and centres.dtype == torch.float32
    assert torch.equal(torch.cdist(vectors, centres).argmin(1), assignment)
    for number, centre in enumerate(centres):
        mine = assignment == number
        mean = (counts[mine, None] * vectors[mine]).sum(0) / counts[mine].sum()
        torch.testing.assert_close(centre, mean, atol=1e-5, rtol=0)


def test_more_centres_leave_less_error() -> None:
    vectors, counts = torch.randn(200, 4), torch.randint(1, 50, (200,))
    errors = []
    for size in (1, 4, 16, 64, 200):
        centres, assignment = reduced_codebook(vectors, counts, size, seeded(0))
        errors.append(float((counts * (centres[assignment] - vectors).square().sum(1)).sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


def test_the_same_generator_gives_the_same_centres_whatever_the_global_seed() -> None:
    vectors, counts = torch.randn(100, 4), torch.randint(0, 9, (100,))
    first = reduced_codebook(vectors, counts, 10, seeded(1))
    torch.manual_seed(99)
    again = reduced_codebook(vectors, counts, 10, seeded(1))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], reduced_codebook(vectors, counts, 10, seeded(2))[0])


def test_equal_codes_are_no_trouble() -> None:
    vectors = torch.ones(6, 3)
    centres, assignment = reduced_codebook(vectors, torch.ones(6), 4, seeded(0))
    assert centres.shape == (4, 3) and torch.equal(centres[assignment], vectors)


@pytest.mark.parametrize("size", [0, 7])
def test_a_size_beyond_the_codes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}; expected 1 to 6"):
        reduced_codebook(torch.randn(6, 2), torch.ones(6), size, seeded(0))


@pytest.mark.parametrize("counts", [torch.ones(5), torch.zeros(6), torch.tensor([1, 1, 1, 1, 1, -1])])
def test_counts_that_are_none_are_refused(counts: Tensor) -> None:
    with pytest.raises(ValueError, match="for 6 codes; expected one for each"):
        reduced_codebook(torch.randn(6, 2), counts, 2, seeded(0))


@pytest.fixture(params=[1, 3])
def memory(request: pytest.FixtureRequest) -> Memory:
    """Grey and colour; 4x4 tokens, K = 12, D = 4."""
    return tiny_memory(codes=12, channels=request.param)


def test_merged_codes_are_painted_with_their_centre(memory: Memory) -> None:
    """Codes 0 to 5 become the vector of code 0, the others that of code 6."""
    tokens = torch.randint(0, 12, (3, 16))
    found = paint_reduced(memory, tokens, memory.codebook[[0, 6]], torch.arange(12) // 6)
    with torch.no_grad():
        expected = memory.paint_tokens(tokens // 6 * 6)
        assert not torch.allclose(expected, memory.paint_tokens(tokens), atol=1e-3), "else this shows nothing"
    assert found.shape == (3, memory.vqvae.config.channels, 16, 16) and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_codebook_of_full_size_paints_as_before(memory: Memory) -> None:
    tokens = torch.randint(0, 12, (3, 16))
    centres, assignment = reduced_codebook(memory.codebook, torch.arange(12), 12, seeded(0))
    with torch.no_grad():
        expected = memory.paint_tokens(tokens)
    torch.testing.assert_close(paint_reduced(memory, tokens, centres, assignment), expected, atol=1e-6, rtol=0)


# Asked about merged codes


def test_a_merging_shows_of_each_centre_the_code_that_is_used_most() -> None:
    memory = tiny_memory()
    used = memory.position_shares.sum(0)
    merging = merge_codes(memory, 3, seeded(0))
    assert merging.size == 3 and merging.assignment.shape == (8,) and merging.centres.shape == (3, 4)
    for centre in range(3):
        members = (merging.assignment == centre).nonzero().flatten().tolist()
        assert int(merging.shown[centre]) == max(members, key=lambda code: float(used[code]))


def some_masks() -> Tensor:
    return torch.rand(2, 16, generator=seeded(3)) < 0.5


@torch.no_grad()
def test_merged_codes_have_the_probabilities_of_their_members_together() -> None:
    memory, mask = tiny_memory(), some_masks()
    assignment = torch.tensor([0, 1, 1, 0, 2, 2, 2, 0])
    merging = Merging(3, torch.zeros(3, 4), assignment, torch.tensor([3, 2, 4]))
    merged = torch.randint(0, 3, (2, 16), generator=seeded(4))
    found = MergedMemory(memory, merging).logits(merged, mask).softmax(1)
    asked = memory.logits(merging.shown[merged], mask).softmax(1)
    expected = torch.stack([asked[:, assignment == centre].sum(1) for centre in range(3)], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_as_many_merged_codes_as_codes_are_the_memory_itself() -> None:
    memory, mask = tiny_memory(), some_masks()
    merging = merge_codes(memory, 8, seeded(0))
    tokens = torch.randint(0, 8, (2, 16), generator=seeded(4))
    found = MergedMemory(memory, merging).logits(merging.assignment[tokens], mask).softmax(1)
    expected = memory.logits(tokens, mask).softmax(1)
    torch.testing.assert_close(found[:, merging.assignment], expected, atol=1e-6, rtol=1e-4)
