"""Stacks of components: formats, ranges, names, the split they make, and what is refused."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from masked_memory.handoff.split import data_key, open_split
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.settings import loading
from masked_memory.settings.common import DataSection
from masked_memory.sources import pictures
from masked_memory.sources.pictures import decode
from masked_memory.sources.stacks import Stacks, decode_stack, survey, write_stack
from masked_memory.stages import data_split
from toys import fake_split, make_split, split_settings

BYTES = ((0.0, 255.0),) * 5
FIVE = Stacks(("a", "b", "c", "d", "e"), BYTES, True)


def stack(seed: int, dtype: str = "uint8", size: int = 16) -> np.ndarray:
    """(5, size, size); numbers 0 to 255."""
    return np.random.default_rng(seed).integers(0, 256, (5, size, size)).astype(dtype)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def as_tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def fill_stacks(folder: Path, count: int = 12, dtype: str = "uint8") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:02d}.npy" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(as_npy(stack(number, dtype)))
    return files


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", as_npy(stack(0))),
        ("x.npy", as_npy(np.moveaxis(stack(0), 0, -1))),
        ("x.npz", as_npz(dict(zip("abcde", stack(0), strict=True)))),
        ("x.npz", as_npz({"all": stack(0)})),
        ("x.tiff", as_tiff(stack(0), photometric="minisblack")),
        ("x.tif", as_tiff(np.moveaxis(stack(0), 0, -1), photometric="minisblack", planarconfig="contig")),
    ],
    ids=["npy-CHW", "npy-HWC", "npz-named", "npz-array", "tiff-pages", "tiff-samples"],
)
def test_every_format_gives_the_same_components(name: str, content: bytes) -> None:
    assert (decode_stack(name, content, 16, FIVE) == np.moveaxis(stack(0), 0, -1)).all()


def test_names_choose_and_order_the_components_of_npz() -> None:
    content = as_npz(dict(zip("abcde", stack(0), strict=True)))
    chosen = decode_stack("x.npz", content, 16, Stacks(("d", "a"), BYTES[:2], True))
    assert (chosen == np.stack([stack(0)[3], stack(0)[0]], axis=-1)).all()


def test_a_stack_is_cropped_to_its_central_square_and_resized() -> None:
    wide = np.zeros((5, 20, 60), dtype=np.uint8)
    wide[:, :, 20:40] = 255
    pixels = decode_stack("x.npy", as_npy(wide), 10, FIVE)
    assert pixels.shape == (10, 10, 5) and pixels.min() > 230  # the filter reaches a little over the edge


def test_the_range_of_a_component_becomes_0_to_255_and_what_lies_outside_is_cut_off() -> None:
    values = np.linspace(-1, 3, 256, dtype=np.float32).reshape(1, 16, 16)
    pixels = decode_stack("x.npy", as_npy(values), 16, Stacks(("t",), ((0.0, 2.0),), True))[..., 0]
    expected = (np.linspace(-1, 3, 256) / 2).clip(0, 1) * 255
    assert np.abs(pixels.ravel() - expected).max() <= 0.51


def test_a_written_stack_reads_back(tmp_path: Path) -> None:
    stacks = Stacks(("t", "u"), ((-2.0, 5.0), (0.0, 1.0)), True)
    pixels = np.moveaxis(stack(3)[:2], 0, -1)
    write_stack(tmp_path / "x.npz", pixels, stacks)
    again = decode_stack("x.npz", (tmp_path / "x.npz").read_bytes(), 16, stacks)
    assert np.abs(again.astype(int) - pixels).max() <= 1


def broken_stacks() -> dict[str, tuple[bytes, type[Exception]]]:
    """Files that are broken inside, and what their libraries raise."""
    file = io.BytesIO()
    np.savez_compressed(file, **dict(zip("abcde", stack(0), strict=True)))
    npz = bytearray(file.getvalue())
    npz[30 + int.from_bytes(npz[26:28], "little") + int.from_bytes(npz[28:30], "little")] = 0xFF  # no kind of block
    tiff = bytearray(as_tiff(stack(0), photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(tiff)) as opened:
        place = opened.pages[0].tags["ImageWidth"].offset + 8
    tiff[place : place + 4] = bytes(4)
    cut = as_tiff(stack(0), photometric="minisblack", compression="zlib")[:-400]
    return {
        "flipped.npz": (bytes(npz), zlib.error),
        "cut.tif": (cut, struct.error),
        "flat.tiff": (bytes(tiff), ZeroDivisionError),
    }


@pytest.mark.parametrize("name", ["flipped.npz", "cut.tif", "flat.tiff"])
def test_a_file_that_is_broken_inside_is_a_problem_and_no_traceback(tmp_path: Path, name: str) -> None:
    content, raised = broken_stacks()[name]
    with pytest.raises(raised):
        tifffile.imread(io.BytesIO(content)) if "tif" in name else np.load(io.BytesIO(content))["a"]
    (tmp_path / name).write_bytes(content)
    decoded = decode(tmp_path / name, 16, 5, FIVE)
    assert decoded.pixels is None and decoded.problem.startswith("is broken: ") and "\n" not in decoded.problem
    assert survey([tmp_path / name], 5, None, 1) == Stacks(tuple(f"component{n}" for n in range(5)), BYTES, True)


def test_skip_broken_goes_on_without_stacks_that_are_broken_inside(tmp_path: Path) -> None:
    fill_stacks(tmp_path / "set")
    for name, (content, _) in broken_stacks().items():
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InputError, match="3 of the files cannot be used"):
        make_split(tmp_path, tmp_path / "set", channels=5)
    split = make_split(tmp_path, tmp_path / "set", channels=5, skip_broken=True)
    assert len(split.manifest) == 12
    assert {Path(row["path"]).name for row in read_csv(split.folder / "broken.csv")} == set(broken_stacks())


# --- a whole set ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", (0.0, 255.0)), ("uint16", (0.0, 65535.0)), ("float32", None), ("int32", None)]
)
def test_ranges_are_the_types_own_or_measured_over_all_files(tmp_path: Path, dtype: str, expected: object) -> None:
    files = fill_stacks(tmp_path, 3, dtype)
    found = survey(files, 5, None, 1)
    every = np.stack([np.load(file) for file in files])
    measured = [(every[:, place].min(), every[:, place].max()) for place in range(5)]
    assert list(found.ranges) == ([expected] * 5 if expected else measured)


def test_split_of_stacks_keeps_pixels_names_and_ranges(tmp_path: Path) -> None:
    files = fill_stacks(tmp_path / "set", 12, "float32")
    split = make_split(tmp_path, tmp_path / "set", channels=5, components=list("vwxyz"))
    assert split.components == tuple("vwxyz") and split.images.shape == (12, 16, 16, 5)
    low, high = split.stacks.ranges[2]
    row = next(row for row in split.manifest if row["path"] == files[4].name)
    pixels = split.images[int(row["row"])][:, :, 2].astype(float)
    assert np.abs(pixels / 255 * (high - low) + low - stack(4)[2]).max() <= (high - low) / 255
    assert split.pictures(np.arange(2)).shape == (2, 5, 16, 16)


@pytest.mark.parametrize(("peak", "chunks"), [(255.0, 2 + 2), (1000.0, 2 + 3)])
def test_resuming_starts_over_when_the_ranges_are_others(tmp_path, monkeypatch, peak, chunks):
    """Interrupted after the first four of twelve files; then the last file holds other numbers."""
    files = fill_stacks(tmp_path / "set", 12, "float32")
    cfg = split_settings(tmp_path, tmp_path / "set", channels=5)
    monkeypatch.setattr(data_split, "CHECKPOINT_EVERY", 4)
    real, calls = pictures.decode_all, []

    def dies_in_the_second_chunk(paths, *rest):
        calls.append(len(paths))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(paths, *rest)

    monkeypatch.setattr(data_split, "decode_all", dies_in_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        data_split.run(cfg)
    wider = stack(11, "float32")
    wider[:, 0, 0] = peak
    files[11].write_bytes(as_npy(wider))
    ranges = survey(files, 5, None, 1).ranges
    data_split.run(cfg, resume=True)
    assert calls == [4] * chunks
    split = open_split(cfg)
    assert split.stacks.ranges == ranges and len(list((tmp_path / "runs" / "data_split").glob("2*"))) == 1
    for row in split.manifest:
        direct = decode(tmp_path / "set" / row["path"], 16, 5, split.stacks)
        assert (split.images[int(row["row"])] == direct.pixels).all() and row["hash"] == direct.hash


def test_other_components_of_the_same_files_are_another_split(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(9):
        content = as_npz(dict(zip("abcde", stack(number), strict=True)))
        (tmp_path / "set" / f"{number}.npz").write_bytes(content)
    first = make_split(tmp_path, tmp_path / "set", channels=2, components=["a", "b"])
    second = make_split(tmp_path, tmp_path / "set", channels=2, components=["b", "a"])
    assert make_split(tmp_path, tmp_path / "set", channels=5).components == tuple("abcde")
    assert first.hash != second.hash and first.components == ("a", "b")


def test_grey_and_rgb_have_names_and_old_settings_their_old_key() -> None:
    plain = DataSection()
    assert "components" not in plain.model_dump_json(exclude_none=True)
    assert data_key(plain) == data_key(DataSection(workers=3))
    assert data_key(plain) != data_key(DataSection(components=["x", "y", "z"]))
    meta = {"channels": 3}
    split = replace(fake_split([]), meta=meta)
    assert split.components == ("red", "green", "blue") and split.stacks is None


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("05.npy", as_npy(stack(0)[:4]), {}, r"05\.npy has 4 components, .*00\.npy has 5; expected the same"),
        ("zz.npz", as_npz({"p": stack(0)[0], "q": stack(0)[1]}), {}, r"zz\.npz has 2 components, .*00\.npy has 5"),
        ("", b"", {"channels": 3}, r"00\.npy has 5 components, but data\.channels is 3; type --data\.channels 5"),
        ("05.npy", as_npy(stack(0) * np.nan), {}, "1 of the files cannot be used"),
        ("05.npy", b"no array", {}, "1 of the files cannot be used"),
        ("05.png", b"x", {}, "1 of the files cannot be used"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(tmp_path, name, content, changes, message):
    fill_stacks(tmp_path / "set")
    if name:
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        make_split(tmp_path, tmp_path / "set", **{"channels": 5, **changes})
    assert "\n" not in str(error.value)


def test_unknown_components_of_npz_are_refused_with_the_names(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(3):
        content = as_npz(dict(zip("abcde", stack(number), strict=True)))
        (tmp_path / "set" / f"{number}.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"has no component q; expected data\.components out of: a, b, c, d, e"):
        make_split(tmp_path, tmp_path / "set", channels=2, components=["a", "q"])


@pytest.mark.parametrize("names", [["a", "b"], ["a", "a", "b", "c", "d"]])
def test_names_must_be_as_many_as_channels_and_different(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(loading.ConfigError, match=r"expected 5 different names, as many as data\.channels"):
        split_settings(tmp_path, "x", channels=5, components=names)


def test_png_stays_a_picture_and_rgb_tiff_too(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(4):
        picture = Image.fromarray(np.moveaxis(stack(number)[:3], 0, -1).copy())
        picture.save(tmp_path / "set" / f"{number}.{'png' if number % 2 else 'tiff'}")
    split = make_split(tmp_path, tmp_path / "set", channels=3)
    assert split.components == ("red", "green", "blue") and split.stacks is None
