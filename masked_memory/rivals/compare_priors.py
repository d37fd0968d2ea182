"""Every way to fill in and to invent, side by side: PixelCNN, GAN, DistilBERT, VQ-VAE trained with masked components.

Reads:  the models that reconstruct_masked reads; the best pixelcnn and gan of runs/train_prior, those that are told the
        class and those that are told nothing; the VQ-VAE and the DistilBERT named by compare_priors.masked_vqvae and
        compare_priors.told_distil, if any
Writes: runs/compare_priors/<run>/ with inpainting.csv, speed.csv, samples.csv, sweep.csv and figures/

    python -m masked_memory compare_priors
    python -m masked_memory compare_priors --compare_priors.masked_vqvae runs/train_vqvae/TIME-ID

All fill in the same tokens of the same test pictures, told nothing about them, and trained without being told. Samples
are asked for class by class where the prior can be told the class. Masks: True = masked, to be filled in.
"""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory, take_memory
from masked_memory.handoff.split import note_data, open_split
from masked_memory.measuring.figures import grey_out
from masked_memory.measuring.study import Batch
from masked_memory.pipeline.batch_cache import forget, remembering
from masked_memory.pipeline.figures import picture_grid
from masked_memory.pipeline.machine import Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import Stage, open_stage, say
from masked_memory.recall.fillers import Way
from masked_memory.rivals.handoff.prior_requests import Priors, take_priors
from masked_memory.rivals.measuring.priors import (
    INPAINTING_HEADER,
    SPEED_HEADER,
    filling_ways,
    hole_for,
    measure_inpainting,
    measure_speed,
    middle_percent,
    paint_way,
    shared_mask,
    spread_batches,
)
from masked_memory.rivals.measuring.samples import (
    SAMPLES_HEADER,
    SWEEP_HEADER,
    inventors,
    measure_samples,
    measure_sweep,
)
from masked_memory.rivals.measuring.sweep_figure import sweep_figure
from masked_memory.settings.command import stage_main
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.settings.config import Config

FILES = ("inpainting.csv", "speed.csv", "samples.csv", "sweep.csv")
SHOWN = 8  # pictures in the figure of what is filled in
MAIN, MAIN_WAY = "mse_to_picture", "DistilBERT, one pass, expected"


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the MSE to the pictures of the DistilBERT in one pass, over all masks."""
    machine = prepare_machine(cfg.run, say)
    section, split, seed = cfg.compare_priors, open_split(cfg), cfg.run.seed
    handed = take_memory(cfg, split, machine, measured=True)
    priors = take_priors(cfg, handed)
    with open_stage("compare_priors", cfg, handed.inputs | priors.inputs, machine, resume) as stage:
        note_data(stage, cfg, split)
        memory = replace(handed.memory, bf16=False, painter=None)  # all in float32, all painted by the decoder
        ways = filling_ways(memory, priors, section)
        batches = spread_batches(handed, section.pictures, section.batch_size)
        rows = measure_inpainting(memory, ways, batches, section, seed, stage.last / "parts" / "inpainting")
        write_rows(stage.folder.path / "inpainting.csv", INPAINTING_HEADER, rows)
        report_inpainting(stage, rows, section)
        some = next(spread_batches(handed, SHOWN, SHOWN)())
        stage.figure("inpainting", inpainting_figure(handed, ways, some, section, seed))
        compare_speed(stage, handed, priors, section, seed)
        compare_samples(stage, handed, priors, section, seed)
        forget(stage.last / "parts")
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        return float(np.mean([row["mean"] for row in rows if (row["method"], row["measure"]) == (MAIN_WAY, MAIN)]))


def compare_speed(stage: Stage, handed: HandedMemory, priors: Priors, section: ComparePriorsSection, seed: int) -> None:
    """speed.csv, and a table on the console."""
    batch = next(spread_batches(handed, section.timed_pictures, section.timed_pictures)())

    def timed(everything: str) -> Rows:
        return measure_speed(handed.memory, priors, batch, section, seed)

    rows = remembering(stage.last / "parts" / "speed", timed)("all")
    write_rows(stage.folder.path / "speed.csv", SPEED_HEADER, rows)
    say(f"ms per picture, {len(batch.tokens)} at once, {section.rounds} rounds   median   lowest   highest")
    for row in rows:
        taken = (1000 * row[key] for key in ("seconds_per_picture", "low", "high"))
        say(f"{row['precision']} {row['method']:44}" + "".join(f"{each:9.3f}" for each in taken))


def compare_samples(
    stage: Stage, handed: HandedMemory, priors: Priors, section: ComparePriorsSection, seed: int
) -> None:
    """samples.csv and sweep.csv with their figures."""
    count = min(section.samples, len(handed.split.positions("test")) // 2, len(handed.split.positions("val")))
    makers = inventors(handed.memory, priors, section, handed.split.classes)
    notes = stage.last / "parts"
    found, shown = measure_samples(handed, makers, count, section.batch_size, seed, notes / "samples")
    write_rows(stage.folder.path / "samples.csv", SAMPLES_HEADER, found)
    report_compared(stage, found)
    stage.figure("samples", picture_grid(list(shown.items())))
    swept = measure_sweep(handed, priors, section, count, seed, notes / "sweep")
    write_rows(stage.folder.path / "sweep.csv", SWEEP_HEADER, swept)
    if swept:
        stage.figure("sweep", sweep_figure(swept))


# --- reports ----------------------------------------------------------------------------------------------------------


def report_inpainting(stage: Stage, rows: Rows, section: ComparePriorsSection) -> None:
    """A table of the middle percentage on the console, its squared errors also in metrics.json."""
    value = {(row["method"], row["mask"], row["percent"], row["measure"]): row["mean"] for row in rows}
    percent = middle_percent(section)
    methods = {row["method"]: row["passes"] for row in rows}
    measures = (MAIN, "ssim_to_picture", "classification_error", "clean_classification_error")
    for kind in section.masks:
        title = f"{kind} masks, {percent} % forgotten"
        say(f"{title:44}   passes      MSE    SSIM   class error, clean judge")
        for method, passes in methods.items():
            numbers = [value.get((method, kind, percent, measure), float("nan")) for measure in measures]
            say(f"{method:44}{passes:9}{numbers[0]:9.4f}{numbers[1]:8.3f}{numbers[2]:14.3f}{numbers[3]:13.3f}")
            stage.metrics[f"{kind} {percent} {method} mse".replace(",", "")] = numbers[0]


def report_compared(stage: Stage, rows: Rows) -> None:
    say("samples                                 Frechet distance   class as asked   ms per picture")
    for row in rows:
        distance, accuracy, taken = (
            row.get(key) for key in ("frechet_distance", "class_accuracy", "seconds_per_picture")
        )
        shown = [f"{distance:8.2f}" if distance is not None else " " * 8]
        shown += [f"{accuracy:8.3f}" if accuracy is not None else " " * 8]
        shown += [f"{1000 * taken:8.3f}" if taken is not None else ""]
        say(f"{row['method']:40}{'         '.join(shown)}")
        if distance is not None:
            stage.metrics[f"frechet_distance {row['method']}".replace(",", "")] = distance


def inpainting_figure(
    handed: HandedMemory, ways: dict[str, Way], batch: Batch, section: ComparePriorsSection, seed: int
) -> Any:
    """Some pictures under each kind of mask: what is left, and what each way makes of it."""
    memory, percent, start = handed.memory, middle_percent(section), batch.rows.start
    rows: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        for kind in section.masks:
            mask = shared_mask(kind, percent, len(batch.tokens), memory, seed, start)
            rows.append((f"{kind}, {percent} %", grey_out(batch.whole, mask, memory.stride).cpu()))
            for name, way in ways.items():
                draws = generator(seed, Stream.COMPARED_FILLS, percent, start)
                painted, _ = paint_way(memory, way, hole_for(way, batch, mask, memory.stride), draws)
                rows.append((name, to_unit(painted).cpu()))
    return picture_grid(rows)


def main() -> int:
    return stage_main("compare_priors", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
