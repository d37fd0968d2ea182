"""Settings of compare_seeds.py."""

from typing import Annotated

from pydantic import Field

from masked_memory.settings.kinds import Section, Whole


class CompareSeedsSection(Section):
    folders: str = "runs/seeds/*"
    """The runs folders of the seeds, as a pattern; each holds all stages of one training seed."""
    bootstrap: Annotated[Whole, Field(ge=100, le=100_000)] = 1000
    """Resamples of the pictures behind the 95 % intervals."""
