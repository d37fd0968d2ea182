"""The DistilBERT over code indices: what it may see, what it answers, and that it learns. K = 11 codes, N = 9."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DistilBertConfig, DistilBertForMaskedLM

from masking import halton_order, hide, random_mask
from models.codes import Filling, choose_codes, draw_codes, truncate
from models.distilbert import (
    blank_mask_token,
    build_distilbert,
    classes_of,
    codes_of,
    from_pretrained_body,
    guided_logits,
    load_distilbert,
    mask_id,
    masked_cross_entropy,
    masked_logits,
    prepare_for,
    start_from_codebook,
)
from recall.completing import blank_out, complete

K, N, C = 11, 9, 3
CPU = torch.device("cpu")


def tiny_model(classes: int = 0) -> DistilBertForMaskedLM:
    """With larger weights than the usual start, so that differences show."""
    built = build_distilbert(K, N, dim=16, layers=2, heads=2, dropout=0.0, classes=classes).eval()
    with torch.no_grad():
        for parameter in built.distilbert.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15)
    return built


@pytest.fixture
def model() -> DistilBertForMaskedLM:
    return tiny_model()


@pytest.fixture
def conditioned() -> DistilBertForMaskedLM:
    """Trained, as it were, with C classes."""
    return tiny_model(classes=C)


@pytest.fixture
def grids() -> Tensor:
    return torch.randint(0, K, (4, N))


@pytest.fixture
def codebook() -> Tensor:
    """(K, D) with D = 3."""
    return torch.randn(K, 3)


@pytest.fixture
def mask(draws: torch.Generator) -> Tensor:
    return random_mask(4, N, 0.5, draws)


def test_code_0_is_a_code_like_any_other(model: DistilBertForMaskedLM) -> None:
    """With DistilBERT's default padding id its embedding would be zero and would never learn from being seen."""
    embedding = model.distilbert.embeddings.word_embeddings
    assert embedding.weight[0].abs().min() > 0
    seen = torch.zeros(1, N, dtype=torch.long)
    states = model.distilbert(input_ids=seen).last_hidden_state
    (gradient,) = torch.autograd.grad((states * torch.randn_like(states)).sum(), [embedding.weight])
    assert gradient[0].abs().max() > 0
    assert gradient[1:].abs().max() == 0


def test_mask_is_the_last_id_of_the_vocabulary(model: DistilBertForMaskedLM) -> None:
    assert mask_id(model) == K
    assert model.distilbert.embeddings.word_embeddings.weight.shape == (K + 1, 16)


def test_permuting_positions_changes_the_logits(model: DistilBertForMaskedLM, grids: Tensor) -> None:
    """Without position embeddings, visible codes in another order would give the same answer."""
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[:, -1] = True
    permuted = grids.clone()
    permuted[:, :-1] = grids[:, :-1].flip(1)
    with torch.no_grad():
        assert (masked_logits(model, grids, mask) - masked_logits(model, permuted, mask)).abs().max() > 1e-2
        model.distilbert.embeddings.position_embeddings.weight.zero_()
        without = masked_logits(model, grids, mask)
        torch.testing.assert_close(masked_logits(model, permuted, mask), without, atol=1e-5, rtol=1e-4)


def test_masked_logits_are_those_of_the_whole_model_at_masked_tokens(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor
) -> None:
    with torch.no_grad():
        whole = model(input_ids=hide(grids, mask, K)).logits  # (B, N, V)
        found = masked_logits(model, grids, mask)
    assert found.shape == (int(mask.sum()), K)
    torch.testing.assert_close(found, whole[mask][:, :K], atol=1e-5, rtol=1e-5)


def test_what_a_masked_token_was_cannot_be_seen(model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor) -> None:
    other = torch.where(mask, (grids + 1) % K, grids)
    with torch.no_grad():
        assert torch.equal(masked_logits(model, other, mask), masked_logits(model, grids, mask))


def test_the_loss_is_on_masked_tokens_only(model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor) -> None:
    """It is the cross-entropy over masked tokens, and no gradient reaches the output states of visible ones."""
    states: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        states.append(output)

    model.distilbert.transformer.layer[-1].output_layer_norm.register_forward_hook(keep)
    losses, _ = masked_cross_entropy(model, grids, mask)
    assert losses.shape == (int(mask.sum()),)
    losses.mean().backward()
    reached = states[0].grad.abs().sum(-1) > 0
    assert torch.equal(reached, mask)


def test_cross_entropy_and_hits_have_their_known_values(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    with torch.no_grad():
        logits = masked_logits(model, grids, mask)
        answered = complete(model, grids, mask, codebook).indices
        losses, hits = masked_cross_entropy(model, grids, mask)
        assert masked_cross_entropy(model, answered, mask)[1].all(), "its own answers are what it finds likeliest"
    truth = grids[mask]
    expected = logits.logsumexp(1) - logits.gather(1, truth[:, None])[:, 0]
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(hits, logits.argmax(1) == truth)


def test_mask_is_never_an_answer(model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor) -> None:
    with torch.no_grad():
        model.vocab_projector.bias[K] = 1e6
        assert model(input_ids=hide(grids, mask, K)).logits.argmax(-1).eq(K).all(), "the whole model would answer MASK"
        assert complete(model, grids, mask, codebook).indices.max() < K
        losses, _ = masked_cross_entropy(model, grids, mask)
    assert losses.max() < 1e3, "nor does MASK take a share of the probability"


def test_complete_fills_what_is_masked_and_leaves_the_rest(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0, :3] = True
    mask[2] = True  # all of this picture; nothing of pictures 1 and 3
    before = grids.clone()
    completed = complete(model, grids, mask, codebook)
    assert torch.equal(grids, before), "the grid that is handed in stays as it is"
    assert torch.equal(completed.indices[~mask], grids[~mask])
    assert torch.equal(completed.indices[mask], masked_logits(model, grids, mask).argmax(1))
    assert completed.indices.max() < K


def test_the_expected_vector_is_the_mean_of_the_codes_by_their_probability(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    """Visible tokens have their own code's vector; a masked one lies at sum_k p(k) e_k."""
    expected = complete(model, grids, mask, codebook).expected
    assert expected.shape == (4, N, 3)
    assert torch.equal(expected[~mask], codebook[grids[~mask]])
    probabilities = masked_logits(model, grids, mask).softmax(1)
    by_hand = torch.stack([sum(p * e for p, e in zip(row, codebook, strict=True)) for row in probabilities])
    torch.testing.assert_close(expected[mask], by_hand, atol=1e-5, rtol=1e-5)


def test_masked_tokens_may_already_hold_mask(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    """What is forgotten need not be known: a grid with MASK in it is completed like the grid that it came from."""
    known = complete(model, grids, mask, codebook)
    forgotten = complete(model, hide(grids, mask, K), mask, codebook)
    assert torch.equal(forgotten.indices, known.indices)
    assert torch.equal(forgotten.expected, known.expected)


def test_an_empty_mask_changes_nothing(model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor) -> None:
    nothing = torch.zeros(4, N, dtype=torch.bool)
    completed = complete(model, grids, nothing, codebook)
    assert torch.equal(completed.indices, grids)
    assert torch.equal(completed.expected, codebook[grids])
    losses, hits = masked_cross_entropy(model, grids, nothing)
    assert losses.shape == (0,)
    assert hits.shape == (0,)


def test_one_batch_can_be_overfitted() -> None:
    """Four grids, each known by its first token: everything else can be filled in."""
    grids = torch.randint(0, K, (4, N))
    grids[:, 0] = torch.arange(4)
    mask = torch.ones(4, N, dtype=torch.bool)
    mask[:, 0] = False
    model = build_distilbert(K, N, dim=32, layers=2, heads=2, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        losses, _ = masked_cross_entropy(model, grids, mask)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert losses.mean() < 0.1
    assert torch.equal(complete(model.eval(), grids, mask, torch.randn(K, 3)).indices, grids)


def test_dropout_is_used_in_training_and_not_in_evaluation(grids: Tensor, mask: Tensor) -> None:
    model = build_distilbert(K, N, dim=16, layers=1, heads=2, dropout=0.5)
    with torch.no_grad():
        model.train()
        assert not torch.equal(masked_logits(model, grids, mask), masked_logits(model, grids, mask))
        model.eval()
        assert torch.equal(masked_logits(model, grids, mask), masked_logits(model, grids, mask))


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A small DistilBERT of words, stored: another vocabulary, more positions, the usual padding id."""
    words = DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=50, max_position_embeddings=32, dim=16, hidden_dim=64, n_layers=2, n_heads=2)
    )
    words.save_pretrained(tmp_path)
    return tmp_path, words.state_dict()


def test_a_pretrained_body_keeps_its_layers_and_takes_the_new_sizes(
    pretrained: tuple[Path, dict[str, Tensor]], grids: Tensor, mask: Tensor
) -> None:
    folder, before = pretrained
    model = from_pretrained_body(str(folder), K, N)
    after = model.state_dict()
    kept = [name for name in before if ".transformer." in name or name.startswith(("vocab_transform", "vocab_layer"))]
    assert len(kept) > 30
    assert all(torch.equal(after[name], before[name]) for name in kept)
    embeddings = model.distilbert.embeddings
    assert embeddings.word_embeddings.weight.shape == (K + 1, 16)
    assert embeddings.position_embeddings.weight.shape == (N, 16)
    assert embeddings.word_embeddings.padding_idx is None and embeddings.word_embeddings.weight[0].abs().sum() > 0
    assert model.vocab_projector.weight is embeddings.word_embeddings.weight, "output and input codes stay tied"
    assert (codes_of(model), classes_of(model), mask_id(model)) == (K, 0, K)
    losses, _ = masked_cross_entropy(model, grids, mask)
    assert losses.isfinite().all()


def test_a_pretrained_body_can_be_told_classes(
    pretrained: tuple[Path, dict[str, Tensor]], grids: Tensor, mask: Tensor, tmp_path: Path
) -> None:
    model = from_pretrained_body(str(pretrained[0]), K, N, classes=C).eval()
    assert (codes_of(model), classes_of(model)) == (K, C)
    with torch.no_grad():
        told = masked_logits(model, grids, mask, torch.tensor([0, 1, 2, 0]))
        model.save_pretrained(tmp_path / "stored")
        again = load_distilbert(tmp_path / "stored", CPU)
        torch.testing.assert_close(masked_logits(again, grids, mask, torch.tensor([0, 1, 2, 0])), told)


def test_an_absent_pretrained_body_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        from_pretrained_body(str(tmp_path / "absent"), K, N)


def test_a_stored_model_comes_back_bit_equal(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, tmp_path: Path
) -> None:
    prepare_for(model, CPU, training=False)
    model.save_pretrained(tmp_path)
    loaded = load_distilbert(tmp_path, CPU)
    assert not loaded.training and mask_id(loaded) == K
    with torch.no_grad():
        assert torch.equal(masked_logits(loaded, grids, mask), masked_logits(model, grids, mask))


def test_a_missing_folder_says_which_command_makes_the_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.*config\.json is missing; type: python train_distil\.py"):
        load_distilbert(tmp_path / "absent", CPU)


def test_the_attention_of_training_gives_the_same_answers(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor
) -> None:
    """On a CPU training is faster with the plain one, asking with the fused one."""
    kinds, answers = [], []
    with torch.no_grad():
        for training in (True, False):
            prepare_for(model, CPU, training)
            kinds.append(model.config._attn_implementation)
            answers.append(masked_logits(model, grids, mask))
    assert kinds == ["eager", "sdpa"]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=1e-4)


def test_blanking_out_replaces_the_codes_of_masked_tokens_only() -> None:
    """Token n of a mask lies at row n // w, column n % w of the grid."""
    codes, blank = torch.randn(2, 5, 2, 3), torch.randn(5)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 4] = True
    blanked = blank_out(codes, mask, blank)
    assert torch.equal(blanked[0, :, 1, 1], blank)
    expected = codes.clone()
    expected[0, :, 1, 1] = blank
    assert torch.equal(blanked, expected)


def test_the_cross_entropy_of_a_fresh_model_is_near_that_of_a_guess(grids: Tensor, mask: Tensor) -> None:
    model = build_distilbert(K, N, dim=16, layers=1, heads=2, dropout=0.0).eval()
    with torch.no_grad():
        losses, _ = masked_cross_entropy(model, grids, mask)
    uniform = float(F.cross_entropy(torch.zeros(1, K), torch.tensor([0])))
    assert float(losses.mean()) == pytest.approx(uniform, abs=0.2)


def test_the_cross_entropy_of_a_model_that_knows_nothing_is_log_k(grids: Tensor, mask: Tensor) -> None:
    model = tiny_model(classes=C)
    with torch.no_grad():
        model.vocab_projector.weight.zero_()
        losses, _ = masked_cross_entropy(model, grids, mask)
    torch.testing.assert_close(losses, torch.full((int(mask.sum()),), math.log(K)))


# Filling in several passes


def grids_seen(model: DistilBertForMaskedLM) -> list[Tensor]:
    """Grows by the grids (B, N) that the model is asked about, one entry a pass."""
    seen: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append(named["input_ids"].clone())

    model.distilbert.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def counts_seen(seen: list[Tensor]) -> list[list[int]]:
    """Masked tokens of each picture in each pass."""
    return [(ids == K).sum(1).tolist() for ids in seen]


def one_by_one(model: DistilBertForMaskedLM, grid: Tensor, mask: Tensor) -> Tensor:
    """The plain loop: again and again fill the masked token of (N,) whose likeliest code is most probable."""
    grid, mask = grid.clone(), mask.clone()
    while mask.any():
        probabilities = masked_logits(model, grid[None], mask[None]).softmax(1)
        surest = int(probabilities.amax(1).argmax())
        place = int(mask.nonzero()[surest])
        grid[place] = probabilities[surest].argmax()
        mask[place] = False
    return grid


@pytest.mark.parametrize("order", ["confidence", "halton"])
@pytest.mark.parametrize("passes", [1, 2, 5, 9, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_however_many_passes_all_masked_tokens_are_filled_and_no_other_changes(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, order: str, passes: int, temperature: float
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0, :5], mask[1], mask[2, 4] = True, True, True  # nothing of picture 3
    seen = grids_seen(model)
    draws = torch.Generator().manual_seed(0)
    completed = complete(model, hide(grids, mask, K), mask, codebook, Filling(passes, order, temperature), draws)
    assert torch.equal(completed.indices[~mask], grids[~mask])
    assert completed.indices.max() < K
    assert (completed.confidence[~mask] == 1).all()
    assert (completed.confidence[mask] > 0).all() and (completed.confidence[mask] <= 1).all()
    assert torch.equal(completed.expected[~mask], codebook[grids[~mask]])
    assert len(seen) == min(passes, N), "there is nothing left to do after as many passes as masked tokens"


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_one_pass_of_likeliest_codes_is_one_look_at_the_model(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor, order: str
) -> None:
    completed = complete(model, grids, mask, codebook, Filling(order=order))
    probabilities = masked_logits(model, grids, mask).softmax(1)
    assert torch.equal(completed.indices[mask], probabilities.argmax(1))
    torch.testing.assert_close(completed.confidence[mask], probabilities.amax(1))


@pytest.mark.parametrize(
    ("masked", "passes", "expected"),
    [
        (9, 1, [9]),
        (9, 2, [9, 6]),  # floor(9 cos(pi/4)) = floor(6.36)
        (9, 4, [9, 8, 6, 3]),  # 9 cos(pi/8) = 8.31, 6.36, 9 cos(3 pi/8) = 3.44
        (4, 4, [4, 3, 2, 1]),  # 3.70, 2.83, 1.53
    ],
)
def test_each_pass_leaves_the_cosine_of_the_masked_tokens(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, masked: int, passes: int, expected: list[int]
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[:, :masked] = True
    seen = grids_seen(model)
    complete(model, grids, mask, codebook, Filling(passes))
    assert counts_seen(seen) == [[count] * 4 for count in expected]


def test_the_cosine_counts_from_each_pictures_own_masked_tokens(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[0], mask[1, :4], mask[2, 0] = True, True, True
    seen = grids_seen(model)
    complete(model, grids, mask, codebook, Filling(4))
    assert counts_seen(seen) == [[9, 4, 1, 0], [8, 3, 0, 0], [6, 2, 0, 0], [3, 1, 0, 0]]


def test_what_was_filled_stays_and_is_seen_by_later_passes(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    seen = grids_seen(model)
    final = complete(model, grids, mask, codebook, Filling(3)).indices
    assert len(seen) == 3
    for ids in seen:
        assert torch.equal(ids[ids != K], final[ids != K])


def test_with_many_passes_the_surest_token_goes_first_given_those_before(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    mask = torch.ones(4, N, dtype=torch.bool)
    mask[:, 4] = False
    completed = complete(model, grids, mask, codebook, Filling(100)).indices
    with torch.no_grad():
        assert torch.equal(completed, torch.stack([one_by_one(model, *row) for row in zip(grids, mask, strict=True)]))
    assert not torch.equal(completed, complete(model, grids, mask, codebook).indices), "one pass answers otherwise"


@pytest.mark.parametrize("order", ["confidence", "halton"])
def test_a_picture_is_filled_as_if_it_were_alone(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, order: str
) -> None:
    mask = torch.rand(4, N) < torch.tensor([0.2, 0.5, 0.8, 1.0])[:, None]
    together = complete(model, grids, mask, codebook, Filling(4, order))
    for row in range(4):
        alone = complete(model, grids[row : row + 1], mask[row : row + 1], codebook, Filling(4, order))
        assert torch.equal(alone.indices[0], together.indices[row])
        torch.testing.assert_close(alone.confidence[0], together.confidence[row])


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


def test_with_many_passes_halton_fills_one_by_one_in_its_order(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor
) -> None:
    seen = grids_seen(model)
    complete(model, grids[:1], torch.ones(1, N, dtype=torch.bool), codebook, Filling(100, "halton"))
    waiting = [set((ids[0] == K).nonzero().flatten().tolist()) for ids in seen] + [set()]
    filled = [(before - after).pop() for before, after in pairwise(waiting)]
    assert filled == halton_order(3, 3).argsort().tolist()


# Drawing


LOGITS = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log() + 2  # any constant may be added


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_codes_are_drawn_as_often_as_the_softmax_says(temperature: float, draws: torch.Generator) -> None:
    """40,000 draws: the standard deviation of a share is at most 0.0025."""
    drawn = choose_codes(LOGITS.expand(40_000, -1), Filling(temperature=temperature), draws)
    powers = [p ** (1 / temperature) for p in (0.5, 0.05, 0.3, 0.15)]
    expected = torch.tensor(powers) / sum(powers)
    assert (torch.bincount(drawn, minlength=4) / 40_000 - expected).abs().max() < 0.01


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3}),
        (1, 1.0, {0}),
        (2, 1.0, {0, 2}),
        (3, 1.0, {0, 2, 3}),
        (4, 1.0, {0, 1, 2, 3}),
        (9, 1.0, {0, 1, 2, 3}),
        (0, 0.01, {0}),
        (0, 0.45, {0}),
        (0, 0.55, {0, 2}),  # 0.5 is not enough
        (0, 0.79, {0, 2}),
        (0, 0.81, {0, 2, 3}),  # 0.5 + 0.3 is not
        (0, 0.96, {0, 1, 2, 3}),
        (2, 0.6, {0}),  # of the two likeliest, 0.5 / 0.8 = 0.625
        (2, 0.64, {0, 2}),
    ],
)
def test_top_k_and_top_p_keep_the_right_codes(top_k: int, top_p: float, kept: set[int], draws: torch.Generator) -> None:
    truncated = truncate(LOGITS, top_k, top_p)
    assert set(truncated.isfinite()[0].nonzero().flatten().tolist()) == kept
    assert torch.equal(truncated[truncated.isfinite()], LOGITS[truncated.isfinite()])
    filling = Filling(temperature=1.0, top_k=top_k, top_p=top_p)
    assert set(choose_codes(LOGITS.expand(2000, -1), filling, draws).tolist()) == kept


def test_the_likeliest_code_stays_in_every_row() -> None:
    logits = torch.randn(200, K) * 3
    for top_p in (1e-6, 0.3, 0.9):
        truncated = truncate(logits, top_p=top_p)
        assert torch.equal(truncated.argmax(1), logits.argmax(1))
    assert truncate(logits, top_p=1e-6).isfinite().sum(1).eq(1).all()


def test_temperature_counts_before_top_p(draws: torch.Generator) -> None:
    """At temperature 1/2 the shares are 0.25, 0.0025, 0.09, 0.0225 of 0.365: the first alone has 0.68."""
    filling = Filling(temperature=0.5, top_p=0.6)
    assert set(choose_codes(LOGITS.expand(2000, -1), filling, draws).tolist()) == {0}


def test_drawing_without_a_generator_is_refused(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        complete(model, grids, mask, codebook, Filling(temperature=1.0))


@pytest.mark.parametrize("passes", [1, 3])
def test_the_same_generator_draws_the_same_codes_whatever_the_global_seed(
    model: DistilBertForMaskedLM, grids: Tensor, codebook: Tensor, passes: int
) -> None:
    def drawn(seed: int) -> Tensor:
        mask = torch.ones(4, N, dtype=torch.bool)
        return complete(
            model, grids, mask, codebook, Filling(passes, temperature=1.0), torch.Generator().manual_seed(seed)
        ).indices

    first = drawn(1)
    torch.manual_seed(123)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)


def test_confidence_is_the_probability_of_the_drawn_code(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor, draws: torch.Generator
) -> None:
    completed = complete(model, grids, mask, codebook, Filling(temperature=2.0), draws)
    probabilities = masked_logits(model, grids, mask).softmax(1)
    chosen = completed.indices[mask]
    assert not torch.equal(chosen, probabilities.argmax(1)), "some draws are not the likeliest code"
    torch.testing.assert_close(completed.confidence[mask], probabilities.gather(1, chosen[:, None])[:, 0])


# Classes


def test_the_class_changes_the_logits_of_its_picture_only(
    conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor
) -> None:
    with torch.no_grad():
        first = masked_logits(conditioned, grids, mask, torch.tensor([0, 1, 2, -1]))
        other = masked_logits(conditioned, grids, mask, torch.tensor([0, 2, 2, -1]))
    owners = mask.nonzero()[:, 0]
    assert first.shape == (int(mask.sum()), K)
    changed = (first - other).abs().amax(1)
    assert changed[owners == 1].min() > 1e-3
    assert changed[owners != 1].max() < 1e-5


def test_all_classes_and_none_tell_something_else(conditioned: DistilBertForMaskedLM, grids: Tensor) -> None:
    everything = torch.ones(1, N, dtype=torch.bool)
    with torch.no_grad():
        answers = [masked_logits(conditioned, grids[:1], everything, torch.tensor([told])) for told in (*range(C), -1)]
    for first in range(C + 1):
        for second in range(first):
            assert (answers[first] - answers[second]).abs().max() > 1e-2


def test_label_minus_one_is_no_label(conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor) -> None:
    with torch.no_grad():
        untold = masked_logits(conditioned, grids, mask)
        assert torch.equal(masked_logits(conditioned, grids, mask, torch.full((4,), -1)), untold)
        losses, _ = masked_cross_entropy(conditioned, grids, mask, torch.tensor([0, 1, 2, 0]))
        plain, _ = masked_cross_entropy(conditioned, grids, mask)
    assert not torch.allclose(losses, plain)


def test_labels_are_refused_by_a_model_without_classes(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    with pytest.raises(ValueError, match="trained without classes"):
        masked_logits(model, grids, mask, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="trained without classes"):
        complete(model, grids, mask, codebook, labels=torch.zeros(4, dtype=torch.long))


def test_guidance_goes_from_untold_through_told_and_beyond_on_a_line(
    conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor
) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        told, untold = masked_logits(conditioned, grids, mask, labels), masked_logits(conditioned, grids, mask)
        found = {s: guided_logits(conditioned, grids, mask, labels, s) for s in (0, 0.25, 1, 3)}
        without = guided_logits(conditioned, grids, mask, None, 3)
    assert torch.equal(found[1], told)
    torch.testing.assert_close(found[0], untold)
    torch.testing.assert_close(found[0.25], 0.75 * untold + 0.25 * told)
    torch.testing.assert_close(found[3], 3 * told - 2 * untold)
    assert torch.equal(without, untold)
    assert (told - untold).abs().max() > 1e-2


def test_complete_fills_by_the_guided_logits(
    conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, codebook: Tensor
) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    guided = complete(conditioned, grids, mask, codebook, Filling(guidance_scale=8.0), labels=labels).indices
    with torch.no_grad():
        assert torch.equal(guided[mask], guided_logits(conditioned, grids, mask, labels, 8.0).argmax(1))
    assert not torch.equal(guided, complete(conditioned, grids, mask, codebook).indices)
    assert guided.max() < K, "a class is never an answer"


def test_a_stored_model_remembers_codes_and_classes(
    conditioned: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, tmp_path: Path
) -> None:
    labels = torch.tensor([0, 1, 2, -1])
    prepare_for(conditioned, CPU, training=False)
    conditioned.save_pretrained(tmp_path)
    loaded = load_distilbert(tmp_path, CPU)
    assert (codes_of(loaded), classes_of(loaded), mask_id(loaded)) == (K, C, K)
    with torch.no_grad():
        stored, now = masked_logits(loaded, grids, mask, labels), masked_logits(conditioned, grids, mask, labels)
    assert torch.equal(stored, now)


# Starting from the codebook, and the blank MASK


def test_similar_codes_start_with_similar_embeddings_at_the_usual_scale(
    conditioned: DistilBertForMaskedLM, draws: torch.Generator
) -> None:
    codebook = torch.randn(K, 32) * 7 + 3
    codebook[1] = codebook[0] + 0.01 * torch.randn(32)
    weight = conditioned.distilbert.embeddings.word_embeddings.weight
    before = weight.detach().clone()
    start_from_codebook(conditioned, codebook, draws)
    assert torch.equal(weight[K:], before[K:]), "MASK and classes stay as they are"
    assert float(weight[:K].detach().std()) == pytest.approx(conditioned.config.initializer_range, rel=1e-5)
    distances = torch.cdist(weight[:K].detach(), weight[:K].detach())
    others = distances[~torch.eye(K, dtype=torch.bool)].view(K, K - 1)
    assert distances[0, 1] < 0.01 * others[2:].min()
    assert conditioned.vocab_projector.weight is weight, "on the way out, too"


def test_the_projection_is_drawn_by_its_generator(model: DistilBertForMaskedLM, codebook: Tensor) -> None:
    weight = model.distilbert.embeddings.word_embeddings.weight
    starts = []
    for seed in (1, 1, 2):
        start_from_codebook(model, codebook, torch.Generator().manual_seed(seed))
        starts.append(weight.detach().clone())
        torch.manual_seed(99)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def codes_after_training(
    prepare: Callable[[DistilBertForMaskedLM], None], grids: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Embeddings (V, dim) before and after three steps with weight decay."""
    model = tiny_model()
    prepare(model)
    weight = model.distilbert.embeddings.word_embeddings.weight
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        losses, _ = masked_cross_entropy(model, grids, mask)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return before, weight.detach()


def test_a_blank_mask_token_stays_zero_while_the_codes_learn(grids: Tensor, mask: Tensor) -> None:
    before, after = codes_after_training(blank_mask_token, grids, mask)
    assert (before[K] == 0).all() and (after[K] == 0).all()
    assert (before[:K] - after[:K]).abs().amax(1).min() > 1e-3
    before, after = codes_after_training(lambda model: None, grids, mask)
    assert (before[K] - after[K]).abs().max() > 1e-3, "otherwise MASK learns like all others"


def test_drawn_codes_have_their_probabilities_and_never_none() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2, 0.0]]).repeat(20_000, 1)
    drawn = draw_codes(probabilities, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=6) / len(drawn)
    assert shares[[0, 2, 5]].tolist() == [0, 0, 0]
    assert torch.allclose(shares, probabilities[0], atol=0.015)


def test_drawn_codes_of_certain_rows_are_those() -> None:
    certain = torch.eye(7)
    assert draw_codes(certain, torch.Generator().manual_seed(1)).tolist() == list(range(7))
