"""Whole grids and kept tokens at the bits of their streams. K = 8 codes, 4x4 tokens."""

import math

import pytest
import torch

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices
from masked_memory.measuring.study import ALL_FORGOTTEN
from masked_memory.pipeline.rows import Rows
from masked_memory.recall.choosing import choose_order
from masked_memory.recall.memory import Memory
from masked_memory.rivals.coding.bitstreams import Sender
from masked_memory.rivals.coding.coders import code_kept
from masked_memory.rivals.coding.positions import choice_bits, keeping_odds
from masked_memory.rivals.measuring import coded
from masked_memory.rivals.measuring.bits import BITS_HEADER
from masked_memory.rivals.measuring.coded import ALL_TOKENS, kept_rows, prepare_coding, whole_rows
from masked_memory.stages.masking import mask_first, position_bits
from toys import bits_plan, fake_indices, fake_split, measured, study_plan, tiny_memory, tiny_pixelcnn

K, N, PICTURES = 8, 16, 5
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def split() -> Split:
    return fake_split(["test"] * PICTURES + ["train"] * 3 + ["val"] * 4)


@pytest.fixture
def indices() -> HandedIndices:
    return fake_indices(PICTURES + 7)


@pytest.fixture
def memory() -> Memory:
    return tiny_memory(classifier="compact")


def by_name(rows: Rows) -> dict[tuple[str, str], dict[str, float]]:
    found = {(row["method"], row["setting"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_whole_grids_have_one_error_and_the_bits_of_each_coder(
    memory: Memory, split: Split, indices: HandedIndices
) -> None:
    prior = tiny_pixelcnn(codebook_size=K, grid=4)
    rows = whole_rows(bits_plan(memory, split, indices), prior)
    assert [row["setting"] for row in rows] == [
        "fixed length", "frequencies of the codes", "frequencies at the position", "PixelCNN", "DistilBERT",
    ]  # fmt: skip
    assert len({row["mse_to_picture"] for row in rows}) == 1 and {row["disagreement"] for row in rows} == {0}
    assert rows[0]["ideal_bits"] == N * math.log2(K)
    for row in rows:
        assert row["method"] == ALL_TOKENS and row["pictures"] == PICTURES and set(row) <= set(BITS_HEADER)
        assert row["bits_without_coding"] == 48 and row["ideal_bits"] < row["bits"] + 1 < row["ideal_bits"] + 10
    without = whole_rows(bits_plan(memory, split, indices), None)
    assert [row for row in rows if row["setting"] != "PixelCNN"] == without


def test_every_strategy_at_every_percentage_and_nothing_kept_once(
    memory: Memory, split: Split, indices: HandedIndices
) -> None:
    rows = by_name(kept_rows(bits_plan(memory, split, indices)))
    names = [(name, f"{percent} % forgotten") for percent in (0, 50) for name in ("random", "additive", "adaptive")]
    assert set(rows) == {*names, (ALL_FORGOTTEN, "100 % forgotten")}
    nothing = rows[ALL_FORGOTTEN, "100 % forgotten"]
    assert nothing["bits"] == nothing["ideal_bits"] == nothing["bits_without_coding"] == 0
    for name, setting in names:
        row = rows[name, setting]
        kept = N if setting.startswith("0") else N / 2
        counted = position_bits(N, N // 2) if (name, kept) == ("adaptive", N / 2) else 0
        assert row["counted_position_bits"] == pytest.approx(counted)
        assert row["bits_without_coding"] == pytest.approx(3 * kept + counted)
        assert (row["position_bits"] > 0) == (counted > 0)
        assert row["position_bits"] <= row["ideal_bits"] < row["bits"] + 1 < row["ideal_bits"] + 10


def test_errors_are_those_of_the_study(memory: Memory, split: Split, indices: HandedIndices) -> None:
    plan = study_plan(strategies=("additive", "adaptive"), decodings=("expected",), batch_size=2)
    study = measured(plan, split, indices, memory)
    rows = by_name(kept_rows(bits_plan(memory, split, indices)))
    for name, percent in (("additive", 50), ("adaptive", 50), ("adaptive", 0), (ALL_FORGOTTEN, 100)):
        for measure in ("mse_to_picture", "classification_error", "disagreement"):
            known = float(study.cells[name, percent, "expected"][measure].mean())
            assert rows[name, f"{percent} % forgotten"][measure] == pytest.approx(known, rel=1e-5)


def test_the_bits_of_a_cell_can_be_computed_by_hand(memory: Memory, split: Split, indices: HandedIndices) -> None:
    """adaptive, half forgotten: positions by their odds on validation, codes in three passes."""
    plan = bits_plan(memory, split, indices, batch_size=PICTURES)
    row = by_name(kept_rows(plan))["adaptive", "50 % forgotten"]
    test, val = (indices.tokens(split.positions(part)) for part in ("test", "val"))
    kept, seen = (
        ~mask_first(choose_order("adaptive", memory, tokens, torch.Generator(), plan.study.choosing), 8)
        for tokens in (test, val)
    )
    sender, odds = Sender(test, kept), keeping_odds(seen)
    code_kept(sender, memory, odds, 8, 3)
    assert row["ideal_bits"] == pytest.approx(float(sender.ideal_bits().mean()))
    assert row["bits"] == 8 * sum(len(stream) for stream in sender.streams()) / PICTURES
    assert row["position_bits"] == pytest.approx(float(choice_bits(kept, odds).mean()))


def test_odds_are_those_of_validation_pictures(memory: Memory, split: Split, indices: HandedIndices) -> None:
    plan = bits_plan(memory, split, indices)
    prepared = prepare_coding(plan)
    assert set(prepared.orders) == {"random", "adaptive"} and {name for name, _ in prepared.odds} == {"adaptive"}
    val = indices.tokens(split.positions("val"))
    order = choose_order("adaptive", memory, val, torch.Generator(), plan.study.choosing)
    assert torch.equal(prepared.odds["adaptive", 50], keeping_odds(~mask_first(order, 8)))


def test_a_picture_that_is_decoded_as_another_ends_the_stage(
    memory: Memory, split: Split, indices: HandedIndices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(channel: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, sent = code_kept(channel, **options)
        return (tokens if isinstance(channel, Sender) else (tokens + 1) % K), sent

    monkeypatch.setattr(coded, "code_kept", leaking)
    with pytest.raises(RuntimeError, match="are not decoded as they were coded"):
        kept_rows(bits_plan(memory, split, indices))


def test_the_same_plan_gives_the_same_rows(memory: Memory, split: Split, indices: HandedIndices) -> None:
    plan = bits_plan(memory, split, indices)
    assert kept_rows(plan) == kept_rows(plan)
