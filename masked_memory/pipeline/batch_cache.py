"""Work in parts that is resumed: what each part gave lies in a folder until the stage has ended."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from masked_memory.pipeline.files import read_safetensors, write_safetensors

StudyPart = TypeVar("StudyPart")
PartResult = TypeVar("PartResult")


def remembering(
    folder: Path | None,
    work: Callable[[StudyPart], PartResult],
    restored: Callable[[Any], PartResult] = lambda found: found,
) -> Callable[[StudyPart], PartResult]:
    """`work`, of which the results lie in `folder` under the text of their item: a second call reads them. folder None:
    nothing is remembered. restored: makes a result of its parts, in which lists stand for tuples.

    Results are dictionaries, lists and tuples of tensors on the CPU, arrays, numbers, texts and None. Raises InputError
    for a damaged file.
    """
    if folder is None:
        return work

    def remembered(item: StudyPart) -> PartResult:
        file = folder / f"{item}.safetensors"
        if file.is_file():
            known, metadata = read_safetensors(file, "delete it, and --resume does that part again")
            return restored(_filled(json.loads(metadata["form"]), known))
        result = work(item)
        tensors: dict[str, Tensor] = {}
        form = _emptied(result, tensors)
        write_safetensors(file, tensors, {"form": json.dumps(form)})
        return result

    return remembered


def forget(folder: Path) -> None:
    """Remove what was remembered, if anything was."""
    shutil.rmtree(folder, ignore_errors=True)


def _emptied(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with numbers of tensors in place of these, which are added to `tensors`."""
    if isinstance(value, Tensor | np.ndarray):
        number = str(len(tensors))
        tensors[number] = torch.as_tensor(value)
        return {"array" if isinstance(value, np.ndarray) else "tensor": number}
    if value is None or type(value) in (str, bool, int, float):
        return {"plain": value}
    if isinstance(value, Mapping):
        return {"keys": list(value), "values": [_emptied(each, tensors) for each in value.values()]}
    if isinstance(value, list | tuple):
        return [_emptied(each, tensors) for each in value]
    raise TypeError(f"a result holds {type(value).__name__}, which cannot be remembered")


def _filled(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(form, list):
        return [_filled(each, tensors) for each in form]
    if "plain" in form:
        return form["plain"]
    if "tensor" in form:
        return tensors[form["tensor"]]
    if "array" in form:
        return tensors[form["array"]].numpy()
    return {key: _filled(each, tensors) for key, each in zip(form["keys"], form["values"], strict=True)}
