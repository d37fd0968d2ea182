"""What the models are really called with: hidden components, labels kept back, masked cells painted over.

The models are called through; a hook notes their arguments. K = 8 codes, pictures of 16x16 with 3 components.
"""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_recall import tiny_memory
from torch import Tensor, nn

from handoff.split import Split
from masking import random_mask, touched_pixels
from measuring.priors import hidden_pixels
from measuring.study import Batch
from models.conditioning import Told
from pipeline.machine import Machine, generator
from priors.learners import GANLearner, PixelCNNLearner, PriorData, build_learner
from settings.train_prior import TrainPriorSection
from settings.train_vqvae import TrainVQVAESection
from train_vqvae import VQVAELearner
from vqvae import VQVAE, VQVAEConfig

K, PICTURES, TRAIN = 8, 200, 160
SMALL = {"hidden": 8, "residual_blocks": 0, "codebook_size": K, "code_dim": 4, "data_init": False}
SMALL_PRIOR = {"width": 8, "layers": 1, "kernel": 3, "noise_dim": 4}
TELLS = {"condition_numbers": ["age"], "condition_classes": ["label"]}
ALMOST_ONE = math.nextafter(1.0, 0.0)  # label_drop of a VQ-VAE is below 1
ALL_ROWS = torch.arange(TRAIN)


def notes_of(model: nn.Module) -> list[dict[str, Any]]:
    """Grows by the arguments of each call of the model, by name; the call goes through."""
    calls: list[dict[str, Any]] = []
    signature = inspect.signature(model.forward)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind(*args, **kwargs).arguments
        calls.append({name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()})

    model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


# What a step of the VQ-VAE shows


def a_split() -> Split:
    """Every fifth picture is of the validation part. No byte is 0 in [-1, 1], so exact zeros are hidden pixels."""
    manifest = [
        {"split": "val" if n % 5 == 0 else "train", "age": str(n), "label": f"class {n % 4}"} for n in range(PICTURES)
    ]
    images = np.random.default_rng(0).integers(0, 256, (PICTURES, 16, 16, 3), dtype=np.uint8)
    meta = {"classes": [], "image_size": 16, "channels": 3}
    return Split(Path("-"), meta, manifest, images, np.arange(PICTURES), np.full(PICTURES, -1))


def vqvae_learner(machine: Machine, **changes: Any) -> VQVAELearner:
    return VQVAELearner(TrainVQVAESection.model_validate(SMALL | changes), a_split(), machine, with_val=False)


def shown_and_wanted(learner: VQVAELearner, rows: Tensor = ALL_ROWS) -> tuple[Tensor, Tensor]:
    """What one training step shows the model, and what the model is to paint: (B, C, H, W) each."""
    calls = notes_of(learner.model)
    learner.step(rows, generator(0))
    (call,) = calls
    return call["x"], call["target"]


def components_shown(shown: Tensor) -> Tensor:
    """(B, C) bool. Each component is there as a whole or exactly 0 as a whole."""
    there = (shown != 0).flatten(2)
    assert torch.equal(there.any(2), there.all(2))
    return there.all(2)


MASKING = {"enabled": True, "mask_prob_max": 1.0, "warmup_epochs": 4}


@pytest.mark.parametrize("augmentation", ["none", "dihedral"])
def test_masked_pictures_show_one_component_and_the_full_picture_is_to_be_painted(
    augmentation: str, machine: Machine
) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING, augmentation=augmentation)
    learner.start_epoch(4)
    shown, wanted = shown_and_wanted(learner)
    kept = components_shown(shown)
    assert kept.sum(1).tolist() == [1] * TRAIN
    assert (kept.sum(0) > TRAIN / 6).all(), "each component is the one that is shown, now and then"
    assert torch.equal(shown, wanted * kept[..., None, None])
    whole = learner.pictures(learner.train_positions)
    if augmentation == "none":
        assert torch.equal(wanted, whole)
    else:
        assert not torch.equal(wanted, whole)
        assert torch.equal(wanted.flatten(2).sort(2).values, whole.flatten(2).sort(2).values)


def test_the_error_of_a_masked_step_is_that_to_the_full_picture(machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING)
    learner.start_epoch(9)
    painted: list[Tensor] = []
    learner.model.register_forward_hook(lambda model, inputs, output: painted.append(output.reconstruction.detach()))
    values = learner.step(ALL_ROWS, generator(0))
    whole = learner.pictures(learner.train_positions)
    assert float(values["mse"]) == pytest.approx(float((painted[0] - whole).square().mean()) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("masking", "epoch"),
    [
        ({"enabled": False, "mask_prob_max": 1.0, "warmup_epochs": 0}, 9),
        ({"enabled": True, "mask_prob_max": 0.0, "warmup_epochs": 0}, 9),
        ({"enabled": True, "mask_prob_max": 1.0, "warmup_epochs": 4}, 0),
    ],
    ids=["masking off", "probability 0", "first epoch of the warm-up"],
)
def test_without_masking_the_full_picture_is_shown(masking: dict[str, Any], epoch: int, machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=masking)
    learner.start_epoch(epoch)
    shown, wanted = shown_and_wanted(learner)
    whole = learner.pictures(learner.train_positions)
    assert torch.equal(shown, whole) and torch.equal(wanted, whole)


def test_half_way_through_the_warm_up_half_of_the_pictures_show_one_component(machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING)
    learner.start_epoch(2)
    shown, wanted = shown_and_wanted(learner)
    assert components_shown(shown).sum(1).bincount(minlength=4).tolist() == [0, TRAIN // 2, 0, TRAIN // 2]
    assert torch.equal(wanted, learner.pictures(learner.train_positions))


# Of whom a step tells


@pytest.mark.parametrize(("label_drop", "low", "high"), [(0.0, 160, 160), (0.25, 100, 140), (ALMOST_ONE, 0, 0)])
@pytest.mark.parametrize("masking", [False, True])
def test_the_decoder_is_told_nothing_at_the_rate_of_label_drop(
    masking: bool, label_drop: float, low: int, high: int, machine: Machine
) -> None:
    """Three quarters of 160 pictures are 120, with a standard deviation of 5.5."""
    learner = vqvae_learner(machine, **TELLS, label_drop=label_drop, component_masking={"enabled": masking})
    calls = notes_of(learner.model)
    learner.step(ALL_ROWS, generator(0))
    told = calls[0]["told"]
    assert low <= int(told.known.sum()) <= high
    assert learner.metadata is not None and learner.metadata.known.all(), "dropped for this step only"


def test_the_decoder_is_told_of_the_pictures_that_are_shown(machine: Machine) -> None:
    learner = vqvae_learner(machine, **TELLS, label_drop=0)
    calls, rows = notes_of(learner.model), torch.tensor([5, 0, 77, 3])
    learner.step(rows, generator(0))
    positions = torch.from_numpy(learner.train_positions)[rows]
    told = calls[0]["told"]
    assert isinstance(told, Told) and told.classes[:, 0].tolist() == (positions % 4).tolist()
    ages = torch.from_numpy(learner.train_positions).double()
    expected = (positions - ages.mean()) / ages.std(correction=0)
    torch.testing.assert_close(told.numbers[:, 0].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(calls[0]["target"], learner.pictures(positions))


def test_who_is_told_is_drawn_anew_at_each_step(machine: Machine) -> None:
    learner = vqvae_learner(machine, **TELLS, label_drop=0.5)
    calls, draws = notes_of(learner.model), generator(0)
    learner.step(ALL_ROWS, draws)
    learner.step(ALL_ROWS, draws)
    first, second = (call["told"].known for call in calls)
    assert not torch.equal(first, second)


def prior_learner(machine: Machine, kind: str, label_drop: float, **changes: Any) -> PixelCNNLearner | GANLearner:
    section = TrainPriorSection.model_validate(SMALL_PRIOR | {"kind": kind, "label_drop": label_drop} | changes)
    draws = generator(1)
    grids, facts = torch.randint(K, (PICTURES, 16), generator=draws), torch.randn(PICTURES, 5, generator=draws)
    codebook = torch.randn(K, 4, generator=draws)
    data = PriorData(grids[:TRAIN], grids[TRAIN:], facts[:TRAIN], facts[TRAIN:], codebook)
    return build_learner(section, data, machine, 0)


def told_rows(call: dict[str, Any]) -> Tensor:
    """(B,) bool: of whom this call told the model."""
    if call.get("facts") is None:
        return torch.zeros(TRAIN, dtype=torch.bool)
    told = call.get("told")
    return torch.ones(TRAIN, dtype=torch.bool) if told is None else told


@pytest.mark.parametrize(("label_drop", "low", "high"), [(0.0, 160, 160), (0.25, 100, 140), (1.0, 0, 0)])
@pytest.mark.parametrize("kind", ["pixelcnn", "gan"])
def test_priors_are_told_nothing_at_the_rate_of_label_drop(
    kind: str, label_drop: float, low: int, high: int, machine: Machine
) -> None:
    """The discriminator is told of the same pictures as the generator, else it would know real ones by that."""
    learner = prior_learner(machine, kind, label_drop)
    calls = notes_of(learner.model)
    judged = notes_of(learner.critic) if isinstance(learner, GANLearner) else []
    learner.step(ALL_ROWS, generator(0))
    assert len(calls) == 1 and len(judged) == (3 if kind == "gan" else 0)
    assert low <= int(told_rows(calls[0]).sum()) <= high
    for call in calls + judged:
        assert torch.equal(told_rows(call), told_rows(calls[0]))
        if told_rows(call).any():
            assert torch.equal(call["facts"], learner.data.train_facts)


def test_the_gradient_penalty_holds_the_discriminator_back(machine: Machine) -> None:
    slopes = []
    for weight in (0.0, 1000.0):
        torch.manual_seed(2)
        learner = prior_learner(machine, "gan", 0.0, gradient_penalty=weight, discriminator_learning_rate=0.01)
        steps = [learner.step(ALL_ROWS, generator(number)) for number in range(8)]
        slopes.append([float(values["gradient_penalty"]) for values in steps])
    assert slopes[0][0] == slopes[1][0] > 0, "the same before anything is learnt"
    assert slopes[1][-1] < 0.5 * slopes[0][-1]


# Masked cells for a VQ-VAE with masked components


SIDE, STRIDE = 3, 4  # of the grids of test_recall
CELLS = SIDE**2


def masked_vqvae() -> VQVAE:
    """Other weights than the memory's; its codes lie where what it encodes lies, so that most pixels matter."""
    torch.manual_seed(5)
    size = SIDE * STRIDE
    model = VQVAE(VQVAEConfig(image_size=size, hidden=16, residual_blocks=0, codebook_size=64, code_dim=8))
    with torch.no_grad():
        model.train()(torch.rand(40, 3, size, size) * 2 - 1, generator(0))
    return model.eval()


def a_batch(truth: Tensor) -> Batch:
    tokens = torch.zeros(len(truth), CELLS, dtype=torch.long)
    return Batch(slice(0, len(truth)), truth, truth.clone(), tokens, torch.zeros(len(truth), dtype=torch.long), None)


@torch.no_grad()
def painted_from(model: VQVAE, truth: Tensor, mask: Tensor) -> Tensor:
    return hidden_pixels(tiny_memory(), model)(a_batch(truth), mask, generator(0))[0]


def unlike(truth: Tensor) -> Tensor:
    """Other pictures in [0, 1], each pixel far from its own."""
    return (truth + 0.5) % 1


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(6, 3, SIDE * STRIDE, SIDE * STRIDE, generator=generator(2))


@pytest.fixture
def cells() -> Tensor:
    """Another four of nine for each picture."""
    return random_mask(6, CELLS, 4 / 9, generator(3))


def test_pixels_in_masked_cells_are_not_looked_at(pictures: Tensor, cells: Tensor) -> None:
    model = masked_vqvae()
    inside = touched_pixels(cells, SIDE * STRIDE, SIDE * STRIDE, STRIDE).unsqueeze(1)
    before = painted_from(model, pictures, cells)
    assert torch.equal(painted_from(model, torch.where(inside, unlike(pictures), pictures), cells), before)
    nothing = torch.zeros_like(cells)
    assert not torch.equal(painted_from(model, pictures, nothing), before), "unhidden they would matter"


def test_pixels_of_every_cell_that_is_not_masked_are_looked_at(pictures: Tensor, cells: Tensor) -> None:
    """Each picture shows five cells; changing any one of them changes what is painted, in nearly all cases."""
    model = masked_vqvae()
    before = painted_from(model, pictures, cells)
    changed = torch.zeros(6, CELLS, dtype=torch.bool)
    for cell in range(CELLS):
        only = torch.zeros(6, CELLS, dtype=torch.bool)
        only[:, cell] = True
        there = touched_pixels(only, SIDE * STRIDE, SIDE * STRIDE, STRIDE).unsqueeze(1)
        after = painted_from(model, torch.where(there, unlike(pictures), pictures), cells)
        changed[:, cell] = (after != before).flatten(1).any(1)
    assert not (changed & cells).any()
    assert int(changed.sum()) >= 27, "of 30"


def test_masked_cells_are_hidden_as_in_training_in_all_components_and_nothing_else_is(
    pictures: Tensor, cells: Tensor
) -> None:
    model = masked_vqvae()
    seen = notes_of(model.encoder)
    painted = painted_from(model, pictures, cells)
    (call,) = seen
    (shown,) = call.values()
    grid = cells.view(6, SIDE, SIDE)
    for picture in range(6):
        for row in range(SIDE):
            for column in range(SIDE):
                rows, columns = (slice(place * STRIDE, (place + 1) * STRIDE) for place in (row, column))
                expected = pictures[picture, :, rows, columns] * 2 - 1
                if grid[picture, row, column]:
                    expected = torch.zeros_like(expected)
                torch.testing.assert_close(shown[picture, :, rows, columns], expected)
    with torch.no_grad():
        assert torch.equal(painted, model.decode_indices(model.encode_indices(shown)))
