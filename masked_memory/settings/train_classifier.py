"""Settings of train_classifier.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from masked_memory.settings.kinds import Only, Real, RunName, Whole
from masked_memory.settings.training import Training


class TrainClassifierSection(Training):
    SHAPE: ClassVar[tuple[str, ...]] = ("architecture", "width", "inputs")
    KIND: ClassVar[tuple[str, ...]] = ("degrade",)
    TAKEN_AS: ClassVar[str] = "reconstruct_masked.classifier"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 12
    """Epochs of the final fit at most."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    architecture: Literal["compact", "resnet18", "resnet50", "codes"] = "compact"
    """compact CNN, torchvision's ResNet with a stem for small pictures, or a CNN on the code grid."""
    width: Annotated[Whole, Field(ge=1, le=8), Only("architecture", "compact", "codes")] = 1
    """Channels of compact and codes, in multiples of the usual."""
    pretrained: bool = False
    """ResNets start from ImageNet weights; said plainly when they cannot be had."""
    inputs: Annotated[
        Literal["originals", "reconstructions", "both"], Only("architecture", "compact", "resnet18", "resnet50")
    ] = "both"
    """Pictures to train on (architecture codes always sees codes)."""
    augmentation: Literal["none", "shift", "shift_flip"] = "shift"
    """Random shifts by up to an eighth of the side; also left-right flips."""
    degrade: bool = True
    """Blur and grey out random cells in training, as recalled pictures are; false: the second judge of the study, which
    has seen clean pictures only."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    """Before the last layer."""
