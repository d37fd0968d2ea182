"""The models together: what is painted is what each model gives alone, in batches as at once. K = 8 codes, N = 9."""

import pytest
import torch
from torch import Tensor

from masked_memory.models.distilbert import masked_logits
from masked_memory.models.sizes import completing_bytes, painting_bytes
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory, shares_by_position
from masked_memory.recall.simple_fillers import NotCompleted
from toys import painted_vectors, tiny_memory

K, SIDE = 8, 3
N = SIDE**2
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, K, (5, N))


def paint_blank(memory: Memory, tokens: Tensor, mask: Tensor) -> Tensor:
    """What is left without completion."""
    return memory.paint(NotCompleted(memory.codebook, memory.blank).fill(dig(tokens, mask), "expected", None))


def test_painting_code_vectors_is_painting_their_indices(tokens: Tensor) -> None:
    memory = tiny_memory(SIDE)
    painted = painted_vectors(memory, memory.codebook[tokens])
    assert painted.shape == (5, 3, 12, 12)
    torch.testing.assert_close(painted, memory.paint_tokens(tokens))
    turned = painted_vectors(memory, memory.codebook[tokens.view(5, SIDE, SIDE).mT.reshape(5, N)])
    assert not torch.allclose(turned, painted), "rows and columns are not exchanged"


def test_painting_blank_where_nothing_is_masked_is_painting_the_tokens(tokens: Tensor) -> None:
    memory = tiny_memory(SIDE)
    painted = paint_blank(memory, tokens, torch.zeros(5, N, dtype=torch.bool))
    torch.testing.assert_close(painted, memory.paint_tokens(tokens))


def test_blank_is_the_average_code_of_the_training_grids(tokens: Tensor) -> None:
    """sum over codes of (its share of all positions) times (its vector)."""
    memory = tiny_memory(SIDE)
    expected = sum(memory.position_shares[:, k].mean() * memory.codebook[k] for k in range(K))
    torch.testing.assert_close(memory.blank, expected)
    everything = paint_blank(memory, tokens, torch.ones(5, N, dtype=torch.bool))
    torch.testing.assert_close(everything, painted_vectors(memory, expected.expand(5, N, -1)))
    mask = torch.zeros(5, N, dtype=torch.bool)
    mask[2, 4] = True
    vectors = memory.codebook[tokens]
    vectors[2, 4] = expected
    torch.testing.assert_close(paint_blank(memory, tokens, mask), painted_vectors(memory, vectors))


def test_batches_fit_into_the_budget_and_hold_one_picture_at_least() -> None:
    memory = tiny_memory(SIDE, batch_size=4)
    each = completing_bytes(N, K, 16) + painting_bytes(memory.vqvae.config)
    found = {}
    for pictures in (0.5, 1, 2.9, 3, 100):
        memory.budget = int(pictures * each)
        found[pictures] = [len(range(7)[rows]) for rows in memory.batches(7)]
    assert found == {0.5: [1] * 7, 1: [1] * 7, 2.9: [2, 2, 2, 1], 3: [3, 3, 1], 100: [4, 3]}


def test_sizes_come_from_the_vqvae() -> None:
    memory = tiny_memory(SIDE)
    assert (memory.side, memory.tokens, memory.stride) == (SIDE, N, 4)


def test_encoding_gives_the_indices_of_the_vqvae_in_raster_order() -> None:
    memory, pictures = tiny_memory(SIDE), torch.rand(4, 3, 12, 12) * 2 - 1
    tokens = memory.encode(pictures)
    assert tokens.shape == (4, N)
    assert torch.equal(memory.grid(tokens), memory.vqvae.encode_indices(pictures))


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (3, 3), (7, 3), (5, 250), (4, 1)])
def test_batches_cover_each_picture_once_in_order(count: int, size: int) -> None:
    batches = list(tiny_memory(SIDE, batch_size=size).batches(count))
    covered = [number for rows in batches for number in range(count)[rows]]
    assert covered == list(range(count))
    assert all(1 <= len(range(count)[rows]) <= size for rows in batches)


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_logits_in_batches_are_those_of_the_model_at_once(tokens: Tensor, batch_size: int) -> None:
    """Also where a picture, or a whole batch, has nothing masked."""
    memory = tiny_memory(SIDE, batch_size=batch_size)
    mask = torch.rand(5, N) < 0.5
    mask[0] = mask[1] = False
    logits = memory.logits(tokens, mask)
    assert logits.shape == (int(mask.sum()), K)
    torch.testing.assert_close(logits, masked_logits(memory.distil, tokens, mask))


def test_bfloat16_is_close_and_handed_on_as_float32(tokens: Tensor) -> None:
    mask = torch.ones(5, N, dtype=torch.bool)
    exact, short = (tiny_memory(SIDE, bf16=bf16).logits(tokens, mask) for bf16 in (False, True))
    assert short.dtype == torch.float32
    assert 0 < (short - exact).abs().max() < 0.05


@pytest.mark.parametrize("architecture", ["compact", "codes"])
def test_class_probabilities_sum_to_one_and_come_from_what_the_classifier_sees(
    architecture: str, tokens: Tensor
) -> None:
    memory = tiny_memory(SIDE, classifier=architecture)
    pictures, other = memory.paint_tokens(tokens), memory.paint_tokens((tokens + 1) % K)
    found = memory.class_probabilities(pictures, tokens)
    assert found is not None and found.shape == (5, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    with_other_pictures = memory.class_probabilities(other, tokens)
    with_other_tokens = memory.class_probabilities(pictures, (tokens + 1) % K)
    assert torch.equal(with_other_pictures, found) == (architecture == "codes")
    assert torch.equal(with_other_tokens, found) == (architecture == "compact")
    seen = memory.grid(tokens) if architecture == "codes" else pictures
    torch.testing.assert_close(found.log(), memory.classifier(seen).log_softmax(1))


def test_without_a_classifier_there_are_no_class_probabilities(tokens: Tensor) -> None:
    memory = tiny_memory(SIDE)
    assert memory.class_probabilities(memory.paint_tokens(tokens), tokens) is None


def test_shares_by_position_by_hand() -> None:
    """Position 0 has code 0 three times of four and code 1 once; position 1 has code 1 once and code 2 three times."""
    shares = shares_by_position(torch.tensor([[0, 1], [0, 2], [1, 2], [0, 2]]), 4)
    assert shares.tolist() == [[0.75, 0.25, 0, 0], [0, 0.25, 0.75, 0]]


def test_shares_by_position_sum_to_one() -> None:
    shares = shares_by_position(torch.randint(0, K, (37, N)), K)
    assert shares.shape == (N, K)
    torch.testing.assert_close(shares.sum(1), torch.ones(N))
