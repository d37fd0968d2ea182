"""Pictures and stacks as strangers have them: how each is made, and what must become of it.

Every kind is either decoded right or refused with words that say why. Files are made on the fly, in milliseconds.
"""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

SIDE = 16
NOT_A_PICTURE = "is not a picture"
BOMB = "decompression bomb"


class File(NamedTuple):
    """A file of a stranger. `pixels`: what it must decode to, (SIDE, SIDE, 3) uint8 give or take `off`, or None;
    `refused`: words of the reason, when it may be refused. One with both may be either."""

    name: str
    content: bytes
    pixels: np.ndarray | None
    off: int
    refused: str | None


def shown(name: str, content: bytes, pixels: np.ndarray, off: int = 0) -> File:
    return File(name, content, pixels, off, None)


def refused(name: str, content: bytes, words: str) -> File:
    return File(name, content, None, 0, words)


# --- what the pictures show -------------------------------------------------------------------------------------------

_across, _down = np.meshgrid(np.arange(SIDE) * 15 + 10, np.arange(SIDE) * 12 + 20)
RGB = np.stack([_across, _down, 255 - _across], axis=-1).astype(np.uint8)  # smooth, and unlike any turn of itself
GREY = (_across // 2 + _down // 2).astype(np.uint8)
CLEAR = np.zeros((SIDE, SIDE), dtype=bool)  # transparent there
CLEAR[3:9, 2:7] = True


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def on_white(pixels: np.ndarray) -> np.ndarray:
    return np.where(CLEAR[:, :, None], 255, pixels).astype(np.uint8)


def saved(picture: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    rows: bytes, depth: int, colour: int, more: bytes = b"", interlaced: int = 0, size: tuple[int, int] = (SIDE, SIDE)
) -> bytes:
    """rows: scan lines, each with its filter byte; more: chunks before them."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def lines(array: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in array)


def adam7(array: np.ndarray) -> bytes:
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(lines(array[top::down, left::right]) for top, left, down, right in steps)


def packed(values: np.ndarray, depth: int) -> np.ndarray:
    """Small numbers, several in a byte."""
    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
    return np.packbits(bits.reshape(len(values), -1), axis=1)


def turned(orientation: int) -> Image.Image:
    """RGB as a camera stores it that says so."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose
    picture = Image.fromarray(RGB)
    return picture.transpose(Image.Transpose(back[orientation])) if orientation in back else picture


def told(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def told_in_words() -> bytes:
    """EXIF whose orientation is a text."""
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI4s", 0x0112, 2, 3, b"up") + bytes(4)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.where(CLEAR, 0, 255).astype(np.uint8)])


def palette() -> Image.Image:
    picture = Image.fromarray(np.where(CLEAR, 1, 0).astype(np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    return picture


IN_PALETTE = np.where(CLEAR[:, :, None], [200, 100, 50], [10, 20, 30]).astype(np.uint8)


# --- pictures ---------------------------------------------------------------------------------------------------------


def ordinary() -> dict[str, File]:
    """Formats and modes that must be read."""
    grey, deep = three(GREY), GREY.astype(np.uint16) * 256 + 77
    bit, two, four = GREY // 128, GREY // 64, GREY // 16
    deep_rgb = (RGB.astype(np.uint16) * 256 + 77).astype(">u2")
    kinds = {
        "png L": shown("a.png", saved(GREY, "PNG"), grey),
        "png RGB": shown("a.png", saved(RGB, "PNG"), RGB),
        "png LA": shown("a.png", saved(with_alpha(GREY), "PNG"), on_white(grey)),
        "png RGBA": shown("a.png", saved(with_alpha(RGB), "PNG"), on_white(RGB)),
        "png palette": shown("a.png", saved(palette(), "PNG"), IN_PALETTE),
        "png palette clear": shown("a.png", saved(palette(), "PNG", transparency=1), on_white(IN_PALETTE)),
        "png palette of alphas": shown("a.png", saved(palette(), "PNG", transparency=b"\xff\0"), on_white(IN_PALETTE)),
        "png 1 bit": shown("a.png", png(lines(packed(bit, 1)), 1, 0), three(bit * 255)),
        "png 2 bits": shown("a.png", png(lines(packed(two, 2)), 2, 0), three(two * 85)),
        "png 4 bits": shown("a.png", png(lines(packed(four, 4)), 4, 0), three(four * 17)),
        "png 16 bits": shown("a.png", png(lines(deep.astype(">u2")), 16, 0), grey),
        "png RGB 16 bits": shown("a.png", png(lines(deep_rgb), 16, 2), RGB),
        "png LA 16 bits": shown("a.png", png(lines(with_alpha(GREY).astype(">u2") * 257), 16, 4), on_white(grey)),
        "png RGBA 16 bits": shown("a.png", png(lines(with_alpha(RGB).astype(">u2") * 257), 16, 6), on_white(RGB)),
        "png interlaced": shown("a.png", png(adam7(RGB), 8, 2, interlaced=1), RGB),
        "png interlaced 16 bits": shown("a.png", png(adam7(deep.astype(">u2")), 16, 0, interlaced=1), grey),
        "png grey clear": shown(
            "a.png", png(lines(np.where(CLEAR, 7, GREY)), 8, 0, chunk(b"tRNS", b"\0\7")), on_white(grey)
        ),
        "png RGB clear": shown(
            "a.png",
            png(lines(np.where(CLEAR[:, :, None], 7, RGB).astype(np.uint8)), 8, 2, chunk(b"tRNS", b"\0\7" * 3)),
            on_white(RGB),
        ),
        "png 16 bits clear": shown(
            "a.png",
            png(lines(np.where(CLEAR, 999, deep).astype(">u2")), 16, 0, chunk(b"tRNS", b"\x03\xe7")),
            on_white(grey),
        ),
        "png animated": shown(
            "a.png", saved(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]), RGB
        ),
        "jpeg": shown("a.jpg", saved(RGB, "JPEG", quality=98, subsampling=0), RGB, 8),
        "jpeg L": shown("a.jpg", saved(GREY, "JPEG", quality=98), grey, 8),
        "jpeg CMYK": shown("a.jpg", saved(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=98), RGB, 12),
        "jpeg progressive": shown("a.jpg", saved(RGB, "JPEG", quality=98, subsampling=0, progressive=True), RGB, 8),
        "jpeg of two pictures": shown(
            "a.jpg",
            saved(RGB, "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)], quality=98, subsampling=0),
            RGB,
            8,
        ),
        "gif": shown("a.gif", saved(palette(), "GIF"), IN_PALETTE),
        "gif L": shown("a.gif", saved(GREY, "GIF"), grey),
        "gif clear": shown("a.gif", saved(palette(), "GIF", transparency=1), on_white(IN_PALETTE)),
        "gif interlaced": shown("a.gif", saved(palette(), "GIF", interlace=1), IN_PALETTE),
        "gif animated": shown(
            "a.gif", saved(palette(), "GIF", save_all=True, append_images=[Image.new("P", (SIDE, SIDE), 1)]), IN_PALETTE
        ),
        "bmp 1": shown("a.bmp", saved(Image.fromarray(bit * 255).convert("1"), "BMP"), three(bit * 255)),
        "bmp L": shown("a.bmp", saved(GREY, "BMP"), grey),
        "bmp RGB": shown("a.bmp", saved(RGB, "BMP"), RGB),
        "bmp palette": shown("a.bmp", saved(palette(), "BMP"), IN_PALETTE),
        "bmp in runs": shown("a.bmp", bmp_in_runs(), IN_PALETTE),
        "webp": shown("a.webp", saved(RGB, "WEBP", lossless=True), RGB),
        "webp lossy": shown("a.webp", saved(RGB, "WEBP", quality=98), RGB, 30),
        "webp clear": shown("a.webp", saved(with_alpha(RGB), "WEBP", lossless=True), on_white(RGB)),
        "webp animated": shown(
            "a.webp",
            saved(RGB, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - RGB)]),
            RGB,
        ),
        "ppm": shown("a.ppm", b"P6 16 16 255\n" + RGB.tobytes(), RGB),
        "ppm with a comment": shown("a.ppm", b"P6\n# made by hand\n16 16\n255\n" + RGB.tobytes(), RGB),
        "ppm plain": shown("a.ppm", b"P3 16 16 255\n" + " ".join(map(str, RGB.ravel())).encode(), RGB),
        "pgm": shown("a.pgm", b"P5 16 16 255\n" + GREY.tobytes(), grey),
        "pgm 16 bits": shown("a.pgm", b"P5 16 16 65535\n" + deep.astype(">u2").tobytes(), grey),
        "pgm plain": shown("a.pgm", b"P2 16 16 255\n" + " ".join(map(str, GREY.ravel())).encode(), grey),
        "pgm up to 15": shown("a.pgm", b"P5 16 16 15\n" + four.tobytes(), three(four * 17)),
        "pbm": shown("a.pbm", b"P4 16 16\n" + packed(1 - bit, 1).tobytes(), three(bit * 255)),
    }
    for orientation in range(1, 9):
        for kind, ending, options in (("JPEG", "jpg", {"quality": 98, "subsampling": 0}), ("PNG", "png", {}),
                                      ("TIFF", "tif", {}), ("WEBP", "webp", {"lossless": True})):  # fmt: skip
            content = saved(turned(orientation), kind, exif=told(orientation), **options)
            kinds[f"{kind} turned {orientation}"] = shown(f"a.{ending}", content, RGB, 8 if kind == "JPEG" else 0)
    return kinds


def bmp_in_runs() -> bytes:
    """RLE8: each line of the palette picture in runs, from the lowest up."""
    body = b""
    for row in np.where(CLEAR, 1, 0)[::-1]:
        for value in row:
            body += bytes([1, value])
        body += b"\0\0"
    body += b"\0\1"
    colours = bytes([30, 20, 10, 0, 50, 100, 200, 0]) + bytes(254 * 4)
    start = 14 + 40 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + colours + body


def tiffs() -> dict[str, File]:
    """TIFF in the many ways that it can be written."""
    grey, deep = three(GREY), GREY.astype(np.uint16) * 256 + 77
    unit = GREY.astype(np.float32) / 255
    kinds = {
        "tiff pages": shown("a.tif", tiff(np.stack([GREY, 255 - GREY]), photometric="minisblack"), grey),
        "tiff 16 bits": shown("a.tif", tiff(deep), grey),
        "tiff 16 bits, big-endian": shown("a.tif", tiff(deep, byteorder=">"), grey),
        "tiff RGB 16 bits": shown("a.tif", tiff(RGB.astype(np.uint16) * 257, photometric="rgb"), RGB),
        "tiff tiled": shown("a.tif", tiff(RGB, tile=(16, 16), photometric="rgb"), RGB),
        "tiff planes": shown(
            "a.tif", tiff(np.moveaxis(RGB, -1, 0).copy(), photometric="rgb", planarconfig="separate"), RGB
        ),
        "tiff of 64-bit offsets": shown("a.tif", tiff(RGB, bigtiff=True, photometric="rgb"), RGB),
        "tiff white is 0": shown("a.tif", tiff(255 - GREY, photometric="miniswhite"), grey),
        "tiff RGBA": shown("a.tif", saved(with_alpha(RGB), "TIFF"), on_white(RGB)),
        "tiff palette": shown("a.tif", saved(palette(), "TIFF"), IN_PALETTE),
        "tiff CMYK": shown("a.tif", saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB),
        "tiff 1 bit": shown(
            "a.tif", saved(Image.fromarray(GREY).convert("1", dither=0), "TIFF"), three((GREY > 127) * 255)
        ),
        "tiff in jpeg": shown("a.tif", saved(RGB, "TIFF", compression="jpeg", quality=98), RGB, 25),
        "tiff float from 0 to 1": shown("a.tif", tiff(unit), grey),
        "tiff float up to 255": refused("a.tif", tiff(GREY.astype(np.float32)), "from 0 to 1"),
        "tiff float below 0": refused("a.tif", tiff(unit - 0.5), "from 0 to 1"),
        "tiff float with NaN": refused("a.tif", tiff(np.where(CLEAR, np.nan, unit).astype(np.float32)), "not finite"),
        "tiff float with infinity": refused(
            "a.tif", tiff(np.where(CLEAR, np.inf, unit).astype(np.float32)), "not finite"
        ),
        "tiff double": refused("a.tif", tiff(unit.astype(np.float64)), ""),
        "tiff half float": refused("a.tif", tiff(unit.astype(np.float16)), ""),
        "tiff 32 bits": refused("a.tif", tiff(GREY.astype(np.uint32) * 2**24), "32 bits"),
        "tiff 32 bits, small numbers": refused("a.tif", tiff(GREY.astype(np.uint32)), "32 bits"),
        "tiff 32 bits, signed": refused("a.tif", tiff(GREY.astype(np.int32)), "32 bits"),
        "tiff 64 bits": refused("a.tif", tiff(GREY.astype(np.uint64)), ""),
        "tiff 16 bits, signed": refused("a.tif", tiff(deep.astype(np.int16)), "signed"),
        "tiff 8 bits, signed": refused("a.tif", tiff((GREY // 2).astype(np.int8)), "signed"),
        "tiff 16 bits, white is 0": File("a.tif", tiff(65535 - deep, photometric="miniswhite"), grey, 1, ""),
        "tiff 12 bits": File("a.tif", tiff_of_12_bits(), grey, 0, "12 bits"),
        "tiff complex": refused("a.tif", tiff(unit.astype(np.complex64)), ""),
        "tiff of five samples": File("a.tif", tiff(np.dstack([RGB, GREY, GREY]), photometric="rgb"), RGB, 0, ""),
    }
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"):
        kinds[f"tiff {compression}"] = shown("a.tif", saved(RGB, "TIFF", compression=compression), RGB)
    whole = tiff(np.stack([GREY, 255 - GREY]), photometric="minisblack")
    kinds["tiff whose second page is missing"] = shown("a.tif", pointing_nowhere(whole), grey)
    kinds["tiff without pages"] = refused("a.tif", b"II*\0\0\0\0\0", "")
    kinds["tiff whose pages go in a circle"] = shown("a.tif", pointing_back(whole), grey)
    for place in (40, 120, 200, len(whole) // 2, len(whole) - 300):
        kinds[f"tiff cut at {place}"] = File("a.tif", whole[:place], grey, 0, "")
    return kinds


def tiff_of_12_bits() -> bytes:
    """GREY * 16 in 12 bits a sample, one strip."""
    pairs = (GREY.astype(np.uint16) * 16).reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    body = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    tags = [(256, 3, SIDE), (257, 3, SIDE), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 3, SIDE), (279, 4, len(body))]  # fmt: skip
    head = struct.pack("<H", len(tags))
    for number, kind, value in tags:
        head += struct.pack("<HHI", number, kind, 1) + (
            struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
        )
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + head + bytes(4)


def _next_page(content: bytes) -> int:
    """Where the first page of a little-endian TIFF says where the second is."""
    page = int.from_bytes(content[4:8], "little")
    return page + 2 + 12 * int.from_bytes(content[page : page + 2], "little")


def pointing_back(content: bytes) -> bytes:
    place = _next_page(content)
    return content[:place] + content[4:8] + content[place + 4 :]


def pointing_nowhere(content: bytes) -> bytes:
    place = _next_page(content)
    return content[:place] + struct.pack("<I", 2**31) + content[place + 4 :]


def misnamed() -> dict[str, File]:
    """Contents under a wrong ending: what a file is decides, and formats that are not named are not read."""
    wide = Image.fromarray(RGB)
    kinds = {
        "png named .jpg": shown("a.jpg", saved(RGB, "PNG"), RGB),
        "gif named .png": shown("a.png", saved(palette(), "GIF"), IN_PALETTE),
        "webp named .bmp": shown("a.bmp", saved(RGB, "WEBP", lossless=True), RGB),
        "tiff named .png": shown("a.png", saved(RGB, "TIFF"), RGB),
        "jpeg without an ending": shown("a", saved(RGB, "JPEG", quality=98, subsampling=0), RGB, 8),
        "png in capitals": shown("A.PNG", saved(RGB, "PNG"), RGB),
        "postscript named .jpg": refused(
            "a.jpg",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(x) print\n%%EOF\n",
            NOT_A_PICTURE,
        ),
        "nothing": refused("a.png", b"", "is empty"),
        "one byte": refused("a.png", b"\x89", NOT_A_PICTURE),
        "text": refused("a.png", b"no picture", NOT_A_PICTURE),
        "a web page": refused("a.jpg", b"<!DOCTYPE html><html><body>404</body></html>", NOT_A_PICTURE),
        "svg": refused("a.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', NOT_A_PICTURE),
        "zeros": refused("a.png", bytes(5000), NOT_A_PICTURE),
        "gzip": refused("a.png", b"\x1f\x8b\x08" + bytes(100), NOT_A_PICTURE),
        "a numpy array": refused("a.png", npy(GREY), NOT_A_PICTURE),
        "a note for git-lfs": refused(
            "a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", NOT_A_PICTURE
        ),
    }
    for other in (
        "ICO",
        "TGA",
        "PCX",
        "JPEG2000",
        "AVIF",
        "ICNS",
        "DDS",
        "SGI",
        "IM",
        "PDF",
        "EPS",
        "MSP",
        "SPIDER",
        "XBM",
    ):
        picture = {"MSP": wide.convert("1"), "XBM": wide.convert("1"), "SPIDER": wide.convert("F")}.get(other, wide)
        picture = picture.resize((32, 32)) if other in ("ICO", "ICNS") else picture
        kinds[f"{other.lower()} named .jpg"] = refused("a.jpg", saved(picture, other), NOT_A_PICTURE)
    return kinds


def damaged() -> dict[str, File]:
    """Cut off, changed, or saying what is not so."""
    kinds = {}
    whole = {
        "png": ("a.png", saved(RGB, "PNG", compress_level=0), RGB, 0),
        "interlaced png": ("a.png", png(adam7(RGB), 8, 2, interlaced=1), RGB, 0),
        "jpeg": ("a.jpg", saved(RGB, "JPEG", quality=98, subsampling=0), RGB, 8),
        "progressive jpeg": ("a.jpg", saved(RGB, "JPEG", quality=98, subsampling=0, progressive=True), RGB, 8),
        "gif": ("a.gif", saved(GREY, "GIF"), three(GREY), 0),
        "bmp": ("a.bmp", saved(RGB, "BMP"), RGB, 0),
        "bmp in runs": ("a.bmp", bmp_in_runs(), IN_PALETTE, 0),
        "webp": ("a.webp", saved(RGB, "WEBP", lossless=True), RGB, 0),
        "tiff": ("a.tif", saved(RGB, "TIFF"), RGB, 0),
        "lzw tiff": ("a.tif", saved(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
        "ppm": ("a.ppm", b"P6 16 16 255\n" + RGB.tobytes(), RGB, 0),
        "plain ppm": ("a.ppm", b"P3 16 16 255\n" + " ".join(map(str, RGB.ravel())).encode() + b"\n" * 14, RGB, 0),
    }
    for kind, (name, content, pixels, off) in whole.items():
        for share in (0.02, 0.1, 0.3, 0.5, 0.8, 0.95):
            kinds[f"{kind} cut at {share:.0%}"] = File(name, content[: int(len(content) * share)], pixels, off, "")
        for missing in (1, 2, 5, 13):
            kinds[f"{kind} without its last {missing}"] = File(name, content[:-missing], pixels, off, "")
        more = b"more" * 50 if kind != "plain ppm" else b" 1" * 50
        kinds[f"{kind} with more behind"] = shown(name, content + more, pixels, off)
    good = saved(RGB, "PNG")
    kinds |= {
        "png with a wrong checksum": refused("a.png", good[:29] + b"\0\0\0\0" + good[33:], ""),
        "png with a long chunk": File("a.png", good[:33] + b"\xff\xff\xff\xf0tEXt" + good[33:], RGB, 0, ""),
        "png without pixels": refused("a.png", good[:33] + chunk(b"IEND", b""), ""),
        "png of no palette": refused("a.png", png(lines(GREY), 8, 3), ""),
        "png with odd depth": refused("a.png", png(lines(GREY), 7, 0), ""),
        "png of no width": refused("a.png", png(b"", 8, 0, size=(0, 16)), ""),
        "png with broken colours": shown("a.png", png(lines(RGB), 8, 2, chunk(b"iCCP", b"x\0\0broken")), RGB),
        "png with a text that unpacks": File(
            "a.png", png(lines(RGB), 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000)))), RGB, 0, ""
        ),
        "exif of nonsense": File("a.png", saved(RGB, "PNG", exif=b"Exif\0\0" + b"\xff" * 40), RGB, 0, "is broken"),
        "exif that is cut off": File("a.png", saved(RGB, "PNG", exif=told(1).tobytes()[:11]), RGB, 0, "is broken"),
        "exif turned 9": shown("a.png", saved(RGB, "PNG", exif=told(9)), RGB),
        "exif turned by a word": shown("a.png", saved(RGB, "PNG", exif=told_in_words()), RGB),
        "gif of no colours": refused("a.gif", b"GIF89a\x10\0\x10\0\0\0\0,\0\0\0\0\x10\0\x10\0\0\x08\x01\0\0;", ""),
        "gif without pictures": refused("a.gif", b"GIF89a\x10\0\x10\0\0\0\0;", ""),
        "ppm of no width": refused("a.ppm", b"P6 0 16 255\n", ""),
        "ppm of a negative width": refused("a.ppm", b"P6 -16 16 255\n" + RGB.tobytes(), ""),
        "ppm up to 0": refused("a.ppm", b"P6 16 16 0\n" + RGB.tobytes(), ""),
        "ppm up to 99999": refused("a.ppm", b"P6 16 16 99999\n" + RGB.tobytes(), ""),
        "bmp of no width": refused("a.bmp", _poked(saved(RGB, "BMP"), 18, struct.pack("<i", 0)), ""),
    }  # fmt: skip
    return kinds


def _poked(content: bytes, place: int, values: bytes) -> bytes:
    return content[:place] + values + content[place + len(values) :]


def endless() -> dict[str, File]:
    """Small files that would take long, or much memory."""
    jpeg = saved(RGB, "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    picture = tiff(GREY)
    webp = saved(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    return {
        "png of 144 million": refused("a.png", png(b"", 1, 0, size=(12_000, 12_000)), BOMB),
        "png of 2**62": refused("a.png", png(b"", 8, 2, size=(2**31 - 1, 2**31 - 1)), BOMB),
        "png just over": refused("a.png", png(b"", 1, 0, size=(9_460, 9_460)), BOMB),
        "jpeg of 4 billion": refused("a.jpg", _poked(jpeg, size, b"\xff\xdc\xff\xdc"), BOMB),
        "gif of 4 billion": refused("a.gif", _poked(saved(palette(), "GIF"), 6, b"\xff" * 4), BOMB),
        "bmp of 4 billion": refused("a.bmp", _poked(saved(RGB, "BMP"), 18, struct.pack("<ii", 2**16, 2**16)), BOMB),
        "tiff of 4 billion": refused("a.tif", _wider(picture), BOMB),
        "ppm of 10 billion": refused("a.ppm", b"P6 100000 100000 255\n" + RGB.tobytes(), BOMB),
        "webp of 268 million": File("a.webp", _poked(webp, 21, b"\xff\xff\xff\x0f"), None, 0, ""),
        "jpeg in thousands of passes": refused("a.jpg", many_scans(3000), "passes"),
        "one pixel": shown("a.png", saved(RGB[:1, :1], "PNG"), np.broadcast_to(RGB[0, 0], RGB.shape)),
        "one column": shown("a.png", saved(np.full((5000, 1, 3), 77, np.uint8), "PNG"), np.full_like(RGB, 77)),
        "one row": shown("a.png", saved(np.repeat(RGB[:1, :1], 5000, 1), "PNG"), np.broadcast_to(RGB[0, 0], RGB.shape)),
        "one row in jpeg": shown(
            "a.jpg", saved(np.full((1, 9000, 3), 99, np.uint8), "JPEG", quality=98), np.full_like(RGB, 99), 3
        ),
    }  # fmt: skip


def _wider(content: bytes) -> bytes:
    """A little-endian TIFF whose tags say 65,535 x 65,535."""
    page = int.from_bytes(content[4:8], "little")
    for entry in range(int.from_bytes(content[page : page + 2], "little")):
        place = page + 2 + 12 * entry
        if int.from_bytes(content[place : place + 2], "little") in (256, 257):
            content = _poked(content, place + 2, struct.pack("<HII", 4, 1, 65_535))
    return content


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last pass is said over and over."""
    whole = saved(np.full((64, 64, 3), 99, np.uint8), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def pictures() -> dict[str, File]:
    return ordinary() | tiffs() | misnamed() | damaged() | endless()


# --- stacks -----------------------------------------------------------------------------------------------------------

TWO = np.stack([GREY, 255 - GREY])  # (2, SIDE, SIDE), decoded as the components a and b
NAMED = {"a": TWO[0], "b": TWO[1]}


def npy(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def npy_head(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.ljust(117) + b"\n"


class Trap:
    """Unpickled, it makes the folder that it names."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def traps(folder: Path) -> dict[str, File]:
    """Files that run code when they are unpickled; `folder` is there afterwards when one did."""
    import pickle

    held = np.empty((2, 1), dtype=object)
    held[:] = Trap(folder)
    raw = pickle.dumps(Trap(folder))
    return {
        "npy of objects": refused("a.npy", npy(held, allow_pickle=True), "is broken"),
        "npz of objects": refused("a.npz", npz(a=held, b=held), "is broken"),
        "npz with an object beside": refused("a.npz", npz(**NAMED, c=held), "is broken"),
        "a pickle named .npy": refused("a.npy", raw, "is broken"),
        "a pickle named .npz": refused("a.npz", raw, "is broken"),
        "a pickle in .npz": refused("a.npz", zipped(a=raw, b=raw), ""),
        "a pickle in .npz named .npy": refused("a.npz", zipped(**{"a.npy": raw, "b.npy": raw}), ""),
        "a pickle named .tif": refused("a.tif", raw, "is broken"),
    }


def stacks() -> dict[str, File]:
    """Files of two components; `pixels` are (SIDE, SIDE, 2)."""
    good = np.moveaxis(TWO, 0, -1)
    unit = TWO.astype(np.float64)
    empty = np.zeros((2, 0, SIDE), np.uint8)
    pages = tiff(TWO, photometric="minisblack", metadata=None)
    return {
        "npy": shown("a.npy", npy(TWO), good),
        "npy, components last": shown("a.npy", npy(good.copy()), good),
        "npy in Fortran's order": shown("a.npy", npy(np.asfortranarray(TWO)), good),
        "npy, big-endian": shown("a.npy", npy(TWO.astype(">u2")), good),
        "npy of halves": shown("a.npy", npy(TWO.astype(np.float16)), good),
        "npy of 64 bits": shown("a.npy", npy(TWO.astype(np.uint64)), good),
        "npz": shown("a.npz", npz(**NAMED), good),
        "npz with one array": shown("a.npz", npz(all=TWO), good),
        "npz with one component more": shown("a.npz", npz(**NAMED, more=TWO[0]), good),
        "tiff of pages": shown("a.tif", tiff(TWO, photometric="minisblack"), good),
        "tiff of floats": shown("a.tif", tiff(TWO.astype(np.float32), photometric="minisblack"), good),
        "npy of nothing": refused("a.npy", b"", "is empty"),
        "npy of text": refused("a.npy", b"no array", "is broken"),
        "npy cut off": refused("a.npy", npy(TWO)[:300], "is broken"),
        "npy cut in its head": refused("a.npy", npy(TWO)[:50], "is broken"),
        "npy, empty": refused("a.npy", npy(empty), "is empty"),
        "npy of one number": refused("a.npy", npy(np.float32(3)), "has shape ()"),
        "npy of four axes": refused("a.npy", npy(TWO[None]), "has shape (1, 2, 16, 16)"),
        "npy of three components": refused("a.npy", npy(np.stack([GREY] * 3)), "3 components"),
        "npy of words": refused("a.npy", npy(np.full((2, 4, 4), "word")), "expected numbers"),
        "npy of complex numbers": refused("a.npy", npy(TWO.astype(complex)), "expected numbers"),
        "npy of dates": refused("a.npy", npy(np.zeros((2, 4, 4), "M8[s]")), "expected numbers"),
        "npy of records": refused("a.npy", npy(np.zeros((2, 4, 4), [("x", "u1")])), "expected numbers"),
        "npy with NaN": refused("a.npy", npy(np.where(TWO > 99, np.nan, unit)), "not finite"),
        "npy with infinity": refused("a.npy", npy(np.where(TWO > 99, np.inf, unit)), "not finite"),
        "npy with 1e300": refused("a.npy", npy(unit * 1e300), "larger than"),
        "npy that says 2**60 numbers": refused("a.npy", npy_head("(2, 1073741824, 536870912)") + b"x", ""),
        "npy that says 27 GB": refused("a.npy", npy_head("(2, 116190, 116190)") + b"x", "is broken"),
        "npy that says -1": refused("a.npy", npy_head("(2, -1, 4)") + b"x", ""),
        "npy of a strange kind": refused("a.npy", npy_head("(2, 4, 4)", "'nonsense'") + b"x" * 99, "is broken"),
        "npy whose head runs code": refused("a.npy", npy_head("__import__('os').getcwd()") + b"x" * 99, "is broken"),
        "npz named .npy": refused("a.npy", npz(**NAMED), ""),
        "npy named .npz": refused("a.npz", npy(TWO), ""),
        "png named .npy": refused("a.npy", saved(RGB, "PNG"), "is broken"),
        "npz of text": refused("a.npz", b"no array", "is broken"),
        "npz cut off": refused("a.npz", npz(**NAMED)[:-30], "is broken"),
        "npz without arrays": refused("a.npz", zipped(), "has no component a, b"),
        "npz with files of text": refused("a.npz", zipped(a=b"text", b=b"text"), ""),
        "npz with other names": refused("a.npz", npz(x=TWO[0], y=TWO[1]), "has no component a, b"),
        "npz of two shapes": refused("a.npz", npz(a=TWO[0], b=TWO[1][:8]), "shapes"),
        "npz that unpacks to 27 GB": refused("a.npz", zip_bomb(), "GB"),
        "npz that says 27 GB": refused("a.npz", zipped(**{"a.npy": npy_head("(116190, 116190)")}), ""),
        "tiff of nothing": refused("a.tif", b"", "is empty"),
        "tiff of text": refused("a.tif", b"no tiff", "is broken"),
        "tiff that says 4 billion": refused("a.tif", _wider(tiff(GREY)), ""),
        "tiff whose pages go in a circle": File("a.tif", pointing_back(pages), good, 0, ""),
        "tiff whose second page is missing": refused("a.tif", pointing_nowhere(pages), ""),
        "tiff cut off": refused("a.tif", tiff(TWO, photometric="minisblack")[:400], ""),
        "png in a set of stacks": refused("a.png", saved(RGB, "PNG"), "is no stack of 2 components"),
    }  # fmt: skip


def zip_bomb(size: int = 27_000_000_000) -> bytes:
    """An .npz of a few hundred bytes whose list says that its member has `size` bytes."""
    content = bytearray(zipped(**{"a.npy": npy(GREY), "b.npy": npy(GREY)}))
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", min(size, 2**32 - 2))
    return bytes(content)
