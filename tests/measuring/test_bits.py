"""Methods at equal bits: each is judged by what comes back. K = 8 codes, 4x4 tokens."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from handoff.split import Split
from handoff.vqvae import HandedIndices
from measuring.bits import BITS_HEADER, format_rows, frontier, frontiers, measure_bits, reduced_rows
from measuring.formats import SETTINGS, compress
from measuring.study import ALL_FORGOTTEN
from measuring.tables import bits_of, summarise
from pipeline.metrics import mse
from pipeline.tables import Rows
from recall.memory import Memory
from sources.pixels import from_model, to_model
from toys import fake_indices, fake_split, findings_of, measured, one_batch, study_plan, tiny_memory

K, SIDE, CLASSES = 8, 4, 3
N = SIDE**2
PICTURES = 5
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def split() -> Split:
    """Five pictures to measure, and three to train on."""
    return fake_split(["test"] * PICTURES + ["train"] * 3)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(8)


def formats_of(memory: Memory, split: Split, indices: HandedIndices) -> Rows:
    return format_rows(findings_of(memory, split, indices), split.positions("test"))


def fewer_of(memory: Memory, split: Split, indices: HandedIndices) -> Rows:
    return reduced_rows(findings_of(memory, split, indices), split.positions("test"))


def where(rows: Rows, wanted: dict[str, Any]) -> Rows:
    return [row for row in rows if wanted.items() <= row.items()]


# Bits


def test_our_rows_of_bits_are_those_of_the_study(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    study = measured(study_plan(), split, indices, memory)
    rows = summarise(study, 100, study_plan().seed, bits_of(memory))
    findings = findings_of(memory, split, indices, study_plan(), study, rows)
    ours, others = measure_bits(findings, split.positions("test"))
    assert [(row["method"], row["setting"]) for row in ours] == [
        ("random", "0 % forgotten"), ("random", "50 % forgotten"), ("half", "0 % forgotten"),
        ("half", "50 % forgotten"), (ALL_FORGOTTEN, "100 % forgotten"),
    ]  # fmt: skip
    assert [row["bits"] for row in ours] == [48, 24, 48, 24, 0]
    for row in ours:
        percent = int(str(row["setting"]).split()[0])
        for name in ("mse_to_picture", "classification_error", "disagreement"):
            (known,) = where(
                rows, {"strategy": row["method"], "percent": percent, "decoding": "expected", "measure": name}
            )
            assert row[name] == known["mean"]
    assert all(set(row) == set(BITS_HEADER) for row in ours + others)
    assert {row["method"] for row in others} == {
        "JPEG", "JPEG, data only", "WebP", "WebP, data only", "VQ-VAE, fewer codes"
    }  # fmt: skip


def test_formats_are_measured_at_every_setting_whole_and_data_only(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    rows = formats_of(memory, split, indices)
    assert len(rows) == 2 * len(SETTINGS)
    for whole, data_only in zip(rows[::2], rows[1::2], strict=True):
        assert data_only["method"] == f"{whole['method']}, data only" and data_only["bits"] < whole["bits"]
        same = ("setting", "mse_to_picture", "classification_error", "disagreement", "pictures")
        assert [whole[key] for key in same] == [data_only[key] for key in same]
        assert whole["pictures"] == PICTURES


def test_a_format_is_judged_on_all_pictures_by_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    rows = formats_of(memory, split, indices)
    originals = split.images[:PICTURES]
    back = compress(originals, "jpeg", 50, 2)
    (row,) = where(rows, {"method": "JPEG", "setting": "quality 50, side / 2"})
    assert row["bits"] == pytest.approx(back.bits.mean())
    errors = ((back.pictures / 255.0 - originals / 255.0) ** 2).mean()
    assert row["mse_to_picture"] == pytest.approx(errors, abs=1e-6)
    predicted = memory.classifier(to_model(back.pictures)).argmax(1)
    batch = one_batch(memory, split, indices)
    assert row["classification_error"] == pytest.approx(float((predicted != batch.labels).float().mean()))
    assert row["disagreement"] == pytest.approx(float((predicted != batch.seen["degraded"]).float().mean()))


def test_a_classifier_of_codes_sees_the_codes_of_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="codes")
    rows = formats_of(memory, split, indices)
    back = to_model(compress(split.images[:PICTURES], "webp", 95, 1).pictures)
    predicted = memory.classifier(memory.vqvae.encode_indices(back)).argmax(1)
    (row,) = where(rows, {"method": "WebP", "setting": "quality 95, side / 1"})
    labels = torch.from_numpy(split.labels[:PICTURES])
    assert row["classification_error"] == pytest.approx(float((predicted != labels).float().mean()))


def painted_split(memory: Memory, split: Split, indices: HandedIndices) -> Split:
    """Its pictures are what the VQ-VAE paints, so that the whole grid errs by rounding to uint8 only."""
    painted = from_model(memory.paint_tokens(indices.tokens(np.arange(8))))
    return replace(split, images=painted)


def test_fewer_codes_cost_fewer_bits_and_err_no_less(split: Split, indices: HandedIndices) -> None:
    """4 codes are 2 bits for each of 16 tokens, 2 codes are 1 bit."""
    memory = tiny_memory(classifier="compact")
    rows = fewer_of(memory, painted_split(memory, split, indices), indices)
    assert [(row["setting"], row["bits"], row["pictures"]) for row in rows] == [
        ("4 codes", 2 * N, PICTURES),
        ("2 codes", N, PICTURES),
    ]
    four, two = (row["mse_to_picture"] for row in rows)
    assert 1e-5 < four < two
    assert rows == fewer_of(memory, painted_split(memory, split, indices), indices)


def test_merging_equal_codes_costs_nothing(split: Split, indices: HandedIndices) -> None:
    """Codes 4 to 7 have the vectors of 0 to 3: with four codes every picture stays what it is, with two it does not."""
    memory = tiny_memory(classifier="compact")
    memory.vqvae.quantizer.codebook[4:] = memory.vqvae.quantizer.codebook[:4]
    memory = replace(memory)  # reads the codebook anew
    repainted = painted_split(memory, split, indices)
    four, two = fewer_of(memory, repainted, indices)
    batch = one_batch(memory, repainted, indices)
    whole = float(mse(batch.whole, batch.truth).mean())
    assert four["mse_to_picture"] == pytest.approx(whole, rel=1e-4) and four["disagreement"] == 0
    assert two["mse_to_picture"] > 2 * whole


def test_without_a_classifier_only_pixels_are_compared(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory()
    for rows in (formats_of(memory, split, indices), fewer_of(memory, split, indices)):
        assert all(set(row) == {"method", "setting", "bits", "pictures", "mse_to_picture"} for row in rows)


def test_frontiers_are_for_each_method_and_measure_apart() -> None:
    """(bits, MSE, error): of JPEG the middle one errs more in pixels at more bits, and less in class."""
    settings = [("JPEG", 30, 0.1, 0.5), ("JPEG", 20, 0.4, 0.1), ("JPEG", 10, 0.3, 0.2), ("WebP", 50, 0.9, 0.9)]
    others = [
        {"method": method, "bits": bits, "mse_to_picture": pixels, "classification_error": error}
        for method, bits, pixels, error in settings
    ]
    assert frontiers([*others, {"method": "VQ-VAE, fewer codes", "bits": 5, "mse_to_picture": 0.7}]) == [
        {"method": "JPEG", "bits": 10, "mse_to_picture": 0.3},
        {"method": "JPEG", "bits": 30, "mse_to_picture": 0.1},
        {"method": "JPEG", "bits": 10, "classification_error": 0.2},
        {"method": "JPEG", "bits": 20, "classification_error": 0.1},
        {"method": "WebP", "bits": 50, "mse_to_picture": 0.9},
        {"method": "WebP", "bits": 50, "classification_error": 0.9},
        {"method": "VQ-VAE, fewer codes", "bits": 5, "mse_to_picture": 0.7},
    ]


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
