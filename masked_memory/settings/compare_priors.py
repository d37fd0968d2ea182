"""Settings of compare_priors.py."""

from typing import Annotated, Literal

from pydantic import Field

from masked_memory.settings.kinds import PositiveInt, Real, RunName, Section, Whole
from masked_memory.settings.strategies import MaskName


class ComparePriorsSection(Section):
    pictures: PositiveInt | None = 250
    """Test pictures to fill in, evenly spread; null takes all."""
    masks: list[MaskName] = Field(default=["block", "random"], min_length=1)
    """What is missing: a rectangle, tokens at random, the lower part."""
    percentages: list[Annotated[Whole, Field(ge=1, le=99)]] = Field(default=[25, 50, 75], min_length=1)
    """How much is missing."""
    draws: Annotated[Whole, Field(ge=2, le=10_000)] = 16
    """Draws that are averaged to estimate the expected code vectors of a PixelCNN or a GAN."""
    samples: Annotated[Whole, Field(ge=2, le=10_000_000)] = 500
    """New pictures of each prior, at most half as many as there are test pictures, which are what they are compared
    with."""
    sweep_passes: list[PositiveInt] = [1, 2, 4, 8, 16, 32, 64]
    """Numbers of passes of the DistilBERT that are compared for new pictures; empty: none."""
    rounds: Annotated[Whole, Field(ge=5, le=10_000)] = 5
    """How often each way is timed, by turns, after one that does not count."""
    timed_pictures: PositiveInt = 100
    """Pictures at once when speeds are compared."""
    pixelcnn: RunName = "best"
    """The PixelCNN that makes new pictures: best of those told the same, a run folder of train_prior, or
    models:/NAME@ALIAS."""
    gan: RunName = "best"
    """The GAN that makes new pictures, likewise."""
    untold_pixelcnn: RunName = "best"
    """The PixelCNN that fills in, trained without being told anything: best, or a run folder."""
    untold_gan: RunName = "best"
    """The GAN that fills in, likewise."""
    told: bool = True
    """Take priors that were trained to be told the class, and ask them for each in turn."""
    told_distil: RunName | None = None
    """A DistilBERT trained with condition_on_class, to be asked for classes: best, a run folder; null: none."""
    masked_vqvae: RunName | None = None
    """A VQ-VAE trained with component masking on the same split, to fill in by itself: best, a run; null: none."""
    temperature: Annotated[Real, Field(ge=0.001, le=10)] = 1.0
    """Of drawn codes."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """Of samples of a class."""
    passes: Annotated[Whole, Field(ge=2, le=100_000)] = 16
    """Passes of the DistilBERT when it fills step by step."""
    fill_order: Literal["confidence", "halton"] = "halton"
    """Its sure tokens first, or well spread ones."""
    choice_noise: Annotated[Real, Field(ge=0, le=100)] = 4.5
    """Of the order by confidence with noise, as in MaskGIT: scale of the noise in the first pass."""
    pool: Annotated[Whole, Field(ge=1, le=1_000_000)] = 512
    """Grids of the GAN among which it looks for what fits."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 250
    """Pictures at once."""
    bootstrap: Annotated[Whole, Field(ge=100, le=100_000)] = 1000
    """Resamples behind the 95 % intervals."""
