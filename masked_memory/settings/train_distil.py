"""Settings of train_distil.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from masked_memory.settings.kinds import Only, Real, RunName, Whole
from masked_memory.settings.training import Training


class TrainDistilSection(Training):
    SHAPE: ClassVar[tuple[str, ...]] = ("init", "dim", "layers", "heads", "relative_positions")
    KIND: ClassVar[tuple[str, ...]] = ("condition_on_class",)
    TAKEN_AS: ClassVar[str] = "reconstruct_masked.distil"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 20
    """Epochs of the final fit at most."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 64
    """Grids per step."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 4e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0, le=100)] = 0.01
    """On matrices and kernels only."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    vqvae: RunName = "best"
    """The VQ-VAE that made them: best, a run folder, or models:/NAME@ALIAS."""
    init: str = "scratch"
    """scratch, or a DistilBERT to start the layers from: a folder or a hub id."""
    dim: Annotated[Whole, Field(ge=1, le=16_384), Only("init", "scratch")] = 128
    """Width of the transformer (with init: scratch)."""
    layers: Annotated[Whole, Field(ge=1, le=256), Only("init", "scratch")] = 4
    """Transformer layers (with init: scratch)."""
    heads: Annotated[Whole, Field(ge=1, le=256), Only("init", "scratch")] = 4
    """Attention heads; must divide dim (with init: scratch)."""
    dropout: Annotated[Real, Field(ge=0, lt=1), Only("init", "scratch")] = 0.0
    """In every layer."""
    augmentation: Literal["none", "flip", "shift"] = "none"
    """Train on tokens of pictures that are mirrored, or mirrored and moved a little, and encoded anew each time."""
    relative_positions: Annotated[bool, Only("init", "scratch")] = True
    """Attention also knows where two tokens lie to each other in the grid (with init: scratch)."""
    mask_schedule: Literal["cosine", "uniform", "fixed"] = "cosine"
    """How the mask ratio varies in training: cosine, uniform, or fixed."""
    fixed_ratio: Annotated[Real, Field(gt=0, le=1), Only("mask_schedule", "fixed")] = 0.5
    """The mask ratio with mask_schedule: fixed."""
    redraw_masks: bool = True
    """New masks at each step; false draws one mask for each picture, once."""
    mask_embedding: Literal["learned", "zero"] = "learned"
    """MASK as a learnt vector, or as the zero vector."""
    start_from_codebook: Annotated[bool, Only("init", "scratch")] = True
    """Codes that look alike start with embeddings that are alike (with init: scratch)."""
    condition_on_class: bool = False
    """Also tell the class, so that reconstruct_masked can be told it, too; needs pictures with classes."""
    label_drop: Annotated[Real, Field(ge=0, le=1), Only("condition_on_class")] = 0.1
    """With condition_on_class: how often the class is not told in training; above 0 allows guidance."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=1, le=100)]], Field(min_length=1)] = [10, 25, 50, 75, 90, 100]
    """Mask percentages at which validation and test are measured."""

    @property
    def published_recipe(self) -> bool:
        """Whether it trains as the published memory study does: one mask of a fixed share for each picture, drawn once,
        and the zero vector for MASK. Such a model is a rival."""
        return self.mask_schedule == "fixed" and not self.redraw_masks and self.mask_embedding == "zero"

    @model_validator(mode="after")
    def _heads_divide(self) -> "TrainDistilSection":
        if self.dim % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of dim {self.dim}")
        return self
