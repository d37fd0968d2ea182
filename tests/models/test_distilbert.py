"""The DistilBERT over code indices: what it may see, what it answers, and that it learns. K = 11 codes, N = 9."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DistilBertConfig, DistilBertForMaskedLM

from masked_memory.models.distilbert import (
    DistilShape,
    attention_bias,
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
from masked_memory.pipeline.files import write_json, write_safetensors
from masked_memory.stages.masking import hide, random_mask
from toys import CPU, complete, enlarge, tiny_distil

K, N, C = 11, 9, 3


@pytest.fixture
def model() -> DistilBertForMaskedLM:
    return tiny_distil(K, N)


@pytest.fixture
def conditioned() -> DistilBertForMaskedLM:
    """Trained, as it were, with C classes."""
    return tiny_distil(K, N, classes=C)


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


def test_one_batch_can_be_overfitted() -> None:
    """Four grids, each known by its first token: everything else can be filled in."""
    grids = torch.randint(0, K, (4, N))
    grids[:, 0] = torch.arange(4)
    mask = torch.ones(4, N, dtype=torch.bool)
    mask[:, 0] = False
    model = build_distilbert(K, N, DistilShape(dim=32, layers=2, heads=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        losses, _ = masked_cross_entropy(model, grids, mask)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert losses.mean() < 0.1
    assert torch.equal(complete(model.eval(), grids, mask, torch.randn(K, 3)).indices, grids)


def test_dropout_is_used_in_training_and_not_in_evaluation(grids: Tensor, mask: Tensor) -> None:
    model = build_distilbert(K, N, DistilShape(dim=16, layers=1, heads=2, dropout=0.5))
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


def test_the_attention_of_training_gives_the_same_answers(
    model: DistilBertForMaskedLM, grids: Tensor, mask: Tensor
) -> None:
    """On a CPU each is faster with another."""
    kinds, answers = [], []
    with torch.no_grad():
        for training in (True, False):
            prepare_for(model, CPU, training)
            kinds.append(model.config._attn_implementation)
            answers.append(masked_logits(model, grids, mask))
    assert kinds == ["eager", "in_parts"]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=1e-4)


def test_the_cross_entropy_of_a_fresh_model_is_near_that_of_a_guess(grids: Tensor, mask: Tensor) -> None:
    model = build_distilbert(K, N, DistilShape(dim=16, layers=1, heads=2)).eval()
    with torch.no_grad():
        losses, _ = masked_cross_entropy(model, grids, mask)
    uniform = float(F.cross_entropy(torch.zeros(1, K), torch.tensor([0])))
    assert float(losses.mean()) == pytest.approx(uniform, abs=0.2)


def test_the_cross_entropy_of_a_model_that_knows_nothing_is_log_k(grids: Tensor, mask: Tensor) -> None:
    model = tiny_distil(K, N, classes=C)
    with torch.no_grad():
        model.vocab_projector.weight.zero_()
        losses, _ = masked_cross_entropy(model, grids, mask)
    torch.testing.assert_close(losses, torch.full((int(mask.sum()),), math.log(K)))


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
    model = tiny_distil(K, N)
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


def test_the_last_layer_is_float32_also_when_the_model_is_asked_in_bf16() -> None:
    """In bfloat16, which has 8 bits, many logits of a row would be equal."""
    model, grids = tiny_distil(200, 16), torch.randint(0, 200, (20, 16))
    mask = torch.ones(20, 16, dtype=torch.bool)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = masked_logits(model, grids, mask)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    two = logits.topk(2, dim=1).values
    assert not (two[:, 0] == two[:, 1]).any()


# --- relative positions -----------------------------------------------------------------------------------------------


def test_at_the_start_attention_lies_on_the_cell_beside(grids: Tensor) -> None:
    """Each of four heads has a direction of its own; within the grid its bias is highest one cell that way."""
    model = build_distilbert(K, N, DistilShape(16, 1, 4, relative_positions=True))
    bias = attention_bias(model)
    assert bias.shape == (1, 4, N, N)
    middle = N // 2  # of 3x3
    assert bias[0, :, middle].argmax(1).tolist() == [middle + 1, middle + 3, middle - 1, middle - 3]
    assert attention_bias(tiny_distil(K, N)) is None


def test_a_token_moved_with_its_surroundings_is_seen_alike_but_for_its_place() -> None:
    """Without position embeddings only where tokens lie to each other counts."""
    model = build_distilbert(K, 25, DistilShape(16, 2, 4, relative_positions=True)).eval()
    enlarge(model.distilbert, 5)
    with torch.no_grad():
        model.distilbert.embeddings.position_embeddings.weight.zero_()
        model.near.table.mul_(5)  # so that only near cells count, and the border does not
        tokens = torch.zeros(2, 5, 5, dtype=torch.long)
        tokens[0, 1, 1], tokens[1, 2, 2] = 3, 3
        mask = torch.zeros(2, 5, 5, dtype=torch.bool)
        mask[0, 1, 2], mask[1, 2, 3] = True, True
        one, other = masked_logits(model, tokens.flatten(1), mask.flatten(1))
        mask = torch.zeros(2, 5, 5, dtype=torch.bool)
        mask[0, 1, 2], mask[1, 3, 2] = True, True
        _, below = masked_logits(model, tokens.flatten(1), mask.flatten(1))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    assert (one - below).abs().max() > 0.05, "beside is not below"


@pytest.mark.parametrize("classes", [0, 3])
def test_relative_positions_come_back_with_the_model(classes: int, grids: Tensor, tmp_path: Path) -> None:
    model = tiny_distil(K, N, classes=classes, relative=True)
    with torch.no_grad():
        model.near.table.normal_()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "vocab_projector.weight"}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    write_json(tmp_path / "config.json", model.config.to_dict())
    loaded = load_distilbert(tmp_path, torch.device("cpu"))
    mask = torch.zeros(grids.shape, dtype=torch.bool)
    mask[:, 2:5] = True
    with torch.no_grad():
        torch.testing.assert_close(masked_logits(loaded, grids, mask), masked_logits(model, grids, mask))
        model.near.table.zero_()
        assert not torch.allclose(masked_logits(loaded, grids, mask), masked_logits(model, grids, mask), atol=1e-3)


def test_the_bias_of_attention_learns() -> None:
    model = build_distilbert(K, N, DistilShape(16, 1, 2, relative_positions=True))
    prepare_for(model, torch.device("cpu"))
    losses, _ = masked_cross_entropy(model, torch.randint(K, (4, N)), torch.rand(4, N) < 0.5)
    losses.mean().backward()
    assert model.near.table.grad.abs().max() > 0
