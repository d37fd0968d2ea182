"""What the page opens with: test pictures of the newest run, recalled at any percentage at once, and the study.

The order in which a picture's tokens are forgotten serves every percentage, so it is found once for each picture and
strategy; moving the slider then costs one pass of the DistilBERT and one of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masked_memory.handoff.memory import HandedMemory
from masked_memory.handoff.split import Split
from masked_memory.measuring.curves import Curve, bits_of, curve
from masked_memory.own_picture.completing import MID_GREY, Request
from masked_memory.page.uploads import number_in
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.rows import Rows
from masked_memory.pipeline.runs import read_best
from masked_memory.recall.choosing import choose_order
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.sources.pixels import from_model, to_model
from masked_memory.stages.masking import mask_first, masked_count, touched_pixels

EXAMPLES = 8
LEAST, MOST = 10, 100  # percent
#: Measures of the study that are shown, and what they are called there; the first one each picture has of its own.
SHOWN_CURVES = {
    "mse_to_reconstruction": "squared error",
    "clean_classification_error": "misclassified (clean judge)",
    "classification_error": "misclassified (degraded judge)",
}
MOST_CURVES_SHOWN = 2


def example_pictures(split: Split, count: int = EXAMPLES) -> np.ndarray:
    """(count, H, W, C) uint8: a few test pictures, evenly spread over the manifest."""
    test = split.positions("test")
    return np.array(split.pixels(test[np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)]))


@dataclass(frozen=True)
class Recall:
    """A test picture of which a share of the tokens was forgotten, and what is recalled."""

    number: int  # of the picture, from 0
    percent: float
    strategy: str
    original: np.ndarray  # (H, W, C) uint8
    masked: np.ndarray  # (H, W, C) uint8: what is kept, all else mid grey
    recalled: np.ndarray  # (H, W, C) uint8
    tokens: np.ndarray  # (h, w) int: all of them, also those that were forgotten
    kept: np.ndarray  # (h, w) bool
    bits: float  # that are stored, without entropy coding
    error: float  # MSE to the picture painted from all tokens, pixels in [0, 1]
    seen: tuple[str, float] | None  # class and probability; None: there is no classifier
    seen_before: tuple[str, float] | None  # of the picture painted from all tokens


@dataclass
class Opening:
    """The test pictures and the memory that recalls them. `start`: how to choose and fill, and what to show first."""

    memory: Memory
    classes: Sequence[str]
    pictures: np.ndarray  # (P, H, W, C) uint8
    start: Request
    orders: dict[tuple[int, str], Tensor] = field(default_factory=dict)  # ranks (1, N), found once

    @torch.no_grad()
    def recall(self, number: int, percent: float, strategy: str) -> Recall:
        """Forget `percent` of a picture's tokens and recall it. Raises InputError for what does not exist."""
        number = int(number_in(number, "Test picture", 0, len(self.pictures) - 1))
        percent = number_in(percent, "Forgotten", LEAST, MOST)
        if strategy not in STRATEGIES:
            raise InputError(f"strategy is {str(strategy)[:40]}; expected one of: {', '.join(STRATEGIES)}")
        memory, picture = self.memory, self.pictures[number]
        tokens = memory.encode(to_model(picture[None]))
        mask = mask_first(self.order(number, strategy, tokens), masked_count(percent / 100, memory.tokens))
        draws = generator(self.start.seed, Stream.OWN_CODES)
        filled = distil_filler(memory, self.start.filling).fill(dig(tokens, mask), self.start.decoding, draws)
        painted, whole = memory.paint(filled), memory.paint_tokens(tokens)
        height, width = picture.shape[:2]
        gone = touched_pixels(mask.cpu(), height, width, memory.stride)[0].numpy()
        return Recall(
            number=number,
            percent=percent,
            strategy=strategy,
            original=picture,
            masked=np.where(gone[:, :, None], np.uint8(MID_GREY), picture),
            recalled=from_model(painted)[0],
            tokens=memory.grid(tokens)[0].cpu().numpy(),
            kept=~memory.grid(mask)[0].cpu().numpy(),
            bits=bits_of(memory)(strategy, round(percent)),
            error=float(mse(to_unit(painted), to_unit(whole))[0]),
            seen=self._seen(painted, filled.tokens),
            seen_before=self._seen(whole, tokens),
        )

    def order(self, number: int, strategy: str, tokens: Tensor) -> Tensor:
        """(1, N) ranks of the picture's tokens (1, N), kept for the next time."""
        if (number, strategy) not in self.orders:
            draws = generator(self.start.seed, Stream.OWN_ORDERS, number)
            self.orders[number, strategy] = choose_order(strategy, self.memory, tokens, draws, self.start.choosing)
        return self.orders[number, strategy]

    def _seen(self, pictures: Tensor, tokens: Tensor) -> tuple[str, float] | None:
        """The likeliest class of (1, C, H, W) painted from tokens (1, N), and its probability."""
        probabilities = self.memory.class_probabilities(pictures, tokens)
        if probabilities is None:
            return None
        best = int(probabilities[0].argmax())
        return self.classes[best], float(probabilities[0, best])


@dataclass(frozen=True)
class Studied:
    """Curves of a finished study: measure -> strategy -> curve. `decoding`: how forgotten tokens were painted."""

    run: str
    pictures: int
    decoding: str
    curves: dict[str, dict[str, Curve]]


def newest_study(runs: Path, handed: HandedMemory, decoding: str) -> Studied | None:
    """The newest finished reconstruct_masked run of this split and codebook; None where there is none.

    decoding: as the page paints; where the study has not measured it, the last one that it has.
    """
    found = read_best(runs, "reconstruct_masked").get(handed.vqvae.key(handed.split))
    file = runs / "reconstruct_masked" / found["run"] / "curves.csv" if found else None
    return read_study(file, decoding) if file is not None and file.is_file() else None


def read_study(file: Path, decoding: str) -> Studied | None:
    """The curves of a curves.csv; None when it has none of the measures that are shown."""
    numbers = ("percent", "mean", "low", "high", "pictures")
    rows: Rows = [
        {**row, **{name: float(row[name] or "nan") for name in numbers}}
        for row in read_csv(file)
        if row["measure"] in SHOWN_CURVES and row["mean"]
    ]
    if not rows:
        return None
    measured = list(dict.fromkeys(str(row["decoding"]) for row in rows))
    decoding = decoding if decoding in measured else measured[-1]
    curves: dict[str, dict[str, Curve]] = {}
    for measure in SHOWN_CURVES:
        each = {name: curve(rows, name, decoding, measure) for name in STRATEGIES}
        with_points = {name: found for name, found in each.items() if len(found.percentages) > 1}
        if with_points and len(curves) < MOST_CURVES_SHOWN:
            curves[measure] = with_points
    pictures = max(int(row["pictures"]) for row in rows)
    return Studied(file.parent.name, pictures, decoding, curves) if curves else None
