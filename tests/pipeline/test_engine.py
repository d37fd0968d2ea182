"""The training loop: exact resume, the best epoch's weights, early stop, divergence, learning rate, weight decay."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from masked_memory.pipeline.engine import (
    History,
    Progress,
    TrainingDiverged,
    build_optimizer,
    fit,
    learning_rate_at,
    validate,
    validated_pictures,
)
from masked_memory.pipeline.machine import Machine
from toys import fit_plan

PLAN = fit_plan(epochs=4, horizon=4, warmup=0.1, patience=10, seed=5)


@dataclass
class Regression:
    """Learns y = x @ w from 40 rows with a small net that has dropout and batch statistics. The noise on the input
    comes from the generator that the engine passes in. `scores`, when given, replace the validation loss."""

    count: int = 40
    scores: list[float] = field(default_factory=list)
    poison_step: int | None = None
    seen: list[list[int]] = field(default_factory=list)
    validated: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(1)
        self.x = torch.randn(40, 6)
        self.y = self.x @ torch.randn(6, 1)
        self.model: nn.Module = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)
        )

    def step(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        assert self.model.training
        self.seen.append(rows.tolist())
        noise = 0.1 * torch.randn(len(rows), 6, generator=generator)
        error = (self.model(self.x[rows] + noise).float() - self.y[rows]).square().mean()
        if self.poison_step is not None and len(self.seen) > self.poison_step:
            error = error * math.inf
        return {"loss": error, "noise": noise.abs().mean()}

    def epoch_metrics(self) -> dict[str, float]:
        return {"batches": float(len(self.seen))}

    validation_passes = 1

    def validate(self, most: int | None = None) -> dict[str, float]:
        assert not self.model.training and not torch.is_grad_enabled()
        self.validated += 1
        if self.scores:
            return {"loss": self.scores[self.validated - 1]}
        return {"loss": float((self.model(self.x) - self.y).square().mean())}


class Interrupted(Exception):
    pass


def stop_after(epoch: int) -> Callable[[History], None]:
    def on_epoch(history: History) -> None:
        if len(history) == epoch:
            raise Interrupted

    return on_epoch


def weights(learner: Regression) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def without_batches(progress: Progress) -> History:
    """The learner counts its own batches, which a new process begins anew."""
    return [{key: value for key, value in epoch.items() if key != "train_batches"} for epoch in progress.history]


# Resume


@pytest.mark.parametrize("killed_after", [[1], [2], [3], [1, 2, 3]])
def test_interrupted_and_resumed_equals_never_interrupted(
    killed_after: list[int], machine: Machine, tmp_path: Path
) -> None:
    """Weights, batch statistics and history are bit-equal, with dropout and noise in every step."""
    straight = Regression()
    whole = fit(straight, PLAN, machine, "straight")
    file = tmp_path / "fit.safetensors"
    for epoch in killed_after:
        torch.manual_seed(epoch)  # a new process starts from another state
        with pytest.raises(Interrupted):
            fit(Regression(), PLAN, machine, "killed", file, stop_after(epoch))
    torch.manual_seed(77)
    resumed = Regression()
    progress = fit(resumed, PLAN, machine, "resumed", file)
    assert same_weights(weights(resumed), weights(straight))
    assert without_batches(progress) == without_batches(whole)
    assert (progress.best_epoch, progress.best_score) == (whole.best_epoch, whole.best_score)


def test_a_resumed_fit_remembers_best_weights_of_an_earlier_process(machine: Machine, tmp_path: Path) -> None:
    """The best epoch is the first one; the process that ends the fit never computed it."""
    file = tmp_path / "fit.safetensors"
    first = Regression(scores=[1.0, 2.0])
    at_epoch_1: list[dict[str, Tensor]] = []

    def on_epoch(history: History) -> None:
        at_epoch_1.append(weights(first))
        stop_after(2)(history)

    with pytest.raises(Interrupted):
        fit(first, PLAN, machine, "killed", file, on_epoch)
    resumed = Regression(scores=[3.0, 4.0])
    progress = fit(resumed, PLAN, machine, "resumed", file)
    assert progress.best_epoch == 1 and progress.best_score == 1.0
    assert same_weights(weights(resumed), at_epoch_1[0])


def test_a_finished_fit_started_again_trains_no_further(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"
    first, second = Regression(), Regression()
    whole = fit(first, PLAN, machine, "first", file)
    again = fit(second, PLAN, machine, "second", file)
    assert second.seen == [] and second.validated == 0
    assert same_weights(weights(first), weights(second)) and again == whole


def test_an_early_stop_holds_after_a_resume(machine: Machine, tmp_path: Path) -> None:
    plan = replace(PLAN, patience=1)
    file = tmp_path / "fit.safetensors"
    fit(Regression(scores=[1.0, 2.0]), plan, machine, "stopped", file)
    again = Regression(scores=[0.0])
    assert fit(again, plan, machine, "again", file).stopped
    assert again.seen == []


def test_on_epoch_comes_after_the_checkpoint_is_whole(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "fit.safetensors"
    with pytest.raises(Interrupted):
        fit(Regression(), PLAN, machine, "killed", file, stop_after(1))
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    resumed = Regression()
    fit(resumed, PLAN, machine, "resumed", file)
    assert len(resumed.seen) == 3 * 5


def test_two_seeds_train_differently_and_one_seed_the_same(machine: Machine) -> None:
    learners = [Regression(), Regression(), Regression()]
    for learner, seed in zip(learners, (5, 5, 6), strict=True):
        torch.manual_seed(int(torch.randint(1000, (1,))))
        fit(learner, replace(PLAN, seed=seed), machine, "seeded")
    assert same_weights(weights(learners[0]), weights(learners[1]))
    assert not same_weights(weights(learners[0]), weights(learners[2]))
    assert learners[0].seen == learners[1].seen != learners[2].seen


# Epochs


def test_each_epoch_sees_each_example_once_in_a_new_order(machine: Machine) -> None:
    learner = Regression()
    fit(learner, replace(PLAN, epochs=2), machine, "order")
    first, second = (list(chain.from_iterable(learner.seen[i : i + 5])) for i in (0, 5))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_fewer_examples_than_a_batch_are_one_step(machine: Machine) -> None:
    learner = Regression(count=5)
    fit(learner, replace(PLAN, epochs=2), machine, "small")
    assert [sorted(rows) for rows in learner.seen] == [[0, 1, 2, 3, 4]] * 2


def test_history_has_the_averages_of_each_epoch(machine: Machine) -> None:
    progress = fit(Regression(), PLAN, machine, "history")
    assert [epoch["epoch"] for epoch in progress.history] == [1, 2, 3, 4]
    assert set(progress.history[0]) == {
        "epoch", "train_loss", "train_noise", "train_batches", "train_learning_rate", "val_loss"
    }  # fmt: skip
    assert progress.history[-1]["train_noise"] == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.1)
    assert progress.history[-1]["val_loss"] < progress.history[0]["val_loss"]
    assert json.loads(json.dumps(progress.history)) == progress.history


@pytest.mark.parametrize(
    ("lower_is_better", "scores", "best"), [(True, [3.0, 1.0, 2.0, 2.5], 2), (False, [0.1, 0.2, 0.9, 0.3], 3)]
)
def test_the_model_ends_with_the_weights_of_the_best_epoch(
    lower_is_better: bool, scores: list[float], best: int, machine: Machine
) -> None:
    learner = Regression(scores=scores)
    after: list[dict[str, Tensor]] = []
    plan = replace(PLAN, lower_is_better=lower_is_better)
    progress = fit(learner, plan, machine, "best", on_epoch=lambda history: after.append(weights(learner)))
    assert progress.best_epoch == best and progress.best_score == scores[best - 1]
    assert same_weights(weights(learner), after[best - 1])
    assert not same_weights(weights(learner), after[-1])
    assert not learner.model.training


def test_training_stops_when_validation_has_not_got_better_for_patience_epochs(machine: Machine) -> None:
    learner = Regression(scores=[3.0, 2.0, 2.0, 2.5, 1.0])
    progress = fit(learner, replace(PLAN, epochs=9, patience=2), machine, "early")
    assert (progress.epoch, progress.best_epoch, progress.stopped) == (4, 2, True)


def test_patience_starts_again_with_each_better_epoch(machine: Machine) -> None:
    learner = Regression(scores=[5.0, 6.0, 4.0, 5.0, 3.0, 4.0])
    progress = fit(learner, replace(PLAN, epochs=6, patience=2), machine, "patient")
    assert (progress.epoch, progress.best_epoch, progress.stopped) == (6, 5, False)


def test_without_patience_there_is_no_validation_and_the_last_weights_stay(machine: Machine) -> None:
    """The plan of the retrain on train + validation."""
    learner = Regression()
    after: list[dict[str, Tensor]] = []
    plan = replace(PLAN, patience=None)
    progress = fit(learner, plan, machine, "retrain", on_epoch=lambda history: after.append(weights(learner)))
    assert learner.validated == 0 and progress.epoch == 4 and progress.best_epoch == 4
    assert same_weights(weights(learner), after[-1])


def test_the_horizon_sets_the_learning_rate_and_epochs_only_when_to_stop(machine: Machine) -> None:
    """A retrain for 2 of 4 epochs takes the same steps as the first 2 of 4."""
    long, short = Regression(), Regression()
    after: list[dict[str, Tensor]] = []
    fit(long, replace(PLAN, patience=None), machine, "4", on_epoch=lambda history: after.append(weights(long)))
    progress = fit(short, replace(PLAN, epochs=2, horizon=4, patience=None), machine, "2 of 4")
    assert progress.epoch == 2
    assert same_weights(weights(short), after[1])
    other = Regression()
    fit(other, replace(PLAN, epochs=2, horizon=2, patience=None), machine, "2 of 2")
    assert not same_weights(weights(other), after[1])


# Divergence


def test_a_loss_that_is_not_finite_stops_with_stage_step_rate_and_terms(machine: Machine, tmp_path: Path) -> None:
    learner = Regression(poison_step=7)
    with pytest.raises(TrainingDiverged) as caught:
        fit(learner, PLAN, machine, "train_vqvae fit", tmp_path / "fit.safetensors")
    rate = learning_rate_at(7, 20, PLAN)
    message = str(caught.value)
    for part in ("train_vqvae fit", "step 7 ", f"learning rate {rate:.3g}", "loss inf", "noise 0."):
        assert part in message
    kept = load_file(tmp_path / "fit.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values()), "no checkpoint after it"


@pytest.mark.parametrize(("check_every", "steps"), [(1, 3), (3, 4), (50, 5)])
def test_losses_are_looked_at_every_so_many_steps_and_at_the_end(
    check_every: int, steps: int, machine: Machine
) -> None:
    """Step 2 is the first that is broken; the message names it however late it is seen."""
    learner = Regression(poison_step=2)
    taken: list[int] = []
    learner_step = learner.step
    learner.step = lambda rows, draws: (taken.append(1), learner_step(rows, draws))[1]
    with pytest.raises(TrainingDiverged, match="not finite at step 2 "):
        fit(learner, PLAN, replace(machine, check_every=check_every), "fit")
    assert len(taken) == steps


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_weights_that_broke_in_the_last_step_do_not_pass_for_trained(poison: float, machine: Machine) -> None:
    """The loss of the last step is still finite; the validation after it is not."""
    learner = Regression(scores=[poison])
    with pytest.raises(TrainingDiverged, match="last step"):
        fit(learner, replace(PLAN, epochs=1, horizon=1), machine, "last step")


# Learning rate, weight decay, machine


def test_warm_up_and_cosine_have_their_known_values() -> None:
    """100 steps, 10 of warm-up: a tenth of the peak, the peak, half of it half way down, nearly nothing."""
    plan = replace(PLAN, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate_at(step, 100, plan) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(2.0) and rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[10 + 30] == pytest.approx(2.0 * 0.75)
    assert rates[100] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_every_step_of_a_short_fit_has_a_positive_rate_up_to_the_peak(total: int, warmup: float) -> None:
    plan = replace(PLAN, learning_rate=1.0, warmup=warmup)
    rates = [learning_rate_at(step, total, plan) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1


def test_the_optimizer_gets_the_rate_of_each_step(machine: Machine) -> None:
    progress = fit(Regression(), PLAN, machine, "rates")
    expected = [learning_rate_at(5 * epoch + 4, 20, PLAN) for epoch in range(4)]
    assert [epoch["train_learning_rate"] for epoch in progress.history] == pytest.approx(expected)


class WithCodebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(2, 3, 3)
        self.norm = nn.GroupNorm(1, 3)
        self.codebook = nn.Parameter(torch.ones(4, 3))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


@dataclass
class Undecayed:
    """A learner of which only what the optimizer needs is there."""

    model: nn.Module
    undecayed: tuple[str, ...] = ("codebook",)


def test_a_parameter_that_is_not_there_cannot_be_left_undecayed() -> None:
    with pytest.raises(ValueError, match="undecayed names codebok, which the model does not have"):
        build_optimizer(Undecayed(WithCodebook(), ("codebok",)), PLAN)


def test_the_optimizer_spares_what_the_learner_names_and_is_of_the_kind_of_the_plan() -> None:
    """With zero gradients only decay moves a parameter."""
    for kind in ("muon", "adamw"):
        model = nn.ParameterDict({name: torch.ones(40, 40) for name in ("codebook", "matrix")})
        plan = replace(PLAN, learning_rate=0.1, weight_decay=0.5, optimizer=kind)
        optimizer = build_optimizer(Undecayed(model), plan)
        assert ("muon" in optimizer.parts) == (kind == "muon")
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(0.1)
        assert bool((model["codebook"] == 1).all())
        torch.testing.assert_close(model["matrix"].detach(), torch.full((40, 40), 0.95))


def test_gradients_are_clipped_to_the_norm(machine: Machine) -> None:
    """Seen by what is left in the gradients after the last step: clipped to 1e-3, the norm is 1e-3 at most."""
    learner = Regression()
    fit(learner, replace(PLAN, epochs=1, clip_norm=1e-3), machine, "clipped")
    norm = torch.stack([p.grad.norm() for p in learner.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_is_used_in_training_and_after_each_epoch_but_not_over_all_at_the_end() -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    learner = Regression()
    learner.model[0].register_forward_hook(lambda module, inputs, out: seen[module.training].add(out.dtype))
    machine = Machine(torch.device("cpu"), bf16=True, threads=1)
    fit(learner, replace(PLAN, epochs=1), machine, "bf16")
    assert seen == {True: {torch.bfloat16}, False: {torch.bfloat16}}
    validate(learner, machine)
    assert seen[False] == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize(("count", "passes", "pictures"), [(35000, 6, 1750), (35000, 1, 10500), (700, 1, 250)])
def test_validation_after_an_epoch_takes_a_tenth_of_its_passes(count: int, passes: int, pictures: int) -> None:
    """A step is three passes over a picture: forwards, and backwards twice."""
    learner = Regression(count=count)
    learner.validation_passes = passes
    assert validated_pictures(learner) == pictures
    assert pictures * passes <= max(0.1 * 3 * count, 250)


# Epochs of several passes


def test_an_epoch_of_many_steps_is_several_passes_each_in_its_own_order(machine: Machine) -> None:
    """40 examples in batches of 8: a pass has 5 steps. 13 steps see each example twice or three times."""
    learner = Regression()
    fit(learner, fit_plan(epochs=2, epoch_steps=13), machine, "passes")
    assert len(learner.seen) == 26
    for epoch in (learner.seen[:13], learner.seen[13:]):
        rows = list(chain.from_iterable(epoch))
        first, second = rows[:40], rows[40:80]
        assert sorted(first) == sorted(second) == list(range(40)) and first != second
        assert {rows.count(row) for row in range(40)} == {2, 3}


def test_enough_steps_in_a_pass_change_nothing(machine: Machine) -> None:
    plain, asked = Regression(), Regression()
    fit(plain, fit_plan(epochs=2), machine, "plain")
    fit(asked, fit_plan(epochs=2, epoch_steps=5), machine, "asked")
    assert plain.seen == asked.seen and same_weights(weights(plain), weights(asked))


def test_epochs_of_several_passes_resume_exactly(machine: Machine, tmp_path: Path) -> None:
    plan = replace(PLAN, epoch_steps=9)
    straight, resumed = Regression(), Regression()
    fit(straight, plan, machine, "straight")
    with pytest.raises(Interrupted):
        fit(Regression(), plan, machine, "killed", tmp_path / "x", stop_after(2))
    fit(resumed, plan, machine, "resumed", tmp_path / "x")
    assert same_weights(weights(straight), weights(resumed))


def test_fewer_examples_than_a_batch_fill_it_by_several_passes(machine: Machine) -> None:
    learner = Regression(count=3)
    fit(learner, fit_plan(epochs=1, epoch_steps=4), machine, "few")
    assert [len(rows) for rows in learner.seen] == [8, 8, 8, 8]


def test_each_pass_of_an_epoch_has_an_order_of_its_own_and_the_same_each_time(machine: Machine) -> None:
    seen = []
    for _ in range(2):
        learner = Regression()
        fit(learner, fit_plan(epochs=2, batch_size=8, epoch_steps=15, patience=None), machine, "passes")
        rows = list(chain(*learner.seen))
        passes = [rows[start : start + 40] for start in range(0, 240, 40)]
        assert all(sorted(each) == list(range(40)) for each in passes)
        assert len({tuple(each) for each in passes}) == 6
        seen.append(rows)
    assert seen[0] == seen[1]
