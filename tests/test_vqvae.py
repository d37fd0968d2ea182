"""The VQ-VAE: round trips, what each loss term moves, the codebook's life, agreement with another implementation."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from masked_memory.models.codebook import count_codes, rotate, spread_rows
from masked_memory.pipeline.files import InputError, write_json, write_safetensors
from masked_memory.pipeline.world import Alone
from masked_memory.stages import vqvae
from masked_memory.stages.vqvae import VQVAE, Quantizer, VQVAEConfig


def test_unknown_stems_and_starts_are_refused():
    with pytest.raises(ValueError, match=r"stem is 'conv'; expected one of .*; codebook_start is 'zero'; expected"):
        VQVAEConfig(stem="conv", codebook_start="zero")


TINY = VQVAEConfig(image_size=16, hidden=16, residual_blocks=1, codebook_size=12, code_dim=6, data_init=False)


def random_pictures(config: VQVAEConfig, batch: int = 3) -> Tensor:
    """(B, C, H, W) in [-1, 1]."""
    return torch.rand(batch, config.channels, config.image_size, config.image_size) * 2 - 1


def quantizer_of(**changes: object) -> Quantizer:
    return Quantizer(replace(TINY, **changes))


def nearest_by_cdist(vectors: Tensor, codes: Tensor) -> Tensor:
    return torch.cdist(vectors.double(), codes.double()).argmin(1)


# Round trips


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_indices_decode_to_the_reconstruction_that_forward_gives(stride: int, channels: int) -> None:
    config = replace(TINY, image_size=32, stride=stride, channels=channels)
    model = VQVAE(config).eval()
    pictures = random_pictures(config)
    with torch.no_grad():
        output = model(pictures)
        indices = model.encode_indices(pictures)
        painted = model.decode_indices(indices)
    assert indices.shape == (3, 32 // stride, 32 // stride) and indices.dtype == torch.long
    assert config.tokens == indices[0].numel() and config.grid == indices.shape[1]
    assert torch.equal(indices, output.indices)
    assert painted.shape == pictures.shape
    torch.testing.assert_close(painted, output.reconstruction, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"normalize_codes": True}, {"rotation_trick": True}, {"reconstruction_loss": "bce"}]
)
def test_the_round_trip_holds_for_every_variant(changes: dict[str, object]) -> None:
    config = replace(TINY, **changes)
    model = VQVAE(config).eval()
    pictures = random_pictures(config)
    with torch.no_grad():
        output = model(pictures)
        painted = model.decode_indices(model.encode_indices(pictures))
    torch.testing.assert_close(painted, output.reconstruction, atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_pictures_stay_in_range_however_extreme_the_decoder(loss: str) -> None:
    model = VQVAE(replace(TINY, reconstruction_loss=loss)).eval()
    with torch.no_grad():
        model.decoder[-2].weight.mul_(1000)
        painted = model.decode_indices(torch.randint(12, (4, 4, 4)))
    assert painted.min() >= -1 and painted.max() <= 1
    assert painted.min() < -0.9 and painted.max() > 0.9


def test_indices_of_any_integer_type_decode_alike() -> None:
    model = VQVAE(TINY).eval()
    indices = torch.randint(12, (2, 4, 4))
    with torch.no_grad():
        assert torch.equal(model.decode_indices(indices.to(torch.uint8)), model.decode_indices(indices))


@pytest.mark.parametrize("normalize", [False, True])
def test_codebook_vectors_are_what_the_decoder_gets(normalize: bool) -> None:
    model = VQVAE(replace(TINY, normalize_codes=normalize))
    with torch.no_grad():
        model.quantizer.codebook.mul_(3)
    indices = torch.randint(12, (2, 4, 4))
    vectors = model.codebook_vectors()[indices].permute(0, 3, 1, 2)
    assert torch.equal(vectors, model.embed_indices(indices))


def test_every_code_finds_itself_again_in_the_codebook() -> None:
    model = VQVAE(replace(TINY, normalize_codes=True))
    every = torch.arange(12).view(1, 3, 4)
    vectors = model.embed_indices(every).permute(0, 2, 3, 1).reshape(12, -1)
    assert torch.equal(model.quantizer.nearest(vectors), every.flatten())


def test_evaluation_does_not_move_the_codebook_and_training_does() -> None:
    config = replace(TINY, data_init=True)
    model, pictures = VQVAE(config), random_pictures(config)
    before = {name: tensor.clone() for name, tensor in model.quantizer.state_dict().items()}
    model.eval()(pictures)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.quantizer.state_dict().items())
    model.train()(pictures)
    assert not torch.equal(before["codebook"], model.quantizer.codebook)


def test_the_same_generator_gives_the_same_codebook_whatever_the_global_seed() -> None:
    config = replace(TINY, data_init=True)
    pictures = random_pictures(config)
    first = VQVAE(config)
    second = VQVAE(config)
    second.load_state_dict(first.state_dict())
    first(pictures, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    second(pictures, torch.Generator().manual_seed(3))
    assert torch.equal(first.quantizer.codebook, second.quantizer.codebook)


# The loss terms


def gradients(config: VQVAEConfig, weights: dict[str, Tensor], pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the whole loss at the encoder's first kernel and at the codebook."""
    model = VQVAE(config)
    model.load_state_dict(weights)
    model(pictures).losses["loss"].backward()
    return model.encoder[1].weight.grad, model.quantizer.codebook.grad


def test_beta_weighs_the_commitment_term_only() -> None:
    """The codebook's gradient is the same for every beta; the encoder's grows by beta times the commitment's."""
    config = replace(TINY, codebook_update="gradient", restart_share=0.0, commitment_weight=0.0)
    model, pictures = VQVAE(config), random_pictures(config)
    weights = model.state_dict()
    (of_commitment,) = torch.autograd.grad(model(pictures).losses["commitment_loss"], [model.encoder[1].weight])
    encoder_0, codebook_0 = gradients(config, weights, pictures)
    assert of_commitment.abs().max() > 1e-4 and codebook_0.abs().max() > 1e-4
    for beta in (0.5, 4.0):
        encoder_beta, codebook_beta = gradients(replace(config, commitment_weight=beta), weights, pictures)
        assert torch.equal(codebook_beta, codebook_0)
        torch.testing.assert_close(encoder_beta, encoder_0 + beta * of_commitment, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_at_the_quantisers_input_the_vq_loss_has_the_gradient_of_beta_times_commitment(
    update: str, beta: float
) -> None:
    """d/dz beta mean((z - e)^2) = 2 beta (z - e) / numbers; exactly zero with beta = 0."""
    model = VQVAE(replace(TINY, codebook_update=update, commitment_weight=beta, restart_share=0.0))
    kept: list[Tensor] = []
    model.encoder.register_forward_hook(lambda module, inputs, z: kept.append(z))
    output = model(random_pictures(TINY))
    (z,) = kept
    before_update = output.losses["commitment_loss"]
    vq_loss = output.losses["loss"] - output.losses["reconstruction_loss"]
    (found,) = torch.autograd.grad(vq_loss, [z], retain_graph=True)
    (of_commitment,) = torch.autograd.grad(before_update, [z])
    if beta == 0:
        assert found.count_nonzero() == 0
    assert of_commitment.abs().max() > 1e-4
    torch.testing.assert_close(found, beta * of_commitment)


def test_codebook_and_commitment_loss_are_the_mean_squared_distance_to_the_code() -> None:
    quantizer = quantizer_of().eval()
    z = torch.randn(2, 6, 3, 3)
    quantized = quantizer(z)
    expected = (z - quantizer.embed(quantized.indices)).square().mean()
    torch.testing.assert_close(quantized.codebook_loss, expected)
    torch.testing.assert_close(quantized.commitment_loss, expected)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_total_is_the_sum_that_equation_3_names(update: str) -> None:
    """With EMA the codebook loss is for the record only."""
    config = replace(TINY, codebook_update=update, commitment_weight=0.7)
    with torch.no_grad():
        losses = {name: float(value) for name, value in VQVAE(config)(random_pictures(config)).losses.items()}
    codebook = losses["codebook_loss"] if update == "gradient" else 0.0
    expected = losses["reconstruction_loss"] + codebook + 0.7 * losses["commitment_loss"]
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)


def test_bce_is_the_cross_entropy_of_the_shown_picture() -> None:
    config = replace(TINY, reconstruction_loss="bce")
    model, pictures = VQVAE(config).eval(), random_pictures(config)
    output = model(pictures)
    expected = F.binary_cross_entropy((output.reconstruction + 1) / 2, (pictures + 1) / 2)
    torch.testing.assert_close(output.losses["reconstruction_loss"], expected, atol=1e-5, rtol=1e-5)


def test_mse_is_not_blind_to_pixels_outside_the_range() -> None:
    """The shown picture is clamped, the loss is not: else a saturated pixel would never learn."""
    model = VQVAE(TINY)
    with torch.no_grad():
        model.decoder[-2].bias.fill_(5.0)
    loss = model(random_pictures(TINY)).losses["reconstruction_loss"]
    loss.backward()
    assert model.decoder[-2].bias.grad.abs().min() > 0


# Gradients through the quantiser


def test_straight_through_hands_the_gradient_on_unchanged() -> None:
    quantizer = quantizer_of(restart_share=0.0)
    z = torch.randn(2, 6, 3, 3, requires_grad=True)
    upstream = torch.randn(2, 6, 3, 3)
    quantizer(z).codes.backward(upstream)
    assert torch.equal(z.grad, upstream)


def test_rotation_trick_has_the_value_of_the_code() -> None:
    z, e = torch.randn(50, 6), torch.randn(50, 6)
    torch.testing.assert_close(rotate(z, e), e, atol=1e-5, rtol=1e-5)


def test_rotation_trick_turns_the_gradient_by_the_known_angle() -> None:
    """z = (2, 0), e = (0, 3): a quarter turn and 3/2. An upstream gradient along e comes back along z, 3/2 as long; one
    along z, turned back by the quarter turn, comes back along -e."""
    e = torch.tensor([[0.0, 3.0]])
    for upstream, expected in (([0.0, 1.0], [1.5, 0.0]), ([1.0, 0.0], [0.0, -1.5])):
        z = torch.tensor([[2.0, 0.0]], requires_grad=True)
        rotate(z, e).backward(torch.tensor([upstream]))
        torch.testing.assert_close(z.grad, torch.tensor([expected]))


def test_rotation_trick_keeps_the_angle_between_gradient_and_vector() -> None:
    """The property of Fifty et al.: the angle of upstream gradient and e is that of passed gradient and z."""
    z, e, upstream = torch.randn(40, 6, requires_grad=True), torch.randn(40, 6), torch.randn(40, 6)
    rotate(z, e).backward(upstream)
    scale = (e.norm(dim=1) / z.norm(dim=1)).detach()
    torch.testing.assert_close(z.grad.norm(dim=1), upstream.norm(dim=1) * scale)
    torch.testing.assert_close(F.cosine_similarity(z.grad, z), F.cosine_similarity(upstream, e), atol=1e-5, rtol=1e-4)


def test_rotation_trick_agrees_with_vector_quantize_pytorch() -> None:
    z, e, upstream = torch.randn(40, 6), torch.randn(40, 6), torch.randn(40, 6)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    value_ours, value_theirs = rotate(ours, e), rotate_to(theirs, e)
    value_ours.backward(upstream)
    value_theirs.backward(upstream)
    torch.testing.assert_close(value_ours, value_theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_the_rotation_trick_switch_changes_the_gradient_and_not_the_value() -> None:
    z, upstream = torch.randn(2, 6, 3, 3), torch.randn(2, 6, 3, 3)
    plain, turned = quantizer_of(), quantizer_of(rotation_trick=True)
    turned.load_state_dict(plain.state_dict())
    grads = []
    for quantizer in (plain, turned):
        leaf = z.clone().requires_grad_()
        quantized = quantizer.eval()(leaf)
        torch.testing.assert_close(quantized.codes, plain.embed(quantized.indices), atol=1e-5, rtol=1e-4)
        quantized.codes.backward(upstream)
        grads.append(leaf.grad)
    assert not torch.allclose(grads[0], grads[1], atol=1e-2)


# Nearest codes


@pytest.mark.parametrize("normalize", [False, True])
def test_the_nearest_code_is_that_of_cdist(normalize: bool) -> None:
    quantizer = quantizer_of(codebook_size=64, normalize_codes=normalize)
    vectors = torch.randn(500, 6)
    if normalize:
        expected = nearest_by_cdist(F.normalize(vectors, dim=1), F.normalize(quantizer.codebook, dim=1))
    else:
        expected = nearest_by_cdist(vectors, quantizer.codebook)
    assert torch.equal(quantizer.nearest(vectors), expected)


def test_normalised_codes_have_length_one_even_after_training_steps() -> None:
    quantizer = quantizer_of(normalize_codes=True)
    for _ in range(5):
        quantizer(3 * torch.randn(4, 6, 4, 4))
    vectors = quantizer.embed(torch.arange(12).view(1, 3, 4))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(1, 3, 4))
    torch.testing.assert_close(quantizer.eval()(torch.randn(2, 6, 3, 3)).codes.norm(dim=1), torch.ones(2, 3, 3))


def close_codes() -> tuple[VQVAE, Tensor]:
    """A model with many codes close together and vectors (M, D) among them: half precision would confuse them."""
    model = VQVAE(replace(TINY, codebook_size=256, code_dim=32)).eval()
    with torch.no_grad():
        model.quantizer.codebook.copy_(1 + 0.05 * torch.randn(256, 32))
    return model, 1 + 0.05 * torch.randn(2048, 32)


def test_the_quantiser_stays_in_float32_under_autocast() -> None:
    model, vectors = close_codes()
    z = vectors.view(2, 32, 32, 32).permute(0, 3, 1, 2)
    plain = model.quantizer(z)
    in_half = (model.quantizer.codebook.bfloat16() @ vectors.bfloat16().T).argmax(0)
    assert (in_half != plain.indices.flatten()).float().mean() > 0.01, "this example would not notice half precision"
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model.quantizer(z)
    assert torch.equal(autocast.indices, plain.indices)
    assert autocast.codes.dtype == torch.float32 and torch.equal(autocast.codes, plain.codes)
    assert torch.equal(autocast.commitment_loss, plain.commitment_loss)


def test_the_nearest_code_is_sought_in_float32_under_autocast() -> None:
    """`encode_indices` goes this way, past `Quantizer.forward`."""
    model, vectors = close_codes()
    expected = model.quantizer.nearest(vectors)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.quantizer.nearest(vectors)
    assert torch.equal(found, expected)


# The life of the codebook


def test_data_init_puts_the_codes_on_the_data() -> None:
    """As many codes as vectors: each vector becomes a code, and nothing is lost."""
    quantizer = quantizer_of(codebook_size=18, data_init=True)
    z = 5 + 3 * torch.randn(2, 6, 3, 3)
    quantized = quantizer(z)
    assert quantized.codebook_loss < 1e-9
    assert quantized.indices.unique().numel() == 18
    assert torch.cdist(quantizer.codebook, z.permute(0, 2, 3, 1).reshape(-1, 6)).min(1).values.max() < 1e-3


def test_data_init_clusters_the_batch_once() -> None:
    """Fewer codes than vectors: the start beats a mere sample of the data, and later batches do not restart it."""
    quantizer = quantizer_of(data_init=True, ema_decay=0.999)
    z = torch.randn(8, 6, 4, 4)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 6)
    error = quantizer(z).codebook_loss
    samples = [vectors[torch.randperm(len(vectors))[:12]] for _ in range(20)]
    of_samples = [(vectors - sample[nearest_by_cdist(vectors, sample)]).square().mean() for sample in samples]
    assert error < 0.85 * torch.stack(of_samples).mean()
    assert error < min(of_samples)
    after_first = quantizer.codebook.clone()
    quantizer(100 + torch.randn(8, 6, 4, 4))
    assert (quantizer.codebook - after_first).abs().max() < 3, "a second start would have put codes near 100"


def test_data_init_works_with_fewer_vectors_than_codes() -> None:
    quantizer = quantizer_of(codebook_size=12, data_init=True)
    z = torch.randn(1, 6, 2, 2)
    assert quantizer(z).codebook_loss < 1e-9
    assert quantizer.codebook.isfinite().all()


def with_dead_codes(quantizer: Quantizer, dead: int) -> None:
    """Put the first codes where no data are, with the moving averages that belong there."""
    with torch.no_grad():
        quantizer.codebook[:dead] = 100.0
        quantizer.code_sum[:dead] = 100.0
        quantizer.use[:dead] = 1.0


def codes_in_use(quantizer: Quantizer, z: Tensor) -> set[int]:
    return set(quantizer.eval()(z).indices.flatten().tolist())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_revive(update: str, normalize: bool) -> None:
    quantizer = quantizer_of(codebook_update=update, normalize_codes=normalize, ema_decay=0.8)
    z = torch.randn(4, 6, 4, 4) - (4 if normalize else 0)  # far from (1, 1, ...) by angle, too
    with_dead_codes(quantizer, 6)
    assert not codes_in_use(quantizer, z) & set(range(6))
    quantizer.train()
    for _ in range(40):
        leaf = z.clone().requires_grad_()
        quantized = quantizer(leaf)
        (quantized.codes.mean() + quantized.codebook_loss + quantized.commitment_loss).backward()
    assert codes_in_use(quantizer, z) >= set(range(6))


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_without_restart_dead_codes_stay_dead(update: str) -> None:
    quantizer = quantizer_of(codebook_update=update, ema_decay=0.8, restart_share=0.0)
    z = torch.randn(4, 6, 4, 4)
    with_dead_codes(quantizer, 6)
    quantizer.train()
    for _ in range(40):
        quantizer(z)
    assert not codes_in_use(quantizer, z) & set(range(6))


def test_restarted_codes_lie_on_vectors_of_the_batch_and_the_others_stay() -> None:
    quantizer = quantizer_of(codebook_update="gradient", ema_decay=0.5)
    z = torch.randn(4, 6, 4, 4)
    quantizer.eval()
    lively = torch.bincount(quantizer(z).indices.flatten(), minlength=12) > 2
    before = quantizer.codebook.detach().clone()
    with torch.no_grad():
        quantizer.use.copy_(torch.where(lively, 100.0, 0.0))
        quantizer.codebook[~lively] = 100.0
    quantizer.train()(z)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 6)
    assert 0 < (~lively).sum() < 12
    apart = (quantizer.codebook[~lively, None] - vectors).norm(dim=2)  # (codes, vectors)
    assert apart.min(1).values.max() < 1e-5
    assert torch.equal(quantizer.codebook[lively], before[lively])


def test_codes_found_in_parts_are_those_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer, vectors = quantizer_of(), torch.randn(37, 6)
    at_once = quantizer.nearest(vectors)
    monkeypatch.setattr(vqvae, "DISTANCES_AT_ONCE", 5 * 12)
    assert torch.equal(quantizer.nearest(vectors), at_once)
    monkeypatch.setattr(vqvae, "DISTANCES_AT_ONCE", 1)
    assert torch.equal(quantizer.nearest(vectors), at_once)


@pytest.mark.parametrize(("rows", "count"), [(64, 12), (64, 64), (1, 3), (2, 2), (60, 7), (7, 20)])
def test_rows_are_spread_and_none_comes_twice_while_there_are_enough(rows: int, count: int) -> None:
    found = (
        spread_rows(torch.arange(rows)[:, None], count, torch.Generator().manual_seed(3), Alone()).flatten().tolist()
    )
    assert len(found) == count and len(set(found)) == min(rows, count)
    others = (
        spread_rows(torch.arange(rows)[:, None], count, torch.Generator().manual_seed(4), Alone()).flatten().tolist()
    )
    assert rows < 7 or others != found


def test_codes_are_counted_as_bincount_does() -> None:
    indices = torch.randint(12, (3, 4, 4))
    assert torch.equal(count_codes(indices, 12), torch.bincount(indices.flatten(), minlength=12).float())


def test_a_restarted_code_stays_with_the_data_in_the_steps_that_follow() -> None:
    """Its moving averages begin anew too, else the next step would take it back to where it died."""
    quantizer = quantizer_of(ema_decay=0.9)
    with_dead_codes(quantizer, 6)
    with torch.no_grad():
        quantizer.use[:6] = 0.0
        quantizer.use[6:] = 10.0
        quantizer.code_sum[6:] = 10 * quantizer.codebook[6:]
    for _ in range(3):
        quantizer(torch.randn(4, 6, 4, 4))
        assert quantizer.codebook.abs().max() < 10


def test_the_moving_average_settles_on_the_mean_of_its_vectors() -> None:
    """Appendix A.1: with the same batch again and again each used code becomes the mean of the vectors it is given."""
    quantizer = quantizer_of(codebook_size=2, code_dim=2, ema_decay=0.5, restart_share=0.0)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    z = torch.tensor([[-3.0, 1.0], [-5.0, 1.0], [2.0, -1.0], [4.0, 1.0]]).T.reshape(1, 2, 2, 2)
    for _ in range(40):
        quantizer(z)
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[-4.0, 1.0], [3.0, 0.0]]), atol=1e-3, rtol=0)


def test_with_ema_the_codebook_is_no_parameter_and_with_gradient_only_the_optimizer_moves_it() -> None:
    assert "codebook" not in dict(quantizer_of().named_parameters())
    quantizer = quantizer_of(codebook_update="gradient", restart_share=0.0)
    before = quantizer.codebook.detach().clone()
    quantizer(torch.randn(2, 6, 3, 3)).codebook_loss.backward()
    assert torch.equal(quantizer.codebook, before)
    assert quantizer.codebook.grad.abs().sum() > 0


# An independent implementation


def twin_of(quantizer: Quantizer, **options: object) -> VectorQuantize:
    """A VectorQuantize with the state of ours."""
    size, dim = quantizer.codebook.shape
    twin = VectorQuantize(
        dim=dim, codebook_size=size, decay=quantizer.config.ema_decay, threshold_ema_dead_code=0, **options
    )
    with torch.no_grad():
        twin._codebook.embed.copy_(quantizer.codebook[None])
        twin._codebook.embed_avg.copy_(quantizer.code_sum[None])
        twin._codebook.cluster_size.copy_(quantizer.use[None])
    return twin


@pytest.mark.parametrize("normalize", [False, True])
def test_indices_and_vectors_are_those_of_vector_quantize_pytorch(normalize: bool) -> None:
    quantizer = quantizer_of(codebook_size=64, normalize_codes=normalize).eval()
    twin = twin_of(quantizer, use_cosine_sim=normalize).eval()
    z = torch.randn(4, 6, 5, 5)
    ours = quantizer(z)
    vectors, indices, _ = twin(z.permute(0, 2, 3, 1).reshape(4, 25, 6))
    assert torch.equal(ours.indices.view(4, 25), indices)
    torch.testing.assert_close(ours.codes.permute(0, 2, 3, 1).reshape(4, 25, 6), vectors, atol=1e-6, rtol=1e-5)


def test_moving_average_steps_are_those_of_vector_quantize_pytorch() -> None:
    quantizer = quantizer_of(codebook_size=32, ema_decay=0.9, restart_share=0.0).train()
    twin = twin_of(quantizer).train()
    start = quantizer.codebook.clone()
    for _ in range(3):
        z = torch.randn(4, 6, 5, 5)
        quantizer(z)
        twin(z.permute(0, 2, 3, 1).reshape(4, 25, 6))
        torch.testing.assert_close(quantizer.codebook, twin._codebook.embed[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(quantizer.use, twin._codebook.cluster_size[0], atol=1e-5, rtol=1e-4)
    assert (quantizer.codebook - start).abs().max() > 0.01


# Settings and storage


def test_all_problems_of_a_config_are_in_one_error() -> None:
    with pytest.raises(ValueError) as caught:
        VQVAEConfig(
            image_size=30, stride=7, codebook_size=1, hidden=20, codebook_update="magic", reconstruction_loss="l1"
        )
    message = str(caught.value)
    for part in ("stride is 7", "30 is not divisible", "codebook_size is 1", "hidden is 20", "'magic'", "'l1'"):
        assert part in message


@pytest.mark.parametrize("stride", [0, -4, 2, 5, 32])
def test_a_stride_other_than_4_8_16_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        VQVAEConfig(image_size=160, stride=stride)


def store(model: VQVAE, folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "config.json", asdict(model.config))


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_stored_model_comes_back_bit_equal(update: str, tmp_path: Path) -> None:
    config = replace(TINY, codebook_update=update, channels=1, stride=8, data_init=True)
    model, pictures = VQVAE(config), random_pictures(config)
    model(pictures)  # so that the codebook and its averages are not those of a fresh model
    store(model, tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path)
    assert loaded.config == config and not loaded.training
    assert torch.equal(loaded.quantizer.use, model.quantizer.use) and bool(loaded.quantizer.initialized)
    model.eval()
    with torch.no_grad():
        ours, theirs = model(pictures), loaded(pictures)
    assert torch.equal(ours.reconstruction, theirs.reconstruction) and torch.equal(ours.indices, theirs.indices)


def test_weights_of_a_version_with_other_layers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    store(VQVAE(replace(TINY, residual_blocks=TINY.residual_blocks + 1)), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(TINY)), encoding="utf-8")
    with pytest.raises(InputError, match=r"trained by another version.*--run\.dir FOLDER"):
        VQVAE.from_pretrained(tmp_path)


# It learns


@pytest.mark.system
@pytest.mark.parametrize(
    "changes",
    [{}, {"codebook_update": "gradient"}, {"rotation_trick": True}, {"normalize_codes": True}, {"stride": 8}],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_one_batch_can_be_overfitted(changes: dict[str, object]) -> None:
    config = replace(TINY, codebook_size=64, code_dim=16, hidden=32, data_init=True, **changes)
    coarse = torch.rand(4, 3, 4, 4) * 2 - 1
    pictures = F.interpolate(coarse, size=16, mode="bilinear")
    model = VQVAE(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    errors = []
    for _ in range(60):
        losses = model(pictures).losses
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        errors.append(float(losses["reconstruction_loss"]))
    assert errors[-1] < errors[0] / 10
