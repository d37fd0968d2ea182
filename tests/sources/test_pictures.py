"""Decoding: rotation, transparency, modes, crops."""

from pathlib import Path

import numpy as np
from PIL import Image

from masked_memory.sources.pictures import decode
from toys import noise

# --- decoding ---------------------------------------------------------------------------------------------------------


def saved(picture: Image.Image, file: Path, **options: object) -> Path:
    picture.save(file, **options)
    return file


def test_exif_rotation_is_applied(tmp_path):
    tall = Image.new("RGB", (20, 20), "black")
    tall.paste((255, 0, 0), (0, 0, 20, 10))  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = decode(saved(tall, tmp_path / "a.png", exif=exif), 20, 3).pixels
    assert pixels[15, 10, 0] == 255 and pixels[5, 10, 0] == 0


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert (decode(saved(clear, tmp_path / "a.png"), 16, 3).pixels == 255).all()
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert (decode(saved(palette, tmp_path / "b.png"), 16, 3).pixels == [10, 20, 30]).all()
    assert (decode(saved(palette, tmp_path / "c.png", transparency=0), 16, 3).pixels == 255).all()


def test_cmyk_sixteen_bit_and_grey(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = decode(saved(cmyk, tmp_path / "a.jpg"), 16, 3).pixels
    assert red[..., 0].min() > 200 and red[..., 1].max() < 60
    deep = Image.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16))
    assert (decode(saved(deep, tmp_path / "b.png"), 16, 1).pixels == 128).all()
    grey = Image.new("L", (16, 16), 77)
    assert (decode(saved(grey, tmp_path / "c.png"), 16, 3).pixels == 77).all()
    assert decode(saved(grey, tmp_path / "d.png"), 16, 1).pixels.shape == (16, 16, 1)


def test_centre_crop_keeps_proportions(tmp_path):
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste((255, 255, 255), (20, 0, 40, 20))
    assert (decode(saved(wide, tmp_path / "a.png"), 20, 3).pixels == 255).all()


def test_picture_of_the_right_size_is_untouched(tmp_path):
    picture = noise(16, seed=1)
    assert (decode(saved(picture, tmp_path / "a.png"), 16, 3).pixels == np.asarray(picture)).all()
