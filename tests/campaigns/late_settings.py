"""Settings that are taken: each number of each stage at both ends of what its help says, and some that are odd.

A stage with such a setting does its work, or refuses it in a line before anything heavy. It never ends in a traceback,
is killed for memory, or hangs.
"""

import importlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from campaigns.bad_settings import STAGES
from campaigns.forked import Ended, World, copy_of, judge_ended, make_little_world, run_forked, words_for
from campaigns.outcomes import Ending, Outcome
from masked_memory.pipeline.commands import module_of
from masked_memory.settings import loading
from masked_memory.settings.config import Config

CAMPAIGN = "settings at their ends"
SECONDS = 90.0

#: Keys that say how long something is worked on: with the largest value a stage works on until it is stopped.
LASTING = (
    "epochs", "least_steps", "tune.trials", "tune.epochs", "passes", "sweep_passes", "rounds", "draws", "pool",
    "bootstrap", "num_samples", "samples", "judged_samples", "choosing_passes", "selective_passes", "look_ahead_tokens",
    "candidates",
)  # fmt: skip

TWO_TRIALS = ("--train_vqvae.tune.trials", "2")
MASKING = "--train_vqvae.component_masking"

#: Stage, and words that are odd together or odd in themselves.
ODD: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("train_vqvae", ("--train_vqvae.code_dim", "1", "--train_vqvae.normalize_codes", "true")),
    ("train_vqvae", ("--train_vqvae.codebook_size", "2", "--train_vqvae.restart_share", "0.999")),
    ("train_vqvae", ("--train_vqvae.ema_decay", "0", "--train_vqvae.codebook_update", "gradient")),
    ("train_vqvae", ("--train_vqvae.ssim_weight", "100", "--train_vqvae.reconstruction_loss", "bce")),
    ("train_vqvae", ("--train_vqvae.learning_rate", "100", "--train_vqvae.clip_norm", "1e9")),
    ("train_vqvae", (*TWO_TRIALS, "--train_vqvae.tune.space", "{hidden: [16, 8192], residual_blocks: [0, 256]}")),
    ("train_vqvae", (*TWO_TRIALS, "--train_vqvae.tune.space", "{batch_size: [100000]}")),
    ("train_vqvae", ("--train_vqvae.condition_numbers", "[label]")),
    ("train_vqvae", ("--train_vqvae.condition_classes", "[nothing]")),
    ("train_vqvae", (f"{MASKING}.enabled", "true", f"{MASKING}.mask_prob_max", "1")),
    ("vqvae_reconstruction", ("--input", "nowhere.png")),
    ("vqvae_reconstruction", ("--indices", "nowhere.npy")),
    ("vqvae_reconstruction", ("--indices", os.devnull)),
    ("vqvae_reconstruction", ("--vqvae_reconstruction.vqvae", "nowhere")),
    ("vqvae_reconstruction", ("--vqvae_reconstruction.vqvae", "models:/nothing@champion")),
    ("vqvae_reconstruction", ("--vqvae_reconstruction.vqvae", "a\udcffb")),
    ("vqvae_reconstruction", ("--components", "red,red")),
    ("train_classifier", ("--train_classifier.architecture", "codes", "--train_classifier.inputs", "originals")),
    ("train_classifier", ("--train_classifier.architecture", "resnet18", "--train_classifier.batch_size", "1")),
    ("train_distil", ("--train_distil.dim", "1", "--train_distil.heads", "1", "--train_distil.layers", "256")),
    ("train_distil", ("--train_distil.tune.trials", "3", "--train_distil.tune.space", "{dim: [16, 24], heads: [5]}")),
    ("train_distil", ("--train_distil.init", "nobody/nothing")),
    ("train_distil", ("--train_distil.percentages", "[1]")),
    ("train_distil", ("--train_distil.mask_schedule", "fixed", "--train_distil.fixed_ratio", "1e-300")),
    ("train_distil", ("--train_distil.condition_on_class", "true", "--train_distil.label_drop", "1")),
    ("reconstruct_masked", ("--image", "nowhere.png")),
    ("reconstruct_masked", ("--box", "3", "3", "3", "3", "--image", "nowhere.png")),
    ("reconstruct_masked", ("--reconstruct_masked.temperature", "0.001", "--reconstruct_masked.top_p", "1e-300")),
    ("reconstruct_masked", ("--reconstruct_masked.guidance_scale", "20", "--reconstruct_masked.tell_class", "true")),
    ("reconstruct_masked", ("--reconstruct_masked.percentages", "[0]")),
    ("reconstruct_masked", ("--reconstruct_masked.pictures", "1", "--reconstruct_masked.bootstrap", "100")),
    ("train_prior", ("--train_prior.kind", "gan", "--train_prior.noise_dim", "8192")),
    ("train_prior", ("--train_prior.condition_numbers", "[label]", "--train_prior.condition_classes", "[label]")),
    ("sample", ("--sample.temperature", "10", "--sample.top_k", "1")),
    ("sample", ("--mode", "conditional", "--class", "nothing")),
    ("compare_seeds", ("--compare_seeds.folders", "nowhere/*")),
    ("compare_seeds", ("--compare_seeds.folders", "[")),
)  # fmt: skip


class Taken(NamedTuple):
    """A stage, what is typed behind it, and whether it may work on without an end in sight."""

    stage: str
    words: tuple[str, ...]
    lasting: bool = False


def taken_settings(count: int, seed: int = 0) -> list[Taken]:
    """At most `count` of all."""
    every = [Taken(stage, words) for stage, words in ODD]
    every += [one for stage in STAGES if stage in Config.model_fields for one in _at_the_ends(stage)]
    return every if count >= len(every) else random.Random(seed).sample(every, count)


def _at_the_ends(stage: str) -> Iterator[Taken]:
    for key, field in loading.options(Config.model_fields[stage].annotation, f"{stage}."):
        takes = loading.describe_range(field)
        name = key.removeprefix(f"{stage}.")
        for value in ends_of(takes):
            yield Taken(stage, (f"--{key}", value), lasting=name in LASTING)


def ends_of(takes: str) -> list[str]:
    """The smallest and the largest value, by the words of the help."""
    listed = takes.startswith("list of ")
    takes = takes.removeprefix("list of ").removesuffix(" or null").replace("1,000", "1000")
    if not takes.startswith(("whole number", "number")):
        return []
    whole, found = takes.startswith("whole"), []
    for bound in takes.replace("whole number", "").replace("number", "").split(", "):
        sign, _, value = bound.strip().partition(" ")
        number = float(value.replace(",", "")) if sign in ("<", "<=", ">", ">=") else None
        if number is None:
            continue
        if whole:
            end = str(int(number) + {"<": -1, ">": 1}.get(sign, 0))
        elif sign == ">" and number == 0:
            end = "1e-300"
        else:
            end = str({"<": number - 1e-9, ">": number + 1e-9}.get(sign, number))
        found.append(f"[{end}]" if listed else end)
    return found


def try_taken(taken: Taken, world: World, folder: Path, stages: Mapping[str, object]) -> Outcome:
    """In a process of its own, in a copy of the finished runs."""
    runs = copy_of(world, folder)
    ended = run_forked(stages[taken.stage], words_for(taken.stage, world, runs, *taken.words), SECONDS)
    ending, why = judge_late(ended, taken.lasting)
    if ending == "refused" and run_folders(runs) != run_folders(world.runs):
        ending, why = "wrong", f"{why}; a run folder was left"
    return Outcome(CAMPAIGN, f"{taken.stage}.py {' '.join(taken.words)}", ending, why)


def run_folders(runs: Path) -> set[str]:
    return {str(file.relative_to(runs)) for file in runs.glob("*/*/run.json")}


def judge_late(ended: Ended, lasting: bool) -> tuple[Ending, str]:
    """What else may become of a setting that is taken: work without an end in sight, and a loss that diverges."""
    if ended.status is None and lasting and "Traceback" not in ended.said:
        return "survived", "still at work"
    if ended.status == 2 and "trials of study" in ended.said and "Traceback" not in ended.said:
        return "survived", "a study of which no trial could be done, and said so"
    if ended.status == 1 and "not finite" in ended.said and "Traceback" not in ended.said:
        return "survived", "diverged, and said so"
    return judge_ended(ended)


def try_late(folder: Path, tries: int, seed: int) -> list[Outcome]:
    """`tries` of them, or all there are."""
    world = make_little_world(folder / "world")
    stages = {stage: importlib.import_module(module_of(stage)).main for stage in STAGES}
    outcomes = []
    for number, taken in enumerate(taken_settings(tries, seed)):
        own = folder / str(number)
        own.mkdir()
        outcomes.append(try_taken(taken, world, own, stages))
    return outcomes
