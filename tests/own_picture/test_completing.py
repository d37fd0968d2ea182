"""My picture, my mask: what is known stays as it is, what is missing is never seen. S = 16 pixels, 4 x 4 tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from masked_memory.models.codes import Filling
from masked_memory.own_picture import completing
from masked_memory.own_picture.completing import Request, complete_picture
from masked_memory.pipeline.files import InputError
from masked_memory.recall.memory import Memory
from toys import noise, vivid_memory

SIDE, STRIDE, K = 16, 4, 12
CLASSES = ["cat", "dog", "emu"]
QUICK = Request(strategy="random")


@pytest.fixture(scope="module")
def memory() -> Memory:
    return vivid_memory()


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
        result = complete_picture(vivid_memory(channels), picture if channels == 3 else grey, missing, CLASSES, request)
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
    memory = vivid_memory(classifier=architecture)
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
    memory = vivid_memory(told=3)
    told = [
        complete_picture(memory, noise(16, 16), None, CLASSES, Request(100, "half", label=label)).completed
        for label in (None, 0, 1)
    ]
    assert not np.array_equal(told[0], told[1]) and not np.array_equal(told[1], told[2])


def test_a_class_that_cannot_be_told_is_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match=r"train_distil\.condition_on_class") as error:
        complete_picture(memory, noise(16, 16), None, CLASSES, Request(label=0))
    assert "\n" not in str(error.value)
    told = vivid_memory(told=3)
    with pytest.raises(InputError, match="class number 3 was given; this DistilBERT knows 0 to 2"):
        complete_picture(told, noise(16, 16), None, CLASSES, Request(label=3))
    with pytest.raises(InputError, match="--class cow is not a class of the data; expected one of: cat, dog, emu"):
        completing.class_number("cow", told.distil, CLASSES)
    with pytest.raises(InputError, match=r"train_distil\.condition_on_class"):
        completing.class_number("cat", memory.distil, CLASSES)
    assert completing.class_number("emu", told.distil, CLASSES) == 2


def test_a_mask_of_another_size_is_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match="the mask is 5x4; expected 16x17"):
        complete_picture(memory, noise(16, 17), np.ones((4, 5), dtype=bool), CLASSES, Request())
