"""DistilBERT with relative positions in two dimensions. Imports transformers, which takes seconds: import it where it
is needed."""

from transformers import DistilBertConfig, DistilBertForMaskedLM

from masked_memory.models.positions import NearAndFar


class GridDistilBert(DistilBertForMaskedLM):
    """Beside its position embeddings, attention has a learnt bias for where two tokens of the grid lie to each other,
    the same in all layers. `near` is None where config.relative_positions is not set."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        relative = getattr(config, "relative_positions", False)
        self.near = NearAndFar(config.grid, config.n_heads) if relative else None
