"""Models on disk: a folder with config.json and model.safetensors, named as transformers does.

The folder may be `model/` of a run, or the run folder itself.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError, read_json, read_safetensors, write_json, write_safetensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Pretrained(nn.Module):
    """A model that is stored as its config and its weights. A subclass has `config`, of the dataclass `config_class`;
    it says in `kind` what such a model is called and in `made_by` which stage makes it."""

    config_class: ClassVar[type]
    kind: ClassVar[str]
    made_by: ClassVar[str]
    config: Any

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """The model in a run folder, or in the `model/` of one, in evaluation mode on `device`.

        Raises InputError when there is none, when it is one of another kind or of a version with other layers, and when
        it is damaged.
        """
        model = cls(cls.read_config(folder))
        model.fill(read_weights(folder, cls.made_by), folder)
        return model.to(device).eval()

    @classmethod
    def read_config(cls, folder: str | Path) -> Any:
        """The config alone. Raises InputError as `from_pretrained` does."""
        stored, file = read_model_config(folder, cls.made_by), model_folder(folder, cls.made_by) / CONFIG_FILE
        known = {field.name for field in fields(cls.config_class)}
        if unknown := set(stored) - known:
            raise InputError(f"{file} is not that of a {cls.kind}: it has {', '.join(sorted(unknown))}")
        try:
            return cls.config_class(**stored)
        except (TypeError, ValueError) as error:  # TypeError: a value is lacking
            raise InputError(f"{file} is not that of a {cls.kind}: {error}") from None

    def fill(self, weights: Mapping[str, Tensor], folder: str | Path) -> None:
        """Take weights. Raises InputError for those of other layers. folder: where they come from, for the message."""
        expected = self.state_dict()
        if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in expected.items()}:
            raise InputError(
                f"the {self.kind} in {folder} was trained by another version, with other layers; "
                "use the commit in its run.json, or train anew in another folder: --run.dir FOLDER"
            )
        self.load_state_dict(weights)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors to a folder, which is made; returns it. Files are replaced whole."""
        return write_model(Path(folder), self.state_dict(), asdict(self.config))


def model_folder(folder: str | Path, stage: str) -> Path:
    """Where the model lies: the folder itself, or `model/` in it. Raises InputError when there is none in either."""
    path = Path(folder)
    for found in (path, path / "model"):
        if (found / CONFIG_FILE).is_file():
            return found
    what = "is no folder" if not path.is_dir() else f"has no model ({path / CONFIG_FILE} is missing)"
    raise InputError(f"{path} {what}; expected a run folder of {stage}, or model/ in one; type: {command(stage)}")


def read_model_config(folder: str | Path, stage: str) -> dict[str, Any]:
    """config.json. Raises InputError when it is missing or damaged."""
    file = model_folder(folder, stage) / CONFIG_FILE
    stored = read_json(file)
    if not isinstance(stored, dict):
        raise InputError(f"{file} holds {type(stored).__name__}; expected the config of a model")
    return stored


def read_weights(folder: str | Path, stage: str) -> dict[str, Tensor]:
    """model.safetensors, on the CPU. Raises InputError when it is missing or damaged."""
    return read_safetensors(model_folder(folder, stage) / WEIGHTS_FILE, f"type: {command(stage)}")[0]


def write_model(folder: Path, tensors: Mapping[str, Tensor], config: dict[str, Any]) -> Path:
    """config.json and model.safetensors, the weights first; returns the folder."""
    write_safetensors(folder / WEIGHTS_FILE, tensors, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, config)
    return folder
