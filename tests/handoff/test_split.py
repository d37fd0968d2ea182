"""Which components of a split are meant, how it is read, and what is said where there is none as set."""

import math

import pytest
import torch

from masked_memory.handoff.split import PictureReader, mask_of, open_split
from masked_memory.pipeline.files import InputError
from toys import fill_folder, make_split, split_settings

NAMES = ("a", "b", "c", "d", "e")


def test_unknown_components_are_refused_with_the_names():
    with pytest.raises(InputError, match="component q, r is unknown; expected some of: a, b, c, d, e"):
        mask_of(NAMES, ["a", "q", "r"])
    with pytest.raises(InputError, match="no component is named"):
        mask_of(NAMES, [])


def test_a_thinned_split_has_a_share_of_each_part_over_all_classes(tmp_path):
    fill_folder(tmp_path / "pictures", 12)
    split = make_split(tmp_path, tmp_path / "pictures")
    thin = split.thinned(0.5)
    for part in ("train", "val", "test"):
        whole, kept = split.positions(part), thin.positions(part)
        assert set(kept) <= set(whole) and len(kept) == math.ceil(len(whole) / 2)
    assert set(thin.labels[thin.positions("train")]) == set(split.labels)
    assert thin.pictures(thin.positions("val")).equal(split.pictures(thin.positions("val")))
    assert len(split.thinned(1e-9).positions("train")) == 1


def test_batches_read_ahead_are_those_read_at_once(tmp_path, machine):
    """Also when a batch that was asked for is not taken, as when a fit is stopped and another begins."""
    fill_folder(tmp_path / "pictures", 20)
    split = make_split(tmp_path, tmp_path / "pictures")
    positions = split.positions("train")
    reader = PictureReader(split, positions, machine.device)
    batches = torch.randperm(len(positions)).split(3)
    for left_out, rows in zip(batches[::2], batches[1::2], strict=False):
        reader.ask(left_out)
        reader.ask(rows)
        assert torch.equal(reader.take(rows), split.pictures(positions[rows.numpy()]))
        assert torch.equal(reader.take(left_out), split.pictures(positions[left_out.numpy()]))


def test_without_a_split_as_set_it_is_said_what_the_newest_has_instead(tmp_path):
    source = tmp_path / "pictures"
    fill_folder(source, 12)
    with pytest.raises(InputError) as refused:
        open_split(split_settings(tmp_path, source))
    assert "the newest there has" not in str(refused.value)
    make_split(tmp_path, source, images_per_class=12)
    make_split(tmp_path, source, images_per_class=10, seed=3)
    with pytest.raises(InputError) as refused:
        open_split(split_settings(tmp_path, source))
    assert "data.seed 0 (the newest there has data.images_per_class 10, data.seed 3) in " in str(refused.value)
