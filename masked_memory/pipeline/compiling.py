"""torch.compile, where it pays for itself within a fit.

Compiling takes a minute or two. On a CPU it made steps no faster; so `auto` compiles on a GPU only, and there for fits
of PAYS_FROM steps. That follows from the settings, not from a stopwatch: the same command gives the same numbers.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import Machine

PAYS_FROM = 5_000  # steps
COMPILERS = ("c++", "g++", "clang++", "cl")


@runtime_checkable
class Compilable(Protocol):
    """A learner that says which parts of its model can be compiled: those without draws and host branches."""

    @property
    def compiled_parts(self) -> Sequence[nn.Module]: ...


def compile_parts(
    learner: object, asked: Literal["auto"] | bool, steps: int, machine: Machine, say: Callable[[str], None]
) -> bool:
    """Mark the parts for compilation, which begins with the first step; returns whether. steps: of the whole fit.

    Raises InputError when compilation is asked for and there is no C++ compiler.
    """
    if asked is False or not isinstance(learner, Compilable):
        return False
    if asked == "auto" and (machine.device.type != "cuda" or steps < PAYS_FROM):
        return False
    if not (os.environ.get("CXX") or any(map(shutil.which, COMPILERS))):
        if asked == "auto":
            say("run.compile: no, as there is no C++ compiler")
            return False
        raise InputError("run.compile is true, but there is no C++ compiler; install g++ or type --run.compile auto")
    for part in learner.compiled_parts:
        part.compile()
    say(f"run.compile: yes, for {steps} steps; the first one takes a minute or more")
    return True
