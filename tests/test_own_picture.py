"""My picture, my mask: what is known stays as it is, what is missing is never seen. S = 16 pixels, 4 x 4 tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.classifier import Classifier, ClassifierConfig
from models.codes import Filling
from models.distilbert import build_distilbert
from own_picture import completing, fitting, reading, report
from own_picture.completing import Request, complete_picture
from own_picture.reading import box_mask, read_mask, read_picture
from own_picture.report import complete_own
from pipeline.files import InputError, read_csv
from pipeline.runs import RunFolder
from pipeline.stage import Stage
from pipeline.tracking import NullLedger
from recall.memory import Memory
from settings import command
from settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection
from vqvae import VQVAE, VQVAEConfig

SIDE, STRIDE, K = 16, 4, 12
CLASSES = ["cat", "dog", "emu"]
CPU = torch.device("cpu")
QUICK = Request(strategy="random")


def make_memory(channels: int = 3, classes: int = 0, architecture: str = "compact") -> Memory:
    """Untrained, with weights so large that different codes are painted differently and are not equally likely."""
    torch.manual_seed(0)
    config = VQVAEConfig(SIDE, channels, STRIDE, 16, 1, codebook_size=K, code_dim=6, data_init=False)
    vqvae = VQVAE(config).eval()
    distil = build_distilbert(K, config.tokens, dim=16, layers=1, heads=2, dropout=0.0, classes=classes).eval()
    with torch.no_grad():
        vqvae.quantizer.codebook.copy_(torch.randn(K, 6))
        for parameter in distil.distilbert.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    seen = ClassifierConfig(architecture, 3, channels, SIDE, K, 0.0, (0.5,) * channels, (0.25,) * channels)
    return Memory(vqvae, distil, Classifier(seen).eval(), torch.full((config.tokens, K), 1 / K), CPU)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return make_memory()


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def gradient(width: int, height: int) -> Image.Image:
    """Smooth, red grows to the right and green downwards."""
    red, green = np.meshgrid(np.linspace(30, 220, width), np.linspace(30, 220, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 90)], axis=2).astype(np.uint8))


def some(width: int, height: int, share: float = 0.2, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


# What is known stays


@pytest.mark.parametrize("fit", ["resize", "tile"])
@pytest.mark.parametrize("size", [(16, 16), (40, 23), (7, 33), (5, 5), (1, 50)])
@pytest.mark.parametrize("channels", [1, 3])
def test_known_pixels_come_back_byte_by_byte(fit: str, size: tuple[int, int], channels: int) -> None:
    picture, grey = noise(*size), noise(*size, mode="L")
    shown = np.asarray(picture if channels == 3 else grey).reshape(size[1], size[0], channels)
    for missing in (some(*size), None):
        request = replace(QUICK, fit=fit, samples=2, decoding="argmax")
        result = complete_picture(make_memory(channels), picture if channels == 3 else grey, missing, CLASSES, request)
        known = ~result.missing
        assert np.array_equal(result.original, shown)
        assert missing is None or np.array_equal(result.missing, missing)
        for painted in (result.completed, *result.samples):
            assert painted.shape == shown.shape and painted.dtype == np.uint8
            assert np.array_equal(painted[known], shown[known])
        assert not missing_equal(result.completed, shown, result.missing)
        assert (result.masked[result.missing] == 128).all() and np.array_equal(result.masked[known], shown[known])
        assert (result.diversity[known] == 0).all()


def missing_equal(painted: np.ndarray, shown: np.ndarray, missing: np.ndarray) -> bool:
    """Noise is not painted by chance (a mask without any missing pixel, in a tiny picture, says nothing)."""
    return bool(missing.sum() > 3 and np.array_equal(painted[missing], shown[missing]))


@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_a_mask_of_nothing_returns_the_picture(memory: Memory, fit: str) -> None:
    picture = noise(40, 23)
    nothing = np.zeros((23, 40), dtype=bool)
    result = complete_picture(memory, picture, nothing, CLASSES, Request(samples=2, fit=fit))
    for painted in (result.completed, *result.samples):
        assert np.array_equal(painted, np.asarray(picture))
    assert not result.dropped.any() and result.after == result.before
    zero = complete_picture(memory, picture, None, CLASSES, replace(QUICK, percent=0, fit=fit))
    assert np.array_equal(zero.completed, np.asarray(picture)) and not zero.missing.any()


@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_what_is_missing_is_never_seen(memory: Memory, fit: str) -> None:
    """Other pixels under the mask, the same completion; antialiasing does not leak them either."""
    missing = np.zeros((37, 50), dtype=bool)
    missing[5:20, 11:30] = True
    pixels = np.asarray(noise(50, 37)).copy()
    other = pixels.copy()
    other[missing] = 255 - other[missing]
    request = Request(fit=fit, samples=1)
    first = complete_picture(memory, Image.fromarray(pixels), missing, CLASSES, request)
    second = complete_picture(memory, Image.fromarray(other), missing, CLASSES, request)
    assert np.array_equal(first.completed, second.completed)
    assert np.array_equal(first.samples[0], second.samples[0])


@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_all_missing_can_be_completed(memory: Memory, fit: str) -> None:
    everything = np.ones((20, 33), dtype=bool)
    result = complete_picture(memory, noise(33, 20), everything, CLASSES, Request(fit=fit))
    other = complete_picture(memory, noise(33, 20, seed=5), everything, CLASSES, Request(fit=fit))
    assert result.dropped.all() and np.array_equal(result.completed, other.completed)
    forgotten = complete_picture(memory, noise(33, 20), None, CLASSES, replace(QUICK, percent=100, fit=fit))
    assert forgotten.missing.all() and np.array_equal(forgotten.completed, result.completed)


# Which tokens go


def test_masked_pixels_drop_the_tokens_of_their_cells(memory: Memory) -> None:
    missing = np.zeros((SIDE, SIDE), dtype=bool)
    missing[3, 6] = True  # row 0, column 1; one pixel above row 1
    result = complete_picture(memory, noise(SIDE, SIDE), missing, CLASSES, Request())
    assert np.argwhere(result.dropped[0]).tolist() == [[0, 1]] and result.note == ""
    wider = complete_picture(memory, noise(SIDE, SIDE), missing, CLASSES, Request(margin=1))
    assert np.argwhere(wider.dropped[0]).tolist() == [[0, 1], [1, 1]]


def test_one_missing_pixel_of_a_larger_picture_drops_a_token(memory: Memory) -> None:
    """A model pixel is missing when any pixel that it covers is; sides need not be multiples."""
    for x, y in ((0, 0), (99, 36), (50, 20)):
        missing = np.zeros((37, 100), dtype=bool)
        missing[y, x] = True
        result = complete_picture(memory, noise(100, 37), missing, CLASSES, Request())
        assert result.dropped[0, y * 4 // 37, x * 4 // 100] and result.dropped.sum() <= 4
        assert result.missing.sum() == 1


def test_any_covered_agrees_with_counting_by_hand() -> None:
    for rows, count in ((5, 16), (16, 16), (37, 16), (1, 4), (33, 8)):
        missing = some(3, rows)
        covered = fitting._any_covered(missing, count)
        for band in range(count):
            falls = [r for r in range(rows) if r * count < (band + 1) * rows and (r + 1) * count > band * rows]
            assert np.array_equal(covered[band], missing[falls].any(0))


def test_tiles_without_a_missing_pixel_are_left_alone(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode = Memory.encode
    monkeypatch.setattr(Memory, "encode", lambda self, pictures: seen.append(len(pictures)) or encode(self, pictures))
    missing = np.zeros((35, 50), dtype=bool)
    missing[16:32, 16:40] = True  # tile (1, 1) whole, part of (1, 2); row 2 pads by reflecting rows that are missing
    result = complete_picture(memory, noise(50, 35), missing, CLASSES, Request(fit="tile"))
    assert result.dropped.shape == (12, 4, 4)
    assert np.flatnonzero(result.dropped.any((1, 2))).tolist() == [5, 6] and result.dropped[5].all()
    assert seen[0] == 2
    assert result.note == ("cut into 4x3 tiles of 16x16, padded by reflection, 2 of them completed, each on its own")


@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_a_strategy_forgets_the_percentage(memory: Memory, fit: str) -> None:
    """A quarter of the tokens of each tile, and the pixels that they stand for."""
    result = complete_picture(memory, noise(64, 32), None, CLASSES, Request(25, "half", fit=fit))
    assert (result.dropped[:, 3] & ~result.dropped[:, :3].any(1)).all()
    rows = result.missing.all(1)
    lower = [12, 13, 14, 15, 28, 29, 30, 31] if fit == "tile" else list(range(24, 32))
    assert np.flatnonzero(rows).tolist() == lower and result.missing.sum() == 64 * 8


def test_a_strategy_that_looks_at_the_picture(memory: Memory) -> None:
    first, second = (complete_picture(memory, noise(16, 16, seed=n), None, CLASSES, Request(50)) for n in (0, 1))
    assert first.dropped.sum() == second.dropped.sum() == 8
    assert not np.array_equal(first.dropped, second.dropped)


def test_unequal_sides_are_squeezed_and_come_back(memory: Memory) -> None:
    missing = np.zeros((20, 60), dtype=bool)
    missing[:, :15] = True  # the left quarter
    result = complete_picture(memory, gradient(60, 20), missing, CLASSES, Request())
    assert result.completed.shape == (20, 60, 3)
    assert result.dropped[0, :, 0].all() and not result.dropped[0, :, 1:].any()
    assert result.note.startswith("resized from 60x20 to 16x16 and back: squeezed to a square in between, ")
    assert result.note.count(".") == 0


# The seam


def steps(pasted: np.ndarray, original: np.ndarray, missing: np.ndarray) -> float:
    """Mean step from the border pixels of the hole to the known pixel beside each."""
    near = fitting.nearest_known(missing)
    border = missing & (near.distance < 1.5)
    return float(np.abs(pasted.astype(int) - original[near.rows, near.columns])[border].mean())


@pytest.mark.parametrize("size", [16, 64])
def test_there_is_no_edge_at_the_border_of_the_hole(size: int) -> None:
    """In a smooth picture the step into the hole is far smaller than without the seam; deep inside nothing changes."""
    original = np.asarray(gradient(size, size))
    missing = box_mask((size // 4, size // 4, 3 * size // 4, 3 * size // 4), (size, size))
    near = fitting.nearest_known(missing)
    painted = np.full((size, size, 3), 200, dtype=np.uint8)
    pasted = fitting.paste(original, painted, missing, near, cell=4.0)
    assert steps(pasted, original, missing) < 0.25 * steps(painted, original, missing)
    inside = near.distance > 4
    assert np.array_equal(pasted[inside], painted[inside]) and inside.any() == (size > 16)
    assert np.array_equal(pasted[~missing], original[~missing])


def test_there_is_no_edge_where_the_next_tile_is_not_painted() -> None:
    """The hole is one whole tile, so no known pixel was painted."""
    original = np.asarray(gradient(48, 48))
    missing = box_mask((16, 16, 32, 32), (48, 48))
    tiles, painted = np.zeros((9, SIDE, SIDE, 3), dtype=np.uint8), np.arange(9) == 4
    tiles[4] = 200
    canvas = fitting._assemble(tiles, painted, "tile", 48, 48)
    pasted = fitting.paste(original, canvas, missing, fitting.nearest_known(missing), cell=4.0)
    assert steps(pasted, original, missing) < 0.25 * steps(canvas, original, missing)
    assert np.array_equal(pasted[~missing], original[~missing]) and (pasted[22:26, 22:26] == 200).all()


def test_the_seam_adds_what_the_painting_lacks() -> None:
    """A painting that is wrong by the same everywhere is right at the border, and itself a cell farther in."""
    original = np.full((9, 60, 1), 100, dtype=np.uint8)
    missing = np.zeros((9, 60), dtype=bool)
    missing[:, 20:] = True
    near = fitting.nearest_known(missing)
    pasted = fitting.paste(original, np.full_like(original, 60), missing, near, cell=16.0)[4, :, 0].astype(int)
    assert (pasted[:20] == 100).all() and pasted[20] >= 99 and (pasted[36:] == 60).all()
    assert (np.diff(pasted[19:37]) <= 0).all() and abs(pasted[27] - 80) <= 4


# Draws


def test_the_same_request_gives_the_same_pictures(memory: Memory) -> None:
    request = Request(70, "random", decoding="sample", samples=2, seed=3)
    first, second = (complete_picture(memory, noise(30, 20), None, CLASSES, request) for _ in range(2))
    for a, b in zip((first.completed, *first.samples), (second.completed, *second.samples), strict=True):
        assert np.array_equal(a, b)
    other = complete_picture(memory, noise(30, 20), None, CLASSES, replace(request, seed=4))
    assert not np.array_equal(other.missing, first.missing)


def test_samples_differ_where_something_is_missing_and_nowhere_else(memory: Memory) -> None:
    missing = np.zeros((40, 40), dtype=bool)
    missing[10:30, 10:30] = True
    result = complete_picture(memory, noise(40, 40), missing, CLASSES, Request(samples=3))
    assert len(result.samples) == 3
    assert len({sample.tobytes() for sample in result.samples}) == 3
    assert (result.diversity[~missing] == 0).all() and result.diversity[missing].mean() > 0.01
    expected = (np.stack(result.samples) / 255).std(0).mean(2)
    assert result.diversity == pytest.approx(expected, abs=1e-5)
    more = complete_picture(memory, noise(40, 40), missing, CLASSES, Request(samples=4))
    assert np.array_equal(more.samples[2], result.samples[2]), "a sample does not depend on how many follow"


def test_decodings_differ_and_temperature_counts_for_draws_only(memory: Memory) -> None:
    def completed(decoding: str, filling: Filling) -> np.ndarray:
        request = Request(100, "half", decoding=decoding, filling=filling)
        return complete_picture(memory, noise(16, 16), None, CLASSES, request).completed

    cold, hot = Filling(), Filling(temperature=5.0)
    assert np.array_equal(completed("argmax", cold), completed("argmax", hot))
    assert np.array_equal(completed("expected", cold), completed("expected", hot))
    assert not np.array_equal(completed("argmax", cold), completed("expected", cold))
    assert not np.array_equal(completed("argmax", cold), completed("sample", cold)), "temperature 0 stands for 1"
    assert np.array_equal(completed("sample", cold), completed("sample", Filling(temperature=1.0)))
    assert np.array_equal(completed("argmax", cold), completed("sample", Filling(temperature=1.0, top_k=1)))


# Classes


@pytest.mark.parametrize("architecture", ["compact", "codes"])
def test_classes_are_ranked_before_and_after(architecture: str) -> None:
    memory = make_memory(architecture=architecture)
    picture = noise(16, 16)
    result = complete_picture(memory, picture, None, CLASSES, replace(QUICK, percent=90))
    for ranked in (result.before, result.after):
        probabilities = [probability for _, probability in ranked]
        assert sorted(name for name, _ in ranked) == CLASSES
        assert sum(probabilities) == pytest.approx(1, abs=1e-5) and probabilities == sorted(probabilities)[::-1]
    assert result.before != result.after
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        found = memory.class_probabilities(x, memory.encode(x))[0]
    assert dict(result.before)["dog"] == pytest.approx(float(found[1]), abs=1e-5)
    without = complete_picture(replace(memory, classifier=None), picture, None, CLASSES, QUICK)
    assert without.before == without.after == []


def test_a_class_that_is_told_changes_the_picture() -> None:
    memory = make_memory(classes=3)
    told = [
        complete_picture(memory, noise(16, 16), None, CLASSES, Request(100, "half", label=label)).completed
        for label in (None, 0, 1)
    ]
    assert not np.array_equal(told[0], told[1]) and not np.array_equal(told[1], told[2])


def test_a_class_that_cannot_be_told_is_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match=r"train_distil\.condition_on_class") as error:
        complete_picture(memory, noise(16, 16), None, CLASSES, Request(label=0))
    assert "\n" not in str(error.value)
    told = make_memory(classes=3)
    with pytest.raises(InputError, match="class number 3 was given; this DistilBERT knows 0 to 2"):
        complete_picture(told, noise(16, 16), None, CLASSES, Request(label=3))
    with pytest.raises(InputError, match="--class cow is not a class of the data; expected one of: cat, dog, emu"):
        completing.class_number("cow", told.distil, CLASSES)
    with pytest.raises(InputError, match=r"train_distil\.condition_on_class"):
        completing.class_number("cat", memory.distil, CLASSES)
    assert completing.class_number("emu", told.distil, CLASSES) == 2


# Reading


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_uint8(mode: str, channels: int) -> None:
    if mode in ("I;16", "I"):
        picture = Image.fromarray(np.full((3, 4), 204 * 256 + 5, dtype=np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        picture = Image.fromarray(np.full((3, 4), 204 / 255, dtype=np.float32))
    else:
        picture = Image.new("RGB", (4, 3), (204, 204, 204)).convert(mode)
    assert picture.mode == mode
    pixels = reading.upright_pixels(picture, channels)
    assert pixels.shape == (3, 4, channels) and pixels.dtype == np.uint8
    assert abs(pixels.astype(int) - 204).max() <= (204 if mode == "1" else 1)


def test_transparent_palettes_lie_on_white_and_pictures_stand_upright(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 2), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    pixels = reading.upright_pixels(read_picture(tmp_path / "p.png"), 3)
    assert pixels[0, 0].tolist() == [255] * 3 and pixels[2, 1].tolist() == [200, 0, 0]
    turned = Image.new("L", (6, 4), 0)
    turned.getexif()[0x0112] = 6  # stored lying on its side
    turned.save(tmp_path / "t.png", exif=turned.getexif())
    assert reading.upright_pixels(read_picture(tmp_path / "t.png"), 1).shape == (6, 4, 1)
    assert reading.upright_pixels(Image.open(tmp_path / "t.png"), 1).shape == (6, 4, 1)


def test_white_is_missing_whatever_the_mode_of_the_mask(tmp_path: Path) -> None:
    expected = np.zeros((5, 7), dtype=bool)
    expected[1:3, 2:6] = True
    grey = Image.fromarray(expected.astype(np.uint8) * 255)
    strokes = Image.fromarray(np.dstack([np.full((5, 7, 3), 255, np.uint8), expected.astype(np.uint8) * 255]))
    deep = Image.fromarray(expected.astype(np.uint16) * 65535)
    for number, mask in enumerate((grey, grey.convert("1"), grey.convert("RGB"), grey.convert("P"), strokes, deep)):
        mask.save(tmp_path / f"{number}.png")
        assert np.array_equal(read_mask(tmp_path / f"{number}.png", (7, 5)), expected), mask.mode


def test_a_box_leaves_out_its_far_sides() -> None:
    missing = box_mask((2, 1, 6, 3), (7, 5))
    assert missing.shape == (5, 7) and missing[1:3, 2:6].all() and missing.sum() == 8
    assert box_mask([0, 0, 7, 4], (7, 5)).sum() == 28


def bad_inputs(folder: Path) -> list[tuple[OwnPicture, str]]:
    """Settings that cannot be used, and what is said."""
    noise(20, 10).save(folder / "a.png")
    Image.new("L", (20, 11), 255).save(folder / "tall.png")
    Image.new("L", (20, 10), 1).save(folder / "dark.png")
    Image.new("L", (20, 10), 255).save(folder / "white.png")
    (folder / "text.png").write_text("no picture")
    (folder / "none.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:150])
    (folder / "empty").mkdir()
    (folder / "many").mkdir()
    noise(20, 10).save(folder / "many" / "b.png")
    (folder / "many" / "c.png").write_text("no picture")
    (folder / "many" / "notes.txt").write_text("passed over")

    def own(image: str, mask: str | None = None, box: list[int] | None = None) -> OwnPicture:
        return OwnPicture(image=str(folder / image), mask=None if mask is None else str(folder / mask), box=box)

    return [
        (OwnPicture(), "type --image"),
        (own("absent.png"), "absent.png does not exist; expected a picture or a folder"),
        (own("text.png"), "text.png is not a picture"),
        (own("none.png"), "none.png is not a picture"),
        (own("cut.png"), "cut.png cannot be read"),
        (own("empty"), "has no pictures"),
        (own("many"), "1 of 2 pictures cannot be used: --image"),
        (own("a.png", "absent.png"), "--mask .*absent.png does not exist"),
        (own("a.png", "text.png"), "--mask .*text.png is not a picture"),
        (own("a.png", "empty"), "--mask .*empty cannot be read"),
        (own("a.png", "tall.png"), r"tall.png is 20x11; expected 20x10"),
        (own("a.png", "dark.png"), r"no white pixel \(the brightest is 1 of 255\)"),
        (own("a.png", "white.png"), "white all over.*--percent 100"),
        (own("a.png", box=[5, 5, 5, 9]), "--box 5 5 5 9 is empty"),
        (own("a.png", box=[9, 5, 3, 9]), "--box 9 5 3 9 is empty"),
        (own("a.png", box=[5, 5, 21, 9]), "reaches outside the picture; expected at most 0 0 20 10"),
        (own("a.png", box=[0, 0, 20, 10]), "takes the whole picture of 20x10.*--percent 100"),
        (own("a.png", "dark.png", [1, 1, 2, 2]), "--mask and --box exclude each other"),
    ]


def test_every_mistake_is_one_line(tmp_path: Path) -> None:
    for own, said in bad_inputs(tmp_path):
        with pytest.raises(InputError, match=said) as error:
            reading.check_own(own, 3)
        assert "\n" not in str(error.value)


def test_a_picture_with_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(30, 10).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 300 are between a warning and an error of Pillow
    with pytest.raises(InputError, match="make it smaller first"):
        read_picture(tmp_path / "a.png")


def test_a_mask_of_another_size_is_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match="the mask is 5x4; expected 16x17"):
        complete_picture(memory, noise(16, 17), np.ones((4, 5), dtype=bool), CLASSES, Request())


# The stage


def open_test_stage(tmp_path: Path, machine: object) -> Stage:
    folder = RunFolder.create(tmp_path / "runs", "reconstruct_masked", "", "key")
    return Stage("reconstruct_masked", folder, NullLedger(), machine, resumed=False)


def section_of(image: Path, **own: object) -> ReconstructMaskedSection:
    return ReconstructMaskedSection(own=OwnPicture(image=str(image), **own))


def test_a_folder_is_completed_with_all_files(tmp_path: Path, memory: Memory, machine: object, capsys: object) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise(20, 12).save(pictures / "a.png")
    noise(16, 16).save(pictures / "a.bmp")
    (pictures / "notes.txt").write_text("passed over")
    stage = open_test_stage(tmp_path, machine)
    section = section_of(pictures, box=[2, 2, 10, 12], samples=2)
    share = complete_own(stage, memory, section, 3, CLASSES, seed=0)
    assert share == pytest.approx(2 * 80 / (240 + 256))
    folder = stage.folder.path
    endings = ("completed.png", "masked.png", "sample_1.png", "sample_2.png", "diversity.png", "dropped.csv")
    names = {f"{name}_{ending}" for name in ("a", "a_2") for ending in endings}
    assert {file.name for file in (folder / "own").iterdir()} == names | {"pictures.csv"}
    assert {file.name for file in (folder / "figures").iterdir()} == {"own_a.png", "own_a_2.png"}
    rows = read_csv(folder / "own" / "pictures.csv")
    assert tuple(rows[0]) == report.PICTURES_HEADER
    assert [Path(row["path"]).name for row in rows] == ["a.bmp", "a.png"]
    assert rows[0]["note"] == "" and "resized from 20x12" in rows[1]["note"]
    assert rows[0]["pixels_missing"] == "80" and rows[0]["tokens"] == "16"
    assert rows[0]["class_before"] in CLASSES and 1 / 3 <= float(rows[0]["probability_after"]) <= 1
    dropped = read_csv(folder / "own" / "a_dropped.csv")
    assert len(dropped) == int(rows[0]["tokens_dropped"]) and set(dropped[0]) == {"tile", "row", "column"}
    with Image.open(folder / "own" / "a_2_completed.png") as completed:
        known = ~box_mask([2, 2, 10, 12], (20, 12))
        assert np.array_equal(np.asarray(completed)[known], np.asarray(noise(20, 12))[known])
    said = [line for line in capsys.readouterr().out.splitlines() if "pixels missing" in line]
    assert len(said) == 2 and "31.2% of the pixels missing" in said[0] and "tokens predicted; class " in said[0]
    assert stage.folder.record()["status"] == "finished"


def test_what_cannot_be_used_leaves_nothing_behind(tmp_path: Path, memory: Memory, machine: object) -> None:
    noise(20, 12).save(tmp_path / "a.png")
    stage = open_test_stage(tmp_path, machine)
    for wrong in ({"box": [0, 0, 30, 3]}, {"label": "cat"}):
        with pytest.raises(InputError):
            complete_own(stage, memory, section_of(tmp_path / "a.png", **wrong), 3, CLASSES, seed=0)
    assert not (stage.folder.path / "own").exists()


def test_names_are_unique_and_fit_on_any_disk() -> None:
    files = [Path(name) for name in ("a.png", "A.jpg", "a_2.png", "a.gif", "x" * 200 + ".png")]
    names = reading.unique_names(files)
    assert len({name.lower() for name in names}) == 5 and names[0] == "a"
    assert max(len(name) for name in names) <= 64


# The command line


def options(argv: list[str]) -> tuple[int, list[OwnPicture]]:
    seen = []
    shortcuts = {
        "--image": "reconstruct_masked.own.image",
        "--box": ("reconstruct_masked.own.box", 4),
        "--percent": "reconstruct_masked.own.percent",
    }
    status = command.stage_main(
        "reconstruct_masked", lambda cfg, resume: seen.append(cfg.reconstruct_masked.own), "", shortcuts, argv
    )
    return status, seen


def test_an_option_can_take_four_values(capsys: object) -> None:
    status, seen = options(["--image", "a.jpg", "--box", "3", "4", "20", "24", "--percent", "12.5"])
    assert (status, seen[0].image, seen[0].box, seen[0].percent) == (0, "a.jpg", [3, 4, 20, 24], 12.5)
    status, seen = options(["--reconstruct_masked.own.box", "[3, 4, 20, 24]"])
    assert (status, seen[0].box) == (0, [3, 4, 20, 24])
    capsys.readouterr()
    assert options(["--box", "3", "4", "-1", "x"])[0] == 2
    assert all("reconstruct_masked.own.box is" in line for line in capsys.readouterr().err.splitlines())
    with pytest.raises(SystemExit) as ended:
        options(["--box", "3", "4"])
    assert ended.value.code == 2 and "--box" in capsys.readouterr().err.splitlines()[-1]
