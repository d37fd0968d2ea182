"""Methods at equal bits: each is judged by what comes back. K = 8 codes, 4x4 tokens."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.pipeline.metrics import mse
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.memory import Memory
from masked_memory.rivals.measuring.bits import BITS_HEADER, Gathered, format_rows, frontier, judge_stored, reduced_rows
from masked_memory.rivals.measuring.formats import NAMES, SETTINGS, compress
from masked_memory.sources.pixels import from_model, to_model
from toys import bits_plan, fake_indices, fake_split, one_batch, tiny_memory

K, SIDE, CLASSES = 8, 4, 3
N = SIDE**2
PICTURES = 5
JUDGED = ("mse_to_picture", "classification_error", "disagreement", "pictures")
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def split() -> Split:
    """Five pictures to measure, three to train on, and two of validation."""
    return fake_split(["test"] * PICTURES + ["train"] * 3 + ["val"] * 2)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(PICTURES + 5)


def formats_of(memory: Memory, split: Split, indices: HandedIndices) -> Rows:
    return format_rows(bits_plan(memory, split, indices))


def fewer_of(memory: Memory, split: Split, indices: HandedIndices) -> Rows:
    return reduced_rows(bits_plan(memory, split, indices))


def where(rows: Rows, **wanted: Any) -> Rows:
    return [row for row in rows if wanted.items() <= row.items()]


# Means


def test_what_is_gathered_batch_by_batch_is_averaged_over_pictures(split: Split, indices: HandedIndices) -> None:
    found = Gathered()
    for bits, errors in (([8.0, 16.0], [0.1, 0.2]), ([24.0], [0.6])):
        found.add("a", "b", {"bits": torch.tensor(bits), "mse_to_picture": torch.tensor(errors)})
    found.add("a", "c", {"bits": torch.tensor([1.0])})
    first, second = found.rows(bits_plan(tiny_memory(), split, indices))
    assert (first["method"], first["setting"], first["bits"], first["pictures"]) == ("a", "b", 16, 3)
    assert first["mse_to_picture"] == pytest.approx(0.3)
    assert 0.1 <= first["mse_to_picture_low"] < 0.3 < first["mse_to_picture_high"] <= 0.61
    assert second == {"method": "a", "setting": "c", "bits": 1, "pictures": 1}


# Picture formats


def test_formats_are_measured_at_every_setting_whole_and_data_only(split: Split, indices: HandedIndices) -> None:
    rows = formats_of(tiny_memory(classifier="compact"), split, indices)
    assert len(rows) == 2 * len(SETTINGS)
    assert {row["method"] for row in rows} == {*NAMES.values(), *(f"{name}, data only" for name in NAMES.values())}
    for whole, data_only in zip(rows[::2], rows[1::2], strict=True):
        assert data_only["method"] == f"{whole['method']}, data only" and data_only["bits"] < whole["bits"]
        assert [whole[key] for key in ("setting", *JUDGED)] == [data_only[key] for key in ("setting", *JUDGED)]
        assert whole["pictures"] == PICTURES and set(whole) <= set(BITS_HEADER)


def test_a_format_is_judged_on_all_pictures_by_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    rows = formats_of(memory, split, indices)
    originals = split.images[:PICTURES]
    back = compress(originals, "jpeg", 50, 2)
    (row,) = where(rows, method="JPEG", setting="quality 50, side / 2")
    assert row["bits"] == pytest.approx(back.bits.mean())
    errors = ((back.pictures / 255.0 - originals / 255.0) ** 2).mean()
    assert row["mse_to_picture"] == pytest.approx(errors, abs=1e-6)
    predicted = memory.classifier(to_model(back.pictures)).argmax(1)
    batch = one_batch(memory, split, indices)
    assert row["classification_error"] == pytest.approx(float((predicted != batch.labels).float().mean()))
    assert row["disagreement"] == pytest.approx(float((predicted != batch.seen["degraded"]).float().mean()))


def test_a_classifier_of_codes_sees_the_codes_of_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="codes")
    batch = one_batch(memory, split, indices)
    back = to_model(compress(split.images[:PICTURES], "webp", 95, 1).pictures)
    predicted = memory.classifier(memory.vqvae.encode_indices(back)).argmax(1)
    assert judge_stored(memory, batch, back)["classification_error"].tolist() == (predicted != batch.labels).tolist()
    others = (batch.tokens + 1) % K
    predicted = memory.classifier(memory.grid(others)).argmax(1)
    found = judge_stored(memory, batch, back, others)["classification_error"]
    assert found.tolist() == (predicted != batch.labels).tolist(), "codes that are given count"


def test_pictures_that_no_format_holds_have_no_rows_and_it_is_said(
    indices: HandedIndices, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = tiny_memory(channels=2)
    assert formats_of(memory, fake_split(["test"] * 10), indices) == []
    assert "no JPEG, WebP, AVIF, JPEG XL of pictures with 2 components" in capsys.readouterr().out


# Fewer codes


def painted_split(memory: Memory, split: Split, indices: HandedIndices) -> Split:
    """Its pictures are what the VQ-VAE paints, so that the whole grid errs by rounding to uint8 only."""
    painted = from_model(memory.paint_tokens(indices.tokens(np.arange(PICTURES + 5))))
    return replace(split, images=painted)


def test_fewer_codes_cost_fewer_bits_and_err_no_less(split: Split, indices: HandedIndices) -> None:
    """4 codes are 2 bits for each of 16 tokens, 2 codes are 1 bit; coded by counts and by the DistilBERT."""
    memory = tiny_memory(classifier="compact")
    rows = fewer_of(memory, painted_split(memory, split, indices), indices)
    assert [(row["setting"], row["bits_without_coding"], row["pictures"]) for row in rows] == [
        ("4 codes, frequencies", 2 * N, PICTURES),
        ("4 codes, DistilBERT", 2 * N, PICTURES),
        ("2 codes, frequencies", N, PICTURES),
        ("2 codes, DistilBERT", N, PICTURES),
    ]
    four, same, two, _ = (row["mse_to_picture"] for row in rows)
    assert 1e-5 < four == same < two
    for row in rows:
        assert row["ideal_bits"] < row["bits"] + 1 < row["ideal_bits"] + 10
    assert rows == fewer_of(memory, painted_split(memory, split, indices), indices)


def test_merging_equal_codes_costs_nothing(split: Split, indices: HandedIndices) -> None:
    """Codes 4 to 7 have the vectors of 0 to 3: with four codes every picture stays what it is, with two it does not."""
    memory = tiny_memory(classifier="compact")
    memory.vqvae.quantizer.codebook[4:] = memory.vqvae.quantizer.codebook[:4]
    memory = replace(memory)  # reads the codebook anew
    repainted = painted_split(memory, split, indices)
    four, _, two, _ = fewer_of(memory, repainted, indices)
    batch = one_batch(memory, repainted, indices)
    whole = float(mse(batch.whole, batch.truth).mean())
    assert four["mse_to_picture"] == pytest.approx(whole, rel=1e-4) and four["disagreement"] == 0
    assert two["mse_to_picture"] > 2 * whole


def test_without_a_classifier_only_pixels_are_compared(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory()
    of_pixels = {"mse_to_picture", "mse_to_picture_low", "mse_to_picture_high"}
    stored = {"method", "setting", "bits", "pictures"}
    assert all(set(row) == stored | of_pixels for row in formats_of(memory, split, indices))
    coded = stored | {"ideal_bits", "bits_without_coding"}
    assert all(set(row) == coded | of_pixels for row in fewer_of(memory, split, indices))


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
