"""Every way reads every picture, and the same pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import reading
from docs.shelf import take_table
from masked_memory.pipeline.machine import Machine
from masked_memory.sources.archives import find_in_tars
from masked_memory.sources.folders import find_pictures
from toys import CPU

COUNT, SIDE, SIZE = 20, 48, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading.draw_folders(tmp_path_factory.mktemp("drawn") / "pictures", COUNT, SIDE)


def test_folders_shards_and_cache_hold_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    found = find_pictures(folder)
    packed = find_in_tars(reading.pack(folder, tmp_path / "shards"), lambda text: None)
    by_name = {one.path.split("/")[-1]: place for place, one in enumerate(packed)}
    from_folders = torch.cat(list(reading.decoded(found, SIZE, 1)))
    from_tars = torch.cat(list(reading.decoded(packed, SIZE, 1)))
    order = [by_name[one.path.split("/")[-1]] for one in found]
    assert len(from_folders) == COUNT and torch.equal(from_tars[order], from_folders)
    split = reading.cache_in(tmp_path, found, SIZE, 1)
    assert torch.equal(split.pictures(np.arange(COUNT)), from_folders)
    cached = torch.cat(list(reading.from_cache(split)))
    assert torch.equal(cached.flatten(1).sum(1).sort().values, from_folders.flatten(1).sum(1).sort().values)
    assert 0 < reading.share_waited(split, Machine(CPU, bf16=False, threads=1)) < 1


def test_torchvision_reads_nearly_the_same_pictures(folder: Path) -> None:
    """Its squares are resized otherwise; a rival that read something else would not be one."""
    ours = torch.cat(list(reading.decoded(find_pictures(folder), SIZE, 1)))
    theirs = torch.cat(list(reading.by_torchvision(folder, SIZE, 0)))
    assert theirs.shape == ours.shape and (theirs - ours).abs().mean() < 0.1


def test_a_way_that_misses_pictures_is_no_rival() -> None:
    with pytest.raises(SystemExit, match="read 3 pictures; expected 4"):
        reading.seconds_of_a_pass(lambda: [torch.zeros(3)], 4)


def test_it_prints_and_saves_a_row_for_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"pictures": 24, "side": SIDE, "size": SIZE, "workers": 1, "rounds": 1, "threads": 1}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert reading.main([*words, "--save", str(tmp_path / "reading.csv")]) == 0
    rows = take_table("reading", tmp_path).rows
    assert len(rows) == 4 and float(rows[0]["times_torchvision"]) == 1
    assert "waits for pictures" in capsys.readouterr().out
