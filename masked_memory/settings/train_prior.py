"""Settings of train_prior.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from masked_memory.settings.kinds import Names, Only, PositiveInt, Real, RunName, Whole
from masked_memory.settings.training import Training


class TrainPriorSection(Training):
    SHAPE: ClassVar[tuple[str, ...]] = ("width", "layers", "kernel", "noise_dim")
    KIND: ClassVar[tuple[str, ...]] = (
        "kind",
        "condition_on_class",
        "condition_numbers",
        "condition_classes",
    )
    TAKEN_AS: ClassVar[str] = "sample.prior_run"

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 30
    """Epochs of the final fit at most."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 32
    """Grids per step."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0, le=100)] = 0.01
    """On matrices and kernels only."""
    kind: Literal["pixelcnn", "gan"] = "pixelcnn"
    """A gated PixelCNN, code after code, or a GAN, all codes at once."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    vqvae: RunName = "best"
    """The VQ-VAE that made them: best, a run folder, or models:/NAME@ALIAS."""
    width: Annotated[Whole, Field(ge=4, le=8192)] = 64
    """Channels at the grid."""
    layers: Annotated[Whole, Field(ge=1, le=256), Only("kind", "pixelcnn")] = 6
    """Gated layers (pixelcnn)."""
    kernel: Annotated[Literal[3, 5, 7], Only("kind", "pixelcnn")] = 5
    """Side of the masked convolutions (pixelcnn)."""
    dropout: Annotated[Real, Field(ge=0, lt=1), Only("kind", "pixelcnn")] = 0.1
    """In every gated layer (pixelcnn)."""
    noise_dim: Annotated[Whole, Field(ge=1, le=8192), Only("kind", "gan")] = 64
    """Length of the noise vector from which a grid is made (gan)."""
    discriminator_learning_rate: Annotated[Real, Field(gt=0, le=100), Only("kind", "gan")] = 1e-4
    """Of the discriminator, the same all the time (gan)."""
    commitment_weight: Annotated[Real, Field(ge=0, le=10_000), Only("kind", "gan")] = 0.05
    """Weight of the loss that pulls generated vectors to their codes (gan)."""
    instance_noise: Annotated[Real, Field(ge=0, le=1000), Only("kind", "gan")] = 0.5
    """Standard deviation of the noise on what the discriminator sees; that of the codes is 1 (gan)."""
    gradient_penalty: Annotated[Real, Field(ge=0, le=100_000), Only("kind", "gan")] = 100.0
    """Weight of R1, half the squared slope of the discriminator at real grids (gan)."""
    condition_on_class: bool = False
    """Also tell the class, so that it can be asked for; needs pictures with classes."""
    condition_numbers: Names = []
    """Columns of numbers in the split's manifest.csv that are told, too; standardised on train."""
    condition_classes: Names = []
    """Columns of classes in the split's manifest.csv that are told, too."""
    label_drop: Annotated[
        Real, Field(ge=0, le=1), Only("condition_on_class or condition_numbers or condition_classes")
    ] = 0.1
    """How often nothing is told in training; above 0 allows guidance and pictures without being told."""
    samples: Annotated[Whole, Field(ge=1, le=64)] = 16
    """Pictures in the grids of samples."""
    sample_every: PositiveInt = 1
    """Epochs between grids of samples."""
    judged_samples: Annotated[Whole, Field(ge=2, le=10_000_000)] = 500
    """Samples that are measured at the end, beside as many test pictures at most."""

    @model_validator(mode="after")
    def _one_kind(self) -> "TrainPriorSection":
        fixed = {"kind", "condition_on_class", "condition_numbers", "condition_classes"} & set(self.tune.space)
        if fixed:
            raise ValueError(f"tune.space has {', '.join(sorted(fixed))}; expected one kind of prior in a study")
        if "class" in self.condition_classes:
            raise ValueError("condition_classes has class, the picture's own; expected condition_on_class: true for it")
        return self
