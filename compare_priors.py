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
    FILL_STREAM,
    INPAINTING_HEADER,
    ONE_PASS,
    ONLY_TIMED,
    PIXELCNN,
    SAMPLES_HEADER,
    SECONDS,
    WHOLE_GRID,
    Filler,
    fillers,
    masks,
    measure_inpainting,
    measure_samples,
    middle_percent,
    samplers,
    spread_batches,
)
from measuring.study import Batch
from pipeline.figures import picture_grid
from pipeline.files import write_csv
from pipeline.machine import generator, prepare_machine
from pipeline.metrics import to_unit
from pipeline.stage import Stage, open_stage, say
from pipeline.tables import Rows
from settings.command import stage_main
from settings.compare_priors import ComparePriorsSection
from settings.config import Config

FILES = ("inpainting.csv", "samples.csv")
SHOWN = 8  # pictures in the figure of what is filled in


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the MSE to the pictures of the DistilBERT in one pass, over all masks."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.compare_priors, open_split(cfg)
    handed = take_memory(cfg, split, machine)
    priors, folders = take_priors(cfg, split, handed, machine)
    inputs = {name: str(folder) for name, folder in (handed.folders | folders).items()}
    memory = handed.memory
    with open_stage(
        "compare_priors", cfg, inputs, f"{cfg.run.seed} {section.model_dump_json()}", machine, resume
    ) as stage:
        note_data(stage, cfg, split)
        ways = fillers(memory, priors, section)
        batches = spread_batches(memory, split, handed.indices, section.pictures, section.batch_size)
        rows = measure_inpainting(memory, ways, batches, section, cfg.run.seed)
        write_rows(stage, "inpainting.csv", INPAINTING_HEADER, rows)
        report_inpainting(stage, rows, section)
        some = next(spread_batches(memory, split, handed.indices, SHOWN, SHOWN)())
        stage.figure("inpainting", inpainting_figure(handed, ways, some, section, cfg.run.seed))
        count = min(section.samples, len(split.positions("test")), len(split.positions("val")))
        inventors = samplers(memory, priors, section, split.classes)
        found, shown = measure_samples(
            memory, inventors, priors, split, handed.indices, count, section.batch_size, cfg.run.seed
        )
        write_rows(stage, "samples.csv", SAMPLES_HEADER, found)
        report_samples(stage, found)
        stage.figure("samples", picture_grid(list(shown.items())))
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        return float(np.mean([row["mean"] for row in rows if (row["method"], row["measure"]) == (ONE_PASS[0], MAIN)]))


# --- reports ----------------------------------------------------------------------------------------------------------

MAIN = "mse_to_picture"


def report_inpainting(stage: Stage, rows: Rows, section: ComparePriorsSection) -> None:
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
        for fast in (way for way in (*ONE_PASS, f"GAN, best of {section.pool}") if way in methods):
            ratios = [
                value[slow, kind, percent, SECONDS] / value[fast, kind, percent, SECONDS] for kind in section.masks
            ]
            stage.metrics[f"times_faster {fast} than {slow}".replace(",", "")] = float(np.median(ratios))
    for (method, kind, share, measure), mean in value.items():
        if measure == MAIN and share == percent:
            stage.metrics[f"{kind} {percent} {method} mse".replace(",", "")] = mean


def report_samples(stage: Stage, rows: Rows) -> None:
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
    handed: HandedMemory, ways: dict[str, Filler], batch: Batch, section: ComparePriorsSection, seed: int
) -> Any:
    """Some pictures under each kind of mask: what is left, and what each way makes of it."""
    memory, percent = handed.memory, middle_percent(section)
    rows: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        for kind in section.masks:
            mask = masks(kind, percent, len(batch.tokens), memory, seed, batch.rows.start).to(memory.device)
            left = grey_out(batch.whole, mask, memory.stride)
            rows.append((f"{kind}, {percent} %", left.cpu()))
            for name, fill in ways.items():
                if name not in ONLY_TIMED:
                    painted, _ = fill(batch, mask, generator(seed, FILL_STREAM, percent, batch.rows.start))
                    rows.append((name, to_unit(painted).cpu()))
    return picture_grid(rows)


def write_rows(stage: Stage, name: str, header: tuple[str, ...], rows: Rows) -> None:
    """Numbers to six digits; empty where a measure was not taken."""
    write_csv(
        stage.folder.path / name,
        header,
        [
            [f"{row[key]:.6g}" if isinstance(row.get(key), float) else row.get(key, "") for key in header]
            for row in rows
        ],
    )


def main() -> int:
    return stage_main("compare_priors", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
