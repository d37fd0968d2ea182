"""Settings of reconstruct_masked.py."""

from typing import Annotated, Literal

from pydantic import Field

from masked_memory.settings.kinds import Only, PositiveInt, Real, RunName, Section, Text, Whole
from masked_memory.settings.strategies import DECODINGS, STRATEGIES, DecodingName, StrategyName

CHOOSES = "strategies or own.strategy"
LOOKING_AHEAD = Only(CHOOSES, "adaptive", "distortion-per-bit")
GREEDY = Only(CHOOSES, *("additive", "greedy-surprisal", "distortion", "painted"), *LOOKING_AHEAD.values)


class OwnPicture(Section):
    """A picture of yours, completed under a mask of yours."""

    image: Text | None = None
    """Complete this picture, or each of this folder, instead of measuring the test pictures (--image)."""
    mask: Annotated[Text | None, Only("image")] = None
    """Picture of the same size, white where pixels are missing (--mask)."""
    box: Annotated[
        Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=4, max_length=4)] | None, Only("image")
    ] = None
    """Missing rectangle: x0 y0 x1 y1 in pixels, x1 and y1 not included (--box)."""
    percent: Annotated[Real, Field(ge=0, le=100), Only("image"), Only("mask", None), Only("box", None)] = 60
    """Without mask and box: how much is forgotten (--percent)."""
    strategy: Annotated[StrategyName, Only("image"), Only("mask", None), Only("box", None)] = "adaptive"
    """Without mask and box: how it is chosen what to keep (--strategy)."""
    decoding: Annotated[DecodingName, Only("image")] = "expected"
    """expected is faithful, argmax and sample are sharp and may be wrong."""
    samples: Annotated[Whole, Field(ge=0, le=64), Only("image")] = 0
    """Further completions, drawn at random, and a map of where they differ (--samples)."""
    fit: Annotated[Literal["resize", "tile"], Only("image")] = "resize"
    """Other sizes: resize to the model's size and back, or cut into tiles of the model's size."""
    margin: Annotated[Whole, Field(ge=0, le=64), Only("image"), Only("mask or box")] = 0
    """Tokens go, too, when a missing pixel is this near to their cell (pixels at the model's size)."""
    label: Annotated[Text | None, Only("image")] = None
    """Tell a DistilBERT that was trained with classes this class (--class)."""


class ReconstructMaskedSection(Section):
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    distil: RunName = "best"
    """The DistilBERT: best, a run folder, or models:/NAME@ALIAS."""
    classifier: RunName = "best"
    """The classifier: best of those trained with train_classifier.degrade, a run folder, or models:/NAME@ALIAS."""
    clean_classifier: Annotated[RunName | None, Only("own.image", None)] = "best"
    """The second judge: best of those trained with train_classifier.degrade false, a run folder; null: none."""
    elsewhere_judge: Annotated[bool, Only("own.image", None)] = False
    """A third judge, EfficientNet-Lite0 with the ImageNet weights that a package ships; for classes named by WordNet
    id."""
    painter: str | None = None
    """A painter of train_painter.py for decoding expected: best, or a run folder; null: the VQ-VAE's decoder."""
    strategies: Annotated[list[StrategyName], Field(min_length=1), Only("own.image", None)] = list(STRATEGIES)
    """How it is chosen what to keep."""
    decodings: Annotated[list[DecodingName], Field(min_length=1), Only("own.image", None)] = list(DECODINGS)
    """How the filled grid is painted: likeliest codes, drawn codes, or the code vectors to expect."""
    percentages: Annotated[
        list[Annotated[Whole, Field(ge=0, le=100)]], Field(min_length=1), Only("own.image", None)
    ] = [
        10,
        25,
        50,
        75,
        85,
        90,
        95,
        100,
    ]
    """Mask percentages to measure."""
    pictures: Annotated[PositiveInt | None, Only("own.image", None)] = None
    """How many test pictures to take, chosen by data.seed; null takes all."""
    part: Annotated[Literal["test", "val+test"], Only("own.image", None)] = "test"
    """Pictures to measure; val+test takes the validation pictures, too, on which the models were chosen."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000), Only("own.image", None)] = 100
    """Pictures per step; on a CPU about 100 are fastest, they stay in its cache."""
    seeds: Annotated[Whole, Field(ge=1, le=20), Only("own.image", None), Only("strategies", "random", "block")] = 3
    """How often the strategies random and block are repeated, in the last of the decodings."""
    choosing_passes: Annotated[Whole, Field(ge=1, le=100_000), GREEDY] = 24
    """Passes over the grid of the greedy strategies; each keeps tokens / passes more. Fewer on grids beyond 16x16, in
    proportion to the side."""
    selective_passes: Annotated[Whole, Field(ge=1, le=100_000), Only(CHOOSES, "selective")] = 64
    """The same of selective; one token in each pass on grids of up to so many."""
    look_ahead: Annotated[Real, Field(ge=0, le=1), LOOKING_AHEAD] = 0.5
    """Share of the tokens for which adaptive tries candidates out before it keeps one."""
    look_ahead_tokens: Annotated[Whole, Field(ge=0, le=100_000), LOOKING_AHEAD] = 32
    """No more of them than so many; fewer on grids beyond 16x16, in proportion to the side."""
    candidates: Annotated[Whole, Field(ge=1, le=10_000), LOOKING_AHEAD] = 8
    """Candidates for the first of them; evenly fewer for the next, one for the last."""
    code_share: Annotated[Real, Field(ge=0, le=1), LOOKING_AHEAD] = 0.5
    """Weight of the code vectors beside the pixels in adaptive."""
    blocks: Annotated[Whole, Field(ge=1, le=16), Only(CHOOSES, "block")] = 1
    """Rectangles of the strategy block."""
    passes: Annotated[Whole, Field(ge=1, le=100_000)] = 1
    """Passes in which masked tokens are filled: 1 fills all at once."""
    fill_order: Annotated[Literal["confidence", "halton"], Only("passes", above=1)] = "confidence"
    """With more passes: the sure tokens first, or well spread ones."""
    choice_noise: Annotated[Real, Field(ge=0, le=100), Only("passes", above=1), Only("fill_order", "confidence")] = 0.0
    """Of fill_order confidence: scale of the noise in the first pass, which falls to zero (MaskGIT took 4.5)."""
    temperature: Annotated[Real, Field(ge=0.001, le=10), Only("decodings or own.decoding", "sample")] = 1.0
    """Of drawn codes: below 1 the likelier ones come more often."""
    top_k: Annotated[Whole, Field(ge=0, le=1_000_000), Only("decodings or own.decoding", "sample")] = 0
    """Draw from the k likeliest codes only; 0 from all."""
    top_p: Annotated[Real, Field(gt=0, le=1), Only("decodings or own.decoding", "sample")] = 1.0
    """Draw from the likeliest codes that together have this probability."""
    tell_class: Annotated[bool, Only("own.image", None)] = False
    """Tell a DistilBERT that was trained with classes the true class of each picture."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20), Only("tell_class or own.label")] = 1.0
    """With the class told: 1 plain, more exaggerates it (needs label_drop above 0 in training)."""
    rivals: Annotated[bool, Only("own.image", None)] = True
    """Also measure simple rivals on the same random masks."""
    rival_distil: Annotated[str | None, Only("own.image", None), Only("rivals")] = None
    """A DistilBERT made with presets/published_study.yaml, to stand among the rivals: best, or a run folder."""
    rival_mae: Annotated[str | None, Only("own.image", None), Only("rivals")] = None
    """A masked autoencoder of train_mae.py, to stand among the rivals: best, or a run folder."""
    rival_pictures: Annotated[PositiveInt, Only("own.image", None), Only("rivals")] = 250
    """Pictures for the rivals, evenly spread over those measured."""
    slow_pictures: Annotated[PositiveInt, Only("own.image", None), Only("rivals")] = 50
    """Pictures for the rivals that take long (biharmonic inpainting)."""
    bootstrap: Annotated[Whole, Field(ge=100, le=100_000), Only("own.image", None)] = 1000
    """Resamples of the pictures behind each 95 % interval."""
    grid_pictures: Annotated[Whole, Field(ge=1, le=16), Only("own.image", None)] = 4
    """Pictures in the grid."""
    own: OwnPicture = OwnPicture()
    """A picture of yours instead of the test pictures."""
