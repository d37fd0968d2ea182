"""The processes that compute a stage together: one alone, or several that torchrun started.

    torchrun --standalone --nproc-per-node 2 train_vqvae.py

Accelerate joins them (gloo between CPUs, NCCL between GPUs). All run the same program with the same draws
(`pipeline.draws`) on a part of each batch, and what concerns all is agreed here. The first one writes; the others
write to folders that are thrown away.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from masked_memory.pipeline.draws import Draws, Part

LOST = ("gloo", "Connection closed by peer", "NCCL")  # in what a process hears when another has gone

T = TypeVar("T")
R = TypeVar("R")


class EndedElsewhere(RuntimeError):
    """The first process has given up, and says why."""


class OnlyAsked(RuntimeError):
    """What a stage would do has been said, and nothing else was wanted (`--dry-run`)."""


class World(Protocol):
    """What processes agree on. All must call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Which process this is, 0 the first."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        ...

    def rows(self, values: Tensor) -> Tensor:
        """(n, ...) of each process -> (size * n, ...), in their order."""
        ...

    def same(self, value: T) -> T:
        """The first process's value."""
        ...

    def made_by_first(self, make: Callable[[], T]) -> T:
        """What make() gives in the first process. Raises EndedElsewhere in the others when it raises there."""
        ...

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """work(item) of all items, in order, of which each process does a part, one after the other. To be used up by
        all. Results travel: tensors in them must lie on the CPU."""
        ...

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over all processes as they are computed."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def rows(self, values: Tensor) -> Tensor:
        return values

    def same(self, value: T) -> T:
        return value

    def made_by_first(self, make: Callable[[], T]) -> T:
        return make()

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(work, items)

    def parallel(self, module: nn.Module) -> nn.Module:
        return module


@dataclass(frozen=True)
class Together:
    """Several processes, each with RANK and WORLD_SIZE from torchrun."""

    accelerator: Any  # accelerate.Accelerator

    @cached_property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @cached_property
    def size(self) -> int:
        return int(self.accelerator.num_processes)

    def sum(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, "sum")

    def rows(self, values: Tensor) -> Tensor:
        return self.accelerator.gather(values)

    def same(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]

    def made_by_first(self, make: Callable[[], T]) -> T:
        if self.rank:
            fine, made = self.same((False, None))
            if not fine:
                raise EndedElsewhere
            return made  # type: ignore[return-value]
        try:
            made = make()
        except BaseException:
            self.same((False, None))
            raise
        return self.same((True, made))[1]

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        from accelerate.utils import gather_object

        every = list(items)
        for start in range(0, len(every), self.size):
            own = every[start + self.rank : min(start + self.rank + 1, len(every))]
            yield from gather_object([work(item) for item in own])

    def parallel(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():  # of the name of an option, which torch has changed
            warnings.simplefilter("ignore", FutureWarning)
            return self.accelerator.prepare_model(module)


def processes() -> int:
    """How many torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def join_world(on_cpu: bool) -> World:
    """The world of this process; called once."""
    if processes() == 1:
        return Alone()
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # What is no gradient, such as a codebook, is kept equal by us.
    return Together(Accelerator(cpu=on_cpu, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]))


def is_loss_of_another(error: RuntimeError) -> bool:
    """Whether it says that another process has gone while this one waited for it."""
    if processes() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in LOST)


def says_the_end() -> bool:
    """Whether this is the process that says that the run has ended, of those on this machine that outlived another."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "").replace(os.sep, "-")
    try:
        os.close(os.open(Path(gettempdir()) / f"ended-{run}-{os.getppid()}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def leave_world(status: int) -> int:
    """End of the program. Does not return where there are several: gloo may abort in destructors after all is done."""
    if processes() == 1:
        return status
    with suppress(RuntimeError):
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def draws_of(world: World, generator: torch.Generator) -> Draws:
    """The generator, for this process's part of each batch."""
    return generator if world.size == 1 else Part(generator, world.rank, world.size)


def shared_mean(world: World, values: Tensor) -> Tensor:
    """Of this process's values, so that its mean over the processes is the mean over all values, of which each process
    may have another number."""
    if world.size == 1:
        return values.mean()
    count = world.sum(torch.tensor(float(values.numel()), device=values.device))
    return values.sum() * (world.size / count)


def averages(world: World, values: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean over all processes of each scalar, read from the device at once."""
    if not values:
        return {}
    stacked = torch.stack([value.float().reshape(()) for value in values.values()])
    return dict(zip(values, (world.sum(stacked) / world.size).tolist(), strict=True))
