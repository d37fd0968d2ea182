"""Of whom a step of a prior tells, and that the gradient penalty holds the discriminator back."""

from typing import Any

import pytest
import torch
from torch import Tensor

from masked_memory.pipeline.machine import Machine, generator
from masked_memory.rivals.priors.learners import GANLearner, PixelCNNLearner, PriorData, build_learner
from masked_memory.settings.train_prior import TrainPriorSection
from toys import notes_of

K, PICTURES, TRAIN = 8, 200, 160
SMALL_PRIOR = {"width": 8, "layers": 1, "kernel": 3, "noise_dim": 4}
ALL_ROWS = torch.arange(TRAIN)


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
