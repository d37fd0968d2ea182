"""Error against bits: is it better to forget tokens, or to code all of them?

Reads:  the models that reconstruct_masked reads; the best pixelcnn of runs/train_prior that is told nothing, if any
Writes: runs/compare_bits/<run>/ with bits.csv, envelope.csv and figures/bits.png

    python -m masked_memory compare_bits
    python -m masked_memory compare_bits --compare_bits.pixelcnn null --compare_bits.strategies "[random, adaptive]"

Bits are those of real streams, each picture its own: a range coder, with the probabilities of code counts, of a
PixelCNN or of the DistilBERT. Every stream is decoded and compared. Kept tokens are coded each given those sent before,
and where the reader cannot know which they are, their positions as well. JPEG, WebP, AVIF and JPEG XL stand beside.
"""

import sys
from dataclasses import replace
from typing import Any

import torch

from masked_memory.handoff.memory import HandedMemory, take_memory
from masked_memory.handoff.split import note_data, open_split
from masked_memory.measuring.study import StudyPlan
from masked_memory.models.codes import Filling
from masked_memory.pipeline.batch_cache import forget
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import prepare_machine
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import Stage, inputs_of, open_stage, say
from masked_memory.recall.choosing import Choosing
from masked_memory.rivals.handoff.priors import HandedPrior, take_untold_pixelcnn
from masked_memory.rivals.measuring.bits import BITS_HEADER, BitsPlan, format_rows, reduced_rows
from masked_memory.rivals.measuring.coded import ALL_TOKENS, kept_rows, whole_rows
from masked_memory.rivals.measuring.envelope import ENVELOPE_HEADER, bits_figure, envelope_rows, report_envelope
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.sources.splitting import spread

FILES = ("bits.csv", "envelope.csv")


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the mean bits of a whole grid that the DistilBERT codes."""
    machine = prepare_machine(cfg.run, say)
    section, split = cfg.compare_bits, open_split(cfg)
    if cfg.reconstruct_masked.tell_class:
        raise InputError(
            "reconstruct_masked.tell_class is true, but compare_bits tells no class, as that would cost bits; "
            "type --reconstruct_masked.tell_class false"
        )
    handed = take_memory(cfg, split, machine, measured=True)
    pixelcnn = take_untold_pixelcnn(cfg, section.pixelcnn, split, handed.vqvae)
    with open_stage("compare_bits", cfg, handed.inputs | inputs_of([], pixelcnn=pixelcnn), machine, resume) as stage:
        note_data(stage, cfg, split)
        notes = stage.last / "batches"
        plan = replace(plan_bits(cfg, handed), notes=notes)
        say(f"{len(plan.positions)} pictures of test, {len(plan.study.strategies)} strategies")
        rows = measure_all(plan, pixelcnn)
        write_rows(stage.folder.path / "bits.csv", BITS_HEADER, rows)
        envelope = envelope_rows(rows)
        write_rows(stage.folder.path / "envelope.csv", ENVELOPE_HEADER, envelope)
        stage.figure("bits", bits_figure(rows, len(plan.positions), plan.decoding))
        report(stage, rows, envelope)
        forget(notes)
        stage.finish(handed.vqvae.key(split), extra_artifacts=FILES)
        return float(stage.metrics[f"{ALL_TOKENS} DistilBERT bits"])


def plan_bits(cfg: Config, handed: HandedMemory) -> BitsPlan:
    """The settings as a plan; names and percentages that are given twice count once."""
    section, recall = cfg.compare_bits, cfg.reconstruct_masked
    study = StudyPlan(
        strategies=tuple(dict.fromkeys(section.strategies)),
        percentages=tuple(sorted(set(section.percentages))),
        decodings=(section.decoding,),
        seeds=1,
        seed=cfg.run.seed,
        choosing=configured(Choosing, recall),
        filling=configured(Filling, recall),
        tell_class=False,
        batch_size=section.batch_size,
    )
    test = handed.split.positions("test")
    positions = spread(test, len(test) if section.pictures is None else section.pictures)
    return BitsPlan(handed, study, positions, section.coding_passes, section.bootstrap)


@torch.no_grad()
def measure_all(plan: BitsPlan, pixelcnn: HandedPrior | None) -> Rows:
    """All methods on the same pictures."""
    with torch.autocast(plan.memory.device.type, enabled=False):  # around all: weights are cast to bfloat16 once
        rows = whole_rows(plan, None if pixelcnn is None else pixelcnn.pixelcnn) + kept_rows(plan)
        return rows + reduced_rows(plan) + format_rows(plan)


def report(stage: Stage, rows: Rows, envelope: Rows) -> None:
    """Bits of what is coded to metrics.json; whole grids and where which method is best on the console."""
    for row in rows:
        if "ideal_bits" in row:
            name = f"{row['method']} {row['setting']}".replace(" % ", " percent ").replace(",", "")
            stage.metrics[f"{name} bits"] = row["bits"]
            stage.metrics[f"{name} mse_to_picture"] = row["mse_to_picture"]
    say("bits of whole grids, nothing forgotten      coded    ideal")
    for row in rows:
        if row["method"] == ALL_TOKENS:
            say(f"  {row['setting']:<40}{row['bits']:8.1f} {row['ideal_bits']:8.1f}")
    report_envelope(envelope)


def main() -> int:
    return stage_main("compare_bits", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
