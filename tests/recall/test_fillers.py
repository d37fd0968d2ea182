"""One seam for all who fill in: known tokens stay, nobody looks, the same decodings. K = 11 codes, 5x5 tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import guided_logits, masked_logits
from masked_memory.recall.fillers import DistilFiller, Way, with_temperature
from masked_memory.recall.hole import Filled, Filler, Hole, check_decoding, dig, nothing_known
from masked_memory.recall.memory import Memory
from masked_memory.recall.simple_fillers import AsItIs, KeepingPixels, NotCompleted
from masked_memory.rivals.fillers import GANFiller, MaskedVQVAEFiller, PixelCNNFiller
from masked_memory.rivals.priors.gan import fill_from_pool, generate
from masked_memory.rivals.priors.pixelcnn import draw
from masked_memory.settings.strategies import DECODINGS
from masked_memory.stages.masking import touched_pixels
from toys import complete, seeded, tiny_distil, tiny_generator, tiny_memory, tiny_pixelcnn, tiny_vqvae

K, SIDE = 11, 5
N = SIDE**2
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def codebook() -> Tensor:
    return torch.randn(K, 4, generator=seeded(4))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, K, (4, N), generator=seeded(5))


@pytest.fixture
def mask() -> Tensor:
    """Nothing, some, all but one, everything."""
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[1, 3:14], mask[2], mask[3] = True, True, True
    mask[2, 7] = False
    return mask


def distil_filler(codebook: Tensor, passes: int = 1, classes: int = 0, **options: float) -> DistilFiller:
    model = tiny_distil(K, N, classes=classes)
    return DistilFiller("DistilBERT", model, codebook, Filling(passes, temperature=1.0, **options))


#: Everyone who fills grids of 5x5 tokens of 11 codes.
NETWORKS: dict[str, Callable[[Tensor], Filler]] = {
    "DistilBERT": distil_filler,
    "DistilBERT, 3 passes": lambda codebook: distil_filler(codebook, 3),
    "PixelCNN": lambda codebook: PixelCNNFiller("PixelCNN", tiny_pixelcnn(), Filling(temperature=1.0)),
    "PixelCNN, whole grids": lambda codebook: PixelCNNFiller("whole", tiny_pixelcnn(), incremental=False),
    "GAN": lambda codebook: GANFiller("GAN", tiny_generator(), 20),
    "not completed": lambda codebook: NotCompleted(codebook, codebook.mean(0)),
    "as it is": lambda codebook: AsItIs(),
}
EACH = [(name, decoding) for name, make in NETWORKS.items() for decoding in make(torch.randn(K, 4)).decodings]


@pytest.mark.parametrize(("name", "decoding"), EACH)
def test_known_tokens_stay_and_what_was_masked_cannot_be_seen(
    name: str, decoding: str, codebook: Tensor, tokens: Tensor, mask: Tensor
) -> None:
    filler = NETWORKS[name](codebook)
    hole = dig(tokens, mask)
    found = filler.fill(hole, decoding, seeded(1))
    assert torch.equal(found.tokens[~mask], tokens[~mask])
    assert found.tokens.min() >= 0 and found.tokens.max() < K
    if found.vectors is not None:
        assert torch.equal(found.vectors[~mask], codebook[tokens][~mask])
    others = torch.where(mask, (tokens + 1) % K, tokens)
    again = filler.fill(dig(others, mask), decoding, seeded(1))
    assert torch.equal(again.tokens, found.tokens), "another truth under the mask changes nothing"
    assert torch.equal(hole.tokens, tokens.masked_fill(mask, 0)), "the hole stays as it is"


def test_a_hole_shows_no_masked_token_and_no_masked_pixel(tokens: Tensor, mask: Tensor) -> None:
    pixels = torch.rand(4, 3, 20, 20) + 0.5
    hole = dig(tokens, mask, pixels=pixels, stride=4)
    inside = touched_pixels(mask, 20, 20, 4).unsqueeze(1).expand_as(pixels)
    assert (hole.tokens[mask] == 0).all() and torch.equal(hole.tokens[~mask], tokens[~mask])
    assert hole.pixels is not None and (hole.pixels[inside] == 0).all()
    assert torch.equal(hole.pixels[~inside], pixels[~inside])


@dataclass(frozen=True)
class Careless(AsItIs):
    """Fills with code 0, and changes so many known tokens of the second picture."""

    changes: int = 0

    def fill(self, hole: Hole, decoding: str, draws: torch.Generator | None) -> Filled:
        grids = hole.tokens.clone()
        grids[1, : self.changes] = (grids[1, : self.changes] + 1) % K
        return Filled(grids)


def test_a_way_that_changes_known_tokens_is_refused(tokens: Tensor, mask: Tensor) -> None:
    """Tokens 0 to 2 of the second picture are known, 3 to 13 are masked."""
    hole = dig(tokens, mask)
    assert torch.equal(Way(Careless(), "argmax", "careful").fill(hole).tokens, hole.tokens)
    for changes, known in ((1, 1), (3, 3), (14, 3)):
        with pytest.raises(ValueError, match=f"{known} known tokens were changed"):
            Way(Careless(changes=changes), "argmax", "careless").fill(hole)


@pytest.mark.parametrize("name", NETWORKS)
def test_decodings_that_a_filler_does_not_have_are_refused(
    name: str, codebook: Tensor, tokens: Tensor, mask: Tensor
) -> None:
    filler = NETWORKS[name](codebook)
    for decoding in {*DECODINGS, "blurred"} - set(filler.decodings):
        with pytest.raises(ValueError, match=f"cannot decode as '{decoding}'; expected one of: {filler.decodings[0]}"):
            filler.fill(dig(tokens, mask), decoding, seeded(0))
    assert set(filler.decodings) <= set(DECODINGS)
    check_decoding(filler, filler.decodings[-1])


def test_the_distilbert_has_every_decoding_of_the_registry(codebook: Tensor) -> None:
    assert distil_filler(codebook).decodings == tuple(DECODINGS)


def test_passes_say_how_often_a_network_is_asked(codebook: Tensor) -> None:
    passes = {name: make(codebook).passes for name, make in NETWORKS.items()}
    assert passes == {
        "DistilBERT": 1, "DistilBERT, 3 passes": 3, "PixelCNN": N, "PixelCNN, whole grids": N, "GAN": 1,
        "not completed": 0, "as it is": 0,
    }  # fmt: skip


# DistilBERT


@pytest.mark.parametrize("passes", [1, 3])
def test_several_decodings_at_once_are_those_asked_for_alone(
    passes: int, codebook: Tensor, tokens: Tensor, mask: Tensor
) -> None:
    filler, hole = distil_filler(codebook, passes), dig(tokens, mask)
    together = filler.fill_all(hole, tuple(DECODINGS), seeded(2))
    for decoding, found in together.items():
        alone = filler.fill(hole, decoding, seeded(2))
        assert torch.equal(alone.tokens, found.tokens)
        assert (alone.vectors is None) == (found.vectors is None) == (decoding != "expected")
        assert alone.vectors is None or torch.equal(alone.vectors, found.vectors)


def test_decodings_that_draw_nothing_share_their_passes(codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    filler = distil_filler(codebook, 3)
    asked: list[int] = []
    filler.model.distilbert.register_forward_pre_hook(lambda module, inputs: asked.append(1))
    filler.fill_all(dig(tokens, mask), ("argmax", "expected"), None)
    assert len(asked) == 3


def test_one_pass_is_the_likeliest_the_drawn_and_the_mean(codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    filler, hole = distil_filler(codebook), dig(tokens, mask)
    logits = masked_logits(filler.model, tokens, mask)
    likeliest, drawn, mean = (filler.fill(hole, decoding, seeded(3)) for decoding in DECODINGS)
    assert torch.equal(likeliest.tokens[mask], logits.argmax(1)) and torch.equal(mean.tokens, likeliest.tokens)
    assert not torch.equal(drawn.tokens, likeliest.tokens)
    assert mean.vectors is not None
    torch.testing.assert_close(mean.vectors[mask], logits.softmax(1) @ codebook)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("decoding", DECODINGS)
def test_how_many_are_asked_about_at_once_makes_no_difference(
    decoding: str, passes: int, at_once: int, codebook: Tensor, tokens: Tensor, mask: Tensor
) -> None:
    """Neither to what is drawn nor to what is told to whom."""
    filler = distil_filler(codebook, passes, classes=3, guidance_scale=2.0, choice_noise=1.0)
    hole = dig(tokens, mask, torch.tensor([0, 1, 2, 0]))
    together = filler.fill(hole, decoding, seeded(6))
    in_parts = replace(filler, at_once=at_once).fill(hole, decoding, seeded(6))
    assert torch.equal(in_parts.tokens, together.tokens)
    torch.testing.assert_close(in_parts.vectors, together.vectors)
    assert (in_parts.kept is None) == (together.kept is None)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_several_passes_are_those_of_complete(decoding: str, codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    filler = distil_filler(codebook, 4)
    filling = with_temperature(filler.filling, decoding)
    known = complete(filler.model, tokens, mask, codebook, filling, seeded(6))
    found = filler.fill(dig(tokens, mask), decoding, seeded(6))
    assert torch.equal(found.tokens, known.indices)
    assert found.vectors is None or torch.equal(found.vectors, known.expected)


def test_the_class_is_told_with_guidance(codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    filler = distil_filler(codebook, classes=3, guidance_scale=4.0)
    labels = torch.tensor([0, 1, 2, 0])
    found = filler.fill(dig(tokens, mask, labels), "argmax", None).tokens
    assert torch.equal(found[mask], guided_logits(filler.model, tokens, mask, labels, 4.0).argmax(1))
    assert not torch.equal(found, filler.fill(dig(tokens, mask), "argmax", None).tokens)


def test_bfloat16_asks_in_it_and_mixes_code_vectors_in_float32(codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    exact = distil_filler(codebook)
    short = DistilFiller("short", exact.model, codebook, exact.filling, bf16=True)
    found, known = (filler.fill(dig(tokens, mask), "expected", None).vectors for filler in (short, exact))
    assert found is not None and known is not None and found.dtype == torch.float32
    assert torch.equal(found[~mask], codebook[tokens][~mask]), "known tokens are not rounded"
    assert 0 < (found - known).abs().max() < 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_under_autocast_all_fill_in_and_code_vectors_come_back_in_float32(
    name: str, codebook: Tensor, tokens: Tensor, mask: Tensor
) -> None:
    """As when all ways are timed in bfloat16."""
    filler = NETWORKS[name](codebook)
    for decoding in filler.decodings:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found = filler.fill(dig(tokens, mask), decoding, torch.Generator().manual_seed(0))
        assert torch.equal(found.tokens[~mask], tokens[~mask])
        assert found.vectors is None or found.vectors.dtype == torch.float32


# Priors, pixels


def test_the_pixelcnn_draws_as_it_does_alone(codebook: Tensor, tokens: Tensor, mask: Tensor) -> None:
    model, filling = tiny_pixelcnn(), Filling(temperature=1.0, top_k=5)
    found = PixelCNNFiller("", model, filling).fill(dig(tokens, mask), "sample", seeded(7))
    assert torch.equal(found.tokens, draw(model, tokens, mask, filling, seeded(7)))
    slow = PixelCNNFiller("", model, filling, incremental=False).fill(dig(tokens, mask), "sample", seeded(7))
    assert torch.equal(slow.tokens, found.tokens)


def test_the_gan_fills_from_its_pool_and_makes_new_grids_of_nothing(tokens: Tensor, mask: Tensor) -> None:
    model = tiny_generator()
    filler = GANFiller("", model, 20)
    some = mask.clone()
    some[3, 0] = False
    pool = generate(model, 20, seeded(8))
    assert torch.equal(filler.fill(dig(tokens, some), "sample", seeded(8)).tokens,
                       fill_from_pool(model, tokens, some, pool))  # fmt: skip
    new = filler.fill(nothing_known(6, N, torch.device("cpu")), "sample", seeded(9)).tokens
    assert torch.equal(new, generate(model, 6, seeded(9)))
    with pytest.raises(ValueError, match="needs a generator"):
        filler.fill(dig(tokens, some), "sample", None)


def test_a_masked_vqvae_needs_a_picture(tokens: Tensor, mask: Tensor) -> None:
    with pytest.raises(ValueError, match="fills in pictures, but there is none"):
        MaskedVQVAEFiller("", tiny_vqvae()).fill(dig(tokens, mask), "argmax", None)


@pytest.fixture
def memory() -> Memory:
    return tiny_memory(SIDE, K, classifier="codes")


def test_the_memory_paints_pictures_before_vectors_before_tokens(memory: Memory, tokens: Tensor) -> None:
    vectors, picture = torch.randn(4, N, 4), torch.rand(4, 3, 20, 20)
    assert torch.equal(memory.paint(Filled(tokens, pictures=picture)), picture)
    painted = memory.paint(Filled(tokens, vectors))
    grid = vectors.transpose(1, 2).reshape(4, 4, SIDE, SIDE)
    torch.testing.assert_close(painted, memory.vqvae.decode_codes(grid))
    torch.testing.assert_close(memory.paint(Filled(tokens)), memory.vqvae.decode_indices(tokens.view(4, SIDE, SIDE)))


def test_a_classifier_of_codes_sees_what_the_vqvae_makes_of_a_picture(memory: Memory, tokens: Tensor) -> None:
    picture = torch.rand(4, 3, 20, 20) * 2 - 1
    encoded = memory.encode(picture)
    assert torch.equal(memory.grids_behind(Filled(tokens, pictures=picture), picture), encoded)
    assert torch.equal(memory.grids_behind(Filled(tokens), picture), tokens)
    without = tiny_memory(SIDE, K)
    assert torch.equal(without.grids_behind(Filled(tokens, pictures=picture), picture), tokens)


def test_keeping_pixels_paints_in_the_hole_only(memory: Memory, tokens: Tensor, mask: Tensor) -> None:
    pixels = torch.rand(4, 3, 20, 20) * 2 - 1
    inner = DistilFiller("inner", memory.distil, memory.codebook)
    filler, hole = KeepingPixels(inner, memory), dig(tokens, mask, pixels=pixels, stride=4)
    found, plain = (memory.paint(each.fill(hole, "expected", None)) for each in (filler, inner))
    inside = touched_pixels(mask, 20, 20, 4).unsqueeze(1).expand_as(pixels)
    assert torch.equal(found[~inside], pixels[~inside]) and torch.equal(found[inside], plain[inside])
    assert (filler.name, filler.passes, filler.decodings) == ("inner, kept cells' pixels", 1, tuple(DECODINGS))


def test_not_completed_is_judged_by_the_code_nearest_to_the_average(tokens: Tensor, mask: Tensor) -> None:
    """Codes lie at 0, 1, ..., 10 on a line, the average at 6.3."""
    line = torch.arange(float(K)).unsqueeze(1).repeat(1, 4)
    found = NotCompleted(line, torch.full((4,), 6.3)).fill(dig(tokens, mask), "expected", None)
    assert (found.tokens[mask] == 6).all() and torch.equal(found.tokens[~mask], tokens[~mask])


def test_pixels_need_the_stride(tokens: Tensor, mask: Tensor) -> None:
    with pytest.raises(ValueError, match="without the stride"):
        dig(tokens, mask, pixels=torch.rand(4, 3, 20, 20))
