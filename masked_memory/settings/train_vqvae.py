"""Settings of train_vqvae.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from masked_memory.settings.kinds import Names, Only, Real, Section, Whole
from masked_memory.settings.training import Training


class ComponentMasking(Section):
    """Training on a single component with the full picture as target; needs pictures with several components."""

    enabled: bool = False
    """Show only one component of some pictures in training."""
    mask_prob_max: Annotated[Real, Field(ge=0, le=1), Only("enabled")] = 0.7
    """Share of the pictures that show one component only, at its highest."""
    warmup_epochs: Annotated[Whole, Field(ge=0, le=1_000_000), Only("enabled")] = 20
    """Epochs over which that share rises from 0; 0 starts with mask_prob_max."""


class TrainVQVAESection(Training):
    SHAPE: ClassVar[tuple[str, ...]] = (
        "stride",
        "hidden",
        "residual_blocks",
        "codebook_size",
        "code_dim",
        "stem",
        "normalize_codes",
    )
    KIND: ClassVar[tuple[str, ...]] = (
        "component_masking.enabled",
        "condition_numbers",
        "condition_classes",
    )
    TAKEN_AS: ClassVar[str] = "vqvae_reconstruction.vqvae"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 12
    """Epochs of the final fit at most."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 1e-2
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    stride: Literal[4, 8, 16] = 4
    """Pixels per token along each side."""
    hidden: Annotated[Whole, Field(ge=8, le=8192, multiple_of=8)] = 96
    """Channels of encoder and decoder at the grid."""
    residual_blocks: Annotated[Whole, Field(ge=0, le=256)] = 2
    """Residual blocks in encoder and in decoder."""
    codebook_size: Annotated[Whole, Field(ge=2, le=65536)] = 256
    """K, the number of codes."""
    code_dim: Annotated[Whole, Field(ge=1, le=8192)] = 32
    """D, numbers per code."""
    commitment_weight: Annotated[Real, Field(ge=0, le=10_000)] = 0.25
    """beta, weight of the commitment loss."""
    codebook_update: Literal["ema", "gradient"] = "ema"
    """Codebook by moving averages, or by the gradient of the codebook loss."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1), Only("codebook_update", "ema") | Only("restart_share")] = 0.97
    """Decay of the moving averages per step."""
    data_init: bool = True
    """Start the codebook from the first batch (clustered)."""
    restart_share: Annotated[Real, Field(ge=0, lt=1)] = 0.03
    """Restart codes used under this share of the average code's use; 0 never does."""
    normalize_codes: bool = False
    """Codes of length one (cosine distance)."""
    rotation_trick: bool = False
    """Pass the gradient through the quantiser rotated instead of copied."""
    reconstruction_loss: Literal["mse", "bce"] = "mse"
    """Squared error, or binary cross-entropy on [0, 1]."""
    component_masking: ComponentMasking = ComponentMasking()
    """Training on a single component with the full picture as target."""
    condition_numbers: Names = []
    """Columns of numbers in the split's manifest.csv that the decoder is told."""
    condition_classes: Names = []
    """Columns of classes in the split's manifest.csv that the decoder is told (class: the picture's own)."""
    label_drop: Annotated[Real, Field(ge=0, lt=1), Only("condition_numbers or condition_classes")] = 0.1
    """With conditions: how often the decoder is told nothing in training; above 0 allows guidance."""
    ssim_weight: Annotated[Real, Field(ge=0, le=100)] = 0.0
    """Weight of 1 - SSIM, added to the loss; 0 leaves it out."""
    augmentation: Literal["none", "flip", "shift", "dihedral"] = "none"
    """Change pictures in training: mirror left-right, mirror and move a little, or all eight ways to lay a square."""
    stem: Literal["unshuffle", "strided"] = "unshuffle"
    """Pixels moved into channels, or the plain strided convolutions of 2017."""
    codebook_start: Annotated[Literal["normal", "uniform"], Only("data_init", False)] = "normal"
    """Without data_init: standard normal codes, or uniform in [-1/K, 1/K]."""

    @model_validator(mode="after")
    def _one_telling(self) -> "TrainVQVAESection":
        fixed = {"condition_numbers", "condition_classes"} & set(self.tune.space)
        if fixed:
            raise ValueError(f"tune.space has {', '.join(sorted(fixed))}; expected decoders told the same in a study")
        return self
