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
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import study_figures
from cli import Shortcut, stage_main
from comparisons import BITS_HEADER, RIVALS_HEADER, frontiers, measure_bits, measure_rivals, spread
from completion import Filling, classes_of
from config import Config, OwnPicture, ReconstructMaskedSection
from data_split import Split, note_data, open_split
from handoff import HandedMemory, take_distil, take_memory
from own_picture import check_own, complete_own, request_of
from pipeline.files import InputError, write_csv
from pipeline.machine import generator, prepare_machine
from pipeline.metrics import mse
from pipeline.stage import Stage, open_stage, say
from selection import Choosing
from sources.embedded import EMBEDDED
from study import (
    ALL_FORGOTTEN,
    CURVES_HEADER,
    Batch,
    Plan,
    Rows,
    Study,
    batches_of,
    bits_of,
    context_rows,
    curve,
    error_split,
    measure,
    summarise,
)


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


MAIN_MEASURES = ("mse_to_reconstruction", "mse_to_picture", "classification_error", "disagreement")
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


def write_rows(stage: Stage, name: str, header: tuple[str, ...], rows: Rows) -> None:
    """Rows as CSV, numbers with six digits; what a row does not have stays empty."""

    def cell(value: Any) -> Any:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{value:.6g}"
        return value

    write_csv(stage.folder.path / name, header, [[cell(row.get(key, "")) for key in header] for row in rows])


def report(stage: Stage, rows: Rows, plan: Plan) -> None:
    """The main measures of the last decoding to metrics.json and, as curves over the percentage, to MLflow; two of them
    as tables. curves.csv has all."""
    decoding = plan.decodings[-1]
    for percent in plan.percentages:
        points: dict[str, float] = {}
        for row in rows:
            if (row["percent"], row["decoding"]) == (percent, decoding) and row["measure"] in MAIN_MEASURES:
                stage.metrics[f"{row['strategy']}_{row['measure']}_at_{percent}"] = row["mean"]
                names = plan.strategies if row["strategy"] == ALL_FORGOTTEN else (row["strategy"],)
                points |= {f"{row['measure']}/{name}": row["mean"] for name in names}
        stage.ledger.metrics(points, step=percent)
    for measure_name in ("mse_to_reconstruction", "classification_error"):
        if any(row["measure"] == measure_name for row in rows):
            say(f"{study_figures.LABELS[measure_name]}, decoding {decoding}")
            say("forgotten         " + "".join(f"{percent:>7} %" for percent in plan.percentages))
            for strategy in plan.strategies:
                found = curve(rows, strategy, decoding, measure_name)
                say(f"{strategy:<18}" + "".join(f"{mean:9.4f}" for mean in found.means))


def study_files(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    rows: Rows,
    plan: Plan,
    section: ReconstructMaskedSection,
    published: Any,
) -> None:
    """Everything beside curves.csv: error split, context, rivals, equal bits, figures."""
    memory, decoding = handed.memory, plan.decodings[-1]

    def batches() -> Iterator[Batch]:
        return batches_of(memory, split, handed.indices, study.positions, plan.batch_size)

    for name in ("mse_to_reconstruction", "mse_to_picture", "ssim_to_reconstruction", "classification_error",
                 "disagreement"):  # fmt: skip
        if any(row["measure"] == name for row in rows):
            stage.figure(name, study_figures.strategies_figure(rows, plan, decoding, name, len(study.positions)))
    for name in ("calibration_error", "cross_entropy"):
        if any(row["measure"] == name for row in rows):
            stage.figure(name, study_figures.strategies_figure(rows, plan, "tokens", name, len(study.positions)))
    telling = [name for name in plan.strategies if name in ("random", "adaptive")] or [plan.strategies[-1]]
    stage.figure("decodings", study_figures.decodings_figure(rows, plan, telling))
    quantisation = float(torch.cat([mse(batch.whole, batch.truth) for batch in batches()]).mean())
    split_rows = error_split(rows, quantisation, decoding)
    header = ("strategy", "percent", "quantisation", "completion", "total", "total_minus_both")
    write_csv(stage.folder.path / "error_split.csv", header, split_rows)
    stage.figure("error_split", study_figures.split_figure(split_rows, telling))
    measure_context(stage, split, study, plan, decoding)
    if section.rivals:
        compare(stage, handed, split, study, rows, plan, section, published)
    picks = study.positions[np.linspace(0, len(study.positions) - 1, min(section.grid_pictures, len(study.positions)))
                            .astype(int)]  # fmt: skip
    draw_grids(stage, handed, split, study, plan, picks, telling, decoding)


def compare(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    rows: Rows,
    plan: Plan,
    section: ReconstructMaskedSection,
    published: Any,
) -> None:
    """rivals.csv and equal_bits.csv with their figures."""
    decoding = plan.decodings[-1]
    if "random" in study.orders:
        counts = (section.rival_pictures, section.slow_pictures)
        found = measure_rivals(handed, split, study, plan, published, *counts, section.bootstrap)
        write_rows(stage, "rivals.csv", RIVALS_HEADER, found)
        stage.figure("rivals", study_figures.rivals_figure(found))
    else:
        say("rivals.csv is skipped: it is made on the masks of strategy random, which is not among the strategies")

    def batches() -> Iterator[Batch]:
        some = study.positions[spread(len(study.positions), section.rival_pictures)]
        return batches_of(handed.memory, split, handed.indices, some, plan.batch_size)

    ours, others = measure_bits(handed.memory, batches, rows, plan, decoding)
    write_rows(stage, "equal_bits.csv", BITS_HEADER, ours + others)
    stage.figure("equal_bits", study_figures.bits_figure(rows, plan, frontiers(others), decoding))


def measure_context(stage: Stage, split: Split, study: Study, plan: Plan, decoding: str) -> None:
    """The demo's memory experiment: pictures whose digit is where it usually is, and others. Skipped for other data."""
    manifest = [split.manifest[position] for position in study.positions]
    if "congruent" not in manifest[0] or not split.classes or split.meta["source"] not in EMBEDDED:
        return
    from sources.digits_in_context import PLACES

    congruent = np.array([row["congruent"] in ("1", "True", "true") for row in manifest])
    suggested = np.array([split.classes.index(str(PLACES.index(row["place"]))) for row in manifest])
    context = context_rows(study, split, congruent, suggested, decoding)
    header = ("strategy", "percent", "group", "pictures", "classification_error", "wrong_as_context_suggests")
    write_rows(stage, "context.csv", header, [dict(zip(header, row, strict=True)) for row in context])
    if not congruent.all() and congruent.any():
        stage.figure("context", study_figures.context_figure(context, plan))


def draw_grids(
    stage: Stage,
    handed: HandedMemory,
    split: Split,
    study: Study,
    plan: Plan,
    picks: np.ndarray,
    strategies: list[str],
    decoding: str,
) -> None:
    """A grid over the percentages for the telling strategies, and one over all strategies at about 75 %."""
    batch = next(batches_of(handed.memory, split, handed.indices, picks, len(picks)))
    places = np.searchsorted(study.positions, picks)
    shown = Study({}, {name: [order[places] for order in orders] for name, orders in study.orders.items()}, {}, picks)
    for name in strategies:
        figure = study_figures.recall_grid(handed.memory, shown, batch, plan, name, decoding, split.components)
        stage.figure(f"grid_{name}", figure)
    percent = min((p for p in plan.percentages if p < 100), key=lambda p: abs(p - 75), default=None)
    if percent is not None:
        figure = study_figures.strategies_grid(handed.memory, shown, batch, plan, percent, decoding, split.components)
        stage.figure("grid_strategies", figure)


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
