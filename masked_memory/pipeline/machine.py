"""The machine a stage runs on: device, precision, threads, seeds, versions, commit."""

import os
import platform
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, unique
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from masked_memory.home import HOME
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.processes import cores
from masked_memory.pipeline.world import Alone, World, join_world


@unique
class Stream(IntEnum):
    """The second number of every generator, after the seed: what the draws are for. No two are the same.

    The training loop draws from (seed, epoch) for epochs below FIRST_STREAM, and from (seed, LATER_EPOCHS + epoch) from
    then on (`epoch_stream`), so that no epoch equals a stream either. Numbers after it (a batch, a percentage) tell the
    draws of one stream apart; zeros at the end count as nothing: (seed, 201, 0) is (seed, 201).
    """

    DISTIL_VAL_MASKS = 101
    DISTIL_TEST_MASKS = 102
    DISTIL_FIGURE_MASKS = 103
    DISTIL_EMBEDDINGS = 104  # random projection of the codebook at the start
    DISTIL_ONLY_MASKS = 105  # redraw_masks: false
    MAE_VAL_MASKS = 111
    MAE_TEST_MASKS = 112
    MAE_FIGURE_MASKS = 113
    PAINTER_VAL_MASKS = 121
    PAINTER_TEST_MASKS = 122
    PAINTER_FIGURE_MASKS = 123
    ORDERS = 201  # of strategies
    DRAWN_CODES = 202
    BOOTSTRAP = 203
    PICTURES = 204  # which of them are measured
    FEWER_CODES = 205
    BRAIN_BOOTSTRAP = 206
    SIGN_FLIPS = 207
    OWN_ORDERS = 211  # own pictures
    OWN_CODES = 212
    VALIDATION = 301  # what a learner draws there, the same each time: degraded cells, noise
    PRIOR_SHOWN = 302
    PRIOR_JUDGED = 303
    SAMPLE_CODES = 401
    SAMPLE_MASKS = 402
    COMPARED_MASKS = 411
    COMPARED_FILLS = 412
    COMPARED_SAMPLES = 413
    SHUFFLED_CODES = 414
    BENCHMARK_PICTURES = 901


FIRST_STREAM, LATER_EPOCHS = 100, 1_000_000


def epoch_stream(epoch: int) -> int:
    """The number that stands for an epoch (0, 1, ...) beside those of `Stream`."""
    return epoch if epoch < FIRST_STREAM else LATER_EPOCHS + epoch


PACKAGES = (
    "torch", "torchvision", "numpy", "optuna", "mlflow", "matplotlib", "scikit-image", "transformers", "pillow",
    "constriction", "imagecodecs",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Where and how to compute. `bf16`: training runs under bfloat16 autocast. `world`: the processes of this stage."""

    device: torch.device
    bf16: bool
    threads: int
    check_every: int = 50  # steps between looks at whether the losses are finite, for which a GPU has to wait
    compile: Literal["auto"] | bool = False  # see masked_memory/pipeline/compiling.py
    memory: int = 2**30  # bytes, for what models compute in between when they are asked
    world: World = field(default_factory=Alone)

    def at_once(self, bytes_each: int, most: int = 250) -> int:
        """How many pictures to ask about at once, of which each takes so many bytes."""
        return rows_within(self.memory, bytes_each, most)

    def describe(self) -> str:
        names = {"cpu": f"{self.threads} threads"}
        if self.device.type == "cuda":
            names["cuda"] = torch.cuda.get_device_name(self.device)
        shown = f"{self.device.type} ({names.get(self.device.type, 'GPU')})"
        shown = f"{self.world.size} processes on {shown}" if self.world.size > 1 else shown
        return f"{shown}, training in {'bf16' if self.bf16 else 'fp32'}"


def rows_within(memory: int, bytes_each: int, most: int) -> int:
    """How many rows of `bytes_each` fit into `memory` bytes: 1 at least, `most` at most."""
    return max(1, min(most, memory // bytes_each))


class MachineSettings(Protocol):
    """The settings that decide where and how to compute."""

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def tf32(self) -> bool: ...

    @property
    def compile(self) -> Literal["auto"] | bool: ...

    @property
    def threads(self) -> int: ...

    @property
    def memory(self) -> float: ...

    @property
    def check_every(self) -> int: ...


def prepare_machine(settings: MachineSettings, say: Callable[[str], None] = print) -> Machine:
    """Choose device and precision, fix the number of threads, ask torch for deterministic algorithms.

    Raises InputError for a GPU that is not there. Says so when bf16 is asked for but is emulated, and that a GPU is not
    wholly deterministic.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine
    torch.set_num_threads(settings.threads or max(1, cores() // here))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    chosen, precision = choose_device(settings.device), settings.precision
    if chosen.type == "cuda":
        say("on a GPU results repeat up to rounding only: attention has no deterministic backward pass there")
    native = _has_bf16(chosen)
    if precision == "auto" and not native:
        say("precision: fp32, as this device has no native bf16")
    if precision == "bf16" and not native:
        say("precision: bf16 as asked for, but this device only emulates it: expect it to be slow")
    bf16 = precision == "bf16" or (precision == "auto" and native)
    world = join_world(on_cpu=chosen.type == "cpu")
    memory, threads = round(settings.memory * 2**30), torch.get_num_threads()
    return Machine(chosen, bf16, threads, settings.check_every, settings.compile, memory, world)


def choose_device(asked: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one. Raises InputError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if there[name]))
    if not there.get(asked):
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"run.device is {asked}, but this machine has: {found}; type --run.device auto")
    return torch.device(asked)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return False


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device. A GPU does not wait for what comes from the CPU: it travels from pinned memory, on its own."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def seed_everything(seed: int) -> None:
    """Seed the global generators: weights and dropout draw from them, everything else is passed a generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries may draw from it)
    torch.manual_seed(seed)


def generator(*numbers: int) -> torch.Generator:
    """A generator seeded by several numbers, such as (seed, epoch): the same numbers, the same draws."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def versions() -> dict[str, str]:
    """Python and the packages that matter, name -> version."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def commit() -> str:
    """The project's git commit, with +changes when the working tree differs, or 'unknown' outside a checkout."""
    if not (HOME / ".git").exists():  # installed: git would find a project of someone else's around it
        return "unknown"
    try:
        head = _git(HOME, "rev-parse", "HEAD")
        return head + ("+changes" if _git(HOME, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    call = ["git", "-C", str(root), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
