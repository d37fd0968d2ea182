"""DistilBERT with relative positions in two dimensions. Imports transformers, which takes seconds: import it where it
is needed."""

from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM

from masked_memory.models.distilbert import load_distilbert, weights_of
from masked_memory.models.positions import NearAndFar
from masked_memory.models.pretrained import write_model


class MaskedDistilBert(DistilBertForMaskedLM):
    """Beside its position embeddings, attention has a learnt bias for where two tokens of the grid lie to each other,
    the same in all layers. `near` is None where config.relative_positions is not set."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        relative = getattr(config, "relative_positions", False)
        self.near = NearAndFar(config.grid, config.n_heads) if relative else None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, device: str | torch.device = "cpu"
    ) -> "MaskedDistilBert":
        """The DistilBERT in a run folder of train_distil, or in the `model/` of one, in evaluation mode on `device`.

        Raises InputError when there is none, when it is one of another kind, and when it is damaged.
        """
        return load_distilbert(folder, torch.device(device))

    def save_pretrained(self, folder: str | Path) -> Path:  # type: ignore[override]
        """Write config.json and model.safetensors to a folder, which is made; returns it. Files are replaced whole."""
        return write_model(Path(folder), weights_of(self), self.config.to_dict())
