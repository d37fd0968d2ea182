"""uint8 to [-1, 1] and back."""

import numpy as np

from masked_memory.sources.pixels import from_model, to_model


def test_model_range_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = to_model(pixels)
    assert floats.min() == -1 and floats.max() == 1 and floats.shape == (1, 1, 16, 16)
    assert (from_model(floats) == pixels).all()
