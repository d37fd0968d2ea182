"""The study: what is measured is what each model gives alone, whatever the batches. K = 8 codes, 4x4 tokens of 4x4."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.measuring.curves import bits_of, curve, summarise
from masked_memory.measuring.study import ALL_FORGOTTEN, Study, batches_of, measure_recall, recall_batch
from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import masked_logits
from masked_memory.pipeline.metrics import calibration_error, mse, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.recall.choosing import Choosing
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages.masking import mask_first, touched_pixels
from toys import (
    DECODINGS,
    complete,
    fake_indices,
    fake_split,
    measured,
    one_batch,
    painted_vectors,
    study_plan,
    tiny_memory,
)

K, SIDE, CLASSES = 8, 4, 3
N = SIDE**2
PICTURES = 7
PLAN = study_plan(
    percentages=(25, 50, 100), decodings=DECODINGS, seeds=2, seed=5, choosing=Choosing(),
    filling=Filling(temperature=1.0), batch_size=3,
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("no_gradients")


def make_uniform(memory: Memory) -> None:
    """Every code gets the same probability, so the likeliest is code 0."""
    for parameter in memory.distil.vocab_layer_norm.parameters():
        parameter.zero_()


@pytest.fixture
def split() -> Split:
    """All 7 pictures are of the test part."""
    return fake_split(["test"] * PICTURES)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(PICTURES)


def mask_of(study: Study, strategy: str, count: int, seed: int = 0) -> Tensor:
    return mask_first(study.orders[strategy][seed], count)


# What is measured


@pytest.mark.parametrize("passes", [1, 3])
def test_how_much_memory_there_is_makes_no_difference(passes: int, split: Split, indices: HandedIndices) -> None:
    plan = replace(PLAN, filling=Filling(passes, temperature=1.0))
    tight, ample = (
        measured(plan, split, indices, tiny_memory(classifier="compact", budget=budget)) for budget in (1, 2**30)
    )
    assert tight.cells.keys() == ample.cells.keys()
    for key, table in ample.cells.items():
        torch.testing.assert_close(tight.cells[key], table, equal_nan=True)
    assert tight.calibration == pytest.approx(ample.calibration)


def test_a_batch_has_pictures_and_reconstructions_in_the_unit_range(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    batches = list(batches_of(memory, split, indices, np.array([1, 4, 5, 6]), 3))
    assert [len(batch.tokens) for batch in batches] == [3, 1]
    assert [batch.rows for batch in batches] == [slice(0, 3), slice(3, 6)]
    second = batches[1]
    assert second.labels.tolist() == [0] and torch.equal(second.tokens, indices.tokens(np.array([6])))
    torch.testing.assert_close(second.truth, torch.from_numpy(split.images[6:7]).permute(0, 3, 1, 2) / 255)
    painted = memory.paint_tokens(second.tokens)
    torch.testing.assert_close(second.whole, to_unit(painted))
    assert second.seen["degraded"].tolist() == memory.classifier(painted).argmax(1).tolist()


@pytest.mark.parametrize("passes", [1, 3])
def test_nothing_forgotten_gives_the_plain_reconstruction_in_every_decoding(
    passes: int, split: Split, indices: HandedIndices
) -> None:
    memory = tiny_memory(classifier="compact")
    study = measured(replace(PLAN, percentages=(0,), filling=Filling(passes, temperature=1.0)), split, indices, memory)
    batch = one_batch(memory, split, indices)
    assert set(study.cells) == {(strategy, 0, decoding) for strategy in PLAN.strategies for decoding in DECODINGS}
    for table in study.cells.values():
        for seed in range(len(table["mse_to_picture"])):
            assert (table["mse_to_reconstruction"][seed] == 0).all() and (table["disagreement"][seed] == 0).all()
            torch.testing.assert_close(table["mse_to_picture"][seed], mse(batch.whole, batch.truth))
            assert torch.equal(table["classification_error"][seed], (batch.seen["degraded"] != batch.labels).float())
        assert not any(name.startswith("masked") for name in table)
    assert not study.calibration


@pytest.mark.parametrize("strategy", ["random", "half"])
def test_the_measures_are_those_of_each_decoding_painted_directly(
    strategy: str, split: Split, indices: HandedIndices
) -> None:
    memory = tiny_memory(classifier="compact")
    study = measured(PLAN, split, indices, memory)
    batch, mask = one_batch(memory, split, indices), mask_of(study, strategy, 8)
    found = complete(memory.distil, batch.tokens, mask, memory.codebook)
    pixels = touched_pixels(mask, 16, 16, 4)
    for decoding, painted in (
        ("argmax", memory.paint_tokens(found.indices)),
        ("expected", painted_vectors(memory, found.expected)),
    ):
        table = {name: values[0] for name, values in study.cells[strategy, 50, decoding].items()}
        unit = to_unit(painted)
        torch.testing.assert_close(table["mse_to_reconstruction"], mse(unit, batch.whole))
        torch.testing.assert_close(table["mse_to_picture"], mse(unit, batch.truth))
        squared = (unit - batch.whole).square().mean(1)
        within = torch.stack([each[hole].mean() for each, hole in zip(squared, pixels, strict=True)])
        torch.testing.assert_close(table["masked_mse_to_reconstruction"], within)
        predicted = memory.classifier(painted).argmax(1)
        assert torch.equal(table["predicted"], predicted.float())
        assert torch.equal(table["classification_error"], (predicted != batch.labels).float())
        assert torch.equal(table["disagreement"], (predicted != batch.seen["degraded"]).float())


def test_accuracy_and_cross_entropy_are_of_masked_tokens_picture_by_picture(
    split: Split, indices: HandedIndices
) -> None:
    memory = tiny_memory(classifier="compact")
    study = measured(PLAN, split, indices, memory)
    tokens = indices.tokens(split.positions("test"))
    for seed in range(PLAN.seeds):
        mask, table = mask_of(study, "random", 4, seed), study.cells["random", 25, "tokens"]
        for row in range(PICTURES):
            one = slice(row, row + 1)
            logits, true = masked_logits(memory.distil, tokens[one], mask[one]), tokens[one][mask[one]]
            torch.testing.assert_close(table["cross_entropy"][seed, row], F.cross_entropy(logits, true))
            assert float(table["accuracy"][seed, row]) == pytest.approx(
                float((logits.argmax(1) == true).float().mean())
            )


def test_the_calibration_error_is_over_all_pictures_and_seeds(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    study = measured(PLAN, split, indices, memory)
    tokens, confidence, right = indices.tokens(split.positions("test")), [], []
    for seed in range(PLAN.seeds):
        mask = mask_of(study, "random", 8, seed)
        sure, likeliest = masked_logits(memory.distil, tokens, mask).softmax(1).max(1)
        confidence.append(sure)
        right.append(likeliest == tokens[mask])
    expected = calibration_error(torch.cat(confidence), torch.cat(right))
    assert study.calibration["random", 50] == pytest.approx(expected, abs=1e-6)
    assert set(study.calibration) == {("random", 25), ("half", 25), ("random", 50), ("half", 50), (ALL_FORGOTTEN, 100)}


def test_a_model_that_knows_nothing_has_log_k_and_the_accuracy_of_a_guess(split: Split, indices: HandedIndices) -> None:
    """It names code 0 with confidence 1/K: what is off by calibration is how often that is right."""
    memory = tiny_memory(classifier="compact")
    make_uniform(memory)
    study = measured(PLAN, split, indices, memory)
    table = study.cells[ALL_FORGOTTEN, 100, "tokens"]
    torch.testing.assert_close(table["cross_entropy"], torch.full((1, PICTURES), math.log(K)))
    zeros = (indices.tokens(split.positions("test")) == 0).float().mean(1)
    torch.testing.assert_close(table["accuracy"][0], zeros)
    assert study.calibration[ALL_FORGOTTEN, 100] == pytest.approx(abs(float(zeros.mean()) - 1 / K), abs=1e-6)


def test_ssim_within_the_mask_is_no_number_without_a_window_there(split: Split, indices: HandedIndices) -> None:
    """SSIM's windows have their centres in pixels 5 to 10 of 16: the lowest row of tokens (12 to 15) has none, the
    lower half (8 to 15) has."""
    study = measured(replace(PLAN, strategies=("half",)), split, indices)
    name = "masked_ssim_to_reconstruction"
    assert study.cells["half", 25, "argmax"][name].isnan().all()
    assert not study.cells["half", 50, "argmax"][name].isnan().any()
    assert not study.cells["half", 25, "argmax"]["masked_mse_to_reconstruction"].isnan().any()
    rows = summarise(study, 100, 0, bits_of(tiny_memory(classifier="compact")))
    assert curve(rows, "half", "argmax", name).percentages == [50, 100]
    assert curve(rows, "half", "argmax", "masked_mse_to_reconstruction").percentages == [25, 50, 100]


def test_without_a_classifier_nothing_is_said_of_classes(split: Split, indices: HandedIndices) -> None:
    study = measured(PLAN, split, indices, tiny_memory())
    names = {name for table in study.cells.values() for name in table}
    assert {"mse_to_picture", "psnr_to_picture", "ssim_to_reconstruction", "cross_entropy"} <= names
    assert not names & {"classification_error", "disagreement", "predicted"}


def test_a_classifier_of_codes_sees_the_grids_that_were_filled_in(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="codes")
    study = measured(PLAN, split, indices, memory)
    tokens, mask = indices.tokens(split.positions("test")), mask_of(study, "half", 8)
    filled = complete(memory.distil, tokens, mask, memory.codebook).indices
    predicted = memory.classifier(memory.grid(filled)).argmax(1).float()
    for decoding in ("argmax", "expected"):
        assert torch.equal(study.cells["half", 50, decoding]["predicted"][0], predicted)


def test_the_class_is_told_when_the_plan_says_so(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact", told=CLASSES)
    batch = one_batch(memory, split, indices)
    mask = torch.rand(PICTURES, N) < 0.5
    draws = torch.Generator().manual_seed(0)
    for told in (False, True):
        plan = replace(PLAN, tell_class=told)
        found = recall_batch(memory, batch, mask, plan, ("argmax",), draws).tokens["cross_entropy"]
        logits = masked_logits(memory.distil, batch.tokens, mask, batch.labels if told else None)
        losses = torch.zeros(mask.shape)
        losses[mask] = F.cross_entropy(logits, batch.tokens[mask], reduction="none")
        torch.testing.assert_close(found, losses.sum(1) / mask.sum(1))
    everyone_else = masked_logits(memory.distil, batch.tokens, mask, (batch.labels + 1) % CLASSES)
    assert not torch.allclose(everyone_else, logits), "another class would be noticed"


# Several passes


def test_in_several_passes_everything_is_filled_as_complete_fills_it(split: Split, indices: HandedIndices) -> None:
    memory = tiny_memory(classifier="compact")
    plan = replace(PLAN, filling=Filling(passes=3, temperature=1.0))
    batch, mask = one_batch(memory, split, indices), torch.rand(PICTURES, N) < 0.7
    recalled = recall_batch(memory, batch, mask, plan, DECODINGS, torch.Generator().manual_seed(3))
    once = recall_batch(memory, batch, mask, PLAN, DECODINGS, torch.Generator().manual_seed(3))
    likeliest = complete(memory.distil, batch.tokens, mask, memory.codebook, Filling(passes=3))
    drawn = complete(
        memory.distil, batch.tokens, mask, memory.codebook, plan.filling, torch.Generator().manual_seed(3)
    ).indices
    expected = {
        "argmax": (memory.paint_tokens(likeliest.indices), likeliest.indices),
        "sample": (memory.paint_tokens(drawn), drawn),
        "expected": (painted_vectors(memory, likeliest.expected), likeliest.indices),
    }
    assert recalled.tokens is None and len(recalled.answers[0]) == 0
    for decoding in DECODINGS:
        painted, grids = recalled.painted[decoding]
        torch.testing.assert_close(painted, expected[decoding][0])
        assert torch.equal(grids, expected[decoding][1])
        assert torch.equal(grids[~mask], batch.tokens[~mask])
    assert not torch.equal(recalled.painted["argmax"][1], once.painted["argmax"][1]), "later passes see earlier ones"


def test_in_several_passes_no_forgotten_token_stays(split: Split) -> None:
    """The stored codes are never 0, the model names nothing but 0: whatever is masked must become 0."""
    memory = tiny_memory(classifier="compact")
    make_uniform(memory)
    stored = fake_indices(PICTURES, lowest=1)
    batch, mask = one_batch(memory, split, stored), torch.rand(PICTURES, N) < 0.7
    plan = replace(PLAN, filling=Filling(passes=3))
    grids = recall_batch(memory, batch, mask, plan, ("argmax",), torch.Generator()).painted["argmax"][1]
    assert torch.equal(grids == 0, mask)


def test_several_passes_are_measured_in_every_decoding_but_not_token_by_token(
    split: Split, indices: HandedIndices
) -> None:
    study = measured(replace(PLAN, filling=Filling(passes=3, temperature=1.0)), split, indices)
    keys = {(s, p, d) for s in PLAN.strategies for p in (25, 50) for d in DECODINGS}
    assert set(study.cells) == keys | {(ALL_FORGOTTEN, 100, d) for d in DECODINGS}
    assert not study.calibration
    assert all((table["mse_to_reconstruction"] > 0).all() for table in study.cells.values())


# Seeds, batches, draws


@pytest.mark.parametrize(("passes", "batch_size"), [(1, 1), (1, 250), (2, 4)])
def test_the_size_of_the_batches_changes_nothing_but_drawn_codes(
    passes: int, batch_size: int, split: Split, indices: HandedIndices
) -> None:
    plan = replace(PLAN, percentages=(50, 100), filling=Filling(passes, temperature=1.0))
    small = measured(plan, split, indices)
    large = measured(replace(plan, batch_size=batch_size), split, indices)
    assert small.cells.keys() == large.cells.keys()
    for key, table in small.cells.items():
        if key[2] != "sample":
            for name, values in table.items():
                torch.testing.assert_close(large.cells[key][name], values, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert large.calibration == pytest.approx(small.calibration, abs=1e-6)


def test_the_same_plan_measures_the_same_and_another_seed_draws_anew(split: Split, indices: HandedIndices) -> None:
    plan = replace(PLAN, percentages=(50, 100))
    first, again, other = (measured(replace(plan, seed=seed), split, indices) for seed in (5, 5, 6))
    for key, table in first.cells.items():
        for name, values in table.items():
            assert torch.equal(again.cells[key][name].nan_to_num(), values.nan_to_num()), (key, name)
    drawn, argmax = (ALL_FORGOTTEN, 100, "sample"), (ALL_FORGOTTEN, 100, "argmax")
    assert not torch.equal(other.cells[drawn]["mse_to_picture"], first.cells[drawn]["mse_to_picture"])
    assert torch.equal(other.cells[argmax]["mse_to_picture"], first.cells[argmax]["mse_to_picture"])
    assert not torch.equal(other.orders["random"][0], first.orders["random"][0])


def test_random_strategies_are_repeated_and_the_others_measured_once(split: Split, indices: HandedIndices) -> None:
    plan = replace(PLAN, strategies=("random", "block", "half", "direct"), percentages=(50,), seeds=3)
    study = measured(plan, split, indices)
    assert {name: len(orders) for name, orders in study.orders.items()} == {
        "random": 3, "block": 3, "half": 1, "direct": 1
    }  # fmt: skip
    assert not torch.equal(study.orders["random"][0], study.orders["random"][1])
    for (strategy, _, decoding), table in study.cells.items():
        seeds = 3 if STRATEGIES[strategy].drawn and decoding in (plan.decodings[-1], "tokens") else 1
        assert all(values.shape == (seeds, PICTURES) for values in table.values()), (strategy, decoding)


def test_at_100_percent_all_strategies_are_one(split: Split, indices: HandedIndices) -> None:
    study = measured(PLAN, split, indices)
    assert {key for key in study.cells if key[1] == 100} == {
        (ALL_FORGOTTEN, 100, decoding) for decoding in (*DECODINGS, "tokens")
    }
    table = study.cells[ALL_FORGOTTEN, 100, "argmax"]
    torch.testing.assert_close(table["masked_mse_to_reconstruction"], table["mse_to_reconstruction"])


def test_a_bar_is_full_at_the_end_of_a_study_that_is_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bars = []

    def watched(*args: Any, **options: Any) -> Any:
        bars.append(progress_bar(*args, **options))
        return bars[-1]

    monkeypatch.setattr("masked_memory.measuring.study.progress_bar", watched)
    split, plan = fake_split(["test"] * 5), study_plan(batch_size=2)
    for _ in range(2):
        measure_recall(tiny_memory(), split, fake_indices(5), np.arange(5), plan, tmp_path)
        assert [(bar.desc, bar.n) for bar in bars[-2:]] == [(bar.desc, bar.total) for bar in bars[-2:]]
    assert len(bars) == 4
