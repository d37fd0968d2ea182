"""What storing costs: bits worked out by hand, real JPEG and WebP files, merged codebooks, the curve of the best."""

import math
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from masking import position_bits, stored_bits
from measuring.bits import frontier
from measuring.fewer_codes import paint_reduced, reduced_codebook
from measuring.formats import SETTINGS, Kind, compress, jpeg_payload, webp_payload
from models.distilbert import build_distilbert
from recall.memory import Memory
from vqvae import VQVAE, VQVAEConfig

KINDS: tuple[Kind, ...] = ("jpeg", "webp")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Bits of a memory


@pytest.mark.parametrize(
    ("kept", "fixed", "bits"),
    [
        (2, False, 2 * 2 + math.log2(6)),  # {01, 02, 03, 12, 13, 23}
        (1, False, 2 + 2),
        (4, False, 4 * 2),
        (0, False, 0),
        (2, True, 2 * 2),
        (0, True, 0),
    ],
)
def test_a_memory_of_four_tokens_and_four_codes(kept: int, fixed: bool, bits: float) -> None:
    assert stored_bits(4, kept, 4, fixed) == pytest.approx(bits, abs=1e-12)


def test_positions_of_half_of_64_tokens_cost_nearly_a_bit_each() -> None:
    assert stored_bits(64, 32, 256, False) == pytest.approx(32 * 8 + math.log2(math.comb(64, 32)), abs=1e-9)
    positions = stored_bits(64, 32, 256, False) - stored_bits(64, 32, 256, True)
    assert positions == pytest.approx(position_bits(64, 32), abs=1e-9) and 0.9 * 64 < positions < 64


@pytest.mark.parametrize("kept", [-1, 5])
def test_keeping_more_than_there_is_or_less_than_nothing_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"kept is {kept}; expected 0 to 4"):
        stored_bits(4, kept, 4, True)


# Picture formats


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """(6, 32, 32, 3) uint8: slopes of different colours with noise on them."""
    draws = np.random.default_rng(0)
    slopes = np.linspace(0, 1, 32)[:, None, None] * draws.uniform(60, 200, (6, 1, 1, 3))
    across = np.linspace(0, 1, 32)[None, :, None] * draws.uniform(-40, 40, (6, 1, 1, 3))
    return (slopes + across + 30 + draws.normal(0, 12, (6, 32, 32, 3))).clip(0, 255).astype(np.uint8)


def stored(picture: np.ndarray, kind: Kind, quality: int, **options: object) -> bytes:
    """(H, W, C) uint8 -> the bytes of a file."""
    file = BytesIO()
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.save(file, format=kind.upper(), quality=quality, **({"method": 6} if kind == "webp" else {}), **options)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_without_reducing_pictures_come_back_as_pillow_decodes_them(
    kind: Kind, channels: int, pictures: np.ndarray
) -> None:
    given = pictures[..., :channels]
    found = compress(given, kind, 60, 1)
    assert found.pictures.dtype == np.uint8 and found.bits.shape == found.payload_bits.shape == (6,)
    for picture, back, bits in zip(given, found.pictures, found.bits, strict=True):
        data = stored(picture, kind, 60)
        decoded = Image.open(BytesIO(data)).convert("L" if channels == 1 else "RGB")
        assert np.array_equal(back, np.asarray(decoded).reshape(32, 32, channels))
        assert bits == 8 * len(data)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_better_quality_costs_more_and_errs_less(kind: Kind, channels: int, pictures: np.ndarray) -> None:
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


def test_other_files_are_refused(pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not a whole JPEG file: no marker at byte 0"):
        jpeg_payload(stored(pictures[0], "webp", 50))
    with pytest.raises(ValueError, match="not a JPEG file: its first marker is 0xd9"):
        jpeg_payload(b"\xff\xd9")
    with pytest.raises(ValueError, match="not a WebP file"):
        webp_payload(stored(pictures[0], "jpeg", 50))
    with pytest.raises(ValueError, match="without a VP8 chunk"):
        webp_payload(stored(pictures[0], "webp", 50, lossless=True))


@pytest.mark.parametrize("kind", KINDS)
def test_reduced_pictures_cost_less_and_come_back_at_full_size(kind: Kind, pictures: np.ndarray) -> None:
    """Of 64 pixels a side: WebP's blocks are 16x16, so reducing below that need not save anything."""
    larger_pictures = np.tile(pictures, (1, 2, 2, 1))
    found = [compress(larger_pictures, kind, 50, reduce) for reduce in (1, 2, 4)]
    assert all(each.pictures.shape == larger_pictures.shape for each in found)
    for larger, smaller in pairwise(found):
        assert (smaller.payload_bits < larger.payload_bits).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_grey_survives_every_setting(kind: Kind) -> None:
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
        ({"kind": "png"}, r"kind is 'png'; expected one of \('jpeg', 'webp'\)"),
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


# Smaller codebooks


@pytest.mark.parametrize("seed", range(5))
def test_two_far_groups_become_two_centres_weighted_by_use(seed: int) -> None:
    vectors = torch.tensor([[0.0, 0], [4, 0], [100, 0], [100, 2]])
    centres, assignment = reduced_codebook(vectors, torch.tensor([3, 1, 1, 1]), 2, seeded(seed))
    assert assignment[0] == assignment[1] != assignment[2] == assignment[3]
    torch.testing.assert_close(centres[assignment], torch.tensor([[1.0, 0], [1, 0], [100, 1], [100, 1]]))


def test_codes_never_used_follow_the_others_and_move_no_centre() -> None:
    vectors = torch.tensor([[0.0], [2], [50], [1000]])
    centres, assignment = reduced_codebook(vectors, torch.tensor([1, 1, 2, 0]), 2, seeded(0))
    torch.testing.assert_close(centres[assignment].flatten(), torch.tensor([1.0, 1, 50, 50]))


@pytest.mark.parametrize("counts", [torch.arange(20), torch.ones(20), torch.eye(20)[7]])
def test_as_many_centres_as_codes_changes_nothing(counts: Tensor) -> None:
    """Even when most codes are never used."""
    vectors = torch.randn(20, 5)
    centres, assignment = reduced_codebook(vectors, counts, 20, seeded(0))
    assert torch.equal(centres[assignment], vectors)
    assert len(assignment.unique()) == 20


def test_one_centre_is_the_average_code_vector() -> None:
    vectors, counts = torch.randn(20, 5), torch.randint(0, 9, (20,))
    centres, assignment = reduced_codebook(vectors, counts, 1, seeded(0))
    assert assignment.tolist() == [0] * 20
    torch.testing.assert_close(centres[0], (counts.unsqueeze(1) * vectors).sum(0) / counts.sum())


def test_no_round_of_lloyd_would_change_what_comes_out() -> None:
    """Each code has its nearest centre, each centre is the weighted mean of its codes."""
    vectors, counts = torch.randn(200, 4), torch.randint(1, 50, (200,))
    centres, assignment = reduced_codebook(vectors, counts, 16, seeded(3))
    assert centres.shape == (16, 4) and centres.dtype == torch.float32
    assert torch.equal(torch.cdist(vectors, centres).argmin(1), assignment)
    for number, centre in enumerate(centres):
        mine = assignment == number
        mean = (counts[mine, None] * vectors[mine]).sum(0) / counts[mine].sum()
        torch.testing.assert_close(centre, mean, atol=1e-5, rtol=0)


def test_more_centres_leave_less_error() -> None:
    vectors, counts = torch.randn(200, 4), torch.randint(1, 50, (200,))
    errors = []
    for size in (1, 4, 16, 64, 200):
        centres, assignment = reduced_codebook(vectors, counts, size, seeded(0))
        errors.append(float((counts * (centres[assignment] - vectors).square().sum(1)).sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


def test_the_same_generator_gives_the_same_centres_whatever_the_global_seed() -> None:
    vectors, counts = torch.randn(100, 4), torch.randint(0, 9, (100,))
    first = reduced_codebook(vectors, counts, 10, seeded(1))
    torch.manual_seed(99)
    again = reduced_codebook(vectors, counts, 10, seeded(1))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], reduced_codebook(vectors, counts, 10, seeded(2))[0])


def test_equal_codes_are_no_trouble() -> None:
    vectors = torch.ones(6, 3)
    centres, assignment = reduced_codebook(vectors, torch.ones(6), 4, seeded(0))
    assert centres.shape == (4, 3) and torch.equal(centres[assignment], vectors)


@pytest.mark.parametrize("size", [0, 7])
def test_a_size_beyond_the_codes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}; expected 1 to 6"):
        reduced_codebook(torch.randn(6, 2), torch.ones(6), size, seeded(0))


@pytest.mark.parametrize("counts", [torch.ones(5), torch.zeros(6), torch.tensor([1, 1, 1, 1, 1, -1])])
def test_counts_that_are_none_are_refused(counts: Tensor) -> None:
    with pytest.raises(ValueError, match="for 6 codes; expected one for each"):
        reduced_codebook(torch.randn(6, 2), counts, 2, seeded(0))


@pytest.fixture(params=[1, 3])
def memory(request: pytest.FixtureRequest) -> Memory:
    """Grey and colour; 4x4 tokens, K = 12, D = 6."""
    config = VQVAEConfig(
        image_size=16,
        channels=request.param,
        hidden=16,
        residual_blocks=1,
        codebook_size=12,
        code_dim=6,
        data_init=False,
    )
    distil = build_distilbert(12, 16, dim=16, layers=1, heads=2, dropout=0.0).eval()
    return Memory(VQVAE(config).eval(), distil, None, torch.full((16, 12), 1 / 12), torch.device("cpu"))


def test_merged_codes_are_painted_with_their_centre(memory: Memory) -> None:
    """Codes 0 to 5 become the vector of code 0, the others that of code 6."""
    tokens = torch.randint(0, 12, (3, 16))
    found = paint_reduced(memory, tokens, memory.codebook[[0, 6]], torch.arange(12) // 6)
    with torch.no_grad():
        expected = memory.paint_indices(tokens // 6 * 6)
        assert not torch.allclose(expected, memory.paint_indices(tokens), atol=1e-3), "else this shows nothing"
    assert found.shape == (3, memory.vqvae.config.channels, 16, 16) and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_codebook_of_full_size_paints_as_before(memory: Memory) -> None:
    tokens = torch.randint(0, 12, (3, 16))
    centres, assignment = reduced_codebook(memory.codebook, torch.arange(12), 12, seeded(0))
    with torch.no_grad():
        expected = memory.paint_indices(tokens)
    torch.testing.assert_close(paint_reduced(memory, tokens, centres, assignment), expected, atol=1e-6, rtol=0)


# The curve of the best


def test_the_frontier_leaves_out_what_another_setting_beats() -> None:
    points = [(30.0, 2.0), (10.0, 5.0), (20.0, 6.0), (20.0, 3.0), (10.0, 7.0), (40.0, 2.0), (50.0, 1.0), (20.0, 3.0)]
    assert frontier(points) == [(10, 5), (20, 3), (30, 2), (50, 1)]


def test_the_frontier_of_one_point_and_of_none() -> None:
    assert frontier(iter([(3.0, 4.0)])) == [(3, 4)]
    assert frontier([]) == []


@pytest.mark.parametrize("point", [(math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_points_that_are_no_numbers_are_refused(point: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        frontier([(0.0, 5.0), point])
