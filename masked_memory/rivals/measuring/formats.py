"""What picture formats cost, in bits per picture, and at what quality: JPEG, WebP, AVIF, JPEG XL.

Letters: B batch, C channels, H W pixels. Pictures here are uint8 (B, H, W, C) in [0, 255] as in the cache.

Files carry headers and tables that could be agreed upon beforehand, which weighs heavily on small pictures. So two
sizes are given: of the file, and of its payload, the part that a picture has for itself. The payload flatters the
formats a little: how long it is would have to be told, too, as would the length of WebP's first partition (19 bits).

| format | payload |
|---|---|
| JPEG | entropy-coded data of the scans |
| WebP | the VP8 chunk without its frame header |
| AVIF | the content of the mdat box: sequence header and frame |
| JPEG XL | the bare codestream without its signature, 2 bytes; headers of image and frame (a few bytes) are inside |
"""

import re
from io import BytesIO
from typing import Literal, NamedTuple, get_args

import numpy as np
from imagecodecs import jpegxl_decode, jpegxl_encode
from PIL import Image

Format = Literal["jpeg", "webp", "avif", "jxl"]
NAMES: dict[Format, str] = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jxl": "JPEG XL"}


# --- picture formats --------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One way to use a format. reduce: the side is divided by it before, and multiplied after."""

    kind: Format
    quality: int
    reduce: int


QUALITIES: dict[Format, tuple[int, ...]] = {
    "jpeg": (1, 5, 10, 20, 35, 50, 70, 85, 95),
    "webp": (1, 10, 25, 50, 75, 95),
    "avif": (1, 10, 30, 60),
    "jxl": (1, 10, 20, 50, 75, 90),
}
#: Reduced ones, too: on small pictures at few bits they err less than the coarsest of full size.
SETTINGS = tuple(
    Setting(kind, quality, reduce) for kind in QUALITIES for reduce in (4, 2, 1) for quality in QUALITIES[kind]
)


class Compressed(NamedTuple):
    """A batch that went through a format."""

    pictures: np.ndarray  # (B, H, W, C) uint8, what comes back
    bits: np.ndarray  # (B,) long, of the file
    payload_bits: np.ndarray  # (B,) long, without what files of this setting and size have in common


def compress(pictures: np.ndarray, kind: Format, quality: int, reduce: int) -> Compressed:
    """(B, H, W, C) uint8 with C 1 or 3 -> what comes back, and what it cost.

    Pictures are made smaller by `reduce` (Lanczos) before, and larger (bicubic) after. JPEG: baseline, standard Huffman
    tables, so that they need not be stored. WebP: lossy, its slowest and best method; it has no grey, so such pictures
    are stored as RGB and read back as grey. Its blocks are 16x16 pixels, so that reducing below that saves little.
    AVIF: slowest speed, colours at full resolution. JPEG XL: lossy, effort 9 of 10, a bare codestream as file. Raises
    ValueError for anything else, with what was found.
    """
    _check(pictures, kind, quality, reduce)
    back, bits, payload_bits = np.empty_like(pictures), [], []
    for number, picture in enumerate(pictures):
        image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
        data = _encode(_resize(image, image.width // reduce, Image.Resampling.LANCZOS), kind, quality)
        decoded = _decode(data, kind).convert(image.mode)
        back[number] = np.asarray(_resize(decoded, image.width, Image.Resampling.BICUBIC)).reshape(picture.shape)
        bits.append(8 * len(data))
        payload_bits.append(8 * PAYLOADS[kind](data))
    return Compressed(back, np.array(bits, dtype=np.int64), np.array(payload_bits, dtype=np.int64))


def _check(pictures: np.ndarray, kind: str, quality: int, reduce: int) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] not in (1, 3):
        raise ValueError(f"pictures are {pictures.dtype} {pictures.shape}; expected uint8 (B, H, W, 1 or 3)")
    if kind not in get_args(Format):
        raise ValueError(f"kind is {kind!r}; expected one of {get_args(Format)}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; expected 1 to 100")
    height, width = pictures.shape[1:3]
    if reduce < 1 or height % reduce or width % reduce:
        raise ValueError(f"pictures of {height}x{width} pixels cannot be reduced by {reduce}")


def _resize(image: Image.Image, width: int, filter: Image.Resampling) -> Image.Image:
    """To another width, the height with it; a copy when it has that width already."""
    if width == image.width:
        return image.copy()
    return image.resize((width, image.height * width // image.width), filter)


def _encode(image: Image.Image, kind: Format, quality: int) -> bytes:
    file = BytesIO()
    if kind == "jpeg":
        image.save(file, format="JPEG", quality=quality, optimize=False, progressive=False)
    elif kind == "webp":
        image.save(file, format="WEBP", quality=quality, lossless=False, method=6)
    elif kind == "avif":
        image.save(file, format="AVIF", quality=quality, speed=0, subsampling="4:4:4", max_threads=1)
    else:
        distance, pixels = jxl_distance(quality), np.asarray(image)
        return bytes(jpegxl_encode(pixels, distance=distance, effort=9, lossless=False, usecontainer=False))
    return file.getvalue()


def _decode(data: bytes, kind: Format) -> Image.Image:
    return Image.fromarray(jpegxl_decode(data)) if kind == "jxl" else Image.open(BytesIO(data))


def jxl_distance(quality: int) -> float:
    """1 to 100 -> the distance (0 to 25) that JPEG XL takes instead, as libjxl's JxlEncoderDistanceFromQuality."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


# Markers of ITU-T T.81, annex B
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA
MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # any number of FF may stand before it
#: A marker that ends a scan: FF 00 is a data byte FF, and FF D0 to FF D7 only restart the decoder.
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7]")


def jpeg_payload(data: bytes) -> int:
    """Bytes of entropy-coded data: what follows each start-of-scan header up to the next marker.

    Raises ValueError when the bytes are not a whole JPEG file.
    """
    marker, place = _marker(data, 0)
    if marker != START_OF_IMAGE:
        raise ValueError(f"not a JPEG file: its first marker is {marker:#x}; expected {START_OF_IMAGE:#x}")
    payload = 0
    while True:
        marker, place = _marker(data, place)
        if marker == END_OF_IMAGE:
            return payload
        place += int.from_bytes(data[place : place + 2], "big")  # counts its own two bytes
        if marker == START_OF_SCAN:
            end = SCAN_END.search(data, place)
            if end is None:
                raise ValueError(f"JPEG file of {len(data)} bytes ends within a scan")
            payload += end.start() - place
            place = end.start()


def _marker(data: bytes, place: int) -> tuple[int, int]:
    """The marker at `place`, and the place after it."""
    found = MARKER.match(data, place)
    if found is None:
        raise ValueError(f"not a whole JPEG file: no marker at byte {place} of {len(data)}")
    return found[1][0], found.end()


VP8_HEADER = 10  # bytes of a key frame's header: tag with the first partition's length 3, start code 3, size 4
VP8_START_CODE = b"\x9d\x01\x2a"


def webp_payload(data: bytes) -> int:
    """Bytes of the VP8 chunk without its frame header (RFC 9649, RFC 6386 section 9.1).

    Raises ValueError when the bytes are not a whole lossy WebP file.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError(f"not a WebP file: it begins with {data[:12]!r}")
    place = 12
    while place + 8 <= len(data):
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        chunk = data[place + 8 : place + 8 + length]
        if name == b"VP8 ":
            if len(chunk) < max(length, VP8_HEADER) or chunk[0] & 1 or chunk[3:6] != VP8_START_CODE:
                raise ValueError(f"WebP file whose VP8 chunk ({len(chunk)} of {length} bytes) holds no whole key frame")
            return length - VP8_HEADER
        place += 8 + length + length % 2  # chunks begin at even places
    raise ValueError("WebP file without a VP8 chunk; expected a lossy one")


def avif_payload(data: bytes) -> int:
    """Bytes in the mdat box (ISO/IEC 14496-12, section 8.1.1): the AV1 sequence header and the frame.

    Raises ValueError when the bytes are not a whole AVIF file.
    """
    if data[4:8] != b"ftyp" or data[8:12] != b"avif":
        raise ValueError(f"not an AVIF file: it begins with {data[:12]!r}")
    place = 0
    while place + 8 <= len(data):
        length, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if length < 8 or place + length > len(data):
            raise ValueError(f"AVIF file of {len(data)} bytes: a box of {length} bytes at byte {place}")
        if name == b"mdat":
            return length - 8
        place += length
    raise ValueError(f"AVIF file of {len(data)} bytes without an mdat box")


JXL_SIGNATURE = b"\xff\x0a"  # ISO/IEC 18181-1, section 6.1


def jxl_payload(data: bytes) -> int:
    """Bytes of a bare codestream behind its signature. Raises ValueError when the bytes are none."""
    if data[:2] != JXL_SIGNATURE:
        raise ValueError(f"not a bare JPEG XL codestream: it begins with {data[:12]!r}")
    return len(data) - len(JXL_SIGNATURE)


PAYLOADS = {"jpeg": jpeg_payload, "webp": webp_payload, "avif": avif_payload, "jxl": jxl_payload}
