"""What a fit takes in memory, counted before it begins, so that one that cannot be done is refused at once.

Counted are the model with its gradients and what the optimizer remembers, and what steps of two and of four pictures
keep for the backward pass. Both are less than what is really taken, so nothing is refused that could be done. Of
several processes all go by what is free for the first.
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

from masked_memory.pipeline.engine import KnowsEpoch, ReadsAhead
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import Machine, generator
from masked_memory.pipeline.world import draws_of

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

    Raises TooMuchMemory when that is more than what is free.
    """
    free = machine.world.same(free_bytes(machine))
    with _limited(free):
        learner = build(section, False, share)
    model = WEIGHT_COPIES * sum(bytes_of(p) for p in learner.model.parameters() if p.requires_grad)
    kept = kept_by_step(learner, machine)
    batch = section.batch_size if section.least_steps else min(section.batch_size, learner.count)
    needed = model + kept.of(batch)
    if needed > free:
        fitting = int((free - model - kept.whatever) / max(kept.of_each, 1.0))
        found = f"batch_size {batch} needs at least {needed / GIGA:.1f} GB of memory, {free / GIGA:.1f} are free"
        raise TooMuchMemory(found, max(0, fitting))
    return needed


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
    if isinstance(learner, KnowsEpoch):
        learner.start_epoch(0)
    for pictures in PROBED:
        rows = torch.arange(pictures) % learner.count

        def loss_of(rows: Tensor = rows) -> Tensor:
            if isinstance(learner, ReadsAhead):
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
    shared = min([psutil.virtual_memory().available, *left_of_groups()])
    return min([shared / here, *_left_of_limits()])


def left_of_groups(noted: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """What each control group around this process leaves, as containers and clusters set them (version 2). noted: where
    the process finds its own group; groups: the folder of all."""
    try:
        lines = noted.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    own = groups.joinpath(*(line.removeprefix("0::/") for line in lines if line.startswith("0::/")))
    inside = [folder for folder in (own, *own.parents) if folder == groups or groups in folder.parents]
    return [left for folder in inside if (left := _left_of_group(folder)) is not None]


def _left_of_group(folder: Path) -> float | None:
    """None without a limit. What can be given back of files in memory counts as left."""
    try:
        most, used = ((folder / f"memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current"))
        parts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:
        return None
    return None if most == "max" else float(int(most) - int(used) + int(parts["inactive_file"]))


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
