"""The study beside others: the same masks, the same measures, and bits that are counted. K = 8 codes, 4x4 tokens."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DistilBertForMaskedLM

from handoff.memory import HandedMemory
from handoff.split import Split
from handoff.vqvae import HandedIndices, HandedVQVAE
from masking import mask_first
from measuring.bits import BITS_HEADER, Batches, format_rows, frontiers, measure_bits, reduced_rows
from measuring.formats import SETTINGS, compress
from measuring.rivals import RIVALS_HEADER, mean_picture, measure_rivals, published_selection, rival_rows
from measuring.study import ALL_FORGOTTEN, Plan, batches_of, measure
from measuring.tables import bits_of, summarise
from models.classifier import Classifier, ClassifierConfig
from models.codes import Filling
from models.distilbert import build_distilbert
from pipeline.metrics import mse, to_unit
from pipeline.tables import Rows
from recall import simple_fillers
from recall.choosing import Choosing, choose_order
from recall.completing import complete
from recall.memory import Memory
from sources.pixels import from_model, to_model
from sources.splitting import spread
from vqvae import VQVAE, VQVAEConfig

K, SIDE, CLASSES = 8, 4, 3
N = SIDE**2
PICTURES = 5
CPU = torch.device("cpu")
PLAN = Plan(
    strategies=("random", "half"),
    percentages=(0, 50, 100),
    decodings=("argmax", "expected"),
    seeds=1,
    seed=3,
    choosing=Choosing(passes=4),
    filling=Filling(),
    tell_class=False,
    batch_size=2,
)


def distilbert(seed: int) -> DistilBertForMaskedLM:
    """With large weights, so that its answers depend on what it sees."""
    torch.manual_seed(seed)
    model = build_distilbert(K, N, dim=16, layers=1, heads=2, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in model.distilbert.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15)
    return model


def tiny_memory(architecture: str | None = "compact") -> Memory:
    """Always the same weights. architecture: of the classifier, None for none."""
    distil = distilbert(1)
    config = VQVAEConfig(image_size=16, hidden=8, residual_blocks=1, codebook_size=K, code_dim=4, data_init=False)
    memory = Memory(VQVAE(config).eval(), distil, None, torch.rand(N, K).softmax(1), CPU)
    if architecture is not None:
        sizes = ClassifierConfig(architecture, CLASSES, 3, 16, K, 0.0, (0.5,) * 3, (0.2,) * 3)
        memory.classifier = Classifier(sizes).eval()
        balance(memory)
    return memory


def balance(memory: Memory) -> None:
    """Let the classifier name every class now and then, which an untrained one does not."""
    tokens = torch.randint(0, K, (50, N), generator=torch.Generator().manual_seed(0))
    seen = memory.grid(tokens) if memory.classifier.sees_codes else memory.paint_indices(tokens)
    memory.classifier.net.head[1].bias.sub_(memory.classifier(seen).mean(0))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def split() -> Split:
    """Five pictures to measure, and three to train on."""
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    manifest = [{"split": "test"}] * PICTURES + [{"split": "train"}] * 3
    return Split(Path("-"), {"classes": ["a", "b", "c"]}, manifest, images, np.arange(8), np.arange(8) % CLASSES)


@pytest.fixture
def indices() -> HandedIndices:
    return HandedIndices(Path("-"), np.random.default_rng(1).integers(0, K, (8, SIDE, SIDE)))


def handed_of(memory: Memory, indices: HandedIndices) -> HandedMemory:
    return HandedMemory(memory, HandedVQVAE(Path("-"), memory.vqvae, {}), indices, {}, None)


def batches(memory: Memory, split: Split, indices: HandedIndices, batch_size: int = 2) -> Batches:
    return lambda: batches_of(memory, split, indices, split.positions("test"), batch_size)


def where(rows: Rows, wanted: dict[str, Any]) -> Rows:
    return [row for row in rows if wanted.items() <= row.items()]


def same_rows(rows: Rows, others: Rows) -> bool:
    """Also where both have no number."""
    return [list(map(str, row.values())) for row in rows] == [list(map(str, row.values())) for row in others]


# Rivals


@pytest.mark.parametrize("name", ["nearest kept code", "mean picture"])
def test_a_rival_is_judged_on_the_masks_of_the_study(name: str, split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory()
    ladder = simple_fillers.Ladder(memory, mean_picture(split), None)
    positions = split.positions("test")
    order = torch.stack([torch.randperm(N) for _ in positions])
    rows = rival_rows(name, ladder, handed_of(memory, indices), split, positions, order, PLAN, 100)
    (batch,) = batches(memory, split, indices, PICTURES)()
    painted = simple_fillers.fill(name, ladder, batch.tokens, mask_first(order, 8), batch.whole * 2 - 1)
    expected = {
        "mse_to_reconstruction": mse(to_unit(painted), batch.whole),
        "mse_to_picture": mse(to_unit(painted), batch.truth),
        "classification_error": (memory.classifier(painted).argmax(1) != batch.labels).float(),
    }
    for measure_name, values in expected.items():
        (row,) = where(rows, {"percent": 50, "measure": measure_name})
        assert row["mean"] == pytest.approx(float(values.mean()), abs=1e-6)
        assert row["low"] <= row["mean"] <= row["high"] and row["pictures"] == PICTURES
    assert {(row["rival"], row["percent"]) for row in rows} == {(name, percent) for percent in PLAN.percentages}
    assert all(set(row) == set(RIVALS_HEADER) and row["measure"] != "predicted" for row in rows)
    assert where(rows, {"percent": 0, "measure": "mse_to_reconstruction"})[0]["mean"] == pytest.approx(0, abs=1e-9)


def test_few_pictures_are_spread_over_all_and_keep_their_masks(split: Split, indices: HandedIndices) -> None:
    assert spread(9, 3).tolist() == [0, 4, 8] and spread(4, 9).tolist() == [0, 1, 2, 3]
    memory = tiny_memory()
    plan = replace(PLAN, strategies=("random",), percentages=(50,))
    handed, positions = handed_of(memory, indices), split.positions("test")
    study = measure(memory, split, indices, positions, plan)
    picks = spread(PICTURES, 2)
    found = measure_rivals(handed, split, study, plan, None, most_pictures=2, slow_pictures=1, resamples=100)
    ladder = simple_fillers.Ladder(memory, mean_picture(split), None)
    order = study.orders["random"][0][picks]
    alone = rival_rows("nearest kept code", ladder, handed, split, positions[picks], order, plan, 100)
    assert same_rows(where(found, {"rival": "nearest kept code"}), alone)
    assert {row["pictures"] for row in alone if row["measure"] == "mse_to_picture"} == {2}


def test_a_measure_without_a_number_counts_no_pictures(split: Split, indices: HandedIndices) -> None:
    """The lowest row of tokens has no window of SSIM."""
    memory = tiny_memory(None)
    ladder = simple_fillers.Ladder(memory, mean_picture(split), None)
    positions = split.positions("test")
    order = torch.arange(N - 1, -1, -1).expand(PICTURES, -1)
    plan = replace(PLAN, percentages=(25,))
    rows = rival_rows("not completed", ladder, handed_of(memory, indices), split, positions, order, plan, 100)
    (row,) = where(rows, {"measure": "masked_ssim_to_reconstruction"})
    assert row["pictures"] == 0 and math.isnan(row["mean"])
    assert where(rows, {"measure": "masked_mse_to_reconstruction"})[0]["pictures"] == PICTURES
    assert not where(rows, {"measure": "classification_error"})


@pytest.mark.parametrize("with_published", [False, True])
def test_rivals_ours_and_the_published_recipe_stand_side_by_side(
    with_published: bool, split: Split, indices: HandedIndices
) -> None:
    memory, plan = tiny_memory(), replace(PLAN, strategies=("random", "selective"), percentages=(50, 100))
    handed, positions = handed_of(memory, indices), split.positions("test")
    study = measure(memory, split, indices, positions, plan)
    rows = summarise(study, 100, plan.seed, bits_of(memory))
    published = distilbert(2) if with_published else None
    found = measure_rivals(handed, split, study, plan, published, PICTURES, slow_pictures=2, resamples=100)
    theirs = ["published recipe, selective"] if with_published else []
    simple = [name for name in simple_fillers.RIVALS if with_published or name != "published recipe"]
    assert list(dict.fromkeys(row["rival"] for row in found)) == [*simple, *theirs]
    (slow,) = where(found, {"rival": "biharmonic inpainting", "percent": 50, "measure": "mse_to_picture"})
    (fast,) = where(found, {"rival": "mean picture", "percent": 50, "measure": "mse_to_picture"})
    assert (slow["pictures"], fast["pictures"]) == (2, PICTURES)
    for percent, strategy in ((50, "random"), (100, ALL_FORGOTTEN)):
        (ours,) = where(found, {"rival": "ours, argmax", "percent": percent, "measure": "mse_to_picture"})
        (row,) = where(
            rows, {"strategy": strategy, "percent": percent, "decoding": "argmax", "measure": "mse_to_picture"}
        )
        assert ours["mean"] == pytest.approx(row["mean"], abs=1e-6) and ours["pictures"] == row["pictures"]
    if with_published:
        (filled,) = where(found, {"rival": "published recipe", "percent": 50, "measure": "mse_to_picture"})
        (batch,) = batches(memory, split, indices, PICTURES)()
        completed = complete(published, batch.tokens, mask_first(study.orders["random"][0], 8), memory.codebook).indices
        by_hand = mse(to_unit(memory.paint_indices(completed)), batch.truth).mean()
        assert filled["mean"] == pytest.approx(float(by_hand), abs=1e-6)


def test_the_published_study_chooses_and_fills_with_its_own_model(split: Split, indices: HandedIndices) -> None:
    """Its likeliest codes in one pass, told no class, whatever our plan says; the classifier is ours."""
    memory, published = tiny_memory(), distilbert(2)
    plan = replace(
        PLAN, strategies=("random", "selective", "additive"), percentages=(50, 100), tell_class=True,
        filling=Filling(passes=3), decodings=("expected",),
    )  # fmt: skip
    handed, positions = handed_of(memory, indices), split.positions("test")
    rows = published_selection(handed, split, positions, plan, 100, published)
    assert {(row["rival"], row["percent"]) for row in rows} == {
        ("published recipe, selective", 50), ("published recipe, additive", 50)
    }  # fmt: skip
    assert all(set(row) == set(RIVALS_HEADER) for row in rows)
    theirs = replace(memory, distil=published)
    (batch,) = batches(memory, split, indices, PICTURES)()
    for strategy in ("selective", "additive"):
        order = choose_order(strategy, theirs, batch.tokens, torch.Generator(), plan.choosing)
        completed = complete(published, batch.tokens, mask_first(order, 8), memory.codebook).indices
        painted = memory.paint_indices(completed)
        (pixels,) = where(rows, {"rival": f"published recipe, {strategy}", "measure": "mse_to_picture"})
        assert pixels["mean"] == pytest.approx(float(mse(to_unit(painted), batch.truth).mean()), abs=1e-6)
        (error,) = where(rows, {"rival": f"published recipe, {strategy}", "measure": "classification_error"})
        wrong = memory.classifier(painted).argmax(1) != batch.labels
        assert error["mean"] == pytest.approx(float(wrong.float().mean()))
    ours = published_selection(handed, split, positions, plan, 100, memory.distil)
    assert not same_rows(ours, rows), "another model would be noticed"
    assert memory.distil is not published, "ours is left as it is"


def test_the_published_study_is_left_out_when_its_strategies_are(split: Split, indices: HandedIndices) -> None:
    handed = handed_of(tiny_memory(), indices)
    assert published_selection(handed, split, split.positions("test"), PLAN, 100, distilbert(2)) == []


def test_the_mean_picture_is_of_training_pictures(split: Split) -> None:
    torch.testing.assert_close(mean_picture(split), to_model(split.images[5:]).mean(0))
    torch.testing.assert_close(mean_picture(split, most=1), to_model(split.images[5:6]).mean(0))


# Bits


def test_our_rows_of_bits_are_those_of_the_study(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory()
    study = measure(memory, split, indices, split.positions("test"), PLAN)
    rows = summarise(study, 100, PLAN.seed, bits_of(memory))
    ours, others = measure_bits(memory, batches(memory, split, indices), rows, PLAN, "expected")
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
    memory = tiny_memory()
    rows = format_rows(memory, batches(memory, split, indices))
    assert len(rows) == 2 * len(SETTINGS)
    for whole, data_only in zip(rows[::2], rows[1::2], strict=True):
        assert data_only["method"] == f"{whole['method']}, data only" and data_only["bits"] < whole["bits"]
        same = ("setting", "mse_to_picture", "classification_error", "disagreement", "pictures")
        assert [whole[key] for key in same] == [data_only[key] for key in same]
        assert whole["pictures"] == PICTURES


def test_a_format_is_judged_on_all_pictures_by_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory()
    rows = format_rows(memory, batches(memory, split, indices))
    originals = split.images[:PICTURES]
    back = compress(originals, "jpeg", 50, 2)
    (row,) = where(rows, {"method": "JPEG", "setting": "quality 50, side / 2"})
    assert row["bits"] == pytest.approx(back.bits.mean())
    errors = ((back.pictures / 255.0 - originals / 255.0) ** 2).mean()
    assert row["mse_to_picture"] == pytest.approx(errors, abs=1e-6)
    predicted = memory.classifier(to_model(back.pictures)).argmax(1)
    (batch,) = batches(memory, split, indices, PICTURES)()
    assert row["classification_error"] == pytest.approx(float((predicted != batch.labels).float().mean()))
    assert row["disagreement"] == pytest.approx(float((predicted != batch.seen).float().mean()))


def test_a_classifier_of_codes_sees_the_codes_of_what_comes_back(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory("codes")
    rows = format_rows(memory, batches(memory, split, indices))
    back = to_model(compress(split.images[:PICTURES], "webp", 95, 1).pictures)
    predicted = memory.classifier(memory.vqvae.encode_indices(back)).argmax(1)
    (row,) = where(rows, {"method": "WebP", "setting": "quality 95, side / 1"})
    labels = torch.from_numpy(split.labels[:PICTURES])
    assert row["classification_error"] == pytest.approx(float((predicted != labels).float().mean()))


def painted_split(memory: Memory, split: Split, indices: HandedIndices) -> Split:
    """Its pictures are what the VQ-VAE paints, so that the whole grid errs by rounding to uint8 only."""
    painted = from_model(memory.paint_indices(indices.tokens(np.arange(8))))
    return replace(split, images=painted)


def test_fewer_codes_cost_fewer_bits_and_err_no_less(split: Split, indices: HandedIndices) -> None:
    """4 codes are 2 bits for each of 16 tokens, 2 codes are 1 bit."""
    memory = tiny_memory()
    rows = reduced_rows(memory, batches(memory, painted_split(memory, split, indices), indices), 0)
    assert [(row["setting"], row["bits"], row["pictures"]) for row in rows] == [
        ("4 codes", 2 * N, PICTURES),
        ("2 codes", N, PICTURES),
    ]
    four, two = (row["mse_to_picture"] for row in rows)
    assert 1e-5 < four < two
    assert rows == reduced_rows(memory, batches(memory, painted_split(memory, split, indices), indices), 0)


def test_merging_equal_codes_costs_nothing(split: Split, indices: HandedIndices) -> None:
    """Codes 4 to 7 have the vectors of 0 to 3: with four codes every picture stays what it is, with two it does not."""
    memory = tiny_memory()
    memory.vqvae.quantizer.codebook[4:] = memory.vqvae.quantizer.codebook[:4]
    memory = replace(memory)  # reads the codebook anew
    measured_on = batches(memory, painted_split(memory, split, indices), indices)
    four, two = reduced_rows(memory, measured_on, 0)
    whole = float(torch.cat([mse(batch.whole, batch.truth) for batch in measured_on()]).mean())
    assert four["mse_to_picture"] == pytest.approx(whole, rel=1e-4) and four["disagreement"] == 0
    assert two["mse_to_picture"] > 2 * whole


def test_without_a_classifier_only_pixels_are_compared(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(None)
    measured_on = batches(memory, split, indices)
    for rows in (format_rows(memory, measured_on), reduced_rows(memory, measured_on, 0)):
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
