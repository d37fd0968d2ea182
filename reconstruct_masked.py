"""Stage 6: how much must be kept, and what? Recall of the test pictures against the percentage of tokens forgotten.

Reads:  the best VQ-VAE, its indices, the DistilBERT and the classifier (all made on the same split and codebook)
Writes: runs/reconstruct_masked/<run>/ with curves.csv, equal_bits.csv, rivals.csv, error_split.csv, context.csv and
        figures/; or, with --image, own/: your picture, completed

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

from handoff.memory import HandedMemory, take_distil, take_memory
from handoff.split import Split, note_data, open_split
from measuring.report import report, study_files
from measuring.study import Plan, measure
from measuring.tables import CURVES_HEADER, bits_of, curve, summarise
from models.codes import Filling
from models.distilbert import classes_of
from own_picture.completing import request_of
from own_picture.reading import check_own
from own_picture.report import complete_own
from pipeline.files import InputError
from pipeline.machine import generator, prepare_machine
from pipeline.stage import open_stage, say
from pipeline.tables import write_rows
from recall.choosing import Choosing
from settings.command import Shortcut, stage_main
from settings.config import Config
from settings.reconstruct_masked import OwnPicture, ReconstructMaskedSection


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the mean over all percentages of the MSE to the VQ-VAE's reconstruction, for the last
    strategy and decoding named in the settings (as shipped: adaptive, expected)."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.reconstruct_masked, open_split(cfg)
    check_own_options(section.own)
    handed = take_memory(cfg, split, machine)
    check_telling(section, handed)
    inputs = {name: str(folder) for name, folder in handed.folders.items()}
    identity = f"{cfg.run.seed} {section.model_dump_json()}"
    if section.own.image is not None:
        check_own(section.own, split.meta["channels"])
        request_of(section, handed.memory.distil, split.classes, cfg.run.seed)
        with open_stage("reconstruct_masked", cfg, inputs, identity, machine, resume) as stage, torch.no_grad():
            channels = split.meta["channels"]
            return complete_own(stage, handed.memory, section, channels, split.classes, cfg.run.seed)
    published = None
    if section.rivals and section.rival_distil:
        rival_folder, published, _ = take_distil(cfg, section.rival_distil, split, handed.vqvae, machine.device)
        inputs["rival_distil"] = str(rival_folder)
    with open_stage("reconstruct_masked", cfg, inputs, identity, machine, resume) as stage:
        note_data(stage, cfg, split)
        plan = make_plan(section, cfg.run.seed)
        positions = choose_pictures(split, section.part, section.pictures, cfg.run.seed)
        memory = handed.memory
        say(f"{len(positions)} pictures of {section.part}, {len(plan.strategies)} strategies")
        study = measure(memory, split, handed.indices, positions, plan)
        rows = summarise(study, section.bootstrap, cfg.run.seed, bits_of(memory))
        write_rows(stage, "curves.csv", CURVES_HEADER, rows)
        report(stage, rows, plan)
        with torch.no_grad():
            study_files(stage, handed, split, study, rows, plan, section, published)
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        best = curve(rows, plan.strategies[-1], plan.decodings[-1], "mse_to_reconstruction")
        return float(np.mean(best.means))


FILES = ("curves.csv", "equal_bits.csv", "rivals.csv", "error_split.csv", "context.csv")


def check_own_options(own: OwnPicture) -> None:
    """What belongs to an own picture needs one."""
    given = [name for name, value in (("--mask", own.mask), ("--box", own.box), ("--class", own.label)) if value]
    if given and own.image is None:
        raise InputError(f"{given[0]} is for a picture of yours, but none is named; type --image PICTURE_OR_FOLDER")


def check_telling(section: ReconstructMaskedSection, handed: HandedMemory) -> None:
    """Classes can be told only to a DistilBERT that knows them, and guidance needs one that also does without."""
    told = section.tell_class if section.own.image is None else section.own.label is not None
    if told and not classes_of(handed.memory.distil):
        raise InputError(
            f"{handed.folders['train_distil']} was trained without classes, so none can be told; type: "
            "python train_distil.py --train_distil.condition_on_class true"
        )
    if section.guidance_scale != 1 and not told:
        raise InputError(
            f"reconstruct_masked.guidance_scale is {section.guidance_scale:g}, but no class is told; "
            "type --reconstruct_masked.tell_class true, or --class NAME with --image"
        )
    if section.guidance_scale != 1 and not handed.label_drop:
        raise InputError(
            f"{handed.folders['train_distil']} was trained without label dropping, so guidance_scale must be 1; type: "
            "python train_distil.py --train_distil.condition_on_class true --train_distil.label_drop 0.1"
        )


def make_plan(section: ReconstructMaskedSection, seed: int) -> Plan:
    return Plan(
        strategies=tuple(dict.fromkeys(section.strategies)),
        percentages=tuple(sorted(set(section.percentages))),
        decodings=tuple(dict.fromkeys(section.decodings)),
        seeds=section.seeds,
        seed=seed,
        choosing=Choosing(
            section.choosing_passes, section.look_ahead, section.candidates, section.code_share, section.blocks
        ),
        filling=Filling(
            section.passes,
            section.fill_order,
            section.temperature,
            section.top_k,
            section.top_p,
            section.guidance_scale,
        ),
        tell_class=section.tell_class,
        batch_size=section.batch_size,
    )


def choose_pictures(split: Split, part: str, count: int | None, seed: int) -> np.ndarray:
    """Positions of the pictures to measure: all of the part, or `count` chosen by the seed."""
    positions = split.positions(*part.split("+"))
    if count is None or count >= len(positions):
        return positions
    return np.sort(positions[torch.randperm(len(positions), generator=generator(seed, 204))[:count].numpy()])


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
    return stage_main("reconstruct_masked", run, __doc__ or "", SHORTCUTS)


if __name__ == "__main__":
    sys.exit(main())
