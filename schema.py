"""Every setting of every stage: its type, range, default and one sentence. A class a section, named as in config.yaml.

The ranges and sentences below are also what `--help` and the error messages say.
"""

import difflib
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Real = Annotated[float, BeforeValidator(_no_bool)]
PositiveInt = Annotated[Whole, Field(ge=1)]
PositiveFloat = Annotated[Real, Field(gt=0)]
RunName = str  # best, a run folder, or models:/NAME@ALIAS


def _as_text(value: Any) -> Any:
    """A class, a component or a file may be called 3, which YAML reads as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    """Names may be typed as a,b, and a single one may be called 3."""
    value = _as_text(value)
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Names = Annotated[list[Text], BeforeValidator(_as_list)]


class Section(BaseModel):
    """Base of all sections: unknown keys and infinite numbers are refused, attribute docstrings describe the keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    def replace(self, values: dict[str, Any]) -> "Section":
        """A checked copy with some values changed. Raises ValidationError when one is out of range."""
        return type(self).model_validate({**self.model_dump(), **values})


class RunSection(Section):
    dir: str = "runs"
    """Folder for run folders, mlflow.db and optuna.db."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of weights, batches, masks and tuning (the split has its own, data.seed)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; auto takes bf16 where the processor has it. Evaluation is fp32 but for asking the
    DistilBERT."""
    threads: Annotated[Whole, Field(ge=0)] = 0
    """CPU threads; 0 takes all cores. Another number of threads changes the last digits of results."""
    mlflow: bool = True
    """Also write to MLflow. The run folders are complete without it."""


class DataSection(Section):
    source: str = "digits_in_context"
    """digits_in_context or five_components (embedded), imagenette (downloaded by torchvision), or a folder."""
    classes: Annotated[Whole, Field(ge=2)] | list[str] | None = None
    """How many class folders to take, in name order, or their names; null takes all."""
    images_per_class: PositiveInt | None = None
    """How many pictures of each class to take, chosen by the seed; null takes all."""
    image_size: Annotated[Whole, Field(ge=8, le=1024)] = 32
    """Side of the square pictures, pixels; must be divisible by train_vqvae.stride."""
    channels: Annotated[Whole, Field(ge=1, le=64)] = 3
    """Components of a picture: 1 for grey, 3 for RGB; others need .npy, .npz or .tiff stacks."""
    components: Names | None = None
    """Names of the components, in order; null: grey, or red green blue, or those in the .npz files."""
    metadata: Text | None = None
    """CSV file with a line per picture: its path below data.source, and columns of metadata."""
    train: Annotated[Real, Field(gt=0, lt=1)] = 0.70
    """Share of pictures to train on."""
    val: Annotated[Real, Field(gt=0, lt=1)] = 0.15
    """Share of pictures for tuning, early stopping and choosing between runs."""
    test: Annotated[Real, Field(gt=0, lt=1)] = 0.15
    """Share of pictures for the one final look."""
    given_split: bool = True
    """Keep the split of a folder that has train, val and test; false pools and splits anew."""
    skip_broken: bool = False
    """Go on without files that cannot be read (they are listed either way)."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of the split and of the embedded demo."""
    workers: Annotated[Whole, Field(ge=0)] = 0
    """Processes that decode pictures; 0 takes all cores."""
    download_dir: str = "downloads"
    """Where source imagenette is stored."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> "DataSection":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test is {total:g}; expected 1")
        return self

    @model_validator(mode="after")
    def _components_fit(self) -> "DataSection":
        names = self.components
        if names is not None and (len(names) != self.channels or len(set(names)) != len(names)):
            raise ValueError(
                f"components names {len(names)} ({', '.join(names)}); expected {self.channels} different names, "
                "as many as data.channels"
            )
        return self


class Tune(Section):
    """An Optuna study. `space`: key of the stage -> list of choices, or {low, high, log}."""

    trials: Annotated[Whole, Field(ge=0)] = 3
    """How many settings to try before the final fit; 0 skips tuning."""
    epochs: PositiveInt = 3
    """Epochs of a trial."""
    patience: PositiveInt = 3
    """Epochs without a better validation score after which a trial stops."""
    startup_trials: Annotated[Whole, Field(ge=0)] = 2
    """Trials before bad ones are pruned."""
    study: str | None = None
    """Name of a study in optuna.db to continue and add to; null starts one for this run."""
    space: dict[str, list[int | float | str | bool] | dict[str, Any]] = {}
    """What is searched: KEY: [choices] or KEY: {low: x, high: y, log: true}."""


class Training(Section):
    """What all training stages have."""

    epochs: PositiveInt = 12
    """Epochs of the final fit at most."""
    batch_size: PositiveInt = 32
    """Pictures per step."""
    learning_rate: PositiveFloat = 1e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0)] = 1e-4
    """Of AdamW, on matrices and kernels only."""
    warmup: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    clip_norm: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    patience: PositiveInt = 5
    """Epochs without a better validation score after which training stops."""
    retrain: bool = False
    """After the fit, train afresh on train + validation for the best number of epochs."""
    tune: Tune = Tune()
    """The search before the final fit."""

    @model_validator(mode="after")
    def _space_fits(self) -> Self:
        """Every value the search may try is one that the stage takes; text such as 1e-3 becomes the number it is."""
        checked, problems = {}, []
        for key, values in self.tune.space.items():
            try:
                checked[key] = _checked_entry(self, key, values)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        self.tune.space.update(checked)
        return self


class ComponentMasking(Section):
    """Training on a single component with the full picture as target; needs pictures with several components."""

    enabled: bool = False
    """Show only one component of some pictures in training."""
    mask_prob_max: Annotated[Real, Field(ge=0, le=1)] = 0.7
    """Share of the pictures that show one component only, at its highest."""
    warmup_epochs: Annotated[Whole, Field(ge=0)] = 20
    """Epochs over which that share rises from 0; 0 starts with mask_prob_max."""


class TrainVQVAESection(Training):
    epochs: PositiveInt = 12
    """Epochs of the final fit at most."""
    learning_rate: PositiveFloat = 4e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    stride: Literal[4, 8, 16] = 4
    """Pixels per token along each side."""
    hidden: Annotated[Whole, Field(ge=8, multiple_of=8)] = 96
    """Channels of encoder and decoder at the grid."""
    residual_blocks: Annotated[Whole, Field(ge=0)] = 2
    """Residual blocks in encoder and in decoder."""
    codebook_size: Annotated[Whole, Field(ge=2, le=65536)] = 256
    """K, the number of codes."""
    code_dim: PositiveInt = 32
    """D, numbers per code."""
    commitment_weight: Annotated[Real, Field(ge=0)] = 0.25
    """beta, weight of the commitment loss."""
    codebook_update: Literal["ema", "gradient"] = "ema"
    """Codebook by moving averages, or by the gradient of the codebook loss."""
    ema_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.97
    """Decay of the moving averages per step."""
    data_init: bool = True
    """Start the codebook from the first batch (clustered)."""
    restart_share: Annotated[Real, Field(ge=0, lt=1)] = 0.03
    """Restart codes used under this share of the average code's use; 0 never does."""
    normalize_codes: bool = False
    """Codes of length one (cosine distance)."""
    rotation_trick: bool = False
    """Pass the gradient through the quantiser rotated instead of copied."""
    reconstruction_loss: Literal["mse", "bce"] = "mse"
    """Squared error, or binary cross-entropy on [0, 1]."""
    component_masking: ComponentMasking = ComponentMasking()
    """Training on a single component with the full picture as target."""
    condition_numbers: Names = []
    """Columns of numbers in the split's manifest.csv that the decoder is told."""
    condition_classes: Names = []
    """Columns of classes in the split's manifest.csv that the decoder is told (class: the picture's own)."""
    label_drop: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    """With conditions: how often the decoder is told nothing in training; above 0 allows guidance."""
    ssim_weight: Annotated[Real, Field(ge=0, le=100)] = 0.0
    """Weight of 1 - SSIM, added to the loss; 0 leaves it out."""
    augmentation: Literal["none", "flip", "shift", "dihedral"] = "none"
    """Change pictures in training: mirror left-right, mirror and move a little, or all eight ways to lay a square."""
    stem: Literal["unshuffle", "strided"] = "unshuffle"
    """Pixels moved into channels, or the plain strided convolutions of 2017."""
    codebook_start: Literal["normal", "uniform"] = "normal"
    """Without data_init: standard normal codes, or uniform in [-1/K, 1/K]."""

    @model_validator(mode="after")
    def _one_telling(self) -> "TrainVQVAESection":
        fixed = {"condition_numbers", "condition_classes"} & set(self.tune.space)
        if fixed:
            raise ValueError(f"tune.space has {', '.join(sorted(fixed))}; expected decoders told the same in a study")
        return self


class VQVAEReconstructionSection(Section):
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    batch_size: PositiveInt = 256
    """Pictures per step."""
    grid_pictures: Annotated[Whole, Field(ge=1, le=64)] = 8
    """Pictures in each of the worst, median and best grids."""
    input: str | None = None
    """Instead of the split: reconstruct this picture or folder of pictures."""
    indices: str | None = None
    """Instead of the split: paint the pictures of this .npy file of indices."""
    components: Names | None = None
    """With input: show only these components and paint the others (--components a,b)."""
    rival: RunName | None = None
    """A second VQ-VAE of the same split, such as one trained without component masking, beside it in components.csv."""
    tell_metadata: bool = False
    """Tell a decoder that was trained with conditions the metadata of each picture."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """With tell_metadata: 1 plain, more exaggerates what is told (needs label_drop above 0 in training)."""
    brain: bool = False
    """Brain slices: also SSIM in the brain only, with the wrong range, and of a 2x copy (mri.csv, figure, GIF)."""


class TrainClassifierSection(Training):
    epochs: PositiveInt = 12
    """Epochs of the final fit at most."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    architecture: Literal["compact", "resnet18", "resnet50", "codes"] = "compact"
    """compact CNN, torchvision's ResNet with a stem for small pictures, or a CNN on the code grid."""
    pretrained: bool = False
    """ResNets start from ImageNet weights; said plainly when they cannot be had."""
    inputs: Literal["originals", "reconstructions", "both"] = "both"
    """Pictures to train on (architecture codes always sees codes)."""
    augmentation: Literal["none", "shift", "shift_flip"] = "shift"
    """Random shifts by up to an eighth of the side; also left-right flips."""
    degrade: bool = True
    """Blur and grey out random cells in training: recalled pictures are blurred in places, originals are not."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    """Before the last layer."""


class TrainDistilSection(Training):
    epochs: PositiveInt = 20
    """Epochs of the final fit at most."""
    batch_size: PositiveInt = 64
    """Grids per step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01
    """Of AdamW, on matrices and kernels only."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    vqvae: RunName = "best"
    """The VQ-VAE that made them: best, a run folder, or models:/NAME@ALIAS."""
    init: str = "scratch"
    """scratch, or a DistilBERT to start the layers from: a folder or a hub id."""
    dim: PositiveInt = 128
    """Width of the transformer (with init: scratch)."""
    layers: PositiveInt = 4
    """Transformer layers (with init: scratch)."""
    heads: PositiveInt = 4
    """Attention heads; must divide dim (with init: scratch)."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """In every layer."""
    mask_schedule: Literal["cosine", "uniform", "fixed"] = "cosine"
    """How the mask ratio varies in training: cosine, uniform, or fixed."""
    fixed_ratio: Annotated[Real, Field(gt=0, le=1)] = 0.5
    """The mask ratio with mask_schedule: fixed."""
    redraw_masks: bool = True
    """New masks at each step; false draws one mask for each picture, once."""
    mask_embedding: Literal["learned", "zero"] = "learned"
    """MASK as a learnt vector, or as the zero vector."""
    start_from_codebook: bool = True
    """Codes that look alike start with embeddings that are alike (with init: scratch)."""
    condition_on_class: bool = False
    """Also tell the class, so that reconstruct_masked can be told it, too; needs pictures with classes."""
    label_drop: Annotated[Real, Field(ge=0, le=1)] = 0.1
    """With condition_on_class: how often the class is not told in training; above 0 allows guidance."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=1, le=100)]], Field(min_length=1)] = [10, 25, 50, 75, 90, 100]
    """Mask percentages at which validation and test are measured."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "TrainDistilSection":
        if self.dim % self.heads:
            raise ValueError(f"heads is {self.heads}; expected a divisor of dim {self.dim}")
        return self


class TrainPriorSection(Training):
    epochs: PositiveInt = 30
    """Epochs of the final fit at most."""
    batch_size: PositiveInt = 32
    """Grids per step."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0)] = 0.01
    """Of AdamW, on matrices and kernels only."""
    kind: Literal["pixelcnn", "gan"] = "pixelcnn"
    """A gated PixelCNN, code after code, or a GAN, all codes at once."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    vqvae: RunName = "best"
    """The VQ-VAE that made them: best, a run folder, or models:/NAME@ALIAS."""
    width: Annotated[Whole, Field(ge=4)] = 64
    """Channels at the grid."""
    layers: PositiveInt = 6
    """Gated layers (pixelcnn)."""
    kernel: Literal[3, 5, 7] = 5
    """Side of the masked convolutions (pixelcnn)."""
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.1
    """In every gated layer (pixelcnn)."""
    noise_dim: PositiveInt = 64
    """Numbers that a grid is made of (gan)."""
    discriminator_learning_rate: PositiveFloat = 1e-4
    """Of the discriminator, the same all the time (gan)."""
    commitment_weight: Annotated[Real, Field(ge=0)] = 0.05
    """Weight of the loss that draws made vectors to their codes (gan)."""
    instance_noise: Annotated[Real, Field(ge=0)] = 0.5
    """Deviation of the noise on vectors that the discriminator sees, codes having 1 (gan)."""
    gradient_penalty: Annotated[Real, Field(ge=0)] = 100.0
    """Weight of R1, half the squared slope of the discriminator at real grids (gan)."""
    condition_on_class: bool = False
    """Also tell the class, so that it can be asked for; needs pictures with classes."""
    condition_numbers: Names = []
    """Columns of numbers in the split's manifest.csv that are told, too; standardised on train."""
    condition_classes: Names = []
    """Columns of classes in the split's manifest.csv that are told, too."""
    label_drop: Annotated[Real, Field(ge=0, le=1)] = 0.1
    """How often nothing is told in training; above 0 allows guidance and pictures without being told."""
    samples: Annotated[Whole, Field(ge=1, le=64)] = 16
    """Pictures in the grids of samples."""
    sample_every: PositiveInt = 1
    """Epochs between grids of samples."""
    judged_samples: Annotated[Whole, Field(ge=2)] = 500
    """Samples that are measured at the end, beside as many test pictures at most."""

    @model_validator(mode="after")
    def _one_kind(self) -> "TrainPriorSection":
        fixed = {"kind", "condition_on_class", "condition_numbers", "condition_classes"} & set(self.tune.space)
        if fixed:
            raise ValueError(f"tune.space has {', '.join(sorted(fixed))}; expected one kind of prior in a study")
        if "class" in self.condition_classes:
            raise ValueError("condition_classes has class, the picture's own; expected condition_on_class: true for it")
        return self


StrategyName = Literal[
    "random",
    "block",
    "half",
    "outpaint",
    "direct",
    "selective",
    "additive",
    "surprisal",
    "greedy-surprisal",
    "distortion",
    "painted",
    "adaptive",
]
DecodingName = Literal["argmax", "sample", "expected"]


class OwnPicture(Section):
    """A picture of yours, completed under a mask of yours."""

    image: Text | None = None
    """Complete this picture, or each of this folder, instead of measuring the test pictures (--image)."""
    mask: Text | None = None
    """Picture of the same size, white where pixels are missing (--mask)."""
    box: Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=4, max_length=4)] | None = None
    """Missing rectangle: x0 y0 x1 y1 in pixels, x1 and y1 not included (--box)."""
    percent: Annotated[Real, Field(ge=0, le=100)] = 60
    """Without mask and box: how much is forgotten (--percent)."""
    strategy: StrategyName = "adaptive"
    """Without mask and box: how it is chosen what to keep (--strategy)."""
    decoding: DecodingName = "expected"
    """expected is faithful, argmax and sample are sharp and may be wrong."""
    samples: Annotated[Whole, Field(ge=0, le=64)] = 0
    """Further completions, drawn at random, and a map of where they differ (--samples)."""
    fit: Literal["resize", "tile"] = "resize"
    """Other sizes: resize to the model's size and back, or cut into tiles of the model's size."""
    margin: Annotated[Whole, Field(ge=0, le=64)] = 0
    """Tokens go, too, when a missing pixel is this near to their cell (pixels at the model's size)."""
    label: Text | None = None
    """Tell a DistilBERT that was trained with classes this class (--class)."""


class ReconstructMaskedSection(Section):
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    distil: RunName = "best"
    """The DistilBERT: best, a run folder, or models:/NAME@ALIAS."""
    classifier: RunName = "best"
    """The classifier: best, a run folder, or models:/NAME@ALIAS."""
    strategies: Annotated[list[StrategyName], Field(min_length=1)] = list(get_args(StrategyName))
    """How it is chosen what to keep."""
    decodings: Annotated[list[DecodingName], Field(min_length=1)] = ["argmax", "sample", "expected"]
    """How the filled grid is painted: likeliest codes, drawn codes, or the code vectors to expect."""
    percentages: Annotated[list[Annotated[Whole, Field(ge=0, le=100)]], Field(min_length=1)] = [
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
    pictures: PositiveInt | None = None
    """How many test pictures to take, chosen by the seed; null takes all."""
    part: Literal["test", "val+test"] = "test"
    """Pictures to measure; val+test takes the validation pictures, too, on which the models were chosen."""
    batch_size: PositiveInt = 100
    """Pictures per step; on a CPU about 100 are fastest, they stay in its cache."""
    seeds: Annotated[Whole, Field(ge=1, le=20)] = 3
    """How often the strategies random and block are repeated, in the last of the decodings."""
    choosing_passes: PositiveInt = 24
    """Passes over the grid of the greedy strategies; each keeps tokens / passes more."""
    look_ahead: Annotated[Real, Field(ge=0, le=1)] = 0.15
    """Share of the tokens for which adaptive tries candidates out before it keeps one."""
    candidates: PositiveInt = 8
    """Candidates for each of them."""
    code_share: Annotated[Real, Field(ge=0, le=1)] = 0.5
    """Weight of the code vectors beside the pixels in adaptive."""
    blocks: Annotated[Whole, Field(ge=1, le=16)] = 1
    """Rectangles of the strategy block."""
    passes: PositiveInt = 1
    """Passes in which masked tokens are filled: 1 fills all at once."""
    fill_order: Literal["confidence", "halton"] = "confidence"
    """With more passes: the sure tokens first, or well spread ones."""
    temperature: Annotated[Real, Field(gt=0, le=10)] = 1.0
    """Of drawn codes: below 1 the likelier ones come more often."""
    top_k: Annotated[Whole, Field(ge=0)] = 0
    """Draw from the k likeliest codes only; 0 from all."""
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest codes that together have this probability."""
    tell_class: bool = False
    """Tell a DistilBERT that was trained with classes the true class of each picture."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """With the class told: 1 plain, more exaggerates it (needs label_drop above 0 in training)."""
    rivals: bool = True
    """Also measure simple rivals on the same random masks, JPEG, WebP and smaller codebooks."""
    rival_distil: str | None = None
    """A run folder of train_distil made with presets/published_study.yaml, to stand among the rivals."""
    rival_pictures: PositiveInt = 250
    """Pictures for the rivals, JPEG, WebP and smaller codebooks, evenly spread over those measured."""
    slow_pictures: PositiveInt = 50
    """Pictures for the rivals that take long (biharmonic inpainting)."""
    bootstrap: Annotated[Whole, Field(ge=100)] = 1000
    """Resamples of the pictures behind each 95 % interval."""
    grid_pictures: Annotated[Whole, Field(ge=1, le=16)] = 4
    """Pictures in the grid."""
    own: OwnPicture = OwnPicture()
    """A picture of yours instead of the test pictures."""


class SampleSection(Section):
    mode: Literal["unconditional", "conditional", "inpainting"] = "unconditional"
    """New pictures; new pictures of a class or with given numbers; or test pictures with a part filled in (--mode)."""
    prior: Literal["pixelcnn", "gan", "distil"] = "pixelcnn"
    """Which prior to ask (--prior)."""
    num_samples: PositiveInt = 16
    """How many pictures (--num-samples)."""
    temperature: Annotated[Real, Field(gt=0, le=10)] = 1.0
    """Of drawn codes: below 1 the likelier ones come more often; not for gan (--temperature)."""
    top_k: Annotated[Whole, Field(ge=0)] = 0
    """Draw from the k likeliest codes only; 0 from all; not for gan (--top-k)."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """1 plain conditional, 0 as if nothing was told, more exaggerates; not for gan (--guidance-scale)."""
    components: Names | None = None
    """Mode inpainting: show only these components, and paint the others without a prior (--components)."""
    label: Text | None = None
    """Class to ask for; null takes all in turn in mode conditional (--class)."""
    values: Names = []
    """What to ask for, in the order of train_prior.condition_numbers, then condition_classes (--values)."""
    passes: PositiveInt = 16
    """Passes in which the DistilBERT fills a grid."""
    fill_order: Literal["confidence", "halton"] = "halton"
    """The DistilBERT's sure tokens first, or well spread ones."""
    pool: PositiveInt = 512
    """Grids of the GAN among which mode inpainting looks for what fits."""
    mask: Literal["random", "block", "half"] = "block"
    """What is missing in mode inpainting: tokens at random, a rectangle, or the lower part."""
    percent: Annotated[Real, Field(ge=0, le=100)] = 50
    """How much is missing in mode inpainting."""
    vqvae: RunName = "best"
    """The VQ-VAE: best, a run folder, or models:/NAME@ALIAS."""
    indices: RunName = "best"
    """The indices: best, or a run folder of vqvae_reconstruction."""
    prior_run: RunName = "best"
    """The prior: best of its kind, a run folder of train_prior or train_distil, or models:/NAME@ALIAS."""
    batch_size: PositiveInt = 64
    """Pictures that are drawn together."""


class ComparePriorsSection(Section):
    pictures: PositiveInt | None = 250
    """Test pictures to fill in, evenly spread; null takes all."""
    masks: list[Literal["random", "block", "half"]] = Field(default=["block", "random"], min_length=1)
    """What is missing: a rectangle, tokens at random, the lower part."""
    percentages: list[Annotated[Whole, Field(ge=1, le=99)]] = Field(default=[25, 50, 75], min_length=1)
    """How much is missing."""
    samples: Annotated[Whole, Field(ge=2)] = 500
    """New pictures of each prior, at most as many as there are test pictures and validation pictures."""
    pixelcnn: RunName = "best"
    """The PixelCNN: best of those told the same, a run folder of train_prior, or models:/NAME@ALIAS."""
    gan: RunName = "best"
    """The GAN, likewise."""
    told: bool = True
    """Take priors that were trained to be told the class, and ask them for each in turn."""
    told_distil: RunName | None = None
    """A DistilBERT trained with condition_on_class, to be asked for classes: best, a run folder; null: none."""
    masked_vqvae: RunName | None = None
    """A VQ-VAE trained with component masking on the same split, to fill in by itself: best, a run; null: none."""
    temperature: Annotated[Real, Field(gt=0, le=10)] = 1.0
    """Of drawn codes."""
    guidance_scale: Annotated[Real, Field(ge=0, le=20)] = 1.0
    """Of samples of a class."""
    passes: Annotated[Whole, Field(ge=2)] = 16
    """Passes of the DistilBERT when it fills step by step."""
    fill_order: Literal["confidence", "halton"] = "halton"
    """Its sure tokens first, or well spread ones."""
    pool: PositiveInt = 512
    """Grids of the GAN among which it looks for what fits."""
    batch_size: PositiveInt = 250
    """Pictures at once; speeds are compared at this size."""
    bootstrap: Annotated[Whole, Field(ge=100)] = 1000
    """Resamples behind the 95 % intervals."""


class Config(Section):
    """The whole of config.yaml."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    train_vqvae: TrainVQVAESection = TrainVQVAESection()
    vqvae_reconstruction: VQVAEReconstructionSection = VQVAEReconstructionSection()
    train_classifier: TrainClassifierSection = TrainClassifierSection()
    train_distil: TrainDistilSection = TrainDistilSection()
    reconstruct_masked: ReconstructMaskedSection = ReconstructMaskedSection()
    train_prior: TrainPriorSection = TrainPriorSection()
    sample: SampleSection = SampleSection()
    compare_priors: ComparePriorsSection = ComparePriorsSection()

    @model_validator(mode="after")
    def _stride_divides(self) -> "Config":
        size, stride = self.data.image_size, self.train_vqvae.stride
        searched = self.train_vqvae.tune.space.get("stride", [])
        for each in [stride, *(searched if isinstance(searched, list) else [])]:
            if size % int(each):
                raise ValueError(f"data.image_size {size} is not divisible by train_vqvae.stride {each}")
        return self

    @model_validator(mode="after")
    def _ssim_fits(self) -> "Config":
        size = self.data.image_size
        asked = {
            "train_vqvae.ssim_weight": self.train_vqvae.ssim_weight > 0 or "ssim_weight" in self.train_vqvae.tune.space,
            "vqvae_reconstruction.brain": self.vqvae_reconstruction.brain,
        }
        for key, wanted in asked.items():
            if wanted and size < 11:
                raise ValueError(f"{key} needs data.image_size of at least 11, the window of SSIM; found {size}")
        return self

    @model_validator(mode="after")
    def _stem_fits(self) -> "Config":
        section = self.train_vqvae
        told = {"condition_numbers": section.condition_numbers, "condition_classes": section.condition_classes}
        found = " and ".join(f"train_vqvae.{key} is {names}" for key, names in told.items() if names)
        if found and "strided" in (section.stem, *section.tune.space.get("stem", [])):
            raise ValueError(
                f"{found}; expected none with train_vqvae.stem strided, whose decoder can be told no metadata"
            )
        return self

    def flat(self, *sections: str) -> dict[str, Any]:
        """The settings of some sections, dotted key -> value; sections that do not exist are passed over."""
        return flatten({name: values for name, values in self.model_dump().items() if name in sections})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> dotted keys. Search spaces stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "space":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


MOST_CHECKED = 5000  # whole numbers of a range that are tried one by one


def _checked_entry(section: Training, key: str, values: Any) -> Any:
    """One entry of a search space, its values as the key itself would take them.

    Raises ValueError for unknown keys, values out of range, and ranges that are none.
    """
    known = [name for name in type(section).model_fields if name != "tune"]
    if key not in known:
        raise ValueError(f"tune.space.{key} is not a key of this stage{nearest(key, known)}")
    if isinstance(values, list):
        if not values:
            raise ValueError(f"tune.space.{key} is empty; expected at least one choice")
        return [_checked_candidate(section, key, value) for value in values]
    if set(values) - {"low", "high", "log"} or not {"low", "high"} <= set(values):
        raise ValueError(f"tune.space.{key} is {values}; expected low, high and optionally log, or a list")
    low, high = (_checked_candidate(section, key, values[end]) for end in ("low", "high"))
    log = values.get("log", False)
    if isinstance(low, bool) or not isinstance(low, int | float):
        raise ValueError(f"tune.space.{key}: {key} takes no numbers; expected a list of choices")
    if low > high or not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"tune.space.{key}: low {low}, high {high}, log {log} are not a range")
    if isinstance(low, int):
        for value in range(low, min(high, low + MOST_CHECKED) + 1):
            _checked_candidate(section, key, value)
    return {"low": low, "high": high, "log": log}


def _checked_candidate(section: Training, key: str, value: Any) -> Any:
    try:
        return getattr(section.replace({key: value, "tune": Tune().model_dump()}), key)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"tune.space.{key}: {value!r} is not a value of {key} ({message})") from None


def nearest(key: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; expected one of {', '.join(known)}"
