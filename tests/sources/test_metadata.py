"""Metadata beside the pictures."""

import io
from pathlib import Path

import numpy as np
import pytest

from masked_memory.pipeline.files import InputError
from toys import make_split


def stack(seed: int, dtype: str = "uint8", size: int = 16) -> np.ndarray:
    """(5, size, size); numbers 0 to 255."""
    return np.random.default_rng(seed).integers(0, 256, (5, size, size)).astype(dtype)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def fill_stacks(folder: Path, count: int = 12, dtype: str = "uint8") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:02d}.npy" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(as_npy(stack(number, dtype)))
    return files


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_come_with_the_manifest_and_may_lie_beside_the_pictures(tmp_path: Path) -> None:
    fill_stacks(tmp_path / "set")
    notes = tmp_path / "set" / "notes.csv"
    lines = [f"{number:02d}.npy,{number / 2},{'ab'[number % 2]}" for number in range(12)]
    notes.write_text("\n".join(["path,age,kind", *lines]), encoding="utf-8-sig")
    split = make_split(tmp_path, tmp_path / "set", channels=5, metadata=str(notes))
    assert len(split.manifest) == 12
    for row in split.manifest:
        number = int(row["path"][:2])
        assert float(row["age"]) == number / 2 and row["kind"] == "ab"[number % 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,age\n00.npy,1\n", r"has no line for 11 of 12 pictures, such as 01\.npy"),
        ("file,age\n00.npy,1\n", "has columns file, age; expected path and at least one more"),
        ("path,label\n00.npy,1\n", "the manifest has a column label of its own"),
        ("path,age\n00.npy,1\n00.npy,2\n", r"has two lines for 00\.npy"),
        (None, r"notes\.csv is missing"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(tmp_path, text, message):
    fill_stacks(tmp_path / "set")
    if text is not None:
        (tmp_path / "notes.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        make_split(tmp_path, tmp_path / "set", channels=5, metadata=str(tmp_path / "notes.csv"))
    assert not (tmp_path / "runs" / "data_split").exists()
