"""The DistilBERT over code indices: what it may see, what it answers, and that it learns. K = 11 codes, N = 9."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DistilBertConfig, DistilBertForMaskedLM

from completion import (
    blank_out,
    build_distilbert,
    complete,
    from_pretrained_body,
    load_distilbert,
    mask_id,
    masked_cross_entropy,
    masked_logits,
    prepare_for,
)
from masking import hide, random_mask

K, N = 11, 9
CPU = torch.device("cpu")


@pytest.fixture
def model() -> DistilBertForMaskedLM:
    """With larger weights than the usual start, so that differences show."""
    built = build_distilbert(K, N, dim=16, layers=2, heads=2, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in built.distilbert.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return built


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
    losses, _ = masked_cross_entropy(model, grids, mask)
    assert losses.isfinite().all()


def test_an_absent_pretrained_body_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        from_pretrained_body(str(tmp_path / "absent"), K, N)


def test_a_stored_model_comes_back_bit_equal(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor, tmp_path: Path
) -> None:
    prepare_for(model, CPU)  # as in training
    model.save_pretrained(tmp_path)
    loaded = load_distilbert(tmp_path, CPU)
    assert not loaded.training and mask_id(loaded) == K
    with torch.no_grad():
        assert torch.equal(masked_logits(loaded, grids, mask), masked_logits(model, grids, mask))


def test_a_missing_folder_says_which_command_makes_the_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.*config\.json is missing; type: python train_distil\.py"):
        load_distilbert(tmp_path / "absent", CPU)


def test_the_fast_attention_gives_the_same_answers(model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor) -> None:
    with torch.no_grad():
        fused = masked_logits(model, grids, mask)
        prepare_for(model, CPU)
        torch.testing.assert_close(masked_logits(model, grids, mask), fused, atol=1e-5, rtol=1e-4)


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
