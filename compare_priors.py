"""Every way to fill in and to invent, side by side: PixelCNN, GAN, DistilBERT, VQ-VAE trained with masked components.

Reads:  the models that reconstruct_masked reads; the best pixelcnn and gan of runs/train_prior; the VQ-VAE and the
        DistilBERT named by compare_priors.masked_vqvae and compare_priors.told_distil, if any
Writes: runs/compare_priors/<run>/ with inpainting.csv, samples.csv and figures/inpainting.png, figures/samples.png

    python compare_priors.py
    python compare_priors.py --compare_priors.masked_vqvae runs/train_vqvae/TIME-ID

All fill in the same tokens of the same test pictures, told nothing about them. Samples are asked for class by class
where the prior can be told the class. Masks: True = masked, to be filled in.
"""

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handoff.asking import take_priors
from handoff.memory import HandedMemory, take_memory
from handoff.split import note_data, open_split
from measuring.figures import grey_out
from measuring.priors import (
    EXPECTED,
    INPAINTING_HEADER,
    ONLY_TIMED,
    PIXELCNN,
    SAMPLES_HEADER,
    SECONDS,
    WHOLE_GRID,
    filling_ways,
    hole_for,
    inventors,
    measure_inpainting,
    measure_samples,
    middle_percent,
    one_pass_ways,
    paint_way,
    shared_mask,
    spread_batches,
)
from measuring.study import Batch
from pipeline.figures import picture_grid
from pipeline.machine import Stream, generator, prepare_machine
from pipeline.metrics import to_unit
from pipeline.stage import Stage, open_stage, say
from pipeline.tables import Rows, write_rows
from recall.fillers import Way
from settings.command import stage_main
from settings.compare_priors import ComparePriorsSection
from settings.config import Config

FILES = ("inpainting.csv", "samples.csv")
SHOWN = 8  # pictures in the figure of what is filled in


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the MSE to the pictures of the DistilBERT in one pass, over all masks."""
    machine = prepare_machine(cfg.run, say)
    section, split, seed = cfg.compare_priors, open_split(cfg), cfg.run.seed
    handed = take_memory(cfg, split, machine, measured=True)
    priors = take_priors(cfg, handed)
    with open_stage("compare_priors", cfg, handed.inputs | priors.inputs, machine, resume) as stage:
        note_data(stage, cfg, split)
        ways = filling_ways(handed.memory, priors, section)
        batches = spread_batches(handed, section.pictures, section.batch_size)
        rows = measure_inpainting(handed.memory, ways, batches, section, seed)
        write_rows(stage.folder.path / "inpainting.csv", INPAINTING_HEADER, rows)
        report_inpainting(stage, rows, ways, section)
        some = next(spread_batches(handed, SHOWN, SHOWN)())
        stage.figure("inpainting", inpainting_figure(handed, ways, some, section, seed))
        count = min(section.samples, len(split.positions("test")), len(split.positions("val")))
        makers = inventors(handed.memory, priors, section, split.classes)
        found, shown = measure_samples(handed, makers, count, section.batch_size, seed)
        write_rows(stage.folder.path / "samples.csv", SAMPLES_HEADER, found)
        report_compared(stage, found)
        stage.figure("samples", picture_grid(list(shown.items())))
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        return float(np.mean([row["mean"] for row in rows if (row["method"], row["measure"]) == (EXPECTED, MAIN)]))


# --- reports ----------------------------------------------------------------------------------------------------------

MAIN = "mse_to_picture"


def report_inpainting(stage: Stage, rows: Rows, ways: dict[str, Way], section: ComparePriorsSection) -> None:
    """A table of the middle percentage on the console; how many times faster the one-pass ways are in metrics.json."""
    value = {(row["method"], row["mask"], row["percent"], row["measure"]): row["mean"] for row in rows}
    percent = middle_percent(section)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for kind in section.masks:
        say(f"{kind} masks, {percent} % forgotten        MSE     SSIM   class error   ms per picture")
        for method in methods:
            measures = (MAIN, "ssim_to_picture", "classification_error")
            numbers = [value.get((method, kind, percent, measure), float("nan")) for measure in measures]
            taken = 1000 * value[method, kind, percent, SECONDS]
            say(f"{method:38}{numbers[0]:8.4f} {numbers[1]:7.3f} {numbers[2]:8.3f} {taken:16.3f}")
    for slow in (PIXELCNN, WHOLE_GRID):
        for fast in one_pass_ways(ways):
            ratios = [
                value[slow, kind, percent, SECONDS] / value[fast, kind, percent, SECONDS] for kind in section.masks
            ]
            stage.metrics[f"times_faster {fast} than {slow}".replace(",", "")] = float(np.median(ratios))
    for (method, kind, share, measure), mean in value.items():
        if measure == MAIN and share == percent:
            stage.metrics[f"{kind} {percent} {method} mse".replace(",", "")] = mean


def report_compared(stage: Stage, rows: Rows) -> None:
    say("samples                             Frechet distance   class accuracy   ms per picture")
    for row in rows:
        distance, accuracy, taken = (row.get(key) for key in ("frechet_distance", "class_accuracy", SECONDS))
        shown = [f"{distance:8.2f}" if distance is not None else " " * 8]
        shown += [f"{accuracy:8.3f}" if accuracy is not None else " " * 8]
        shown += [f"{1000 * taken:8.3f}" if taken is not None else ""]
        say(f"{row['method']:36}{'         '.join(shown)}")
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
                if name not in ONLY_TIMED:
                    draws = generator(seed, Stream.COMPARED_FILLS, percent, start)
                    painted, _ = paint_way(memory, way, hole_for(way, batch, mask, memory.stride), draws)
                    rows.append((name, to_unit(painted).cpu()))
    return picture_grid(rows)


def main() -> int:
    return stage_main("compare_priors", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
