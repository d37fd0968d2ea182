"""The study beside others: rivals on the same masks. Rows are dicts with the keys of RIVALS_HEADER.

Pictures are float [-1, 1] in models, [0, 1] in measures. No rival sees what a masked token was. Those that work on
pixels take the pixels of kept cells from the painting of the whole grid; there the decoder knew the neighbours, too.
That is a slight advantage for those that were not trained on such paintings, and a large one for a masked autoencoder
that was (`inputs: reconstructions`).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedVQVAE
from masked_memory.measuring.curves import bits_of, summarise
from masked_memory.measuring.figures import rivals_figure
from masked_memory.measuring.study import ALL_FORGOTTEN, Findings, judge, measure_recall
from masked_memory.models.codes import Filling
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import Bootstrap
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.rows import Rows, mean_row, write_rows
from masked_memory.pipeline.stage import Stage, say
from masked_memory.recall.fillers import Way, distil_filler
from masked_memory.recall.hole import Filler, dig
from masked_memory.recall.memory import Memory
from masked_memory.recall.simple_fillers import (
    Biharmonic,
    ExpectedCode,
    KeepingPixels,
    MeanPicture,
    MostFrequentCode,
    NearestKept,
    NotCompleted,
    PaintedPlainly,
)
from masked_memory.rivals.fillers import MAEFiller
from masked_memory.rivals.handoff.trained_rivals import TrainedRivals, take_rivals
from masked_memory.settings.config import Config
from masked_memory.settings.reconstruct_masked import ReconstructMaskedSection
from masked_memory.sources.splitting import spread
from masked_memory.stages.masking import mask_first, masked_count

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

RIVALS_HEADER = ("rival", "percent", "measure", "mean", "low", "high", "pictures")
PUBLISHED_HEADER = ("model", "selection", "decoding", "percent", "measure", "mean", "low", "high", "pictures")
SELECTIONS = ("selective", "adaptive")  # of the published study, and ours


@dataclass(frozen=True)
class RivalCounts:
    """pictures: for each rival; slow_pictures: for those that take long; resamples: behind each interval."""

    pictures: int
    slow_pictures: int
    resamples: int


@dataclass(frozen=True)
class StudyRivals:
    """The rivals of a study: taken before it, compared after it."""

    section: ReconstructMaskedSection
    trained: TrainedRivals

    @classmethod
    def take(cls, cfg: Config, split: Split, vqvae: HandedVQVAE) -> "StudyRivals":
        """Those that cfg.reconstruct_masked names, see `take_rivals`."""
        return cls(cfg.reconstruct_masked, take_rivals(cfg, split, vqvae))

    @property
    def inputs(self) -> dict[str, str]:
        """name -> run folder."""
        return self.trained.inputs

    def compare(self, stage: Stage, findings: Findings) -> None:
        """rivals.csv with its figure, and published.csv where there is a model of the published recipe."""
        section, trained, folder = self.section, self.trained, stage.folder.path
        counts = RivalCounts(section.rival_pictures, section.slow_pictures, section.bootstrap)
        if trained.published is not None:
            rows = published_steps(findings, trained.published.model, counts)
            write_rows(folder / "published.csv", PUBLISHED_HEADER, rows)
        if "random" not in findings.study.orders:
            say("rivals.csv is skipped: it is made on the masks of strategy random, which is not among the strategies")
            return
        found = measure_rivals(findings, trained, counts)
        write_rows(folder / "rivals.csv", RIVALS_HEADER, found)
        stage.figure("rivals", rivals_figure(found))


def rival_ways(memory: Memory, mean: Tensor, rivals: TrainedRivals) -> list[Way]:
    """All who fill in the random masks. mean: the mean training picture (C, H, W)."""
    simple: list[Filler] = [
        MeanPicture(mean, memory.stride),
        NotCompleted(memory.codebook, memory.blank),
        MostFrequentCode(memory),
        ExpectedCode(memory),
        NearestKept(memory),
        Biharmonic(MeanPicture(mean, memory.stride)),
    ]
    ours = PaintedPlainly(distil_filler(memory, name="ours, expected"))
    found = [Way(filler, filler.decodings[0], filler.name) for filler in simple]
    found += [Way(ours, "argmax", "ours, argmax"), Way(ours, "expected", ours.name)]
    kept = KeepingPixels(ours, memory)
    found += [Way(kept, "expected", kept.name)]
    if memory.painter is not None:
        painted = distil_filler(memory, name="ours, expected, painter")
        kept = KeepingPixels(painted, memory)
        found += [Way(painted, "expected", painted.name), Way(kept, "expected", kept.name)]
    if rivals.mae is not None:
        mae = MAEFiller(f"masked autoencoder of {rivals.mae.meta['inputs']}", rivals.mae.model)
        found += [Way(mae, "expected", mae.name)]
    if rivals.published is not None:
        theirs = PaintedPlainly(distil_filler(memory, model=rivals.published.model, name="published recipe"))
        found += [Way(theirs, each, f"{theirs.name}, {each}") for each in ("argmax", "expected")]
    return found


def measure_rivals(findings: Findings, rivals: TrainedRivals, counts: RivalCounts) -> Rows:
    """The random masks of the study filled in by others and by ours. The study must have the strategy random."""
    study, split = findings.study, findings.handed.split
    everything = np.arange(len(study.positions))
    found: Rows = []
    ways = rival_ways(findings.memory, mean_picture(split), rivals)

    def rows_of(way: Way) -> Rows:
        slow = isinstance(way.filler, Biharmonic)
        picks = spread(everything, counts.slow_pictures if slow else counts.pictures)
        return rival_rows(way, findings, picks, counts.resamples)

    for rows in progress_bar(findings.memory.world.map(rows_of, ways), desc="rivals", unit="rival", total=len(ways)):
        found += rows
    return found


def rival_rows(way: Way, findings: Findings, picks: np.ndarray, resamples: int) -> Rows:
    """One rival at all percentages: rows of rivals.csv. picks: which of the study's pictures."""
    memory, plan = findings.memory, findings.plan
    order = findings.study.orders["random"][0][picks]
    values: dict[tuple[int, str], list[Tensor]] = {}
    for batch in findings.batches(findings.study.positions[picks]):
        for percent in plan.percentages:
            mask = mask_first(order[batch.rows], masked_count(percent / 100, memory.tokens)).to(memory.device)
            hole = dig(batch.tokens, mask, pixels=batch.whole * 2 - 1, stride=memory.stride)
            filled = way.fill(hole)
            painted = memory.paint(filled)
            for key, value in judge(memory, batch, mask, painted, memory.grids_behind(filled, painted)).items():
                values.setdefault((percent, key), []).append(value.float().cpu())
    bootstrap = Bootstrap(resamples, lambda: generator(plan.seed, Stream.BOOTSTRAP))
    return [
        mean_row({"rival": way.shown, "percent": percent, "measure": key}, torch.cat(parts), bootstrap)
        for (percent, key), parts in values.items()
        if not key.endswith("predicted")
    ]


def published_steps(findings: Findings, published: "DistilBertForMaskedLM", counts: RivalCounts) -> Rows:
    """The way from the published study to ours, step by step: its model or ours, its decoding (the likeliest codes) or
    ours (expected), its selection (`selective`) or ours (`adaptive`), in all eight combinations; rows of published.csv.
    Everything in one pass, told nothing, painted by the VQ-VAE's decoder, as a painter is made for one DistilBERT. The
    model that fills in also chooses."""
    plan, handed = findings.plan, findings.handed
    positions = spread(findings.study.positions, counts.pictures)
    their_plan = replace(
        plan, strategies=SELECTIONS, decodings=("argmax", "expected"), seeds=1, filling=Filling(), tell_class=False
    )
    rows: Rows = []
    for name, model in (("published", published), ("ours", findings.memory.distil)):
        memory = replace(findings.memory, distil=model, painter=None)
        found = measure_recall(memory, handed.split, handed.indices, positions, their_plan)
        rows += [
            {"model": name, "selection": row["strategy"], **{key: row[key] for key in PUBLISHED_HEADER[2:]}}
            for row in summarise(found, counts.resamples, plan.seed, bits_of(memory))
            if row["decoding"] != "tokens" and row["strategy"] != ALL_FORGOTTEN
        ]
    return rows


def mean_picture(split: Split, enough: int = 2000) -> Tensor:
    """(C, H, W) in [-1, 1]: the mean of the training pictures; of every n-th from n times `enough` pictures on."""
    train = split.positions("train")
    return split.pictures(train[:: max(1, len(train) // enough)]).mean(0)
