"""Settings of vqvae_reconstruction.py."""

from typing import Annotated

from pydantic import Field

from masked_memory.settings.kinds import Names, Only, Real, RunName, Section, Whole


class VQVAEReconstructionSection(Section):
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 256
    """Pictures per step."""
    grid_pictures: Annotated[Whole, Field(ge=1, le=64)] = 8
    """Pictures in each of the worst, median and best grids."""
    input: str | None = None
    """Instead of the split: reconstruct this picture or folder of pictures."""
    indices: str | None = None
    """Instead of the split: paint the pictures of this .npy file of indices."""
    components: Annotated[Names | None, Only("input")] = None
    """With input: show only these components and paint the others (--components a,b)."""
    rival: RunName | None = None
    """A second VQ-VAE of the same split, such as one trained without component masking, beside it in components.csv."""
    tell_metadata: bool = False
    """Tell a decoder that was trained with conditions the metadata of each picture."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20), Only("tell_metadata")] = 1.0
    """With tell_metadata: 1 plain, more exaggerates what is told (needs label_drop above 0 in training)."""
    brain: bool = False
    """Brain slices: also SSIM in the brain only, with the wrong range, and of a 2x copy (mri.csv, figure, GIF)."""
