"""When a fit's model is compiled."""

import pytest
import torch
from torch import nn

from masked_memory.pipeline import compiling
from masked_memory.pipeline.compiling import PAYS_FROM, compile_parts
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import Machine

CPU, GPU = (Machine(torch.device(kind), bf16=False, threads=1) for kind in ("cpu", "cuda"))


class Halves:
    """A learner with two parts that can be compiled."""

    compiled_parts = (nn.Linear(2, 2), nn.Linear(3, 3))


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that were to be compiled."""
    found: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part: found.append(part))
    monkeypatch.setenv("CXX", "c++")
    return found


@pytest.mark.parametrize(
    ("asked", "machine", "steps", "compiled"),
    [
        ("auto", GPU, PAYS_FROM, True), ("auto", GPU, PAYS_FROM - 1, False), ("auto", CPU, 10**6, False),
        (True, GPU, 1, True), (True, CPU, 1, True), (False, GPU, 10**6, False),
    ],
)  # fmt: skip
def test_it_is_done_where_it_pays_or_is_asked_for(
    asked: object, machine: Machine, steps: int, compiled: bool, marked: list[nn.Module]
) -> None:
    said: list[str] = []
    assert compile_parts(Halves(), asked, steps, machine, said.append) is compiled
    assert marked == (list(Halves.compiled_parts) if compiled else []) and len(said) == compiled


def test_a_learner_without_such_parts_is_left_as_it_is(marked: list[nn.Module]) -> None:
    assert not compile_parts(object(), True, 10**6, GPU, lambda text: None) and not marked


def test_without_a_compiler_it_is_refused_or_said(marked: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"install g\+\+ or type --run\.compile auto"):
        compile_parts(Halves(), True, 1, CPU, lambda text: None)
    said: list[str] = []
    assert not compile_parts(Halves(), "auto", PAYS_FROM, GPU, said.append)
    assert "no C++ compiler" in said[0] and not marked
