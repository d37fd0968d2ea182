"""Which components of a split are meant."""

import pytest

from handoff.split import mask_of
from pipeline.files import InputError

NAMES = ("a", "b", "c", "d", "e")


def test_unknown_components_are_refused_with_the_names():
    with pytest.raises(InputError, match="component q, r is unknown; expected some of: a, b, c, d, e"):
        mask_of(NAMES, ["a", "q", "r"])
    with pytest.raises(InputError, match="no component is named"):
        mask_of(NAMES, [])
