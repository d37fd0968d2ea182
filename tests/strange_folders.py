"""Folders and tars as strangers have them: how each is made, and what must become of it.

Made on the fly, in milliseconds; the pictures are in `strangers.py`.
"""

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from strangers import NOT_A_PICTURE, RGB, SIDE, saved


class Folder(NamedTuple):
    """A folder of a stranger. `make` fills it; `classes`: class -> pictures that must be found in it, or None;
    `refused`: words of the reason when it is refused as a whole; `broken`: words of what is said of its single file
    that cannot be used."""

    make: Callable[[Path], object]
    classes: dict[str, int] | None = None
    refused: str | None = None
    broken: str | None = None
    needs: str = ""  # what the test must not run without: fifo, device, user


def fill(root: Path, counts: dict[str, int] | None = None) -> Path:
    """Class folders of different pictures, two with 6 each unless told."""
    for number, (name, count) in enumerate((counts or {"a": 6, "b": 6}).items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for one in range(count):
            colour = (10 * number % 256, 17 * one % 256, 200)
            Image.new("RGB", (SIDE, SIDE), colour).save(root / name / f"{one}.png")
    return root


def _beside(name: str | bytes, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Two good classes, and something more in a."""

    def write(root: Path) -> None:
        fill(root)
        make(root / "a" / (name if isinstance(name, str) else os.fsdecode(name)))

    return write


def _classes_named(*names: str) -> Folder:
    return Folder(lambda root: fill(root, dict.fromkeys(names, 6)), dict.fromkeys(names, 6))


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


def _small(path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), "red").save(path, "PNG")


def _wide_links(root: Path) -> None:
    """30 folders each of which leads to the next by two names: 2**30 ways."""
    fill(root)
    for number in range(30):
        (root / f"c{number}").mkdir()
    for number in range(29):
        for name in "xy":
            (root / f"c{number}" / name).symlink_to(root / f"c{number + 1}")


def _deep(root: Path, levels: int, name: str = "d") -> None:
    fill(root)
    folder, here = root / "a", Path.cwd()
    os.chdir(folder)  # a path is at most 4,096 bytes long
    try:
        for _ in range(levels):
            Path(name).mkdir()
            os.chdir(name)
        _small(Path("deep.png"))
    finally:
        os.chdir(here)


def _given(root: Path, link: Callable[[Path], object]) -> None:
    fill(root)
    link(root)


BOTH = {"a": 6, "b": 6}
ONE_MORE = {"a": 7, "b": 6}


def folders() -> dict[str, Folder]:
    return _ordinary() | _linked() | _no_ordinary_files() | _classes_and_names() | _class_names()


def _ordinary() -> dict[str, Folder]:
    """What lies about, and what is missing."""
    return {
        "nothing": Folder(lambda root: None, refused="has no pictures"),
        "empty classes": Folder(lambda root: [(root / name).mkdir() for name in "ab"], refused="has no pictures"),
        "an empty class beside": Folder(lambda root: (fill(root), (root / "c").mkdir()), BOTH),
        "hidden files": Folder(_beside(".DS_Store", lambda path: path.write_bytes(b"\0\0\0\1Bud1")), BOTH),
        "thumbnails": Folder(_beside("Thumbs.db", lambda path: path.write_bytes(b"x")), BOTH),
        "a list beside": Folder(lambda root: (fill(root), (root / "labels.csv").write_text("a,b")), BOTH),
        "an empty file": Folder(_beside("z.png", Path.touch), broken="is empty"),
        "a text": Folder(_beside("z.txt", lambda path: path.write_text("text")), broken=NOT_A_PICTURE),
        "a folder named like a picture": Folder(
            _beside("z.png", lambda path: (path.mkdir(), _small(path / "in.png"))), ONE_MORE
        ),
        "an empty folder named like a picture": Folder(_beside("z.png", Path.mkdir), BOTH),
    }


def _linked() -> dict[str, Folder]:
    return {
        "a link to a picture": Folder(_beside("z.png", lambda path: path.symlink_to(path.parent / "0.png")), ONE_MORE),
        "a link to nothing": Folder(_beside("z.png", lambda path: path.symlink_to("nowhere")), broken="cannot be read"),
        "a link to itself": Folder(_beside("z.png", lambda path: path.symlink_to(path)), broken="cannot be read"),
        "a link to its folder": Folder(_beside("z", lambda path: path.symlink_to(path.parent)), refused="leads back"),
        "a link to the top": Folder(
            _beside("z", lambda path: path.symlink_to(path.parent.parent)), refused="leads back"
        ),
        "two links to each other's folder": Folder(
            lambda root: _given(
                root,
                lambda top: ((top / "a" / "x").symlink_to(top / "b"), (top / "b" / "y").symlink_to(top / "a")),
            ),
            refused="leads back",
        ),
        "a class by link": Folder(
            lambda root: _given(root, lambda top: (top / "c").symlink_to(top / "a")), {"a": 6, "b": 6, "c": 6}
        ),
        "a link out of the folder": Folder(
            lambda root: _given(
                root, lambda top: (fill(top.parent / "other"), (top / "c").symlink_to(top.parent / "other" / "a"))
            ),
            {"a": 6, "b": 6, "c": 6},
        ),
        "links to links, 2**30 ways": Folder(_wide_links, refused="over and over"),
    }


def _no_ordinary_files() -> dict[str, Folder]:
    """What never ends, or holds what asks for it."""
    return {
        "a fifo": Folder(_beside("z.png", os.mkfifo), broken="is no ordinary file", needs="fifo"),
        "a link to a fifo": Folder(
            _beside("z.png", lambda path: (os.mkfifo(path.parent.parent.parent / "f"), path.symlink_to("../../f"))),
            broken="is no ordinary file",
            needs="fifo",
        ),
        "a fifo named .npy": Folder(_beside("z.npy", os.mkfifo), broken="is no ordinary file", needs="fifo"),
        "a socket": Folder(_beside("z.png", _socket), broken="is no ordinary file", needs="fifo"),
        "a link to /dev/zero": Folder(
            _beside("z.png", lambda path: path.symlink_to("/dev/zero")), broken="is no ordinary file", needs="device"
        ),
        "a link to /dev/zero named .npy": Folder(
            _beside("z.npy", lambda path: path.symlink_to("/dev/zero")), broken="is no ordinary file", needs="device"
        ),
        "a link to /dev/null": Folder(
            _beside("z.png", lambda path: path.symlink_to("/dev/null")), broken="is no ordinary file", needs="device"
        ),
        "a file of a terabyte": Folder(
            _beside("z.png", lambda path: (path.touch(), os.truncate(path, 10**12))), broken="GB"
        ),
        "a file of a terabyte named .npy": Folder(
            _beside("z.npy", lambda path: (path.touch(), os.truncate(path, 10**12))), broken="GB"
        ),
    }


def _classes_and_names() -> dict[str, Folder]:
    """What may not be read, odd names and depths, and pictures in the wrong place."""
    return {
        "a file that may not be read": Folder(
            _beside("z.png", lambda path: (_small(path), path.chmod(0))), broken="cannot be read", needs="user"
        ),
        "a folder that may not be read": Folder(
            lambda root: (fill(root), (root / "b").chmod(0)), refused="cannot read folder", needs="user"
        ),
        "a file name that is not UTF-8": Folder(_beside(b"caf\xe9.png", _small), refused="is not in UTF-8"),
        "a class name that is not UTF-8": Folder(
            lambda root: (fill(root), (root / "b").rename(root / os.fsdecode(b"caf\xe9"))),
            refused="is not in UTF-8",
        ),
        "a file with a line break in its name": Folder(_beside("z\n1.png", _small), ONE_MORE),
        "a broken file with a line break in its name": Folder(_beside("z\n1.png", Path.touch), broken="is empty"),
        "1,200 folders deep": Folder(lambda root: _deep(root, 1200), ONE_MORE),
        "a path of 5,000 bytes": Folder(lambda root: _deep(root, 20, 250 * "d"), refused="cannot read folder"),
        "class names that differ in case": _classes_named("cat", "Cat", "CAT"),
        "file names that differ in case": Folder(_beside("0.PNG", _small), ONE_MORE),
        "a picture in two classes": Folder(
            lambda root: (fill(root), (root / "a" / "0.png").write_bytes((root / "b" / "0.png").read_bytes())), BOTH
        ),
        "a class that is a copy": Folder(
            lambda root: _given(
                root,
                lambda top: [
                    (top / "b" / f"{n}.png").write_bytes((top / "a" / f"{n}.png").read_bytes()) for n in range(6)
                ],
            ),
            BOTH,
        ),
        "one class": Folder(lambda root: fill(root, {"a": 9}), refused="one class only"),
        "a picture beside classes": Folder(lambda root: (fill(root), _small(root / "z.png")), refused="folders and 1"),
    }


def _class_names() -> dict[str, Folder]:
    odd = {
        "mathematics": (r"$\frac", r"$\undefined$"),
        "a dollar": ("5$", "$5$"),
        "braces": ("{a}", "{", "}", "%s", "%"),
        "spaces": (" ", "a ", " a"),
        "quotes": ("'", '"', "a,b", "a;b", "`"),
        "lines": ("a\nb", "a\tb", "a\rb"),
        "words of YAML": ("null", "true", "1e3", "~", "- a"),
        "numbers": ("1", "01", "001"),
        "signs": ("<b>", "&amp;", "a|b", "a\\b", "*", "?", "[a]"),
        "other letters": ("猫", "собака", "עברית", "🦊", "e\u0301", "é"),
        "control signs": ("\x01", "\x1b[31m", "\x7f"),
        "options": ("--help", "-r", "=1+1"),
        "places of paths": ("CON", "nul", "a:b", "a..", "~root"),
        "long": ("x" * 255, "y" * 255),
    }
    return {f"class names of {kind}": _classes_named(*names) for kind, names in odd.items()}


# --- tars -------------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A member of a tar, as its head has it."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""


class Tar(NamedTuple):
    """A tar of a stranger: entries beside two good classes. What is found in it, or why it is refused; `broken`: words
    of what is said of the single file that cannot be used."""

    entries: list[Entry]
    found: list[str] | None = None
    refused: str | None = None
    broken: str | None = None


def write_tar(file: Path, entries: list[Entry]) -> Path:
    good = [Entry(f"{name}/{n}.png", saved(np.full_like(RGB, 10 * n + 5), "PNG")) for name in "ab" for n in range(6)]
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for entry in [*good, *entries]:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.size = entry.kind, entry.link, len(entry.content)
            tar.addfile(info, io.BytesIO(entry.content))
    return file


def tars() -> dict[str, Tar]:
    more = saved(RGB, "PNG")
    device = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    return {
        "out by ..": Tar([Entry("a/../../../out.png", more)], found=[]),
        "out by .. at the start": Tar([Entry("../out.png", more)], found=[]),
        "absolute": Tar([Entry("/a/9.png", more)], found=["a/9.png"]),
        "links": Tar(
            [
                Entry("a/soft.png", kind=tarfile.SYMTYPE, link="../../out.png"),
                Entry("a/hard.png", kind=tarfile.LNKTYPE, link="a/0.png"),
                Entry("a/away.png", kind=tarfile.SYMTYPE, link="/etc/passwd"),
            ],
            found=[],
        ),
        "devices": Tar([Entry(f"a/{n}.dev.png", kind=kind) for n, kind in enumerate(device)], found=[]),
        "an unknown kind": Tar([Entry("a/z.png", more, kind=b"Z")], found=[]),
        "a name that is not UTF-8": Tar([Entry("a/caf\udce9.png", more)], refused="is not in UTF-8"),
        "a link that is not UTF-8": Tar([Entry("a/caf\udce9.png", kind=tarfile.SYMTYPE)], refused="is not in UTF-8"),
        "two of a name": Tar([Entry("a/z.png", b"old"), Entry("a/z.png", more)], found=["a/z.png"]),
        "5,000 folders deep": Tar([Entry("a/" + "d/" * 5000 + "z.png", more)], found=["a/" + "d/" * 5000 + "z.png"]),
        "a file and a folder of one name": Tar(
            [Entry("a/z", more), Entry("a/z/z.png", more)], found=["a/z", "a/z/z.png"]
        ),
        "an empty file": Tar([Entry("a/z.png")], broken="is empty"),
        "a tar inside": Tar([Entry("a/z.tar", bytes(10240))], broken=NOT_A_PICTURE),
    }  # fmt: skip
