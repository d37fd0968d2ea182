"""What stages, measures and figures are called where runs are told of, and which way of a measure is better."""

import re
from typing import NamedTuple

CHAIN_STAGES = (
    "data_split",
    "train_vqvae",
    "vqvae_reconstruction",
    "train_classifier",
    "train_distil",
    "reconstruct_masked",
)
SECOND_JUDGE = "train_classifier --train_classifier.degrade false --train_classifier.tune.trials 0"
#: Stages whose runs compete in several kinds, and what stands before the kind in their keys of best.json.
KINDS_OF = {"train_prior": "prior", "train_mae": "mae"}
#: Stages of which the newest run counts.
OTHER_STAGES = ("train_painter", "compare_priors", "compare_bits", "compare_seeds", "sample")

TITLES = {
    "data_split": "The split",
    "train_vqvae": "VQ-VAE",
    "vqvae_reconstruction": "Tokens and reconstructions",
    "train_classifier": "Judge",
    SECOND_JUDGE: "Second judge, not trained on degraded pictures",
    "train_distil": "DistilBERT",
    "reconstruct_masked": "What is recalled",
    "train_prior": "Prior",
    "train_mae": "Masked autoencoder",
    "train_painter": "Painter",
    "compare_priors": "Priors side by side",
    "compare_bits": "Error against bits",
    "compare_seeds": "Several training seeds",
    "sample": "New or filled-in pictures",
}


class MainNumber(NamedTuple):
    """A metric of a run, what it is called, and how it is shown. A label that begins with blanks belongs to the one
    above."""

    run: str
    metric: str
    label: str
    shown: str


def title_of(label: str) -> str:
    """The heading of a run, by its stage and, behind a colon, its kind."""
    stage, _, kind = label.partition(": ")
    return f"{TITLES.get(stage, stage)}{f': {kind}' if kind else ''}"


CAPTIONS = {
    "examples": "Some pictures of each side.",
    "curves": "Training and validation over the epochs.",
    "samples_val": "Validation pictures and their reconstructions.",
    "samples_test": "Test pictures and their reconstructions.",
    "study_history": "Tuning: the score of each trial, and the best so far.",
    "study_importance": "Tuning: how much each setting mattered.",
    "study_slice": "Tuning: the score against each setting.",
    "codebook_usage": "How often each code is used.",
    "index_maps": "Pictures, their tokens and what is painted from them.",
    "worst_median_best": "The worst, middling and best reconstructions.",
    "confusion_originals": "What the judge takes originals for.",
    "confusion_reconstructions": "What the judge takes reconstructions for.",
    "completed": "Test pictures, what was left of them, and what is completed.",
    "painted": "Test pictures painted from expected code vectors.",
    "cross_entropy": "Cross-entropy against the percentage masked.",
    "errors": "Squared error against the percentage masked.",
    "mse_to_reconstruction": "Squared error to the reconstruction from all tokens, against the share forgotten.",
    "mse_to_picture": "Squared error to the picture, against the share forgotten.",
    "ssim_to_reconstruction": "SSIM to the reconstruction from all tokens, against the share forgotten.",
    "classification_error": "Classification error of the degraded judge, against the share forgotten.",
    "clean_classification_error": "Classification error of the clean judge, against the share forgotten.",
    "elsewhere_classification_error": "Classification error of a judge trained elsewhere, against the share forgotten.",
    "disagreement": "How often the degraded judge sees another class than before.",
    "clean_disagreement": "How often the clean judge sees another class than before.",
    "elsewhere_disagreement": "How often a judge trained elsewhere sees another class than before.",
    "calibration_error": "How far the DistilBERT's confidence is from how often it is right.",
    "context": "Pictures in their usual surroundings, and elsewhere.",
    "decodings": "Ways to paint what was forgotten.",
    "error_split": "Squared error: what the VQ-VAE loses, and what the completion adds.",
    "rivals": "The completion beside other ways to fill in.",
    "grid_strategies": "The same pictures under each strategy.",
    "nearest": "Samples, and the training pictures nearest to them.",
    "inpainting": "Test pictures filled in by each prior.",
    "samples": "Pictures drawn from each prior.",
    "sweep": "Filling in with more and more passes.",
    "bits": "Error against the bits that are stored.",
    "seeds": "Spread over training seeds.",
    "grid": "Drawn or filled-in pictures.",
}


def caption_of(name: str) -> str:
    """What a figure shows, by its file's name without the ending."""
    if name in CAPTIONS:
        return CAPTIONS[name]
    if name.startswith("grid_"):
        return (
            f"The strategy {name.removeprefix('grid_')}: what is kept, what is recalled, the original. "
            "Grey: forgotten. A green frame: recognised; orange: not."
        )
    if found := re.fullmatch(r"samples_epoch_0*(\d+)", name):
        return f"Samples after epoch {found[1]}."
    return f"{name.replace('_', ' ')}."


#: In the name of a measure between other words or alone: lower is better, higher is better.
LOWER = (
    "mse",
    "loss",
    "error",
    "disagreement",
    "cross_entropy",
    "energy_distance",
    "frechet_distance",
    "bits_per_code",
)
HIGHER = ("psnr", "ssim", "accuracy", "top1", "top5")
#: Measures of something else than the run: of the data, or of a yardstick.
OF_NO_RUN = ("most_frequent_code", "nearest_training", "other test pictures", "not completed", "shuffled")


def better_way(metric: str) -> int:
    """-1 where a lower value of the metric is better, 1 where a higher one is, 0 where neither is known."""
    if any(words in metric for words in OF_NO_RUN):
        return 0
    ways = ((HIGHER, 1), (LOWER, -1))
    for names, way in ways:
        if any(re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", metric) for name in names):
            return way
    return 0


def made_at(run: str) -> str:
    """When a run folder was made, by its name: 2026-11-28 23:14; nothing for other names."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)\d\d(-|$)", run)
    return "{}-{}-{} {}:{}".format(*found.groups()[:5]) if found else ""


def plain_number(value: float, digits: int = 6) -> str:
    """With so many digits at most; whole numbers whole, nan as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (value == value and abs(value) < 1e15 and value == int(value)):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"
