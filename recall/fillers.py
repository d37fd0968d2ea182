"""The three priors behind one method: masked tokens in, drawn tokens out.

Letters: B batch, N = h*w tokens in raster order, F facts. Masks are bool, True = masked, to be drawn; all masked means
a new grid. `told` is what each picture is asked to be, in the form of the prior: facts (B, F), or classes (B,) for the
DistilBERT; None tells nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from models.codes import Filling
from priors.gan import Generator, fill_from_pool, generate
from priors.pixelcnn import PixelCNN, draw
from recall.completing import complete

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


class Drawer(Protocol):
    """A prior that can be asked for grids."""

    @property
    def folder(self) -> Path:
        """The run that trained it."""
        ...

    def fill(self, tokens: Tensor, mask: Tensor, told: Tensor | None, generator: torch.Generator) -> Tensor:
        """(B, N), (B, N) bool -> (B, N): masked tokens drawn, the others as they were."""
        ...


@dataclass(frozen=True)
class PixelCNNDrawer:
    """Code after code, given those before."""

    folder: Path
    model: PixelCNN
    filling: Filling

    def fill(self, tokens: Tensor, mask: Tensor, told: Tensor | None, generator: torch.Generator) -> Tensor:
        return draw(self.model, tokens, mask, self.filling, generator, told)


@dataclass(frozen=True)
class GANDrawer:
    """All codes at once; a part that is missing comes from the best of a pool of generated grids."""

    folder: Path
    model: Generator
    pool: int

    def fill(self, tokens: Tensor, mask: Tensor, told: Tensor | None, generator: torch.Generator) -> Tensor:
        if mask.all():
            return generate(self.model, len(tokens), generator, told)
        asked = None if told is None else told[torch.arange(self.pool, device=told.device) % len(told)]
        return fill_from_pool(self.model, tokens, mask, generate(self.model, self.pool, generator, asked))


@dataclass(frozen=True)
class DistilDrawer:
    """A part in each of several passes."""

    folder: Path
    model: "DistilBertForMaskedLM"
    codebook: Tensor  # (K, D)
    filling: Filling
    bf16: bool = False  # asked in bfloat16

    def fill(self, tokens: Tensor, mask: Tensor, told: Tensor | None, generator: torch.Generator) -> Tensor:
        return complete(self.model, tokens, mask, self.codebook, self.filling, generator, told, self.bf16).indices
