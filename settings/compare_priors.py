"""Settings of compare_priors.py."""

from typing import Annotated, Literal

from pydantic import Field

from settings.kinds import PositiveInt, Real, RunName, Section, Whole
from settings.strategies import MaskName


class ComparePriorsSection(Section):
    pictures: PositiveInt | None = 250
    """Test pictures to fill in, evenly spread; null takes all."""
    masks: list[MaskName] = Field(default=["block", "random"], min_length=1)
    """What is missing: a rectangle, tokens at random, the lower part."""
    percentages: list[Annotated[Whole, Field(ge=1, le=99)]] = Field(default=[25, 50, 75], min_length=1)
    """How much is missing."""
    samples: Annotated[Whole, Field(ge=2)] = 500
    """New pictures of each prior, at most as many as there are test pictures and validation pictures."""
    pixelcnn: RunName = "best"
    """The PixelCNN: best of those told the same, a run folder of train_prior, or models:/NAME@ALIAS."""
    gan: RunName = "best"
    """The GAN, likewise."""
    told: bool = True
    """Take priors that were trained to be told the class, and ask them for each in turn."""
    told_distil: RunName | None = None
    """A DistilBERT trained with condition_on_class, to be asked for classes: best, a run folder; null: none."""
    masked_vqvae: RunName | None = None
    """A VQ-VAE trained with component masking on the same split, to fill in by itself: best, a run; null: none."""
    temperature: Annotated[Real, Field(gt=0, le=10)] = 1.0
    """Of drawn codes."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """Of samples of a class."""
    passes: Annotated[Whole, Field(ge=2)] = 16
    """Passes of the DistilBERT when it fills step by step."""
    fill_order: Literal["confidence", "halton"] = "halton"
    """Its sure tokens first, or well spread ones."""
    pool: PositiveInt = 512
    """Grids of the GAN among which it looks for what fits."""
    batch_size: PositiveInt = 250
    """Pictures at once; speeds are compared at this size."""
    bootstrap: Annotated[Whole, Field(ge=100)] = 1000
    """Resamples behind the 95 % intervals."""
