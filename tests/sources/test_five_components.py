"""The embedded set of five components."""

from pathlib import Path

import numpy as np
import pytest

from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.sources.five_components import COMPONENTS, components_of, make_five_components
from toys import make_split

# --- the embedded set -------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_five_components_are_deterministic_and_what_they_say() -> None:
    first, second = make_five_components(3, 3), make_five_components(3, 3)
    assert (first.images == second.images).all() and first.metadata == second.metadata
    assert first.images.shape == (30, 32, 32, 5) and first.images.dtype == np.uint8
    flat = components_of(np.full((8, 8, 3), 100, dtype=np.uint8))
    assert (flat[..., 0] == 100).all() and (flat[..., 1:3] == 128).all() and (flat[..., 3:] == 0).all()
    step = np.zeros((8, 8, 3), dtype=np.uint8)
    step[:, 4:] = 200
    edges = components_of(step)[..., 3]
    assert (edges[:, 3:5] > 200).all() and (edges[:, [0, 1, 6, 7]] == 0).all()


@pytest.mark.system
def test_five_components_as_a_split(tmp_path: Path) -> None:
    split = make_split(tmp_path, "five_components", channels=5, image_size=32, images_per_class=4)
    assert split.components == COMPONENTS and len(split.manifest) == 40 and split.stacks is not None
    assert {"place", "congruent", "left", "top", "brightness", "ink"} <= set(split.manifest[0])
    assert read_csv(split.folder / "manifest.csv") == split.manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 3}, r"type --data\.image_size 32 --data\.channels 5"),
        ({"components": list("abcde")}, "has the components luminance, .*leave data.components null"),
        ({"metadata": "x.csv"}, "has metadata of its own"),
    ],
)
def test_five_components_refuse_other_settings(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        make_split(tmp_path, "five_components", **{"channels": 5, "image_size": 32, **changes})
