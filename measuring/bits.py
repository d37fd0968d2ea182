"""Error against bits: our strategies, picture formats, and smaller codebooks."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import masking
from measuring import fewer_codes, formats
from measuring.study import ALL_FORGOTTEN, Batch, Findings, judge_classes
from pipeline.machine import Stream, generator
from pipeline.metrics import to_unit
from pipeline.progress import progress_bar
from pipeline.stage import say
from pipeline.tables import Rows
from recall.memory import Memory
from sources.pixels import from_model, to_model
from sources.stacks import ORDINARY

# --- curves -----------------------------------------------------------------------------------------------------------


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


BITS_HEADER = ("method", "setting", "bits", "mse_to_picture", "classification_error", "disagreement", "pictures")


def measure_bits(findings: Findings, positions: np.ndarray) -> tuple[Rows, Rows]:
    """Error against bits: our strategies; and of the pictures `positions` JPEG, WebP, the VQ-VAE with fewer codes."""
    memory, plan, rows, decoding = findings.memory, findings.plan, findings.rows, findings.decoding
    found: Rows = []
    for strategy in (*plan.strategies, ALL_FORGOTTEN):
        for percent in plan.percentages:
            chosen = {
                row["measure"]: row
                for row in rows
                if row["strategy"] == strategy and row["percent"] == percent and row["decoding"] == decoding
            }
            if chosen:
                row: dict[str, Any] = {"method": strategy, "setting": f"{percent} % forgotten"}
                row |= {key: chosen[key]["mean"] for key in BITS_HEADER[3:6] if key in chosen}
                found.append(row | {key: chosen["mse_to_picture"][key] for key in ("bits", "pictures")})
    if memory.vqvae.config.channels not in ORDINARY:
        say(f"no JPEG and WebP of pictures with {memory.vqvae.config.channels} components")
        return found, reduced_rows(findings, positions)
    return found, format_rows(findings, positions) + reduced_rows(findings, positions)


def format_rows(findings: Findings, positions: np.ndarray) -> Rows:
    """JPEG and WebP at all settings, whole files and data only."""
    memory = findings.memory
    found: dict[tuple[str, str], Means] = {}
    for batch in progress_bar(findings.batches(positions), desc="JPEG and WebP", unit="batch"):
        pixels = from_model(batch.truth.cpu() * 2 - 1)
        for setting in formats.SETTINGS:
            back = formats.compress(pixels, setting.kind, setting.quality, setting.reduce)
            judged = _judge_stored(memory, batch, to_model(back.pictures).to(memory.device))
            kind = {"jpeg": "JPEG", "webp": "WebP"}[setting.kind]
            described = f"quality {setting.quality}, side / {setting.reduce}"
            for method, bits in ((kind, back.bits), (f"{kind}, data only", back.payload_bits)):
                means = found.setdefault((method, described), Means())
                means.add(judged | {"bits": torch.from_numpy(bits)})
    return [{"method": method, "setting": described, **means.row()} for (method, described), means in found.items()]


def reduced_rows(findings: Findings, positions: np.ndarray) -> Rows:
    """The VQ-VAE with its codes merged to fewer; all tokens kept."""
    memory = findings.memory
    shares = memory.position_shares.sum(0).cpu()
    found: dict[int, Means] = {}
    reduced: dict[int, tuple[Tensor, Tensor]] = {}
    size = len(memory.codebook) // 2
    while size >= 2:
        draws = generator(findings.plan.seed, Stream.FEWER_CODES)
        centres, assignment = fewer_codes.reduced_codebook(memory.codebook.cpu(), shares, size, draws)
        reduced[size] = (centres.to(memory.device), assignment.to(memory.device))
        size //= 2
    for batch in findings.batches(positions):
        for size, (centres, assignment) in reduced.items():
            painted = fewer_codes.paint_reduced(memory, batch.tokens, centres, assignment)
            bits = masking.stored_bits(memory.tokens, memory.tokens, size, fixed=True)
            judged = _judge_stored(memory, batch, painted) | {"bits": torch.full((len(painted),), bits)}
            found.setdefault(size, Means()).add(judged)
    return [
        {"method": "VQ-VAE, fewer codes", "setting": f"{size} codes", **means.row()} for size, means in found.items()
    ]


class Means:
    """Means over pictures, gathered batch by batch."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pictures = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """(B,) each."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.double().sum())
        self.pictures += len(next(iter(values.values())))

    def row(self) -> dict[str, Any]:
        return {name: total / self.pictures for name, total in self.sums.items()} | {"pictures": self.pictures}


def _judge_stored(memory: Memory, batch: Batch, pictures: Tensor) -> dict[str, Tensor]:
    """mse_to_picture, and with a classifier of pictures its two measures."""
    values = {"mse_to_picture": ((to_unit(pictures) - batch.truth) ** 2).flatten(1).mean(1).cpu()}
    coded = any(judge.sees_codes for judge in memory.judges.values())
    grids = memory.encode(pictures) if coded else batch.tokens
    judged = judge_classes(memory, batch, pictures, grids)
    return values | {name: value.float().cpu() for name, value in judged.items() if not name.endswith("predicted")}


def frontiers(others: Rows) -> Rows:
    """For the figure: of each method and measure only the settings that no other beats in both bits and error."""
    found: Rows = []
    for method in dict.fromkeys(row["method"] for row in others):
        for name in ("mse_to_picture", "classification_error"):
            points = [(row["bits"], row[name]) for row in others if row["method"] == method and name in row]
            found += [{"method": method, "bits": bits, name: error} for bits, error in frontier(points)]
    return found
