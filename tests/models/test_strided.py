"""The plain rival of the VQ-VAE keeps the contract."""

import pytest
import torch

from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

# --- the plain rival --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8])
def test_the_plain_vqvae_keeps_the_contract(stride):
    settings = VQVAEConfig(image_size=32, channels=1, stride=stride, hidden=16, codebook_size=12, code_dim=6,
                           stem="strided", codebook_update="gradient", codebook_start="uniform", data_init=False,
                           restart_share=0.0)  # fmt: skip
    model = VQVAE(settings).eval()
    assert float(model.codebook_vectors().abs().max()) <= 1 / 12
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        output, indices = model(x), model.encode_indices(x)
        painted = model.decode_indices(indices)
    assert indices.shape == (3, 32 // stride, 32 // stride) and torch.equal(indices, output.indices)
    torch.testing.assert_close(painted, output.reconstruction, atol=1e-5, rtol=0)
    strided = [m for m in model.modules() if getattr(m, "stride", (1, 1)) == (2, 2)]
    assert len(strided) == 2 * (stride.bit_length() - 1) and all(m.kernel_size == (4, 4) for m in strided)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in model.modules())
    losses = model.train()(x).losses
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
