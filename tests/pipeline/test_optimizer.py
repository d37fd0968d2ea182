"""The optimizer of all fits: which parameters Muon moves and how far, and that it goes on from a checkpoint."""

import math

import pytest
import torch
from torch import Tensor, nn

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.optimizer import FitOptimizer

RATE = 0.01


class Layers(nn.Module):
    """One parameter of each sort."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 40)
        self.kernel = nn.Conv2d(8, 40, 3)
        self.matrix = nn.Linear(40, 60)
        self.output = nn.Linear(40, 50)
        self.output.weight = self.table.weight
        self.norm = nn.GroupNorm(1, 40)
        self.pixels = nn.Conv2d(3, 40, 3)
        self.codebook = nn.Parameter(torch.ones(40, 40))
        self.frozen = nn.Parameter(torch.ones(40, 40), requires_grad=False)


@pytest.fixture
def layers() -> Layers:
    torch.manual_seed(0)
    return Layers()


def give_gradients(model: nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=draws))


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def change(model: nn.Module, optimizer: FitOptimizer) -> dict[str, Tensor]:
    before = values_of(model)
    give_gradients(model, 0)
    optimizer.step(RATE)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_muon_moves_hidden_matrices_and_kernels_by_an_orthogonal_step_and_adamw_the_rest(layers: Layers) -> None:
    """Five Newton-Schulz steps leave singular values around 1 (Jordan et al. 2024); AdamW's first step is the sign of
    the gradient."""
    moved = change(layers, FitOptimizer(layers, "muon", RATE, 0.0, ("codebook",)))
    for name in ("kernel.weight", "matrix.weight"):
        matrix = moved[name].flatten(1)
        length = RATE * 0.2 * math.sqrt(max(matrix.shape))
        singular = torch.linalg.svdvals(matrix) / length
        assert float(singular.min()) > 0.5 and float(singular.max()) < 1.3, name
    for name in ("table.weight", "codebook", "pixels.weight", "norm.weight", "matrix.bias"):
        torch.testing.assert_close(moved[name].abs(), torch.full_like(moved[name], RATE), rtol=1e-3, atol=0)
    assert bool((moved["frozen"] == 0).all())


def test_adamw_moves_all_when_asked(layers: Layers) -> None:
    moved = change(layers, FitOptimizer(layers, "adamw", RATE, 0.0))
    torch.testing.assert_close(moved["matrix.weight"].abs(), torch.full((60, 40), RATE), rtol=1e-3, atol=0)


def test_the_layout_of_kernels_in_memory_changes_nothing(layers: Layers) -> None:
    plain = change(layers, FitOptimizer(layers, "muon", RATE, 0.1))
    torch.manual_seed(0)
    swapped = Layers().to(memory_format=torch.channels_last)
    assert swapped.kernel.weight.stride() != layers.kernel.weight.stride()
    turned = change(swapped, FitOptimizer(swapped, "muon", RATE, 0.1))
    for name, moved in plain.items():
        torch.testing.assert_close(turned[name], moved, rtol=0.05, atol=2e-4, msg=name)  # orthogonalised in bfloat16


def test_weight_decay_leaves_biases_norms_and_undecayed_alone(layers: Layers) -> None:
    """With zero gradients only decay moves a parameter: by the factor 1 - rate * decay."""
    optimizer = FitOptimizer(layers, "muon", RATE, 0.5, ("codebook",))
    before = values_of(layers)
    for parameter in layers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(RATE)
    decayed = {"kernel.weight", "matrix.weight", "table.weight", "pixels.weight"}
    for name, parameter in layers.named_parameters():
        factor = 1 - RATE * 0.5 if name in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


@pytest.mark.parametrize("channels_last", [False, True])
def test_restored_it_goes_on_as_if_it_had_never_stopped(layers: Layers, channels_last: bool) -> None:
    if channels_last:
        layers = layers.to(memory_format=torch.channels_last)
    first = FitOptimizer(layers, "muon", RATE, 0.1)
    for seed in (1, 2):
        give_gradients(layers, seed)
        first.step(RATE)
    again = Layers()
    if channels_last:
        again = again.to(memory_format=torch.channels_last)
    second = FitOptimizer(again, "muon", RATE, 0.1)
    again.load_state_dict(layers.state_dict())
    second.restore({name: tensor.clone() for name, tensor in first.tensors().items()})
    for model, optimizer in ((layers, first), (again, second)):
        give_gradients(model, 3)
        optimizer.step(RATE)
    for name, value in values_of(layers).items():
        assert torch.equal(value, values_of(again)[name]), name


def test_a_checkpoint_of_another_optimizer_is_refused(layers: Layers) -> None:
    optimizer = FitOptimizer(layers, "adamw", RATE, 0.1)
    with pytest.raises(InputError, match=r"another optimizer than adamw \(it has muon/0/momentum_buffer\)"):
        optimizer.restore({"muon/0/momentum_buffer": torch.zeros(40, 40)})


def test_a_parameter_that_is_given_another_storage_is_still_moved(layers: Layers) -> None:
    """As wrappers for several processes do."""
    optimizer = FitOptimizer(layers, "muon", RATE, 0.0)
    layers.matrix.weight.data = layers.matrix.weight.data.clone()
    assert float(change(layers, optimizer)["matrix.weight"].abs().min()) > 0


def test_no_gradient_is_left_after_zero_grad(layers: Layers) -> None:
    optimizer = FitOptimizer(layers, "muon", RATE, 0.1)
    give_gradients(layers, 0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in layers.parameters() if p.requires_grad)


def test_a_parameter_without_a_gradient_stays(layers: Layers) -> None:
    optimizer = FitOptimizer(layers, "muon", RATE, 0.1)
    before = values_of(layers)
    give_gradients(layers, 0)
    layers.matrix.weight.grad = None
    optimizer.step(RATE)
    assert torch.equal(layers.matrix.weight, before["matrix.weight"])
    assert not torch.equal(layers.kernel.weight, before["kernel.weight"])
