"""Inpainting of components: what it depends on, its errors, and that training with masks learns it."""

import pytest
import torch

from masked_memory.handoff.split import mask_of
from masked_memory.measuring import components
from masked_memory.measuring.components import Painter, component_errors
from masked_memory.pipeline.engine import fit
from masked_memory.pipeline.metrics import mse, ssim, to_unit
from masked_memory.stages.masking import all_but, component_mask, hide_components
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig
from toys import fit_plan

TINY = VQVAEConfig(16, 5, 4, 16, 1, codebook_size=12, code_dim=6, data_init=False)
NAMES = ("a", "b", "c", "d", "e")


def pictures(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 5, 16, 16) * 2 - 1


# --- inpainting -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_inpainting_depends_on_the_shown_components_only():
    model, x = VQVAE(TINY).eval(), pictures()
    other = torch.where(torch.arange(5).view(1, 5, 1, 1) == 1, x, pictures())
    painter, mask = Painter("m", model), mask_of(NAMES, ["b"])
    assert torch.equal(painter.paint(x, mask, None), painter.paint(other, mask, None))
    assert torch.equal(painter.paint(x, mask_of(NAMES, NAMES), None), model(x).reconstruction)


def test_errors_of_components_are_those_of_each_channel_alone():
    a, b = torch.rand(2, 3, 4, 16, 16)
    errors = component_errors(a, b)
    for place in range(4):
        pair = a[:, place : place + 1], b[:, place : place + 1]
        torch.testing.assert_close(errors["mse"][:, place], mse(*pair))
        torch.testing.assert_close(errors["ssim"][:, place], ssim(*pair))
    assert set(component_errors(a[..., :8, :8], b[..., :8, :8])) == {"mse"}


@pytest.mark.system
def test_training_on_one_component_learns_to_paint_the_others(machine):
    """Channels that are copies of each other: what one shows, all can be painted from; a plain fit need not know."""
    base = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    signs = torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    x = torch.nn.functional.interpolate(base, scale_factor=4) * signs  # (48, 3, 16, 16)

    class Fit:
        def __init__(self, masked: bool) -> None:
            torch.manual_seed(0)
            self.masked, self.model = masked, VQVAE(VQVAEConfig(16, 3, 4, 16, 1, codebook_size=32, code_dim=8))
            self.count = len(x)

        def step(self, rows, generator):
            mask = component_mask(len(rows), 3, 0.7 if self.masked else 0.0, generator)
            return self.model(hide_components(x[rows], mask), generator, target=x[rows]).losses

        def epoch_metrics(self):
            return {}

        validation_passes = 1

        def validate(self, most=None):
            return {"loss": 0.0}

    plan = fit_plan(
        epochs=120, horizon=120, batch_size=16, learning_rate=4e-3, weight_decay=0.0, warmup=0.05, patience=None
    )
    errors = {}
    for masked in (False, True):
        learner = Fit(masked)
        fit(learner, plan, machine, "copies")
        with torch.no_grad():
            painted = Painter("m", learner.model).paint(x, all_but(3, [0]), None)
        errors[masked] = float(mse(to_unit(painted[:, 1:]), to_unit(x[:, 1:])).mean())
    assert errors[True] < 0.6 * errors[False], errors


def test_the_mean_of_pairs_leaves_out_what_was_shown():
    rows = [
        {"model": "m", "shown": "a", "component": "a", "mse": 9.0},
        {"model": "m", "shown": "a", "component": "b", "mse": 1.0},
        {"model": "m", "shown": "b", "component": "a", "mse": 3.0},
        {"model": "m", "shown": "all", "component": "a", "mse": 9.0},
        {"model": "mean", "shown": "none", "component": "a", "mse": 9.0},
    ]
    assert components.mean_of_others(rows, "m", "mse") == 2.0
    assert components.mean_of_others(rows, "m", "ssim") is None
