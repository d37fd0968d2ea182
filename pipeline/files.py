"""Files that are either whole or not there: each write goes to a temporary name first, then `Path.replace`."""

import csv
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

LOCK_SECONDS = 60


class InputError(ValueError):
    """Something the user can mend: one line with what was found, what was expected and what to type."""


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
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Only one process at a time is in this block for the same path. Raises InputError when another stays in it."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            yield
    except Timeout:
        raise InputError(
            f"{path} has been locked for {LOCK_SECONDS} s by another process; end that one first"
        ) from None


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Raises InputError when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from None


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Raises InputError when the file is missing."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None


def write_array(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata=metadata))


def digest(*parts: str | bytes, length: int = 12) -> str:
    """The first hexadecimal digits of the SHA-256 of the parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() if isinstance(part, str) else part)
        sha.update(b"\0")
    return sha.hexdigest()[:length]


def smallest_unsigned(codes: int) -> np.dtype:
    """uint8 up to 256 codes, uint16 up to 65,536, else uint32."""
    return np.min_scalar_type(codes - 1)
