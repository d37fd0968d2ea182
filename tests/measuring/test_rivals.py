"""The study beside others: the same masks, the same measures. K = 8 codes, 4x4 tokens."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from handoff.split import Split
from handoff.vqvae import HandedIndices
from masking import mask_first
from measuring.bits import Batches
from measuring.rivals import RIVALS_HEADER, mean_picture, measure_rivals, published_selection, rival_rows
from measuring.study import ALL_FORGOTTEN, batches_of, measure
from measuring.tables import bits_of, summarise
from models.codes import Filling
from pipeline.metrics import mse, to_unit
from pipeline.tables import Rows
from recall import simple_fillers
from recall.choosing import choose_order
from recall.completing import complete
from recall.memory import Memory
from sources.pixels import to_model
from sources.splitting import spread
from toys import fake_indices, fake_split, handed_memory, study_plan, tiny_distil, tiny_memory

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
    memory = tiny_memory(classifier="compact")
    ladder = simple_fillers.Ladder(memory, mean_picture(split), None)
    positions = split.positions("test")
    order = torch.stack([torch.randperm(N) for _ in positions])
    rows = rival_rows(name, ladder, handed_memory(memory, indices), split, positions, order, study_plan(), 100)
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
    assert {(row["rival"], row["percent"]) for row in rows} == {(name, percent) for percent in study_plan().percentages}
    assert all(set(row) == set(RIVALS_HEADER) and row["measure"] != "predicted" for row in rows)
    assert where(rows, {"percent": 0, "measure": "mse_to_reconstruction"})[0]["mean"] == pytest.approx(0, abs=1e-9)


def test_few_pictures_are_spread_over_all_and_keep_their_masks(split: Split, indices: HandedIndices) -> None:
    assert spread(9, 3).tolist() == [0, 4, 8] and spread(4, 9).tolist() == [0, 1, 2, 3]
    memory = tiny_memory(classifier="compact")
    plan = study_plan(strategies=("random",), percentages=(50,))
    handed, positions = handed_memory(memory, indices), split.positions("test")
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
    memory = tiny_memory()
    ladder = simple_fillers.Ladder(memory, mean_picture(split), None)
    positions = split.positions("test")
    order = torch.arange(N - 1, -1, -1).expand(PICTURES, -1)
    plan = study_plan(percentages=(25,))
    rows = rival_rows("not completed", ladder, handed_memory(memory, indices), split, positions, order, plan, 100)
    (row,) = where(rows, {"measure": "masked_ssim_to_reconstruction"})
    assert row["pictures"] == 0 and math.isnan(row["mean"])
    assert where(rows, {"measure": "masked_mse_to_reconstruction"})[0]["pictures"] == PICTURES
    assert not where(rows, {"measure": "classification_error"})


@pytest.mark.parametrize("with_published", [False, True])
def test_rivals_ours_and_the_published_recipe_stand_side_by_side(
    with_published: bool, split: Split, indices: HandedIndices
) -> None:
    memory, plan = (
        tiny_memory(classifier="compact"),
        study_plan(strategies=("random", "selective"), percentages=(50, 100)),
    )
    handed, positions = handed_memory(memory, indices), split.positions("test")
    study = measure(memory, split, indices, positions, plan)
    rows = summarise(study, 100, plan.seed, bits_of(memory))
    published = tiny_distil(layers=1) if with_published else None
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
    memory, published = tiny_memory(classifier="compact"), tiny_distil(layers=1)
    plan = study_plan(strategies=("random", "selective", "additive"), percentages=(50, 100), tell_class=True,
        filling=Filling(passes=3), decodings=("expected",),
    )  # fmt: skip
    handed, positions = handed_memory(memory, indices), split.positions("test")
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
    handed = handed_memory(tiny_memory(classifier="compact"), indices)
    assert published_selection(handed, split, split.positions("test"), study_plan(), 100, tiny_distil(layers=1)) == []


def test_the_mean_picture_is_of_training_pictures(split: Split) -> None:
    torch.testing.assert_close(mean_picture(split), to_model(split.images[5:]).mean(0))
    torch.testing.assert_close(mean_picture(split, most=1), to_model(split.images[5:6]).mean(0))
