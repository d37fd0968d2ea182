"""Work in parts: what was found is found again, and is done once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from masked_memory.pipeline.batch_cache import forget, remembering
from masked_memory.pipeline.files import InputError


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if not isinstance(one, Tensor):
        return type(one) is type(other) and (one == other or one != one)
    return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)


def test_each_part_is_done_once_and_comes_back_the_same(tmp_path: Path) -> None:
    asked: list[int] = []

    def work(item: int) -> tuple[dict[str, Any], list[Tensor]]:
        asked.append(item)
        values = {"b": torch.full((3,), float(item)), "a": np.arange(item + 1, dtype=np.uint16)}
        row = {"name": "a, b", "n": 3, "value": 0.1 + item / 3, "nothing": None, "yes": True, "unknown": float("nan")}
        return {"x": values, "row": row, "empty": {}}, [torch.tensor(item > 1), torch.zeros(0, dtype=torch.int64)]

    first = [remembering(tmp_path / "notes", work, tuple)(item) for item in range(3)]
    again = [remembering(tmp_path / "notes", work, tuple)(item) for item in range(4)]
    assert asked == [0, 1, 2, 3]
    assert same(first, again[:3]) and all(isinstance(each, tuple) for each in again)
    forget(tmp_path / "notes")
    remembering(tmp_path / "notes", work, tuple)(0)
    assert asked[-1] == 0 and len(asked) == 5


def test_without_a_folder_nothing_is_remembered(tmp_path: Path) -> None:
    asked: list[int] = []
    work = remembering(None, asked.append, tuple)
    work(1)
    work(1)
    assert asked == [1, 1] and not list(tmp_path.iterdir())


def test_a_part_that_fails_is_not_remembered(tmp_path: Path) -> None:
    def fails(item: int) -> list[Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembering(tmp_path, fails, list)(0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    work = remembering(tmp_path, lambda item: [torch.zeros(9)], list)
    work(0)
    content = (tmp_path / "0.safetensors").read_bytes()
    (tmp_path / "0.safetensors").write_bytes(content[:-1] + b"\1")
    with pytest.raises(InputError, match=r"0\.safetensors is damaged.*; delete it, and --resume does that part again"):
        work(0)


def test_what_cannot_be_noted_is_refused_rather_than_lost(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds complex"):
        remembering(tmp_path, lambda item: [1j], list)(0)
