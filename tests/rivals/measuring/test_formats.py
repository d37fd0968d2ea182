"""What picture formats store: real files, their payload, and pictures that come back."""

from io import BytesIO
from itertools import pairwise

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from masked_memory.rivals.measuring.formats import (
    SETTINGS,
    Format,
    avif_payload,
    compress,
    jpeg_payload,
    jxl_distance,
    jxl_payload,
    webp_payload,
)

KINDS: tuple[Format, ...] = ("jpeg", "webp", "avif", "jxl")
OPTIONS: dict[str, dict[str, object]] = {
    "jpeg": {},
    "webp": {"method": 6},
    "avif": {"speed": 0, "subsampling": "4:4:4", "max_threads": 1},
}


# Picture formats


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """(6, 32, 32, 3) uint8: slopes of different colours with noise on them."""
    draws = np.random.default_rng(0)
    slopes = np.linspace(0, 1, 32)[:, None, None] * draws.uniform(60, 200, (6, 1, 1, 3))
    across = np.linspace(0, 1, 32)[None, :, None] * draws.uniform(-40, 40, (6, 1, 1, 3))
    return (slopes + across + 30 + draws.normal(0, 12, (6, 32, 32, 3))).clip(0, 255).astype(np.uint8)


def stored(picture: np.ndarray, kind: Format, quality: int, **options: object) -> bytes:
    """(H, W, C) uint8 -> the bytes of a file."""
    if kind == "jxl":
        pixels = picture[:, :, 0] if picture.shape[2] == 1 else picture
        lossy = {"effort": 9, "lossless": False, "usecontainer": False}
        return bytes(imagecodecs.jpegxl_encode(pixels, distance=jxl_distance(quality), **(lossy | options)))
    file = BytesIO()
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.save(file, format=kind.upper(), quality=quality, **OPTIONS[kind], **options)
    return file.getvalue()


def decoded_by_library(data: bytes, kind: Format) -> Image.Image:
    return Image.fromarray(imagecodecs.jpegxl_decode(data)) if kind == "jxl" else Image.open(BytesIO(data))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_without_reducing_pictures_come_back_as_their_library_decodes_them(
    kind: Format, channels: int, pictures: np.ndarray
) -> None:
    given = pictures[..., :channels]
    found = compress(given, kind, 60, 1)
    assert found.pictures.dtype == np.uint8 and found.bits.shape == found.payload_bits.shape == (6,)
    for picture, back, bits in zip(given, found.pictures, found.bits, strict=True):
        data = stored(picture, kind, 60)
        decoded = decoded_by_library(data, kind).convert("L" if channels == 1 else "RGB")
        assert np.array_equal(back, np.asarray(decoded).reshape(32, 32, channels))
        assert bits == 8 * len(data)


@pytest.mark.system
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_better_quality_costs_more_and_errs_less(kind: Format, channels: int, pictures: np.ndarray) -> None:
    found = [compress(pictures[..., :channels], kind, quality, 1) for quality in (5, 50, 95)]
    errors = [np.square(f.pictures.astype(float) - pictures[..., :channels]).mean() for f in found]
    assert errors[0] > errors[1] > errors[2]
    for worse, better in pairwise(found):
        assert (worse.payload_bits < better.payload_bits).all() and (worse.bits < better.bits).all()
    for each in found:
        assert (each.payload_bits > 0).all() and (each.payload_bits < each.bits).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_all_of_a_jpeg_file_but_the_payload_is_the_same_for_every_picture(channels: int, pictures: np.ndarray) -> None:
    """So it can be agreed upon beforehand; with Huffman tables made for each picture it could not."""
    files = [stored(picture[..., :channels], "jpeg", 50, optimize=False) for picture in pictures]
    payloads = [jpeg_payload(data) for data in files]
    assert len(set(payloads)) > 1
    heads = {data[: len(data) - 2 - payload] for data, payload in zip(files, payloads, strict=True)}
    assert len(heads) == 1 and {data[-2:] for data in files} == {b"\xff\xd9"}
    found = compress(pictures[..., :channels], "jpeg", 50, 1)
    assert found.payload_bits.tolist() == [8 * payload for payload in payloads]
    assert set(found.bits - found.payload_bits) == {8 * (len(next(iter(heads))) + 2)}


def test_all_of_a_webp_file_but_the_payload_is_sizes_and_names(pictures: np.ndarray) -> None:
    """12 bytes of RIFF, 8 of the chunk's head, 10 of the frame's header, and one where the chunk is of odd length."""
    for picture in pictures:
        data = stored(picture, "webp", 50)
        length = int.from_bytes(data[16:20], "little")
        assert data[12:16] == b"VP8 " and len(data) == 20 + length + length % 2
        assert webp_payload(data) == length - 10


def test_all_of_an_avif_file_but_the_payload_is_boxes_of_one_size(pictures: np.ndarray) -> None:
    """So their sizes can be agreed upon: what is left of the file is the content of its last box."""
    files = [stored(picture, "avif", 50) for picture in pictures]
    assert len({len(data) - avif_payload(data) for data in files}) == 1
    assert len({avif_payload(data) for data in files}) > 1
    for data in files:
        assert data[-avif_payload(data) - 4 :][:4] == b"mdat"


def test_a_jpeg_xl_codestream_has_two_bytes_of_signature(pictures: np.ndarray) -> None:
    data = stored(pictures[0], "jxl", 50)
    assert jxl_payload(data) == len(data) - 2
    with pytest.raises(ValueError, match="not a bare JPEG XL codestream"):
        jxl_payload(stored(pictures[0], "jxl", 50, usecontainer=True))


def test_the_distance_of_a_quality_is_that_of_libjxl() -> None:
    assert [jxl_distance(quality) for quality in (100, 90, 30)] == pytest.approx([0.1, 1.0, 6.4])
    assert jxl_distance(29) == pytest.approx(6.4, abs=0.2), "both formulas meet"
    found = [jxl_distance(quality) for quality in range(1, 101)]
    assert found == sorted(found, reverse=True) and max(found) <= 25


@pytest.mark.parametrize("profile", [b"odd", b"even"])
def test_other_chunks_and_segments_do_not_count(profile: bytes, pictures: np.ndarray) -> None:
    """A colour profile comes before the picture; it may hold what looks like a scan, and be of odd length."""
    tricky = b"\xff\xda\x00\x02VP8 " + profile
    assert jpeg_payload(stored(pictures[0], "jpeg", 50, icc_profile=tricky)) == jpeg_payload(
        stored(pictures[0], "jpeg", 50)
    )
    extended = stored(pictures[0], "webp", 50, icc_profile=tricky)
    assert extended[12:16] == b"VP8X"
    assert webp_payload(extended) == webp_payload(stored(pictures[0], "webp", 50))


def test_the_scan_of_a_jpeg_file_written_by_hand() -> None:
    """FF 00 is data, FF D0 restarts; two scans of 6 and 2 bytes, a table between, fill bytes before the end."""
    start, table, scan = b"\xff\xd8", b"\xff\xc4\x00\x04\xff\xda", b"\xff\xda\x00\x03\x07"
    data = start + table + scan + b"\x01\xff\x00\xff\xd0\x02" + table + scan + b"\x03\x04" + b"\xff\xff\xd9"
    assert jpeg_payload(data) == 8


@pytest.mark.parametrize("cut", [0, 1, 3, 21, 500, -2])
def test_a_jpeg_file_cut_short_is_refused(cut: int, pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        jpeg_payload(stored(pictures[0], "jpeg", 50)[:cut])


@pytest.mark.parametrize("cut", [0, 11, 15, 25, -2])
def test_a_webp_file_cut_short_is_refused(cut: int, pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="WebP"):
        webp_payload(stored(pictures[0], "webp", 50)[:cut])


@pytest.mark.parametrize("cut", [0, 5, 40, -2])
def test_an_avif_file_cut_short_is_refused(cut: int, pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="AVIF"):
        avif_payload(stored(pictures[0], "avif", 50)[:cut])


def test_other_files_are_refused(pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not an AVIF file"):
        avif_payload(stored(pictures[0], "webp", 50))
    with pytest.raises(ValueError, match="not a bare JPEG XL codestream"):
        jxl_payload(stored(pictures[0], "jpeg", 50))
    with pytest.raises(ValueError, match="without an mdat box"):
        avif_payload(stored(pictures[0], "avif", 50)[:32])
    with pytest.raises(ValueError, match="not a whole JPEG file: no marker at byte 0"):
        jpeg_payload(stored(pictures[0], "webp", 50))
    with pytest.raises(ValueError, match="not a JPEG file: its first marker is 0xd9"):
        jpeg_payload(b"\xff\xd9")
    with pytest.raises(ValueError, match="not a WebP file"):
        webp_payload(stored(pictures[0], "jpeg", 50))
    with pytest.raises(ValueError, match="without a VP8 chunk"):
        webp_payload(stored(pictures[0], "webp", 50, lossless=True))


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_pictures_cost_less_and_come_back_at_full_size(kind: Format, pictures: np.ndarray) -> None:
    """Of 64 pixels a side: WebP's blocks are 16x16, so reducing below that need not save anything."""
    larger_pictures = np.tile(pictures[:2], (1, 2, 2, 1))
    found = [compress(larger_pictures, kind, 50, reduce) for reduce in (1, 2, 4)]
    assert all(each.pictures.shape == larger_pictures.shape for each in found)
    for larger, smaller in pairwise(found):
        assert (smaller.payload_bits < larger.payload_bits).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_grey_survives_every_setting(kind: Format) -> None:
    plain = np.full((1, 32, 32, 3), 128, dtype=np.uint8)
    for reduce in (1, 2, 4):
        back = compress(plain, kind, 20, reduce).pictures
        assert np.abs(back.astype(int) - 128).max() <= 3


def test_reducing_keeps_what_lies_where() -> None:
    """The left half dark, the right half light; not square, so that rows and columns cannot be mixed up."""
    picture = np.full((1, 16, 32, 3), 40, dtype=np.uint8)
    picture[:, :, 16:] = 210
    back = compress(picture, "jpeg", 95, 4).pictures.astype(int)
    assert np.abs(back[:, :, :8] - 40).max() < 25 and np.abs(back[:, :, 24:] - 210).max() < 25


@pytest.mark.parametrize("channels", [1, 3])
def test_every_setting_works_and_none_is_there_twice(channels: int, pictures: np.ndarray) -> None:
    assert len(set(SETTINGS)) == len(SETTINGS) and {setting.kind for setting in SETTINGS} == set(KINDS)
    costs = []
    for setting in SETTINGS:
        found = compress(pictures[:1, ..., :channels], setting.kind, setting.quality, setting.reduce)
        assert found.pictures.shape == (1, 32, 32, channels)
        costs.append(int(found.payload_bits[0]))
    assert min(costs) < 256 and max(costs) > 4096, "they reach both sides of 512 bits, a grid of 64 tokens of 256 codes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "png"}, r"kind is 'png'; expected one of \('jpeg', 'webp', 'avif', 'jxl'\)"),
        ({"quality": 0}, "quality is 0; expected 1 to 100"),
        ({"quality": 101}, "quality is 101"),
        ({"reduce": 3}, "32x32 pixels cannot be reduced by 3"),
        ({"reduce": 0}, "cannot be reduced by 0"),
        ({"pictures": np.zeros((1, 32, 32, 3))}, "float64"),
        ({"pictures": np.zeros((1, 32, 32, 2), dtype=np.uint8)}, r"\(1, 32, 32, 2\); expected uint8"),
        ({"pictures": np.zeros((32, 32, 3), dtype=np.uint8)}, r"uint8 \(32, 32, 3\)"),
    ],
)
def test_what_cannot_be_compressed_is_refused(change: dict[str, object], message: str, pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        compress(**{"pictures": pictures, "kind": "jpeg", "quality": 50, "reduce": 1, **change})


def test_no_pictures_cost_nothing(pictures: np.ndarray) -> None:
    found = compress(pictures[:0], "webp", 50, 1)
    assert found.pictures.shape == (0, 32, 32, 3) and found.bits.shape == (0,)
