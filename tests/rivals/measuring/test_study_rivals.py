"""The study beside others: the same masks, the same measures. K = 8 codes, 4x4 tokens."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DistilBertForMaskedLM

from masked_memory.handoff.handed import Handed
from masked_memory.handoff.memory import HandedDistil
from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.measuring.curves import bits_of, summarise
from masked_memory.measuring.study import ALL_FORGOTTEN, Study
from masked_memory.models.codes import Filling
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.choosing import choose_order
from masked_memory.recall.fillers import Way, distil_filler
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory
from masked_memory.rivals.handoff.trained_rivals import TrainedRivals
from masked_memory.rivals.measuring.study_rivals import (
    PUBLISHED_HEADER,
    RIVALS_HEADER,
    RivalCounts,
    mean_picture,
    measure_rivals,
    published_steps,
    rival_rows,
    rival_ways,
)
from masked_memory.rivals.models.painter import CodePainter
from masked_memory.sources.pixels import to_model
from masked_memory.stages.masking import mask_first
from toys import (
    enlarge,
    fake_indices,
    fake_split,
    findings_of,
    measured,
    one_batch,
    study_plan,
    tiny_distil,
    tiny_mae,
    tiny_memory,
)

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


def way_called(name: str, memory: Memory, split: Split) -> Way:
    return next(way for way in rival_ways(memory, mean_picture(split), TrainedRivals()) if way.shown == name)


def with_orders(split: Split, order: Tensor) -> Study:
    """A study of all test pictures of which only the random masks are known."""
    return Study({}, {"random": [order]}, {}, split.positions("test"))


def where(rows: Rows, wanted: dict[str, Any]) -> Rows:
    return [row for row in rows if wanted.items() <= row.items()]


def same_rows(rows: Rows, others: Rows) -> bool:
    """Also where both have no number."""
    return [list(map(str, row.values())) for row in rows] == [list(map(str, row.values())) for row in others]


def likeliest(memory: Memory, model: DistilBertForMaskedLM, tokens: Tensor, mask: Tensor) -> Tensor:
    """The pictures painted from the model's likeliest codes in one pass."""
    return memory.paint(distil_filler(memory, model=model).fill(dig(tokens, mask), "argmax", None))


# Rivals


@pytest.mark.parametrize("name", ["nearest kept code", "mean picture"])
def test_a_rival_is_judged_on_the_masks_of_the_study(name: str, split: Split, indices: HandedIndices) -> None:
    memory, everything = tiny_memory(classifier="compact"), np.arange(PICTURES)
    way = way_called(name, memory, split)
    order = torch.stack([torch.randperm(N) for _ in everything])
    findings = findings_of(memory, split, indices, study=with_orders(split, order))
    rows = rival_rows(way, findings, everything, 100)
    batch = one_batch(memory, split, indices)
    hole = dig(batch.tokens, mask_first(order, 8), pixels=batch.whole * 2 - 1, stride=memory.stride)
    painted = memory.paint(way.fill(hole))
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
    memory = tiny_memory(classifier="compact")
    plan = study_plan(strategies=("random",), percentages=(50,))
    findings = findings_of(memory, split, indices, plan, measured(plan, split, indices, memory))
    found = measure_rivals(findings, TrainedRivals(), RivalCounts(pictures=2, slow_pictures=1, resamples=100))
    alone = rival_rows(way_called("nearest kept code", memory, split), findings, np.array([0, 2]), 100)
    assert same_rows(where(found, {"rival": "nearest kept code"}), alone)
    assert {row["pictures"] for row in alone if row["measure"] == "mse_to_picture"} == {2}


def test_a_measure_without_a_number_counts_no_pictures(split: Split, indices: HandedIndices) -> None:
    """The lowest row of tokens has no window of SSIM."""
    memory = tiny_memory()
    order = torch.arange(N - 1, -1, -1).expand(PICTURES, -1)
    findings = findings_of(memory, split, indices, study_plan(percentages=(25,)), with_orders(split, order))
    rows = rival_rows(way_called("not completed", memory, split), findings, np.arange(PICTURES), 100)
    (row,) = where(rows, {"measure": "masked_ssim_to_reconstruction"})
    assert row["pictures"] == 0 and math.isnan(row["mean"])
    assert where(rows, {"measure": "masked_mse_to_reconstruction"})[0]["pictures"] == PICTURES
    assert not where(rows, {"measure": "classification_error"})


@pytest.mark.parametrize("with_trained", [False, True])
def test_rivals_ours_and_those_trained_for_it_stand_side_by_side(
    with_trained: bool, split: Split, indices: HandedIndices
) -> None:
    memory, plan = (
        tiny_memory(classifier="compact"),
        study_plan(strategies=("random", "selective"), percentages=(50, 100)),
    )
    study = measured(plan, split, indices, memory)
    rows = summarise(study, 100, plan.seed, bits_of(memory))
    published = tiny_distil(layers=1)
    rivals = TrainedRivals()
    if with_trained:
        mae = Handed("train_mae", Path("-"), tiny_mae(), {"inputs": "originals"})
        rivals = TrainedRivals(HandedDistil("train_distil", Path("-"), published, {}), mae)
    findings = findings_of(memory, split, indices, plan, study, rows)
    found = measure_rivals(findings, rivals, RivalCounts(PICTURES, slow_pictures=2, resamples=100))
    names = [row["rival"] for row in found]
    assert ("masked autoencoder of originals" in names) == ("published recipe, argmax" in names) == with_trained
    simple = [way.shown for way in rival_ways(memory, mean_picture(split), rivals)]
    assert list(dict.fromkeys(row["rival"] for row in found)) == simple
    (slow,) = where(found, {"rival": "biharmonic inpainting", "percent": 50, "measure": "mse_to_picture"})
    (fast,) = where(found, {"rival": "mean picture", "percent": 50, "measure": "mse_to_picture"})
    assert (slow["pictures"], fast["pictures"]) == (2, PICTURES)
    for percent, strategy in ((50, "random"), (100, ALL_FORGOTTEN)):
        (ours,) = where(found, {"rival": "ours, argmax", "percent": percent, "measure": "mse_to_picture"})
        (row,) = where(
            rows, {"strategy": strategy, "percent": percent, "decoding": "argmax", "measure": "mse_to_picture"}
        )
        assert ours["mean"] == pytest.approx(row["mean"], abs=1e-6) and ours["pictures"] == row["pictures"]
    if with_trained:
        (filled,) = where(found, {"rival": "published recipe, argmax", "percent": 50, "measure": "mse_to_picture"})
        batch = one_batch(memory, split, indices)
        by_hand = likeliest(memory, published, batch.tokens, mask_first(study.orders["random"][0], 8))
        by_hand = mse(to_unit(by_hand), batch.truth).mean()
        assert filled["mean"] == pytest.approx(float(by_hand), abs=1e-6)


def test_each_step_from_the_published_study_to_ours_is_measured(split: Split, indices: HandedIndices) -> None:
    """Each model chooses and fills in by itself, in one pass, told nothing, whatever our plan says."""
    memory, published = tiny_memory(classifier="compact"), tiny_distil(layers=1)
    plan = study_plan(strategies=("random",), percentages=(50, 100), tell_class=True, filling=Filling(passes=3))
    findings = findings_of(memory, split, indices, plan)
    rows = published_steps(findings, published, RivalCounts(PICTURES, 1, 100))
    assert all(tuple(row) == PUBLISHED_HEADER for row in rows)
    steps = {(row["model"], row["selection"], row["decoding"]) for row in rows}
    assert steps == set(product(("published", "ours"), ("selective", "adaptive"), ("argmax", "expected")))
    batch = one_batch(memory, split, indices)
    for name, model in (("published", published), ("ours", memory.distil)):
        asked = replace(memory, distil=model)
        for selection, decoding in product(("selective", "adaptive"), ("argmax", "expected")):
            order = choose_order(selection, asked, batch.tokens, torch.Generator(), plan.choosing)
            hole = dig(batch.tokens, mask_first(order, 8))
            painted = memory.paint(distil_filler(asked).fill(hole, decoding, None))
            cell = {"model": name, "selection": selection, "decoding": decoding, "percent": 50}
            (pixels,) = where(rows, cell | {"measure": "mse_to_picture"})
            assert pixels["mean"] == pytest.approx(float(mse(to_unit(painted), batch.truth).mean()), abs=1e-6)
            (error,) = where(rows, cell | {"measure": "classification_error"})
            wrong = memory.classifier(painted).argmax(1) != batch.labels
            assert error["mean"] == pytest.approx(float(wrong.float().mean()))
    assert memory.distil is not published, "ours is left as it is"


def test_the_mean_picture_is_of_training_pictures(split: Split) -> None:
    torch.testing.assert_close(mean_picture(split), to_model(split.images[5:]).mean(0))
    torch.testing.assert_close(mean_picture(split, enough=1), to_model(split.images[5:6]).mean(0))


def test_a_painter_paints_ours_and_nothing_of_another_model(split: Split, indices: HandedIndices) -> None:
    """It is made for our DistilBERT: the published recipe is painted by the decoder, as without a painter."""
    plain, plan = tiny_memory(classifier="compact"), study_plan(strategies=("random",), percentages=(50,))
    painter = CodePainter(plain.vqvae).eval()
    enlarge(painter.decoder, 2)
    painted, counts = replace(plain, painter=painter), RivalCounts(PICTURES, 1, 100)
    published = tiny_distil(layers=1)
    both = [findings_of(memory, split, indices, plan) for memory in (plain, painted)]
    assert same_rows(*(published_steps(findings, published, counts) for findings in both))
    rivals = TrainedRivals(published=HandedDistil("train_distil", Path("-"), published, {}))
    ways = {way.shown: way for way in rival_ways(painted, mean_picture(split), rivals)}
    tokens, mask = indices.tokens(np.arange(PICTURES)), torch.arange(N).expand(PICTURES, -1) < 8
    for name, same in (
        ("published recipe, expected", True),
        ("ours, expected", True),
        ("ours, expected, painter", False),
    ):
        filled = ways[name].fill(dig(tokens, mask))
        assert torch.equal(painted.paint(filled), plain.paint(filled)) == same, name
