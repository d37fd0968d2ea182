"""Settings of train_painter.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from masked_memory.settings.kinds import Only, Real, RunName, Whole
from masked_memory.settings.training import Training


class TrainPainterSection(Training):
    TAKEN_AS: ClassVar[str] = "reconstruct_masked.painter"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 20
    """Epochs of the final fit at most."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 64
    """Grids per step."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    vqvae: RunName = "best"
    """The VQ-VAE whose decoder it starts from: best, a run folder, or models:/NAME@ALIAS."""
    distil: RunName = "best"
    """The DistilBERT whose answers it paints: best, a run folder, or models:/NAME@ALIAS."""
    mask_schedule: Literal["cosine", "uniform", "fixed"] = "uniform"
    """How the mask ratio varies in training: cosine, uniform, or fixed."""
    fixed_ratio: Annotated[Real, Field(gt=0, le=1), Only("mask_schedule", "fixed")] = 0.5
    """The mask ratio with mask_schedule: fixed."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=1, le=100)]], Field(min_length=1)] = [10, 25, 50, 75, 90]
    """Mask percentages at which validation and test are measured."""
