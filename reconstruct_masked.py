"""Stage 6: how much must be kept, and what? Recall of the test pictures against the percentage of tokens forgotten.

Reads:  the best VQ-VAE, its indices, the DistilBERT and the classifier (all made on the same split and codebook)
Writes: runs/reconstruct_masked/<run>/ with curves.csv, rivals.csv, error_split.csv, context.csv and figures/; or, with
        --image, own/: your picture, completed

    python reconstruct_masked.py
    python reconstruct_masked.py --reconstruct_masked.pictures 200 --reconstruct_masked.strategies "[random, adaptive]"
    python reconstruct_masked.py --image a.jpg --mask m.png
    python reconstruct_masked.py --image a.jpg --box 10 10 20 20 --samples 4
    python reconstruct_masked.py --image a.jpg --percent 60 --strategy adaptive

Strategies choose which tokens are kept. Forgotten ones are filled by the DistilBERT and painted with the likeliest
codes ("argmax"), with drawn codes ("sample") or with the code vectors to expect ("expected", the mean of all weighted
by their probability). Masks: True = masked, to be predicted.
"""

import sys
from typing import Any

import numpy as np
import torch

from masked_memory.handoff.handed import check_unseen, lacks_label_drop
from masked_memory.handoff.memory import HandedMemory, take_memory
from masked_memory.handoff.shipped import lend
from masked_memory.handoff.split import Split, note_data, open_split
from masked_memory.handoff.wing import wing
from masked_memory.measuring.curves import CURVES_HEADER, bits_of, curve, summarise
from masked_memory.measuring.study import Findings, StudyPlan, measure_recall
from masked_memory.measuring.study_files import report_study, study_files
from masked_memory.models.codes import Filling
from masked_memory.own_picture.completing import request_of
from masked_memory.own_picture.reading import check_own
from masked_memory.own_picture.writing import complete_own
from masked_memory.pipeline.batch_cache import forget
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, generator, prepare_machine
from masked_memory.pipeline.rows import write_rows
from masked_memory.pipeline.stage import open_stage, say
from masked_memory.recall.choosing import Choosing
from masked_memory.settings.command import Shortcut, stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the mean over all percentages of the MSE to the VQ-VAE's reconstruction, for the last
    strategy and decoding named in the settings (as shipped: adaptive, expected)."""
    machine, section = prepare_machine(cfg.run, say), cfg.reconstruct_masked
    check_own_options(section.own)
    if section.own.image is not None:
        cfg = lend(cfg)
    split = open_split(cfg)
    handed = take_memory(cfg, split, machine, measured=section.own.image is None)
    check_telling(section, handed)
    if section.own.image is not None:
        return complete_own_pictures(cfg, handed, machine, resume)
    painters = [] if handed.painter is None else [handed.painter]
    check_unseen([handed.vqvae, handed.distil, *handed.judges, *painters], section.part, cfg)
    rivals = wing("measuring.study_rivals").StudyRivals.take(cfg, split, handed.vqvae) if section.rivals else None
    inputs = handed.inputs | (rivals.inputs if rivals else {})
    with open_stage("reconstruct_masked", cfg, inputs, machine, resume) as stage:
        note_data(stage, cfg, split)
        plan = make_plan(section, cfg.run.seed)
        positions = choose_pictures(split, section.part, section.pictures, cfg.data.seed)
        say(f"{len(positions)} pictures of {section.part}, {len(plan.strategies)} strategies")
        study = measure_recall(handed.memory, split, handed.indices, positions, plan, stage.last / "study")
        rows = summarise(study, section.bootstrap, cfg.run.seed, bits_of(handed.memory))
        write_rows(stage.folder.path / "curves.csv", CURVES_HEADER, rows)
        report_study(stage, rows, plan)
        with torch.no_grad():
            findings = Findings(handed, plan, study, rows)
            study_files(stage, findings, section, rivals and rivals.compare)
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        forget(stage.last / "study")
        best = curve(rows, plan.strategies[-1], plan.decodings[-1], "mse_to_reconstruction")
        return float(np.mean(best.means))


def complete_own_pictures(cfg: Config, handed: HandedMemory, machine: Machine, resume: bool) -> float:
    """Pictures of one's own instead of the test pictures; what cannot be used is refused before there is a run folder.
    Returns the share of missing pixels."""
    section, split = cfg.reconstruct_masked, handed.split
    check_own(section.own, split.meta["channels"])
    request = request_of(section, handed.memory.distil, split.classes, cfg.run.seed)
    with open_stage("reconstruct_masked", cfg, handed.inputs, machine, resume) as stage, torch.no_grad():
        return complete_own(stage, handed.memory, section.own, request, split.classes)


FILES = ("curves.csv", "rivals.csv", "paired.csv", "published.csv", "error_split.csv", "context.csv")


def check_own_options(own: OwnPicture) -> None:
    """What belongs to an own picture needs one."""
    given = [name for name, value in (("--mask", own.mask), ("--box", own.box), ("--class", own.label)) if value]
    if given and own.image is None:
        raise InputError(f"{given[0]} is for a picture of yours, but none is named; type --image PICTURE_OR_FOLDER")


def check_telling(section: ReconstructMaskedSection, handed: HandedMemory) -> None:
    """Classes can be told only to a DistilBERT that knows them, and guidance needs one that also does without."""
    told = section.tell_class if section.own.image is None else section.own.label is not None
    retrain = f"type: {command('train_distil')} --train_distil.condition_on_class true"
    if told and not handed.distil.tells_class:
        raise InputError(f"{handed.distil.folder} was trained without classes, so none can be told; {retrain}")
    if section.guidance_scale != 1 and not told:
        raise InputError(
            f"reconstruct_masked.guidance_scale is {section.guidance_scale:g}, but no class is told; "
            "type --reconstruct_masked.tell_class true, or --class NAME with --image"
        )
    if section.guidance_scale != 1 and not handed.distil.label_drop:
        remedy = f"{retrain} --train_distil.label_drop 0.1"
        raise lacks_label_drop(handed.distil.folder, "guidance_scale must be 1", remedy)


def make_plan(section: ReconstructMaskedSection, seed: int) -> StudyPlan:
    """The settings as a plan; names and percentages that are given twice count once."""
    return configured(
        StudyPlan,
        section,
        strategies=tuple(dict.fromkeys(section.strategies)),
        percentages=tuple(sorted(set(section.percentages))),
        decodings=tuple(dict.fromkeys(section.decodings)),
        seed=seed,
        choosing=configured(Choosing, section),
        filling=configured(Filling, section),
    )


def choose_pictures(split: Split, part: str, count: int | None, seed: int) -> np.ndarray:
    """Positions of the pictures to measure: all of the part, or `count` chosen by the seed of the split, so that
    several training seeds measure the same."""
    positions = split.positions(*part.split("+"))
    if count is None or count >= len(positions):
        return positions
    return np.sort(
        positions[torch.randperm(len(positions), generator=generator(seed, Stream.PICTURES))[:count].numpy()]
    )


SHORTCUTS: dict[str, Shortcut] = {
    "--image": "reconstruct_masked.own.image",
    "--mask": "reconstruct_masked.own.mask",
    "--box": ("reconstruct_masked.own.box", 4),
    "--percent": "reconstruct_masked.own.percent",
    "--strategy": "reconstruct_masked.own.strategy",
    "--decoding": "reconstruct_masked.own.decoding",
    "--samples": "reconstruct_masked.own.samples",
    "--fit": "reconstruct_masked.own.fit",
    "--class": "reconstruct_masked.own.label",
}


def main() -> int:
    return stage_main("reconstruct_masked", run, __doc__ or "", SHORTCUTS, parallel=True)


if __name__ == "__main__":
    sys.exit(main())
