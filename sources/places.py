"""Where the bytes of a picture are: a file of its own, or a stretch of a tar."""

import errno
from pathlib import Path
from typing import NamedTuple, Protocol


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
        with Path(self.tar).open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(errno.EIO, f"{self.tar} ends within it")
        return content
