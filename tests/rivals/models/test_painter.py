"""The painter: it starts as the decoder, is told what is known, and paints what is to be expected and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from masked_memory.models.codes import Filling
from masked_memory.models.pretrained import write_model
from masked_memory.pipeline.files import InputError
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import Filled, Hole, dig
from masked_memory.recall.memory import Memory
from masked_memory.recall.simple_fillers import NotCompleted, PaintedPlainly
from masked_memory.rivals.handoff.trained_rivals import TrainedRivals
from masked_memory.rivals.measuring.study_rivals import rival_ways
from masked_memory.rivals.models.painter import CodePainter, load_painter
from toys import seeded, tiny_memory, tiny_vqvae

N = 16
pytestmark = pytest.mark.usefixtures("no_gradients")

CONDITIONED = {"condition_numbers": 1, "condition_classes": (3,)}


@pytest.mark.parametrize(
    "changes", [{}, {"stem": "strided"}, {"reconstruction_loss": "bce"}, {"stride": 8}, CONDITIONED], ids=str
)
def test_it_starts_as_the_decoder_which_stays_as_it_is(changes: dict[str, object]) -> None:
    vqvae = tiny_vqvae(**changes)
    before = {name: weight.clone() for name, weight in vqvae.state_dict().items()}
    painter = CodePainter(vqvae).eval()
    vectors = torch.randn(3, vqvae.config.tokens, 4, generator=seeded(0))
    kept = torch.rand(3, vqvae.config.tokens, generator=seeded(1)) < 0.5
    expected = vqvae.decode_codes(vectors.transpose(1, 2).unflatten(2, (vqvae.config.grid,) * 2))
    torch.testing.assert_close(painter(vectors, kept), expected, atol=1e-5, rtol=0)
    for parameter in painter.parameters():
        parameter.add_(1.0)
    assert all(torch.equal(before[name], weight) for name, weight in vqvae.state_dict().items())


def changed_painter(memory: Memory) -> CodePainter:
    """One that paints otherwise than the decoder, and known tokens otherwise than others."""
    painter = CodePainter(memory.vqvae).eval()
    for parameter in painter.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=seeded(2)) * 0.2)
    return painter


@pytest.fixture
def memory() -> Memory:
    plain = tiny_memory()
    return replace(plain, painter=changed_painter(plain))


@pytest.fixture
def hole() -> Hole:
    return dig(torch.randint(0, 8, (3, N), generator=seeded(3)), torch.rand(3, N, generator=seeded(4)) < 0.6)


@pytest.mark.parametrize("passes", [1, 3])
def test_vectors_to_expect_are_painted_by_it_and_codes_are_not(memory: Memory, hole: Hole, passes: int) -> None:
    filler = distil_filler(memory, Filling(passes=passes))
    expected, likeliest = filler.fill(hole, "expected", None), filler.fill(hole, "argmax", None)
    assert torch.equal(memory.paint(expected), memory.painter(expected.vectors, ~hole.mask))
    plain = replace(memory, painter=None)
    assert (memory.paint(expected) - plain.paint(expected)).abs().max() > 1e-3
    assert torch.equal(memory.paint(likeliest), plain.paint(likeliest))
    blank = NotCompleted(memory.codebook, memory.blank).fill(hole, "expected", None)
    assert torch.equal(memory.paint(blank), plain.paint(blank)), "the average code is not what is to be expected"
    assert torch.equal(memory.paint_tokens(hole.tokens), plain.paint_tokens(hole.tokens))


def test_it_is_told_what_is_known(memory: Memory, hole: Hole) -> None:
    vectors = memory.codebook[hole.tokens]
    told = [memory.paint(Filled(hole.tokens, vectors, kept=kept)) for kept in (~hole.mask, hole.mask)]
    assert (told[0] - told[1]).abs().max() > 1e-3


def test_the_rivals_show_ours_with_and_without(memory: Memory, hole: Hole) -> None:
    """On the same vectors; with the kept cells' pixels, too."""
    whole: Tensor = memory.paint_tokens(hole.tokens)
    hole = dig(hole.tokens, hole.mask, pixels=whole, stride=memory.stride)
    plain, mean = replace(memory, painter=None), torch.zeros(3, 16, 16)
    with_it, without = ({w.shown: w for w in rival_ways(m, mean, TrainedRivals())} for m in (memory, plain))
    more = {"ours, expected, painter", "ours, expected, painter, kept cells' pixels"}
    assert set(with_it) - set(without) == more
    for name, way in without.items():
        assert torch.equal(memory.paint(with_it[name].fill(hole)), plain.paint(way.fill(hole))), name
    painted = memory.paint(with_it["ours, expected, painter"].fill(hole))
    filled = distil_filler(memory).fill(hole, "expected", None)
    assert torch.equal(painted, memory.painter(filled.vectors, ~hole.mask))
    assert PaintedPlainly(distil_filler(memory)).fill(hole, "expected", None).kept is None


def test_it_comes_back_from_disk(memory: Memory, hole: Hole, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"type: python -m masked_memory train_painter"):
        load_painter(tmp_path, memory.vqvae)
    write_model(tmp_path, memory.painter.state_dict(), {})
    loaded, vectors = load_painter(tmp_path, memory.vqvae), memory.codebook[hole.tokens]
    assert not loaded.training
    assert torch.equal(loaded(vectors, hole.mask), memory.painter(vectors, hole.mask))
