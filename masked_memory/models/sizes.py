"""What a picture takes in memory while models are asked about it, in bytes: rough, and rather too much."""

from typing import Protocol

FLOAT = 4
PICTURE_COPIES = 16  # of the pixels: errors and SSIM filter products of two pictures
LOGITS_COPIES = 6  # of the logits: themselves, probabilities, their sums in double, what sorting takes
HIDDEN_COPIES = 16  # of the hidden states: attention and the layer of 4 x dim


class Painting(Protocol):
    """What of a VQ-VAE's config counts."""

    @property
    def image_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def hidden(self) -> int: ...


def painting_bytes(config: Painting) -> int:
    """A VQ-VAE that encodes or paints a picture, and its errors: `hidden` channels at half the side, four times."""
    return config.image_size**2 * FLOAT * (config.hidden + PICTURE_COPIES * config.channels)


def completing_bytes(tokens: int, codebook_size: int, dim: int) -> int:
    """A DistilBERT that completes a grid: logits for each token, and what is made of them."""
    return tokens * FLOAT * (LOGITS_COPIES * codebook_size + HIDDEN_COPIES * dim)
