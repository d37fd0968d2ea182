"""The list of pictures in memory is the file, row by row, in a fraction of the bytes."""

import csv
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masked_memory.handoff.manifest import Manifest, column_of
from masked_memory.pipeline.files import InputError, read_csv, write_csv

HEADER_OF_ONE = ("position", "path", "class", "split")
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\0"), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[TEXT] * 4), max_size=20))
def test_rows_are_those_of_the_file(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    file = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    write_csv(file, HEADER_OF_ONE, rows)
    manifest, known = Manifest.read(file), read_csv(file)
    assert len(manifest) == len(rows) and manifest == known and list(manifest) == known
    assert manifest[: len(rows) // 2] == known[: len(rows) // 2] and manifest[-1:] == known[-1:]
    for name in HEADER_OF_ONE:
        assert list(column_of(manifest, name)) == list(column_of(known, name)) == [row[name] for row in known]


def test_a_place_that_is_not_there_and_a_torn_line_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    write_csv(file, HEADER_OF_ONE, [("0", "a.png", "a", "train")])
    manifest = Manifest.read(file)
    assert manifest[-1]["path"] == "a.png"
    with pytest.raises(IndexError):
        manifest[1]
    with file.open("a", newline="") as lines:
        csv.writer(lines).writerow(("1", "b.png"))
    with pytest.raises(InputError, match="another length"):
        Manifest.read(file)
    with pytest.raises(InputError, match="is missing"):
        Manifest.read(tmp_path / "none.csv")


def test_it_takes_a_third_of_the_memory_of_dictionaries_at_most(tmp_path: Path) -> None:
    file = tmp_path / "manifest.csv"
    write_csv(file, HEADER_OF_ONE, [(i, f"class/{i:08}.png", "class", "train") for i in range(20_000)])
    taken = []
    for read in (Manifest.read, read_csv):
        tracemalloc.start()
        kept = read(file)
        taken.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(kept) == 20_000
    assert taken[0] < taken[1] / 3
