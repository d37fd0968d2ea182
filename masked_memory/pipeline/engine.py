"""The one training loop: Muon and AdamW with warm-up and cosine, bf16, early stop, checkpoint each epoch, exact resume.

All randomness of epoch e comes from (seed, e) (see `machine.epoch_stream`), so a run killed at any moment and resumed
from its last whole epoch ends with the same weights as one that was never killed, without saving the state of any
generator.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from masked_memory.pipeline.batches import asked_ahead, orders_of_passes, split_orders
from masked_memory.pipeline.draws import Draws
from masked_memory.pipeline.files import read_safetensors, write_safetensors
from masked_memory.pipeline.machine import Machine, epoch_stream, generator
from masked_memory.pipeline.optimizer import FitOptimizer, OptimizerKind
from masked_memory.pipeline.progress import Estimate, progress_bar
from masked_memory.pipeline.world import World, averages, draws_of

History = list[dict[str, float]]

VALIDATION_SHARE = 0.1  # of the time of an epoch
LEAST_VALIDATED = 250  # pictures; with fewer the best epoch would be found by chance


class TrainingDiverged(RuntimeError):
    """A loss that is not finite; the message has stage, step, learning rate and loss terms."""


class Learner(Protocol):
    """What a stage hands to the engine: a model, and what one step and one validation mean for it."""

    model: nn.Module

    @property
    def count(self) -> int:
        """How many examples there are to train on."""
        ...

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        """Scalars of one batch of examples `rows` in [0, count): "loss" is minimised, all are averaged per epoch, and
        over the processes, of which each has a batch of this size."""
        ...

    def epoch_metrics(self) -> dict[str, float]:
        """What was gathered over the steps of the epoch, such as perplexity; called once at its end."""
        ...

    @property
    def validation_passes(self) -> int:
        """Forward passes over each picture in `validate`: what it costs, beside three passes of a training step."""
        ...

    def validate(self, most: int | None = None) -> dict[str, float]:
        """Validation metrics, in evaluation mode, of at most so many pictures, evenly spread and always the same; None:
        of all."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A learner whose batches lie on the disk."""

    def read_ahead(self, rows: Tensor) -> None:
        """Begin to read these examples; `step` is called with the same tensor, after the one before it."""
        ...


@runtime_checkable
class KnowsEpoch(Protocol):
    """A learner whose steps change from epoch to epoch. Told at each start, so that a resumed fit goes on the same."""

    def start_epoch(self, epoch: int) -> None:
        """epoch: 0, 1, ..."""
        ...


@runtime_checkable
class HasUndecayed(Protocol):
    """A learner whose model has matrices that weight decay would spoil, such as a codebook."""

    @property
    def undecayed(self) -> Collection[str]:
        """Names of those parameters, as in `model.named_parameters()`."""
        ...


@runtime_checkable
class HasExtraState(Protocol):
    """A learner with state beside its model, such as a second network with an optimizer of its own (a GAN's)."""

    def extra_state(self) -> dict[str, Tensor]:
        """All that a resumed fit needs besides the model; goes into the checkpoint."""
        ...

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        """The way back of `extra_state`."""
        ...


@dataclass(frozen=True)
class FitPlan:
    """How to train. `horizon`: the epochs that the cosine spans, more than `epochs` when a retrain stops early.
    `epoch_steps`: steps of an epoch at least; where a pass over the examples has fewer, an epoch is several passes."""

    epochs: int
    horizon: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    clip_norm: float
    patience: int | None  # None: no validation, keep the last weights
    monitor: str  # key of Learner.validate
    lower_is_better: bool
    seed: int
    epoch_steps: int = 0
    optimizer: OptimizerKind = "muon"


@dataclass
class Progress:
    """Where a fit is. `epoch` counts finished epochs; history has a line for each, seconds its time from the start."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = math.nan
    stopped: bool = False
    history: History = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def steps_of(learner: Learner, plan: FitPlan, world: World) -> int:
    """Steps of an epoch: the whole batches of one pass, or as many as the plan asks for at least. A step takes a batch
    for each process."""
    return max(1, learner.count // (plan.batch_size * world.size), plan.epoch_steps)


def learning_rate_at(step: int, total: int, plan: FitPlan) -> float:
    """Linear warm-up over `plan.warmup` of the steps, then cosine to zero."""
    warm = max(1, round(plan.warmup * total))
    if step < warm:
        return plan.learning_rate * (step + 1) / warm
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def fit(
    learner: Learner,
    plan: FitPlan,
    machine: Machine,
    label: str,
    checkpoint: Path | None = None,
    on_epoch: Callable[[History], None] = lambda history: None,
    on_estimate: Callable[[float], None] = lambda seconds: None,
) -> Progress:
    """Train `learner.model`; it ends with the weights of the best epoch. `on_epoch` may raise to stop (pruning).

    checkpoint: a file written after each epoch; when it exists, the fit goes on from it. on_estimate: gets the seconds
    that the steps of a long fit will take, validation left out, soon after its first one.
    Raises TrainingDiverged when a loss is not finite.
    """
    model = learner.model
    computed = machine.world.parallel(_Step(learner))
    optimizer = build_optimizer(learner, plan)
    progress = Progress()
    best: dict[str, Tensor] = {}
    if checkpoint and checkpoint.is_file():
        progress, best, extra = _restore(checkpoint, model, optimizer)
        if isinstance(learner, HasExtraState):
            learner.load_extra_state(extra)
    steps = steps_of(learner, plan, machine.world)
    estimate = Estimate((plan.epochs - progress.epoch) * steps, on_estimate)
    with progress_bar(total=plan.epochs * steps, initial=progress.epoch * steps, desc=label, unit="step") as bar:
        while progress.epoch < plan.epochs and not progress.stopped:
            started = time.monotonic()
            shown = _Shown(label, bar, estimate)
            trained = _train_epoch(learner, computed, optimizer, plan, machine, progress.epoch, shown)
            validated = validate(learner, machine, validated_pictures(learner)) if plan.patience is not None else {}
            _check_finite(model, validated, plan, label, progress.epoch + 1)
            progress.epoch += 1
            values = {f"train_{k}": v for k, v in trained.items()} | {f"val_{k}": v for k, v in validated.items()}
            progress.history.append({"epoch": progress.epoch, **values})
            progress.seconds.append(time.monotonic() - started + (progress.seconds[-1] if progress.seconds else 0.0))
            if _is_better(progress, validated, plan):
                progress.best_epoch, progress.best_score = progress.epoch, validated.get(plan.monitor, math.nan)
                best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            progress.stopped = plan.patience is not None and progress.epoch - progress.best_epoch >= plan.patience
            if checkpoint and machine.world.rank == 0:
                extra = learner.extra_state() if isinstance(learner, HasExtraState) else {}
                _save(checkpoint, model, optimizer, progress, best, extra)
            on_epoch(progress.history)
            score = f", validation {plan.monitor} {validated[plan.monitor]:.4g}" if validated else ""
            bar.set_postfix_str(f"epoch {progress.epoch}{score}")
    model.load_state_dict(best)
    model.eval()
    return progress


def build_optimizer(learner: Learner, plan: FitPlan) -> FitOptimizer:
    """Raises ValueError for an undecayed parameter that the model does not have."""
    kept = learner.undecayed if isinstance(learner, HasUndecayed) else ()
    return FitOptimizer(learner.model, plan.optimizer, plan.learning_rate, plan.weight_decay, kept)


class _Shown(NamedTuple):
    """What a fit is called in messages, its progress bar, and how long it takes."""

    label: str
    bar: Any
    estimate: Estimate


@dataclass(frozen=True, eq=False)
class _Batch:
    """What a step gets: as one object, so that nothing in it is moved or copied on the way."""

    rows: Tensor
    draws: Draws


class _Step(nn.Module):
    """A step of the learner as a module, so that processes can average the gradients as they are computed."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.model = learner.model
        self.learner = learner

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.learner.step(batch.rows, batch.draws)


def _train_epoch(
    learner: Learner,
    computed: nn.Module,
    optimizer: FitOptimizer,
    plan: FitPlan,
    machine: Machine,
    epoch: int,
    shown: _Shown,
) -> dict[str, float]:
    """One epoch over the training examples in an order drawn from (seed, epoch); averages of what the steps return."""
    world, numbers = machine.world, generator(plan.seed, epoch_stream(epoch))
    steps, taken = steps_of(learner, plan, world), plan.batch_size * world.size
    seed = int(torch.randint(2**31, (1,), generator=numbers))
    torch.manual_seed(seed + world.rank)  # dropout has no generator of its own
    first = torch.randperm(learner.count, generator=numbers)
    learner.model.train()
    if isinstance(learner, KnowsEpoch):
        learner.start_epoch(epoch)
    sums, watch, draws = Sums(), FiniteWatch(), draws_of(world, numbers)
    ask: Callable[[Tensor], None] = learner.read_ahead if isinstance(learner, ReadsAhead) else lambda rows: None
    orders = orders_of_passes(first, (plan.seed, epoch_stream(epoch)) if plan.epoch_steps else None)
    batches = (_own(rows, world) for rows in split_orders(orders, steps, taken))
    for number, rows in enumerate(asked_ahead(batches, ask)):
        step = epoch * steps + number
        rate = learning_rate_at(step, plan.horizon * steps, plan)
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16):
            scalars = computed(_Batch(rows, draws))
        values = {name: value.detach() for name, value in scalars.items()}
        watch.see(step, values)
        if number % machine.check_every == 0 or number == steps - 1:
            _check_losses(watch, plan, shown.label, steps, world)
        sums.add(values)
        optimizer.zero_grad()
        scalars["loss"].backward()
        nn.utils.clip_grad_norm_(learner.model.parameters(), plan.clip_norm)
        optimizer.step(rate)
        shown.bar.update()
        shown.estimate.step()
    means = {name: value / steps for name, value in averages(world, sums.totals).items()}
    return means | learner.epoch_metrics() | {"learning_rate": rate}


def _own(rows: Tensor, world: World) -> Tensor:
    """This process's part of a batch for all; with fewer rows than processes one that others have, too."""
    each = max(1, len(rows) // world.size)
    start = min(world.rank * each, len(rows) - each)
    return rows[start : start + each]


class Sums:
    """Sums of scalars, kept on their device: reading them each step would make it wait."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.totals[name] = self.totals[name] + value.float() if name in self.totals else value.float()


class FiniteWatch:
    """Remembers the first step whose loss is not finite, and the terms of that step, on the device."""

    def __init__(self) -> None:
        self.first: Tensor | None = None  # the step, -1 while all is well
        self.terms: dict[str, Tensor] = {}

    def see(self, step: int, values: Mapping[str, Tensor]) -> None:
        if self.first is None:
            self.first = torch.full_like(values["loss"], -1, dtype=torch.long)
            self.terms = dict(values)
        broken = (self.first < 0) & ~values["loss"].isfinite()
        self.first = torch.where(broken, step, self.first)
        self.terms = {name: torch.where(broken, value, self.terms[name]) for name, value in values.items()}

    def read(self, world: World) -> tuple[int, dict[str, float]] | None:
        """(step, terms) where a process met it; None while all is well."""
        assert self.first is not None
        if int(world.sum((self.first >= 0).long())) == 0:
            return None
        own = (int(self.first), {name: float(value) for name, value in self.terms.items()})
        return min((found for found in world.map(lambda rank: own, range(world.size)) if found[0] >= 0), key=_first)


def _first(found: tuple[int, dict[str, float]]) -> int:
    return found[0]


def _check_losses(watch: FiniteWatch, plan: FitPlan, label: str, steps: int, world: World) -> None:
    """Raises TrainingDiverged, in all processes, for a loss that was not finite."""
    if (found := watch.read(world)) is None:
        return
    step, values = found
    rate = learning_rate_at(step, plan.horizon * steps, plan)
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    raise TrainingDiverged(
        f"{label}: the loss is not finite at step {step} (learning rate {rate:.3g}; {terms}); "
        "try a lower learning_rate or precision fp32"
    )


@torch.no_grad()
def validate(learner: Learner, machine: Machine, most: int | None = None) -> dict[str, float]:
    """`learner.validate` in the precision of training where `most` limits it, in float32 over all."""
    learner.model.eval()
    with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16 and most is not None):
        return learner.validate(most)


def validated_pictures(learner: Learner) -> int:
    """How many pictures are looked at after an epoch: validation then takes about a tenth of its time, as a step of
    training is a pass forwards and two backwards."""
    return max(LEAST_VALIDATED, round(VALIDATION_SHARE * 3 * learner.count / learner.validation_passes))


def _check_finite(model: nn.Module, validated: dict[str, float], plan: FitPlan, label: str, epoch: int) -> None:
    """The last step of an epoch may have broken the weights without a loss that shows it."""
    score = validated.get(plan.monitor, 0.0)
    broken = [name for name, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken or not math.isfinite(score):
        what = f"weights {broken[0]} are" if broken else f"validation {plan.monitor} is {score},"
        raise TrainingDiverged(
            f"{label}: {what} not finite after epoch {epoch} (learning rate {plan.learning_rate:.3g}); "
            "try a lower learning_rate or precision fp32"
        )


def _is_better(progress: Progress, validated: dict[str, float], plan: FitPlan) -> bool:
    if plan.patience is None or progress.best_epoch == 0:
        return True
    score = validated[plan.monitor]
    return score < progress.best_score if plan.lower_is_better else score > progress.best_score


def _save(
    file: Path,
    model: nn.Module,
    optimizer: FitOptimizer,
    progress: Progress,
    best: dict[str, Tensor],
    extra: dict[str, Tensor],
) -> None:
    """Weights, best weights, optimizer and progress in one file, so that they always belong together."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.tensors().items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in extra.items()}
    write_safetensors(file, tensors, metadata={"progress": json.dumps(asdict(progress))})


def _restore(
    file: Path, model: nn.Module, optimizer: FitOptimizer
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """The way back of `_save`: progress, best weights, and what the learner keeps beside its model. Raises InputError
    for a damaged file."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}, "extra": {}}
    tensors, metadata = read_safetensors(file, "delete it, and --resume begins this fit anew")
    progress = Progress(**json.loads(metadata["progress"]))
    progress.seconds = progress.seconds or [0.0] * progress.epoch  # of a version that did not note them
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    model.load_state_dict(parts["model"])
    optimizer.restore(parts["optimizer"])
    return progress, parts["best"], parts["extra"]
