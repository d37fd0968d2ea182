"""Where the bytes of a picture are: a file of its own, or a stretch of a tar."""

import errno
import stat
from pathlib import Path
from typing import NamedTuple, Protocol

MOST_BYTES = 2**30  # of a file of a picture, and of what it unpacks to
OTHER_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


class Place(Protocol):
    """As text it is what messages say; the ending of that tells the format. Every `pathlib.Path` is one."""

    def read_bytes(self) -> bytes:
        """All of the picture's file. Raises OSError."""
        ...


class Member(NamedTuple):
    """A file inside an uncompressed tar: `size` bytes from `offset` on."""

    tar: str
    inside: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.inside}"

    def read_bytes(self) -> bytes:
        """Opens the tar anew, so that threads do not share a position."""
        check_bytes(self.size)
        with Path(self.tar).open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(errno.EIO, f"{self.tar} ends within it")
        return content


def read_place(place: Place) -> bytes:
    """All of a picture's file, as `read_bytes`, but never of a fifo or device, which may not end.

    Raises OSError, also for what is no ordinary file, or larger than MOST_BYTES.
    """
    if isinstance(place, Path):
        check_ordinary(place)
        check_bytes(place.stat().st_size)
    return place.read_bytes()


def check_ordinary(path: Path) -> None:
    """Raises OSError for what is not there, and for what is no ordinary file: it may never end when it is read."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"it is no ordinary file, but {OTHER_KINDS.get(kind, 'something else')}")


def check_bytes(size: int) -> None:
    """Raises OSError for more than MOST_BYTES."""
    if size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {size / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:.1f} GB")
