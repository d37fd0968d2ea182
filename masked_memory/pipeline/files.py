"""Files that are either whole or not there: a write goes to a temporary name, reaches the disk, and is renamed.

Files that are handed on have their SHA-256 noted beside them; it is compared when they are opened.
"""

import csv
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

LOCK_SECONDS = 60
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.[^.]+)?")


class InputError(ValueError):
    """Something the user can mend: one line with what was found, what was expected and what to type."""


DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def one_line(text: str) -> str:
    """With signs that cannot be seen written as \\n, \\x1b and so on: names of files may hold any."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def cannot_write(path: Path, error: OSError) -> InputError:
    why = error.strerror or str(error)
    return InputError(f"cannot write {path}: {why}; make room or name another folder with --run.dir")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well; else `path` stays as it was.

    Raises InputError when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        reach_disk(temporary)
        temporary.replace(path)
        reach_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def reach_disk(path: Path) -> None:
    """Wait until what was written to a file, or renamed in a folder, would survive a loss of power."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def reserve(path: Path) -> None:
    """Take the room on the disk that a file with holes will need: a process that writes into it as memory would
    otherwise be ended without a word on a full disk. Raises InputError when there is not so much."""
    if not hasattr(os, "posix_fallocate"):
        return  # neither macOS nor Windows have it
    number = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(number, 0, os.fstat(number).st_size)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        os.close(number)


def clear_leftovers(folder: Path) -> list[Path]:
    """Remove what `replacing` left under a folder when its process was killed amid a write; returns what that was."""
    found = [path for path in folder.rglob(".*") if TEMPORARY.fullmatch(path.name) and path.is_file()]
    for path in found:
        path.unlink(missing_ok=True)
    return found


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time is in this block for the same path. Raises InputError when another stays in it, and
    where nothing can be written."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{path} has been locked for {LOCK_SECONDS} s by another process; end that one first"
        ) from None
    except OSError as error:
        raise cannot_write(Path(lock.lock_file), error) from error
    try:
        yield
    finally:
        lock.release()


def sqlite_url(file: Path) -> str:
    """The address of a database in a file. Raises InputError for a path that would be read as another one, and for what
    is no file: MLflow would try again for ever."""
    path = file.resolve().as_posix()
    if file.exists() and not file.is_file():
        raise InputError(f"{path} is no ordinary file, so no database; move it away")
    if odd := [sign for sign in "?%" if sign in path]:
        raise InputError(f"{path} has a {odd[0]} in it, which databases misread; name another --run.dir")
    return f"sqlite:///{path}"


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Raises InputError when the file is missing, cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def _unreadable(path: Path, error: OSError) -> InputError:
    absent = isinstance(error, FileNotFoundError)
    return InputError(f"{path} is missing" if absent else f"{path} cannot be read: {error.strerror}")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Raises InputError when the file is missing, cannot be read or is not CSV."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise _unreadable(path, error) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None


def read_rows(mapped: np.memmap, rows: np.ndarray) -> np.ndarray:
    """Copies of rows of a mapped array, read from its file: pages that are read through the map count as memory of the
    process, in the end all of them. Raises InputError when the file is shorter than it was."""
    found = np.empty((len(rows), *mapped.shape[1:]), mapped.dtype)
    size = found[:1].nbytes
    with Path(str(mapped.filename)).open("rb", buffering=0) as file:
        for place, row in zip(found.view(np.uint8).reshape(len(rows), size), rows, strict=True):
            file.seek(mapped.offset + int(row) * size)
            if file.readinto(place.data) != size:
                raise InputError(f"{mapped.filename} ends before row {row}; it was cut")
    return found


def write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """With the SHA-256 of all tensors in the metadata."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    noted = {**(metadata or {}), "sha256": _digest_of_tensors(contiguous)}
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(save(contiguous, metadata=noted)))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata in order of their names: safetensors shuffles them, and equal tensors are to
    give equal files. The head is JSON behind its length, filled up with blanks to a multiple of 8 bytes."""
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    written = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def read_safetensors(path: Path, mend: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, on the CPU, and metadata. Raises InputError when the file is missing, is none, or its tensors
    are not those that were written. mend: what to do then, in words."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
            metadata = stored.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {mend}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); {mend}") from None
    if "sha256" in metadata and metadata["sha256"] != _digest_of_tensors(tensors):
        raise InputError(f"{path} is damaged: its tensors have another SHA-256 than when they were written; {mend}")
    return tensors, metadata


def _digest_of_tensors(tensors: Mapping[str, Any]) -> str:
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return sha.hexdigest()


def digest(*parts: str | bytes, length: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of the parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part)
        sha.update(b"\0")
    return sha.hexdigest()[:length]


def file_digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """name -> SHA-256 of the file in the folder, in hexadecimal digits."""
    return {name: _file_digest(folder / name) for name in names}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digests(folder: Path, noted: Mapping[str, str], mend: str) -> None:
    """Raises InputError for a file that is missing, or has another SHA-256 than was noted. mend: a command."""
    for name, expected in noted.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing; type: {mend}")
        if (found := _file_digest(path)) != expected:
            raise InputError(
                f"{path} was changed or damaged: its SHA-256 is {found[:12]}, noted was {expected[:12]}; type: {mend}"
            )


def smallest_unsigned(codes: int) -> np.dtype:
    """uint8 up to 256 codes, uint16 up to 65,536, else uint32."""
    return np.min_scalar_type(codes - 1)
