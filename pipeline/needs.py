"""What a fit takes in memory, counted before it begins, so that one that cannot be done is refused at once.

Counted are the model with its gradients and what the optimizer remembers, and what steps of two and of four pictures
keep for the backward pass. Both are less than what is really taken, so nothing is refused that could be done.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.nn.modules import module as registering

from pipeline.files import InputError
from pipeline.machine import Machine, generator
from pipeline.world import draws_of

WEIGHT_COPIES = 3  # weights, gradients, the optimizer's momentum; AdamW has a fourth
PROBED = (2, 4)  # pictures of the steps that are counted; norms need two
GIGA = 1e9


class TooMuchMemory(InputError):
    """A fit that needs more memory than there is. fitting: the batch_size that would do, 0 when none would."""

    def __init__(self, found: str, fitting: int) -> None:
        super().__init__(found)
        self.fitting = fitting


class Kept(NamedTuple):
    """Bytes that a step keeps for the backward pass: of each picture, and whatever the batch."""

    of_each: float
    whatever: float

    def of(self, pictures: int) -> float:
        return self.whatever + pictures * self.of_each


def check_memory(build: Callable[..., Any], section: Any, machine: Machine, share: float = 1.0) -> float:
    """Bytes that a fit with these settings takes at least. build, share: as in `pipeline.training`.

    Raises TooMuchMemory, in all processes, when that is more than what is free.
    """
    free, refused, needed = free_bytes(machine), None, 0.0
    try:
        with _limited(free):
            learner = build(section, False, share)
        model = WEIGHT_COPIES * sum(bytes_of(p) for p in learner.model.parameters() if p.requires_grad)
    except TooMuchMemory as error:
        refused = error
    if (refused := machine.world.same(refused)) is None:
        kept = kept_by_step(learner, machine)
        needed = model + kept.of(section.batch_size)
        refused = machine.world.same(_refusal(needed, model, kept, section.batch_size, free))
    if refused is not None:
        raise refused
    return needed


def _refusal(needed: float, model: float, kept: Kept, batch: int, free: float) -> TooMuchMemory | None:
    if needed <= free:
        return None
    fitting = int((free - model - kept.whatever) / max(kept.of_each, 1.0))
    found = f"batch_size {batch} needs at least {needed / GIGA:.1f} GB of memory, {free / GIGA:.1f} are free"
    return TooMuchMemory(found, max(0, fitting))


@contextmanager
def _limited(free: float) -> Iterator[None]:
    """Within it no model is made that is larger than what is free: refused as soon as it is, not when all is filled."""
    made, refusal = 0, TooMuchMemory(f"the model needs more memory than the {free / GIGA:.1f} GB that are free", 0)

    def count(tensor: Tensor | None, copies: int) -> None:
        nonlocal made
        made += 0 if tensor is None else copies * bytes_of(tensor)
        if made > free:
            raise refusal

    hooks = (
        registering.register_module_parameter_registration_hook(lambda _, name, tensor: count(tensor, WEIGHT_COPIES)),
        registering.register_module_buffer_registration_hook(lambda _, name, tensor: count(tensor, 1)),
    )
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise refusal from None
    finally:
        for hook in hooks:
            hook.remove()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by a GPU or by the system."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def kept_by_step(learner: Any, machine: Machine) -> Kept:
    """Of two steps of a learner that is thrown away afterwards."""
    found = []
    learner.model.train()
    if hasattr(learner, "start_epoch"):
        learner.start_epoch(0)
    for pictures in PROBED:
        rows = torch.arange(pictures) % learner.count

        def loss_of(rows: Tensor = rows) -> Tensor:
            if hasattr(learner, "read_ahead"):
                learner.read_ahead(rows)
            return learner.step(rows, draws_of(machine.world, generator(0)))["loss"]

        found.append(kept_bytes(learner.model, loss_of, machine.device.type, machine.bf16))
    of_each = max(0.0, (found[1] - found[0]) / (PROBED[1] - PROBED[0]))
    return Kept(of_each, max(0.0, found[0] - PROBED[0] * of_each))


def kept_bytes(model: nn.Module, loss_of: Callable[[], Tensor], device: str, bf16: bool) -> float:
    """What is kept for the backward pass of a loss, without the weights themselves."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(device, torch.bfloat16, enabled=bf16),
    ):
        loss_of().backward()
    return float(sum(storages.values()))


def bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def free_bytes(machine: Machine) -> float:
    """Memory that this process may still take: of the GPU, or its share of the machine's within the limits that are
    set for it (control group, ulimit). Infinite where nobody can tell."""
    if machine.device.type == "cuda":
        return float(torch.cuda.mem_get_info(machine.device)[0])
    if machine.device.type != "cpu":
        return float("inf")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torchrun on this machine
    left = [psutil.virtual_memory().available / here, *_left_of_group(here)]
    return min(left + _left_of_limits())


def _left_of_group(here: int) -> list[float]:
    """Of the control group of this process, as containers and clusters set them (version 2)."""
    try:
        inner = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().splitlines()[-1].rpartition("::/")[2]
        folder = Path("/sys/fs/cgroup") / inner
        most, used = ((folder / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current"))
        reclaimed = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, IndexError):
        return []
    return [] if most == "max" else [(int(most) - int(used) + int(reclaimed.get("inactive_file", 0))) / here]


def _left_of_limits() -> list[float]:
    """Of the address space and of the data that the process may have."""
    try:
        import resource
    except ImportError:  # not on Windows
        return []
    taken = psutil.Process().memory_info()
    found = []
    for limit, used in ((resource.RLIMIT_AS, taken.vms), (resource.RLIMIT_DATA, getattr(taken, "data", taken.rss))):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            found.append(float(most - used))
    return found
