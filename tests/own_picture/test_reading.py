"""Pictures and masks of any mode, and every mistake in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import strangers
from masked_memory.own_picture import reading
from masked_memory.own_picture.reading import box_mask, read_mask, read_picture, upright_pixels
from masked_memory.pipeline.files import InputError
from masked_memory.settings.reconstruct_masked import OwnPicture
from toys import noise

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
        (own("cut.png"), "cut.png is broken: "),
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


@pytest.mark.filterwarnings("ignore")
def test_pictures_of_strangers_are_shown_right_or_refused_with_their_path(tmp_path: Path) -> None:
    for kind, file in strangers.pictures().items():
        path = tmp_path / file.name
        path.write_bytes(file.content)
        try:
            pixels = upright_pixels(read_picture(path), 3)
        except InputError as error:
            assert file.refused is not None, kind
            assert str(path) in str(error) and "\n" not in str(error), kind
            continue
        assert file.pixels is not None, kind
        if pixels.shape == file.pixels.shape:
            assert np.abs(pixels.astype(int) - file.pixels).max() <= file.off, kind


def test_what_never_ends_is_no_picture_and_no_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/dev/zero")
    for option in ("--image", "--mask"):
        with pytest.raises(InputError, match=f"{option} .*a.png cannot be read: it is no ordinary file, but a device"):
            read_picture(tmp_path / "a.png", option)


def test_a_picture_with_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(30, 10).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # 300 are between a warning and an error of Pillow
    with pytest.raises(InputError, match="make it smaller first"):
        read_picture(tmp_path / "a.png")


def test_names_are_unique_and_fit_on_any_disk() -> None:
    files = [Path(name) for name in ("a.png", "A.jpg", "a_2.png", "a.gif", "x" * 200 + ".png")]
    names = reading.unique_names(files)
    assert len({name.lower() for name in names}) == 5 and names[0] == "a"
    assert max(len(name) for name in names) <= 64
