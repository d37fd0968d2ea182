"""Settings of train_mae.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from masked_memory.settings.kinds import Only, Real, RunName, Whole
from masked_memory.settings.training import Training


class TrainMAESection(Training):
    SHAPE: ClassVar[tuple[str, ...]] = ("dim", "layers", "heads", "decoder_dim", "decoder_layers")
    KIND: ClassVar[tuple[str, ...]] = ("inputs",)
    TAKEN_AS: ClassVar[str] = "reconstruct_masked.rival_mae"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 40
    """Epochs of the final fit at most."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0, le=100)] = 0.05
    """On matrices and kernels only."""
    vqvae: RunName = "best"
    """The VQ-VAE whose tokens are the cells: best, a run folder, or models:/NAME@ALIAS."""
    inputs: Literal["reconstructions", "originals"] = "originals"
    """Pictures that it sees and predicts; painted kept cells show some of what is hidden, so reconstructions give too
    low a bound."""
    dim: Annotated[Whole, Field(ge=1, le=16_384)] = 128
    """Width of the encoder; a multiple of 4."""
    layers: Annotated[Whole, Field(ge=1, le=256)] = 4
    """Transformer layers of the encoder."""
    heads: Annotated[Whole, Field(ge=1, le=256)] = 4
    """Attention heads of encoder and decoder; must divide dim and decoder_dim."""
    decoder_dim: Annotated[Whole, Field(ge=1, le=16_384)] = 96
    """Width of the decoder; a multiple of 4."""
    decoder_layers: Annotated[Whole, Field(ge=1, le=256)] = 2
    """Transformer layers of the decoder."""
    mask_schedule: Literal["cosine", "uniform", "fixed"] = "uniform"
    """How the mask ratio varies in training: cosine, uniform, or fixed."""
    fixed_ratio: Annotated[Real, Field(gt=0, le=1), Only("mask_schedule", "fixed")] = 0.75
    """The mask ratio with mask_schedule: fixed."""
    augmentation: Literal["none", "shift", "shift_flip"] = "shift"
    """Random shifts by up to an eighth of the side; also left-right flips."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=1, le=100)]], Field(min_length=1)] = [10, 25, 50, 75, 90, 100]
    """Mask percentages at which validation and test are measured."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "TrainMAESection":
        for name in ("dim", "decoder_dim"):
            width = getattr(self, name)
            if width % self.heads or width % 4:
                raise ValueError(f"{name} is {width}; expected a multiple of 4 and of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _one_kind(self) -> "TrainMAESection":
        if "inputs" in self.tune.space:
            raise ValueError("tune.space has inputs; expected the same pictures in all trials of a study")
        return self
