"""Files are whole or not there; what is written is what is read."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from masked_memory.pipeline import figures, files
from masked_memory.pipeline.files import (
    InputError,
    alone,
    check_digests,
    clear_leftovers,
    digest,
    file_digests,
    read_csv,
    read_json,
    read_rows,
    read_safetensors,
    replacing,
    sqlite_url,
    write_array,
    write_csv,
    write_json,
    write_safetensors,
    write_text,
)

WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "json": lambda path: write_json(path, {"x": list(range(10_000))}),
    "csv": lambda path: write_csv(path, ["a"], [["x" * 50]] * 2000),
    "array": lambda path: write_array(path, np.zeros(20_000)),
    "safetensors": lambda path: write_safetensors(path, {"x": torch.zeros(20_000)}),
    "figure": lambda path: figures.save_png(figures.picture_grid([("a", torch.rand(2, 3, 32, 32))]), path),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole or not there


def test_a_block_that_fails_leaves_the_previous_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half of", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "before" and names(tmp_path) == ["metrics.json"]


def test_the_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not path.exists() and temporary.parent == path.parent
        assert temporary.suffix == ".txt", "writers that look at the ending must see the right one"
    assert path.read_text(encoding="utf-8") == "new" and names(path.parent) == ["a.txt"]


def test_an_interrupt_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half of", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "before" and names(tmp_path) == ["a.txt"]


def test_no_space_left_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before", encoding="utf-8")

    def full(self: Path, text: str, encoding: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.Path, "write_text", full)
    with pytest.raises(InputError) as caught:
        write_text(path, "after")
    monkeypatch.undo()
    assert str(caught.value).startswith(f"cannot write {path}: No space left on device; ")
    assert "--run.dir" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "before" and names(tmp_path) == ["a.txt"]


@contextmanager
def small_disk() -> Iterator[None]:
    """In the block no file can grow beyond 1000 bytes: the nearest to a full disk that a test can have."""
    resource = pytest.importorskip("resource", reason="only Unix can limit the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:  # before pytest writes its next line, which may go to a larger file
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_that_does_not_fit_leaves_the_previous_one_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_text("before", encoding="utf-8")
    if kind == "figure":
        WRITERS[kind](tmp_path / "warm.png")  # matplotlib stores its list of fonts once
        (tmp_path / "warm.png").unlink()
    with pytest.raises(InputError) as caught, small_disk():
        WRITERS[kind](path)
    assert str(caught.value).startswith(f"cannot write {path}: ")
    assert path.read_text(encoding="utf-8") == "before" and names(tmp_path) == [path.name]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room")
def test_room_that_is_not_there_is_not_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with holes takes no room; written into as memory on a full disk it would end the process."""
    file = tmp_path / "holes"
    with file.open("wb") as opened:
        opened.truncate(50_000)
    assert file.stat().st_blocks == 0
    files.reserve(file)
    assert file.stat().st_blocks * 512 >= 50_000 and file.read_bytes() == bytes(50_000)

    def full(number: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot write .*holes: No space left on device; make room"):
        files.reserve(file)


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write .*; make room or name another folder with --run\.dir"):
        write_json(tmp_path / "occupied" / "run.json", {})


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_without_permission_is_an_input_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            write_json(tmp_path / "run.json", {})
    finally:
        tmp_path.chmod(0o700)


# Round trips


def test_json_comes_back_the_same(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, None, True], "ü": {"b": "line\nbreak"}}
    write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values


def test_csv_comes_back_the_same(tmp_path: Path) -> None:
    rows = [["1", 'with "quotes", commas'], ["2", "line\nbreak ü"]]
    write_csv(tmp_path / "a.csv", ["id", "path"], rows)
    assert [list(row.values()) for row in read_csv(tmp_path / "a.csv")] == rows
    assert list(read_csv(tmp_path / "a.csv")[0]) == ["id", "path"]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int64", "float32"])
def test_arrays_come_back_the_same(kind: str, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    write_array(tmp_path / "a.npy", array)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_arrays_of_objects_are_refused_rather_than_pickled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        write_array(tmp_path / "a.npy", np.array([{"a": 1}]))
    assert names(tmp_path) == []


def test_tensors_come_back_the_same_even_views_that_share_memory(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    tensors = {"whole": whole, "turned": whole.T, "row": whole[1], "flag": torch.tensor(True), "leaf": whole.clone()}
    tensors["leaf"].requires_grad_()
    write_safetensors(tmp_path / "a.safetensors", tensors, metadata={"note": "x"})
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as stored:
        assert stored.metadata()["note"] == "x"
    again, metadata = read_safetensors(tmp_path / "a.safetensors", "make it again")
    assert metadata["note"] == "x" and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    """In each process anew: what safetensors writes by itself differs from call to call."""
    content = set()
    for number in range(8):
        file = tmp_path / f"{number}.safetensors"
        write_safetensors(file, {"b": torch.ones(3), "ä": torch.zeros(2, 2)}, {str(key): "x" for key in range(9)})
        content.add(file.read_bytes())
        assert set(read_safetensors(file, "")[0]) == {"b", "ä"} and read_safetensors(file, "")[1]["8"] == "x"
    assert len(content) == 1


def test_a_byte_that_was_flipped_anywhere_in_tensors_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"a": torch.randn(5, 3), "b": torch.arange(9), "c": torch.zeros(0)})
    content = file.read_bytes()
    inside = len(content) - 5 * 3 * 4 - 9 * 8
    for at in [0, 3, 9, 20, inside // 2, *range(inside, len(content), 7), len(content) - 1]:
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(InputError, match=r"a\.safetensors is damaged.*; make it again"):
            read_safetensors(file, "make it again")
    for length in (0, 5, inside, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match="is damaged"):
            read_safetensors(file, "make it again")
    file.unlink()
    with pytest.raises(InputError, match="is missing; make it again"):
        read_safetensors(file, "make it again")


def test_files_are_compared_with_what_was_noted_of_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    noted = file_digests(tmp_path, ("a", "b"))
    check_digests(tmp_path, noted, "python x.py")
    assert noted["a"].startswith("ba7816bf")  # SHA-256 of abc, from FIPS 180-2
    (tmp_path / "a").write_bytes(b"abd")
    with pytest.raises(InputError, match=r"a was changed or damaged: .* noted was ba7816bf8f01; type: python x\.py"):
        check_digests(tmp_path, noted, "python x.py")
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match=r"a is missing; type: python x\.py"):
        check_digests(tmp_path, noted, "python x.py")


def test_what_replaces_a_file_is_on_the_disk_before_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def noted(path: Path) -> None:
        seen.append((path.is_dir(), (tmp_path / "a.json").exists()))

    monkeypatch.setattr(files, "reach_disk", noted)
    write_json(tmp_path / "a.json", [1])
    assert seen == [(False, False), (True, True)]


def test_half_written_files_of_a_killed_process_are_cleared_and_others_stay(tmp_path: Path) -> None:
    for path in (tmp_path / "a.safetensors", tmp_path / "last" / "notes"):
        with replacing(path) as temporary:
            temporary.write_text("whole")
            temporary.with_name(temporary.name.replace(".", ".x", 1)).write_text("of a killed process")
    kept = {".hidden", ".start.lock", "notes.0123abcd.csv", ".env.local"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    assert len(clear_leftovers(tmp_path)) == 2
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {*kept, "a.safetensors", "notes"}


@pytest.mark.parametrize("read", [read_json, read_csv])
def test_a_missing_file_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.file is missing"):
        read(tmp_path / "absent.file")


@pytest.mark.parametrize("read", [read_json, read_csv])
def test_what_cannot_be_read_as_text_is_refused_by_name(read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b'{"a": "\xff"}\n\xfe,1\n')
    for name, why in (
        ("folder", "folder cannot be read: "),
        ("bytes", "bytes is not "),
        ("absent", "absent is missing"),
    ):
        with pytest.raises(InputError, match=why):
            read(tmp_path / name)


def test_a_lock_that_is_a_folder_is_refused_and_what_fails_inside_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / ".a.lock").mkdir()
    with pytest.raises(InputError, match="cannot write"), alone(tmp_path / "a"):
        raise AssertionError("it was entered")
    with pytest.raises(OSError, match="of the block"), alone(tmp_path / "b"):
        raise OSError("of the block")
    with alone(tmp_path / "b"):
        pass


def test_a_database_is_an_ordinary_file_or_not_there_yet(tmp_path: Path) -> None:
    assert sqlite_url(tmp_path / "new.db").endswith("/new.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(InputError, match="no ordinary file"):
        sqlite_url(tmp_path / "folder.db")


def test_a_torn_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(InputError, match=r"best\.json is not JSON"):
        read_json(tmp_path / "best.json")


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_rows_of_a_mapped_array_are_those_of_the_array(kind: type, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 200, (9, 4, 5, 3)).astype(kind)
    write_array(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for rows in ([3, 0, 8, 3], [5], []):
        found = read_rows(mapped, np.array(rows, dtype=int))
        assert found.dtype == kind and np.array_equal(found, array[rows]) and found.flags.writeable
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(mapped.offset + 7 * mapped[0].nbytes - 1)
    assert np.array_equal(read_rows(mapped, np.array([5])), array[[5]])
    with pytest.raises(InputError, match=r"a\.npy ends before row 6"):
        read_rows(mapped, np.array([5, 6]))


# Digests


def test_digests_do_not_change_from_release_to_release() -> None:
    """Stored runs are found again by them. The value is SHA-256 of the parts, each closed by a zero byte."""
    assert digest("train_vqvae", b"\x01") == "bd7db96be5d6"
    assert len(digest("a", length=20)) == 20 and digest("a", length=20).startswith(digest("a"))


def test_digests_tell_where_one_part_ends() -> None:
    several = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("c", "ab")]
    assert len({digest(*parts) for parts in several}) == len(several)
    assert digest("text") == digest(b"text")


@given(
    st.lists(st.text(alphabet="ab", max_size=3), max_size=4), st.lists(st.text(alphabet="ab", max_size=3), max_size=4)
)
def test_digests_are_equal_for_equal_parts_only(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)
