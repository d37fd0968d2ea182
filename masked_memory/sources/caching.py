"""A cache of pixels that grows while pictures are read from a stream; resumed, it goes on where it was."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from masked_memory.sources.pictures import IN_HAND, Decoded, decode_all
from masked_memory.sources.streamed import Sample, StreamedPart

HEAD_BYTES = 128  # bytes of the head of an .npy file, whose number of rows is written at the end
FILES_AT_ONCE = 256  # pictures whose files are in memory


class Streamed(NamedTuple):
    """A picture that was read: its hash, and its row in the cache, -1 with what was wrong with it."""

    path: str
    class_name: str
    hash: str
    row: int
    problem: str | None


class GrowingCache:
    """`file`: an .npy file of (rows, size, size, channels) uint8, complete after `finish`. `notes`: a line of JSON for
    each part that was read to its end."""

    def __init__(self, file: Path, notes: Path, size: int, channels: int) -> None:
        self.file, self.notes, self.shape = file, notes, (size, size, channels)
        self.parts: dict[str, list[Streamed]] = {}
        for line in notes.read_bytes().splitlines(keepends=True) if notes.is_file() else []:
            if not line.endswith(b"\n"):  # torn when the process was killed: its part is read anew
                os.truncate(notes, notes.stat().st_size - len(line))
                break
            entry = json.loads(line)
            self.parts[entry["part"]] = [Streamed(*each) for each in entry["pictures"]]
        self.rows = sum(each.row >= 0 for pictures in self.parts.values() for each in pictures)
        self.file.touch()

    def read(self, part: StreamedPart, workers: int, seen: Callable[[int], object]) -> None:
        """Append the pictures of a part, decoded by `workers` threads. seen: is told how many were read.

        Raises InputError; what was appended until then is overwritten by the next.
        """
        samples, pictures, row = part.samples(), [], self.rows
        with self.file.open("r+b") as opened:
            opened.truncate(HEAD_BYTES + self.rows * int(np.prod(self.shape)))
            opened.seek(0, os.SEEK_END)
            while chunk := list(islice(samples, FILES_AT_ONCE)):
                for sample, decoded in zip(chunk, self._decoded(chunk, workers), strict=True):
                    place = -1
                    if decoded.pixels is not None:
                        opened.write(decoded.pixels.tobytes())
                        place, row = row, row + 1
                    pictures.append(Streamed(sample.path, sample.class_name, decoded.hash, place, decoded.problem))
                seen(len(chunk))
            opened.flush()
            os.fsync(opened.fileno())
        with self.notes.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"part": part.name, "pictures": pictures}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self.parts[part.name], self.rows = pictures, row

    def _decoded(self, chunk: Sequence[Sample], workers: int) -> Iterator[Decoded]:
        size, _, channels = self.shape
        return decode_all(chunk, size, channels, workers, None, self.notes.with_name(IN_HAND))

    def finish(self) -> None:
        """Write the head, with which the file is an .npy file."""
        head = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": (self.rows, *self.shape)}
        with self.file.open("r+b") as opened:
            np.lib.format.write_array_header_1_0(opened, head)
            if opened.tell() != HEAD_BYTES:
                raise ValueError(f"the head of an .npy file took {opened.tell()} bytes; expected {HEAD_BYTES}")


def cache_parts(
    cache: GrowingCache, parts: Sequence[StreamedPart], workers: int, seen: Callable[[int], object]
) -> list[list[Streamed]]:
    """Of each part its pictures; parts that were read before are not read again."""
    for part in parts:
        if part.name not in cache.parts:
            cache.read(part, workers, seen)
    return [cache.parts[part.name] for part in parts]
