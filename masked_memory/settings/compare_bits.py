"""Settings of compare_bits.py."""

from typing import Annotated

from pydantic import Field

from masked_memory.settings.kinds import PositiveInt, RunName, Section, Whole
from masked_memory.settings.strategies import DecodingName, StrategyName


class CompareBitsSection(Section):
    pictures: PositiveInt | None = 250
    """Test pictures, evenly spread; null takes all. As many of validation tell how often each position is kept."""
    strategies: Annotated[list[StrategyName], Field(min_length=1)] = [
        "random",
        "outpaint",
        "selective",
        "additive",
        "distortion",
        "distortion-per-bit",
        "adaptive",
    ]
    """Ways to choose what is kept; their search settings are those of reconstruct_masked."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=0, le=100)]], Field(min_length=1)] = [
        10, 25, 40, 50, 60, 70, 75, 80, 85, 90, 95, 100,
    ]  # fmt: skip
    """Percentages forgotten."""
    decoding: DecodingName = "expected"
    """How forgotten tokens are painted."""
    coding_passes: Annotated[Whole, Field(ge=1, le=100_000)] = 16
    """Passes of the DistilBERT over the tokens that it codes; each knows those coded before."""
    pixelcnn: RunName | None = "best"
    """A PixelCNN that is told nothing, to code whole grids: best, a run folder of train_prior; null: none."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 100
    """Pictures per step, of the writer and of the reader."""
    bootstrap: Annotated[Whole, Field(ge=100, le=100_000)] = 1000
    """Resamples behind the 95 % intervals."""
