"""Error against bits: what is measured of every method, and two of them, picture formats and smaller codebooks.

The strategies and whole grids are in `coded.py`, the best of all in `envelope.py`. Bits are those
of real streams (`rivals/coding/`), each picture its own, decoded as a check.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory
from masked_memory.measuring.study import Batch, StudyPlan, batch_at, judge_classes
from masked_memory.pipeline.batch_cache import remembering
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import Bootstrap, to_unit
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.rows import Rows
from masked_memory.pipeline.stage import say
from masked_memory.recall.memory import Memory, baseline_probabilities
from masked_memory.rivals.coding.bitstreams import Coded, Coder, Sender, there_and_back
from masked_memory.rivals.coding.coders import code_by_table, code_whole
from masked_memory.rivals.measuring import fewer_codes, formats
from masked_memory.settings.judges import JUDGES
from masked_memory.sources.pixels import from_model, to_model
from masked_memory.sources.stacks import ORDINARY
from masked_memory.stages import masking

ERRORS = tuple(f"{judge.prefix}classification_error" for judge in JUDGES.values())
WITH_INTERVALS = ("mse_to_picture", *ERRORS)
BITS_HEADER = (
    "method", "setting", "bits", "ideal_bits", "bits_without_coding", "position_bits", "counted_position_bits",
    *(f"{name}{end}" for name in WITH_INTERVALS for end in ("", "_low", "_high")),
    *(f"{judge.prefix}disagreement" for judge in JUDGES.values()), "pictures",
)  # fmt: skip
OF_THE_CODE, OF_THE_POSITION = "most frequent code", "most frequent code of the position"  # of baseline_probabilities


@dataclass(frozen=True)
class BitsPlan:
    """What is measured, and on which pictures. study: strategies, percentages, the one decoding, how to choose and to
    fill; passes: of the DistilBERT over what it codes; resamples: behind each interval."""

    handed: HandedMemory
    study: StudyPlan
    positions: np.ndarray  # of the test pictures
    passes: int
    resamples: int
    notes: Path | None = None  # where finished batches lie until the stage has ended

    @property
    def memory(self) -> Memory:
        return self.handed.memory

    @property
    def decoding(self) -> str:
        return self.study.decodings[0]

    def batch(self, start: int) -> Batch:
        """The pictures from `start` on with all that they are compared with."""
        return batch_at(
            start, self.memory, self.handed.split, self.handed.indices, self.positions, self.study.batch_size
        )


#: What is measured of a batch: method, setting, name -> (B,).
Entries = Iterable[tuple[str, str, dict[str, Tensor]]]


class Gathered:
    """What was measured of each picture, under method and setting, batch by batch."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], dict[str, list[Tensor]]] = {}

    def add(self, method: str, setting: str, values: dict[str, Tensor]) -> None:
        """values: name -> (B,) double, on the CPU."""
        known = self.values.setdefault((method, setting), {})
        for name, value in values.items():
            known.setdefault(name, []).append(value)

    def rows(self, plan: BitsPlan) -> Rows:
        """Means over pictures, 95 % bootstrap intervals of the errors, and how many pictures."""
        bootstrap = Bootstrap(plan.resamples, lambda: generator(plan.study.seed, Stream.BOOTSTRAP))
        rows: Rows = []
        for (method, setting), known in self.values.items():
            pictures = {name: torch.cat(parts) for name, parts in known.items()}
            row: dict[str, Any] = {"method": method, "setting": setting}
            row |= {name: float(value.mean()) for name, value in pictures.items()}
            for name in WITH_INTERVALS:
                if name in pictures:
                    row[f"{name}_low"], row[f"{name}_high"] = bootstrap.interval(pictures[name])
            rows.append(row | {"pictures": len(pictures["bits"])})
        return rows


def gathered_rows(plan: BitsPlan, doing: str, of_batch: Callable[[Batch], Entries]) -> Rows:
    """The rows of what is measured batch by batch; batches that are done are remembered. doing: what the progress bar
    says."""

    def from_start(start: int) -> list[list[Any]]:
        return [
            [method, setting, {name: value.double().cpu() for name, value in values.items()}]
            for method, setting, values in of_batch(plan.batch(start))
        ]

    found, work = Gathered(), remembering(plan.notes and plan.notes / doing, from_start)
    for start in progress_bar(range(0, len(plan.positions), plan.study.batch_size), desc=doing, unit="batch"):
        for method, setting, values in work(start):
            found.add(method, setting, values)
    return found.rows(plan)


def judge_stored(memory: Memory, batch: Batch, pictures: Tensor, grids: Tensor | None = None) -> dict[str, Tensor]:
    """mse_to_picture, and the two measures of each judge, (B,) each, of pictures (B, C, H, W) in [-1, 1].

    grids: (B, N), the codes behind them, for a classifier of codes; None: those that the VQ-VAE makes of the pictures.
    """
    values = {"mse_to_picture": ((to_unit(pictures) - batch.truth) ** 2).flatten(1).mean(1).cpu()}
    if grids is None:
        coded = any(judge.sees_codes for judge in memory.judges.values())
        grids = memory.encode(pictures) if coded else batch.tokens
    judged = judge_classes(memory, batch, pictures, grids)
    return values | {name: value.float().cpu() for name, value in judged.items() if not name.endswith("predicted")}


def costs(coded: Coded, without_coding: float) -> dict[str, Tensor]:
    """What a batch costs, (B,) each, by the columns of bits.csv. without_coding: bits of each picture."""
    plain = torch.full_like(coded.bits, without_coding)
    return {"bits": coded.bits, "ideal_bits": coded.ideal_bits, "bits_without_coding": plain}


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """(bits, error) of several settings -> those of smaller error than all that cost as much or less, by rising bits.

    Both columns are strict: bits rise, errors fall. Every point is a setting that exists, no mixture of settings, so
    the curve may bend either way. Raises ValueError for numbers that are not finite.
    """
    found: list[tuple[float, float]] = []
    for bits, error in sorted(points):
        if not (math.isfinite(bits) and math.isfinite(error)):
            raise ValueError(f"point is ({bits}, {error}); expected finite numbers")
        if not found or error < found[-1][1]:
            found.append((float(bits), float(error)))
    return found


# --- picture formats --------------------------------------------------------------------------------------------------


def format_rows(plan: BitsPlan) -> Rows:
    """JPEG, WebP, AVIF and JPEG XL at all settings, whole files and data only; none for pictures that they cannot hold,
    which is said."""
    memory, names = plan.memory, ", ".join(formats.NAMES.values())
    if memory.vqvae.config.channels not in ORDINARY:
        say(f"no {names} of pictures with {memory.vqvae.config.channels} components")
        return []

    def of_batch(batch: Batch) -> Entries:
        pixels = from_model(batch.truth.cpu() * 2 - 1)
        for kind, quality, reduce in formats.SETTINGS:
            back = formats.compress(pixels, kind, quality, reduce)
            judged = judge_stored(memory, batch, to_model(back.pictures).to(memory.device))
            described = f"quality {quality}, side / {reduce}"
            for method, bits in ((formats.NAMES[kind], back.bits), (data_only(kind), back.payload_bits)):
                yield method, described, {"bits": torch.from_numpy(bits)} | judged

    return gathered_rows(plan, names, of_batch)


def data_only(kind: formats.Format) -> str:
    """What a format without its headers is called."""
    return f"{formats.NAMES[kind]}, data only"


# --- smaller codebooks ------------------------------------------------------------------------------------------------

FEWER_CODES = "fewer codes"


def reduced_rows(plan: BitsPlan) -> Rows:
    """The VQ-VAE with its codes merged to fewer, all tokens kept: coded by frequencies of the position, and by the
    DistilBERT in passes."""
    memory, merged = plan.memory, list(_merged(plan))

    def of_batch(batch: Batch) -> Entries:
        for merging, coders in merged:
            painted = fewer_codes.paint_reduced(memory, batch.tokens, merging.centres, merging.assignment)
            judged = judge_stored(memory, batch, painted)
            plain = masking.stored_bits(memory.tokens, memory.tokens, merging.size, fixed=True)
            for how, coder in coders.items():
                coded = there_and_back(coder, Sender(merging.assignment[batch.tokens]))
                yield FEWER_CODES, f"{merging.size} codes, {how}", costs(coded, plain) | judged

    return gathered_rows(plan, "fewer codes", of_batch)


def _merged(plan: BitsPlan) -> Iterator[tuple[fewer_codes.Merging, dict[str, Coder]]]:
    """Half as many codes each time, down to two, and who codes them."""
    memory, handed = plan.memory, plan.handed
    train = handed.indices.tokens(handed.split.positions("train"))
    size = len(memory.codebook) // 2
    while size >= 2:
        draws = generator(plan.study.seed, Stream.FEWER_CODES)
        merging = fewer_codes.merge_codes(memory, size, draws)
        table = baseline_probabilities(merging.assignment.cpu()[train], size)[OF_THE_POSITION]
        asked = fewer_codes.MergedMemory(memory, merging)
        yield (
            merging,
            {
                "frequencies": partial(code_by_table, chances=table, device=memory.device),
                "DistilBERT": partial(code_whole, memory=asked, passes=plan.passes),
            },
        )
        size //= 2
