"""Five components of each picture of the embedded demo: a data set with several channels that needs no download.

luminance, blue_difference, red_difference: Y, Cb and Cr of ITU-R BT.601, as in JPEG. edges: length of the Sobel
gradient of the luminance. contrast: standard deviation of the luminance over 5x5 pixels. All uint8; edges and contrast
are scaled by a fixed factor and cut off at 255. Of each picture it is known where the digit lies (place, congruent),
the mean luminance (brightness, 0 to 255) and the share of white ink (ink).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from masked_memory.sources.digits_in_context import describe_places, make_digits_in_context

COMPONENTS = ("luminance", "blue_difference", "red_difference", "edges", "contrast")
EDGE_SCALE = 0.5  # Sobel's kernel sums to 4 on each side, so a step of 128 makes 512
CONTRAST_SCALE = 2.0  # a step of 255 in the middle of the window has a deviation of about 125
WINDOW = 5
INK_LEVEL = 240  # luminance above which a pixel counts as ink


@dataclass(frozen=True)
class FiveComponents:
    """images (pictures, 32, 32, 5) uint8, digits (pictures,) int; sides: train, val or test; metadata: column -> text
    for each picture."""

    images: np.ndarray
    digits: np.ndarray
    sides: list[str]
    metadata: list[dict[str, str]]


def make_five_components(
    seed: int, per_digit: int = 500, ratios: Sequence[float] = (0.7, 0.15, 0.15)
) -> FiveComponents:
    """The same seed gives the same pixels. per_digit: 3 to 500; ratios: shares of train, val and test."""
    demo = make_digits_in_context(seed, per_digit, ratios)
    images = np.stack([components_of(picture) for picture in demo.images])
    metadata = [
        {
            **place,
            "brightness": f"{image[:, :, 0].mean():.3f}",
            "ink": f"{(image[:, :, 0] > INK_LEVEL).mean():.4f}",
        }
        for place, image in zip(describe_places(demo), images, strict=True)
    ]
    return FiveComponents(images, demo.digits, demo.sides, metadata)


def components_of(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (H, W, 5) uint8."""
    colour = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    light = colour[:, :, 0].astype(np.float64)
    edges = np.hypot(ndimage.sobel(light, 0, mode="nearest"), ndimage.sobel(light, 1, mode="nearest")) * EDGE_SCALE
    mean = ndimage.uniform_filter(light, WINDOW, mode="nearest")
    variance = ndimage.uniform_filter(light**2, WINDOW, mode="nearest") - mean**2
    contrast = np.sqrt(variance.clip(0)) * CONTRAST_SCALE
    derived = np.stack([edges, contrast], axis=-1).clip(0, 255).round().astype(np.uint8)
    return np.concatenate([colour, derived], axis=-1)
