"""Strangers' pictures and stacks (tests/strangers.py), folders and tars (tests/strange_folders.py): decoded right, or
refused with path and reason.

Nothing hangs, nothing is written beside, and no file runs code.
"""

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import EpsImagePlugin

import strange_folders
import strangers
from campaigns.odd_folders import NotHere, judge_folder, judge_tar, make_folder, remove_folder
from campaigns.strange_files import TWO_COMPONENTS as TWO
from campaigns.strange_files import judge_decoded
from masked_memory.pipeline.files import InputError, one_line, read_csv
from masked_memory.settings import loading
from masked_memory.sources import pictures, places
from masked_memory.sources.archives import find_in_tars
from masked_memory.sources.metadata import is_notes, read_metadata
from masked_memory.sources.pictures import Decoded, decode, decode_all, last_in_hand
from masked_memory.sources.places import Member, read_place
from masked_memory.sources.stacks import survey
from masked_memory.sources.streamed import is_streamed, open_parts
from masked_memory.stages import data_split
from strangers import SIDE, File
from toys import make_split, split_settings

PICTURES, STACKS, FOLDERS, TARS = (
    strangers.pictures(),
    strangers.stacks(),
    strange_folders.folders(),
    strange_folders.tars(),
)


def check(decoded: Decoded, file: File) -> None:
    outcome = judge_decoded(file.name, decoded, file)
    assert outcome.ending != "wrong", outcome


def written(folder: Path, file: File) -> Path:
    (folder / file.name).write_bytes(file.content)
    return folder / file.name


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*EXIF", "ignore:Truncated", "ignore:.*decompression bomb", "ignore:.*[Mm]etadata")
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_decoded_right_or_refused(tmp_path, kind):
    check(decode(written(tmp_path, PICTURES[kind]), SIDE, 3), PICTURES[kind])


@pytest.mark.parametrize(
    "kind", ["jpeg CMYK", "png palette clear", "tiff 16 bits", "png cut at 50%", "postscript named .jpg"]
)
def test_grey_is_decoded_by_the_same_rules(tmp_path, kind):
    decoded, file = decode(written(tmp_path, PICTURES[kind]), SIDE, 1), PICTURES[kind]
    assert (decoded.pixels is None) == (file.pixels is None or "cut" in kind)
    if decoded.pixels is not None:
        assert np.abs(decoded.pixels[:, :, 0] - file.pixels @ [0.299, 0.587, 0.114]).max() <= file.off + 1


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    decoded = decode(written(tmp_path, PICTURES["postscript named .jpg"]), SIDE, 3)
    assert decoded.problem == "is not a picture; expected PNG, JPEG, GIF, BMP, TIFF, WebP, PPM or PGM"


def test_what_looks_like_passes_behind_a_jpeg_does_not_count(tmp_path):
    """Phones append short films, which hold any bytes."""
    plain = PICTURES["jpeg"]
    for more in (b"\xff\xda\0\x08" * 1000, b""):
        comment = b"\xff\xfe" + (2 + 4 * 1000).to_bytes(2, "big") + b"\xff\xda\0\x08" * 1000
        content = plain.content[:2] + comment + plain.content[2:] + more
        check(decode(written(tmp_path, plain._replace(content=content)), SIDE, 3), plain)


def test_names_and_reasons_of_refused_pictures_are_one_line():
    assert one_line("a\nb\x1b[31m\tc é 猫 \u2028") == "a\\nb\\x1b[31m\\tc é 猫 \\u2028"


@pytest.mark.parametrize("kind", STACKS)
def test_a_stack_is_decoded_right_or_refused(tmp_path, kind):
    path = written(tmp_path, STACKS[kind])
    check(decode(path, SIDE, 2, TWO), STACKS[kind])
    try:
        survey([path], 2, ["a", "b"], 1)
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", strangers.traps(Path("-")))
def test_a_pickle_is_refused_and_never_run(tmp_path, kind):
    sprung = tmp_path / "sprung"
    file = strangers.traps(sprung)[kind]
    path = written(tmp_path, file)
    check(decode(path, SIDE, 2, TWO), file)
    for names in (None, ["a", "b"]):
        try:
            survey([path], 2, names, 1)
        except InputError as error:
            assert path.name in str(error)
    assert not sprung.exists()


def test_the_traps_would_spring(tmp_path):
    content = strangers.traps(tmp_path / "sprung")["npy of objects"].content
    np.load(io.BytesIO(content), allow_pickle=True)
    assert (tmp_path / "sprung").is_dir()


def test_what_a_file_and_a_member_may_weigh(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MOST_BYTES", 100)
    (tmp_path / "x").write_bytes(bytes(100))
    assert read_place(tmp_path / "x") == bytes(100) == Member(str(tmp_path / "x"), "y", 0, 100).read_bytes()
    (tmp_path / "x").write_bytes(bytes(101))
    for place in (tmp_path / "x", Member(str(tmp_path / "x"), "y", 0, 101)):
        assert decode(place, SIDE, 3).problem.startswith("cannot be read: it has 0.0 GB; expected at most")


# --- folders ----------------------------------------------------------------------------------------------------------


def made(root: Path, kind: str) -> Path:
    """The folder of a kind; skips the test, with the reason, where it cannot be made."""
    try:
        return make_folder(root, FOLDERS[kind])
    except NotHere as error:
        pytest.skip(str(error))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """pytest cannot remove very deep folders."""
    yield tmp_path
    remove_folder(tmp_path)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_read_whole_or_refused(place, kind):
    outcome = judge_folder(kind, FOLDERS[kind], made(place, kind), place)
    assert outcome.ending != "wrong", outcome


@pytest.mark.parametrize("kind", ["class names of mathematics", "class names of lines", "class names of other letters"])
@pytest.mark.filterwarnings("ignore:.*Glyph", "ignore:.*glyph")
def test_odd_class_names_go_through_the_whole_stage(tmp_path, kind):
    split = make_split(tmp_path, made(tmp_path, kind))
    assert set(split.classes) == {normalize("NFC", name) for name in FOLDERS[kind].classes}
    assert (split.folder / "figures" / "examples.png").is_file()


def test_what_never_ends_is_listed_and_left_out(tmp_path, capsys):
    source = made(tmp_path, "a fifo")
    (source / "b" / "odd\n\x1b[31m.png").touch()
    with pytest.raises(InputError, match="2 of the files cannot be used"):
        make_split(tmp_path, source)
    lines = capsys.readouterr().out.splitlines()
    assert f"{source}/a/z.png cannot be read: it is no ordinary file, but a fifo" in lines
    assert f"{source}/b/odd\\n\\x1b[31m.png is empty (0 bytes)" in lines
    split = make_split(tmp_path, source, skip_broken=True)
    assert len(split.manifest) == 12
    assert [row["path"] for row in read_csv(split.folder / "broken.csv")][1] == f"{source}/b/odd\n\x1b[31m.png"


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    for source, message in ((tmp_path / "x.tar", "no ordinary file, but a fifo"), ("/dev/zero", "is not a folder")):
        with pytest.raises(InputError, match=message):
            make_split(tmp_path, source)


@pytest.mark.parametrize(
    ("classes", "message"), [([], r"data: classes names none"), (["a", "b", "a"], "classes names a twice")]
)
def test_classes_are_named_once_and_some_are(tmp_path, classes, message):
    for channels in (3, 5):
        with pytest.raises(loading.ConfigError, match=message):
            split_settings(tmp_path, tmp_path, classes=classes, channels=channels)


def test_a_source_that_is_not_utf8_is_refused(typed, tmp_path):
    status, _, error = typed("data_split", tmp_path, os.fsdecode(b"caf\xe9"))
    assert status == 2 and "data.source" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "it is no ordinary file, but a fifo"),
        (lambda file: file.symlink_to("/dev/zero"), "it is no ordinary file, but a device"),
        (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
        (lambda file: file.write_bytes(b"path,x\n" + b"y" * 200_000 + b",1\n"), "is not a CSV file in UTF-8"),
        (lambda file: file.write_bytes("path,x\n".encode("utf-16")), "is not a CSV file in UTF-8"),
    ],
    ids=["fifo", "device", "loop", "long", "UTF-16"],
)
def test_metadata_that_cannot_be_read_are_refused(tmp_path, make, message):
    make(tmp_path / "m.csv")
    assert not is_notes(tmp_path / "other.csv", str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / "m.csv", ["a/0.png"])


def test_parquet_files_are_looked_for_without_following_links(tmp_path):
    strange_folders.fill(tmp_path / "set")
    (tmp_path / "set" / "a" / "loop").symlink_to("..")
    assert not is_streamed(str(tmp_path / "set"))
    (tmp_path / "set" / "b" / "deep").mkdir()
    (tmp_path / "set" / "b" / "deep" / "x.parquet").touch()
    assert is_streamed(str(tmp_path / "set"))


# --- tars -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("streamed", [False, True], ids=["read", "streamed"])
def test_a_tar_gives_its_pictures_and_writes_nothing(tmp_path, kind, streamed):
    outcome = judge_tar(kind, TARS[kind], tmp_path, streamed)
    assert outcome.ending != "wrong", outcome


@pytest.mark.parametrize("seed", range(30))
def test_a_tar_with_wrong_bytes_is_read_or_refused(tmp_path, seed):
    """Twenty bytes of its heads are others."""
    content = bytearray(strange_folders.write_tar(tmp_path / "x.tar", []).read_bytes())
    with tarfile.open(tmp_path / "x.tar") as opened:
        heads = [info.offset for info in opened]
    rng = np.random.default_rng(seed)
    for head in rng.choice(heads, 20):
        content[head + rng.choice([0, 124, 130, 148, 156, 257, 345])] = rng.integers(256)
    (tmp_path / "x.tar").write_bytes(content)
    for read in (
        lambda: find_in_tars(str(tmp_path / "x.tar"), str),
        lambda: [list(part.samples()) for part in open_parts(f"file://{tmp_path / 'x.tar'}")],
    ):
        try:
            read()
        except InputError as error:
            assert "x.tar" in str(error) and "\n" not in str(error)


# --- a file that ends the process -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("streamed", [False, True], ids=["folder", "stream"])
def test_a_run_that_goes_on_names_the_file_at_which_the_one_before_died(tmp_path, capsys, monkeypatch, streamed):
    """As a fault inside a decoder does: at once, with nothing said."""
    source = strange_folders.fill(tmp_path / "set")
    if streamed:
        source = f"file://{strange_folders.write_tar(tmp_path / 'set.tar', [])}"
    cfg = split_settings(tmp_path, source, workers=1)
    child = os.fork()
    if child == 0:
        real = pictures.decode
        kill = lambda place, *rest: os._exit(139) if str(place).endswith("b/3.png") else real(place, *rest)  # noqa: E731
        monkeypatch.setattr(pictures, "decode", kill)
        try:
            data_split.run(cfg)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 139
    data_split.run(cfg, resume=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "crashed" in line]
    assert line.startswith("the run before was killed or crashed while it decoded ")
    assert "b/3.png; if that happens again, type --data.workers 1" in line
    assert not list((tmp_path / "runs").rglob("in_hand"))


def test_what_is_in_hand_is_noted_for_each_thread_and_gone_at_the_end(tmp_path, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}.png").touch()
    seen, together = [], threading.Barrier(2)

    def decoding(place: Path, *_: object) -> Decoded:
        together.wait(timeout=20)
        seen.append(sorted(last_in_hand(tmp_path / "last" / "in_hand")))
        together.wait(timeout=20)
        return Decoded(str(place), "", None, None)

    monkeypatch.setattr(pictures, "decode", decoding)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    list(decode_all(files, SIDE, 3, 2, None, tmp_path / "last" / "in_hand"))
    assert sum(len(each) for each in seen) == 8 and {len(each) for each in seen} == {2}
    assert not (tmp_path / "last" / "in_hand").exists() and last_in_hand(tmp_path / "last" / "in_hand") == []


# --- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    ["png RGB", "png 16 bits", "jpeg progressive", "JPEG turned 6", "gif animated", "bmp in runs", "webp animated",
     "tiff tiff_lzw", "TIFF turned 6", "pgm plain"],
)  # fmt: skip
def test_wrong_bytes_are_no_traceback(tmp_path, kind):
    file = PICTURES[kind]
    rng = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(file.content)
        for place in rng.integers(len(content), size=rng.integers(1, 8)):
            content[place] = rng.integers(256)
        decoded = decode(written(tmp_path, file._replace(content=bytes(content))), SIDE, 3)
        assert decoded.pixels is not None or "\n" not in decoded.problem


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["npy", "npz", "npz with one array", "tiff of pages", "tiff of floats"])
def test_wrong_bytes_of_a_stack_are_no_traceback(tmp_path, kind):
    rng = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(STACKS[kind].content)
        for place in rng.integers(min(400, len(content)), size=rng.integers(1, 8)):
            content[place] = rng.integers(256)
        decoded = decode(written(tmp_path, STACKS[kind]._replace(content=bytes(content))), SIDE, 2, TWO)
        assert decoded.pixels is not None or "\n" not in decoded.problem
