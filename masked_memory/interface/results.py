"""What a memory found, as it comes back to Python.

Letters: B pictures, H W pixels, C channels, h w the grid, S side of the model's pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from masked_memory.measuring import figures
from masked_memory.measuring.study import StudyPlan
from masked_memory.own_picture.completing import MID_GREY
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.rows import Rows
from masked_memory.sources.pixels import plain_image
from masked_memory.stages.masking import touched_pixels

Judged = list[tuple[str, float]]  # class and probability, likeliest first


@dataclass(frozen=True)
class RecalledPictures:
    """What `ImageMemory.recall` found. All are in the order of the pictures that were given."""

    originals: np.ndarray  # (B, S, S, C) uint8
    tokens: Tensor  # (B, h, w) long, on the CPU: the codes of the whole pictures
    kept: Tensor  # (B, h, w) bool, on the CPU: True = stored, False = forgotten
    filled: Tensor  # (B, h, w) long, on the CPU: the codes with the forgotten ones filled in
    pictures: np.ndarray  # (B, S, S, C) uint8: recalled
    whole: np.ndarray  # (B, S, S, C) uint8: painted from all tokens, the best that can be recalled
    bits: float  # that are stored of each picture, codes and positions, without entropy coding
    error: np.ndarray  # (B,) mean squared error of `pictures` to `whole`, of pixels from 0 to 1
    seen_as: list[Judged]  # what the classifier sees in `pictures`; empty lists without a classifier
    strategy: str
    decoding: str
    forget: float

    def masked(self) -> np.ndarray:
        """(B, S, S, C) uint8: the originals with what is forgotten in mid grey."""
        side = self.originals.shape[1]
        gone = touched_pixels(~self.kept.flatten(1), side, side, side // self.kept.shape[1]).numpy()
        return np.where(gone[..., None], np.uint8(MID_GREY), self.originals)

    def show(self, most: int = 8) -> Image.Image:
        """A picture to look at or to save: in three rows the originals, what is kept, and what is recalled."""
        return tiled([self.originals[:most], self.masked()[:most], self.pictures[:most]])

    def _repr_png_(self) -> bytes | None:
        return self.show()._repr_png_()


@dataclass(frozen=True)
class CompletedPicture:
    """What `ImageMemory.complete` found, at the size of the picture that was given."""

    original: Image.Image
    masked: Image.Image  # missing pixels in mid grey
    picture: Image.Image  # completed; known pixels are those of the original, byte by byte
    samples: list[Image.Image]  # further completions, drawn
    missing: np.ndarray  # (H, W) bool
    diversity: np.ndarray  # (H, W) float from 0 to 0.5: standard deviation over the samples
    seen_before: Judged  # what the classifier sees in the original; empty without a classifier
    seen_as: Judged  # what it sees in the completed picture
    note: str  # how the picture was fitted to the model; empty where it has its size

    def show(self) -> Image.Image:
        """A picture to look at or to save: the original, what is known, the completion, and the samples."""
        shown = [self.original, self.masked, self.picture, *self.samples]
        return tiled([np.stack([np.asarray(each.convert("RGB")) for each in shown])])

    def _repr_png_(self) -> bytes | None:
        return self.show()._repr_png_()


@dataclass(frozen=True)
class StudiedPictures:
    """What `ImageMemory.study` measured. rows: those of curves.csv, a dictionary each: strategy, percent, decoding,
    bits, measure, mean, low and high (95 % interval over pictures), seed_sd, seeds, pictures."""

    rows: Rows
    plan: StudyPlan

    def measures(self) -> list[str]:
        """What was measured."""
        return list(dict.fromkeys(str(row["measure"]) for row in self.rows))

    def means(self, measure: str = "mse_to_reconstruction", decoding: str | None = None) -> dict[str, dict[int, float]]:
        """strategy -> percent forgotten -> mean. decoding: the last of the study where none is named."""
        self._check(measure)
        wanted = decoding or self.plan.decodings[-1]
        found: dict[str, dict[int, float]] = {}
        for row in self.rows:
            if row["measure"] == measure and row["decoding"] in (wanted, "tokens"):
                names = (row["strategy"],) if row["percent"] < 100 else self.plan.strategies
                for name in names:
                    found.setdefault(str(name), {})[int(row["percent"])] = float(row["mean"])
        return found

    def figure(self, measure: str = "mse_to_reconstruction", decoding: str | None = None) -> Figure:
        """A curve for each strategy against the percentage that is forgotten, with 95 % intervals."""
        self._check(measure)
        pictures = max(int(row["pictures"]) for row in self.rows)
        return figures.strategies_figure(self.rows, self.plan, decoding or self.plan.decodings[-1], measure, pictures)

    def _check(self, measure: str) -> None:
        if measure not in self.measures():
            raise InputError(f"{measure} was not measured; expected one of: {', '.join(self.measures())}")


def tiled(rows: Sequence[np.ndarray], least: int = 96, gap: int = 4) -> Image.Image:
    """Rows of (B, H, W, C) uint8, one below the other on white; small pictures are enlarged, to `least` pixels."""
    _, height, width, channels = rows[0].shape
    if channels not in (1, 3):  # grey: the mean over the components
        rows, channels = [row.mean(3, keepdims=True).astype(np.uint8) for row in rows], 1
    times = max(1, math.ceil(least / max(height, width)))
    across, down = width * times + gap, height * times + gap  # from one to the next
    sheet = Image.new("RGB", (gap + len(rows[0]) * across, gap + len(rows) * down), "white")
    for line, row in enumerate(rows):
        for place, pixels in enumerate(row):
            one = plain_image(pixels).resize((width * times, height * times), Image.Resampling.NEAREST)
            sheet.paste(one, (gap + place * across, gap + line * down))
    return sheet
