"""Settings of sample.py."""

from typing import Annotated, Literal

from pydantic import Field

from masked_memory.settings.kinds import Names, Only, Real, RunName, Section, Text, Whole
from masked_memory.settings.strategies import MaskName


class SampleSection(Section):
    mode: Literal["unconditional", "conditional", "inpainting"] = "unconditional"
    """New pictures; new pictures of a class or with given numbers; or test pictures with a part filled in (--mode)."""
    prior: Literal["pixelcnn", "gan", "distil"] = "pixelcnn"
    """Which prior to ask (--prior)."""
    num_samples: Annotated[Whole, Field(ge=1, le=10_000_000)] = 16
    """How many pictures (--num-samples)."""
    temperature: Annotated[Real, Field(ge=0.001, le=10)] = 1.0
    """Of drawn codes: below 1 the likelier ones come more often; not for gan (--temperature)."""
    top_k: Annotated[Whole, Field(ge=0, le=1_000_000)] = 0
    """Draw from the k likeliest codes only; 0 from all; not for gan (--top-k)."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """1 plain conditional, 0 as if nothing was told, more exaggerates; not for gan (--guidance-scale)."""
    components: Names | None = None
    """Mode inpainting: show only these components, and paint the others without a prior (--components)."""
    label: Text | None = None
    """Class to ask for; null takes all in turn in mode conditional (--class)."""
    values: Names = []
    """What to ask for, in the order of train_prior.condition_numbers, then condition_classes (--values)."""
    passes: Annotated[Whole, Field(ge=1, le=100_000), Only("prior", "distil")] = 16
    """Passes in which the DistilBERT fills a grid."""
    fill_order: Annotated[Literal["confidence", "halton"], Only("prior", "distil")] = "halton"
    """The DistilBERT's sure tokens first, or well spread ones."""
    choice_noise: Annotated[Real, Field(ge=0, le=100), Only("prior", "distil"), Only("fill_order", "confidence")] = 0.0
    """Of fill_order confidence: scale of the noise in the first pass, which falls to zero (MaskGIT took 4.5)."""
    pool: Annotated[Whole, Field(ge=1, le=1_000_000), Only("prior", "gan"), Only("mode", "inpainting")] = 512
    """Grids of the GAN among which mode inpainting looks for what fits."""
    mask: Annotated[MaskName, Only("mode", "inpainting")] = "block"
    """What is missing in mode inpainting: tokens at random, a rectangle, or the lower part."""
    percent: Annotated[Real, Field(ge=0, le=100), Only("mode", "inpainting")] = 50
    """How much is missing in mode inpainting."""
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    prior_run: RunName = "best"
    """The prior: best of its kind, a run folder of train_prior or train_distil, or models:/NAME@ALIAS."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 64
    """Pictures that are drawn together."""
