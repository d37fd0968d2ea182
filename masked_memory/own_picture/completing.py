"""My picture, my mask: any picture completed by the memory, its known pixels kept byte by byte.

Arrays of pixels are uint8 (H, W, C), masks of pixels bool (H, W), True = missing. Sizes in messages and in the
argument `size` are (width, height), as Pillow has them. Letters: T tiles, S side of the model's pictures, N = h*w
tokens of a tile.

A picture of another size is resized to the model's and back ("resize"), or cut into tiles of it ("tile"). Without a
mask of pixels the memory stores the picture and forgets tokens of it; with one it never sees what is missing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import classes_of
from masked_memory.own_picture.fitting import (
    assemble,
    cut,
    diversity_of,
    mask_from_tiles,
    mask_to_tiles,
    nearest_known,
    paste,
    resize,
    to_tiles,
)
from masked_memory.own_picture.reading import check_size, upright_pixels
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.pipeline.progress import progress_bar
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory
from masked_memory.settings.reconstruct_masked import ReconstructMaskedSection
from masked_memory.sources.pixels import from_model, to_model
from masked_memory.stages.masking import mask_first, masked_count, touched_pixels, touched_tokens

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

MID_GREY = 128  # of missing pixels, where they are shown


@dataclass(frozen=True)
class Request:
    """What is wanted. percent and strategy: without a mask of pixels; label: a class number; filling.temperature: of
    drawn codes only, 0 stands for 1."""

    percent: float = 60.0
    strategy: str = "adaptive"
    decoding: Literal["argmax", "sample", "expected"] = "expected"
    samples: int = 0
    fit: Literal["resize", "tile"] = "resize"
    margin: int = 0  # pixels at the model's size
    label: int | None = None
    seed: int = 0
    choosing: Choosing = Choosing()
    filling: Filling = Filling()


@dataclass(frozen=True)
class OwnResult:
    """A completed picture. The known pixels of `completed` and `samples` are those of `original`, byte by byte."""

    original: np.ndarray  # (H, W, C) uint8, upright, C = the model's channels
    masked: np.ndarray  # (H, W, C) uint8, missing pixels in mid grey
    completed: np.ndarray  # (H, W, C) uint8
    samples: list[np.ndarray]  # (H, W, C) uint8 each
    diversity: np.ndarray  # (H, W) float32, 0..1: standard deviation over the samples, mean over channels
    missing: np.ndarray  # (H, W) bool
    dropped: np.ndarray  # (T, h, w) bool: tokens that were predicted
    before: list[tuple[str, float]]  # class name, probability, likeliest first; [] without classifier
    after: list[tuple[str, float]]
    note: str  # how the picture was fitted to the model, "" when it has the model's size


@torch.no_grad()
def complete_picture(
    memory: Memory, picture: Image.Image, missing: np.ndarray | None, classes: Sequence[str], request: Request
) -> OwnResult:
    """Complete one picture of any size and mode. missing: (H, W) bool of the upright picture; None lets the strategy
    choose what is forgotten.

    Raises InputError for a mask of another size and for a class that cannot be told.
    """
    config = memory.vqvae.config
    check_label(memory.distil, request.label)
    original = upright_pixels(picture, config.channels)
    height, width = original.shape[:2]
    side = config.image_size
    if missing is None:
        tiles = to_tiles(original, request.fit, side)
        mask, paintings = _complete_tiles(memory, tiles, None, request)
        forgotten = touched_pixels(mask, side, side, config.stride).numpy()
        missing = mask_from_tiles(forgotten, request.fit, height, width)
        near = nearest_known(missing)
    else:
        check_size("the mask", missing.shape[::-1], (width, height))
        near = nearest_known(missing)
        tiles = to_tiles(original[near.rows, near.columns], request.fit, side)
        mask, paintings = _complete_tiles(memory, tiles, tokens_to_predict(missing, request, config), request)
    painted = mask.any(1).numpy()
    cell = config.stride if request.fit == "tile" else config.stride * math.sqrt(height * width) / side
    completed, *samples = (
        paste(original, assemble(part, painted, request.fit, height, width), missing, near, cell) for part in paintings
    )
    return OwnResult(
        original=original,
        masked=np.where(missing[:, :, None], np.uint8(MID_GREY), original),
        completed=completed,
        samples=samples,
        diversity=diversity_of(samples, missing.shape),
        missing=missing,
        dropped=mask.view(-1, memory.side, memory.side).numpy(),
        before=_classify(memory, original, classes),
        after=_classify(memory, completed, classes),
        note=_describe_fit(request.fit, side, height, width, int(painted.sum())),
    )


def check_label(distil: "DistilBertForMaskedLM", label: int | None) -> None:
    """Raises InputError for a class when the DistilBERT knows none, or not so many."""
    if label is None:
        return
    known = classes_of(distil)
    if not known:
        raise InputError(
            "a class was given, but this DistilBERT was trained without classes; "
            f"leave it out, or type: {command('train_distil')} --train_distil.condition_on_class true"
        )
    if not 0 <= label < known:
        raise InputError(f"class number {label} was given; this DistilBERT knows 0 to {known - 1}")


def tokens_to_predict(missing: np.ndarray, request: Request, config: Any) -> Tensor:
    """(H, W) bool -> (T, N) bool. Tiles in which no pixel is missing (padding apart) keep all tokens."""
    side = config.image_size
    pixels = torch.from_numpy(mask_to_tiles(missing, request.fit, side))
    mask = touched_tokens(pixels, config.stride, request.margin)
    if request.fit == "tile":
        seen = torch.from_numpy(cut(missing, side, padding="constant"))
        mask &= seen.flatten(1).any(1, keepdim=True)
    return mask


def _complete_tiles(
    memory: Memory, tiles: np.ndarray, mask: Tensor | None, request: Request
) -> tuple[Tensor, np.ndarray]:
    """(T, S, S, C) uint8 and the tokens to predict (T, N), None when the strategy chooses them -> these tokens, and
    paintings (1 + samples, T, S, S, C) uint8. Tiles of which no token is predicted are not painted and stay black."""
    chosen = torch.zeros(len(tiles), memory.tokens, dtype=torch.bool) if mask is None else mask
    paintings = np.zeros((1 + request.samples, *tiles.shape), dtype=np.uint8)
    todo = torch.arange(len(tiles)) if mask is None else mask.any(1).nonzero()[:, 0]
    order_draws = generator(request.seed, Stream.OWN_ORDERS)
    filler = distil_filler(memory, request.filling)
    draws = [generator(request.seed, Stream.OWN_CODES, number) for number in range(1 + request.samples)]
    for part in progress_bar(list(memory.batches(len(todo))), desc="completing", unit="batch"):
        rows = todo[part]
        tokens = memory.encode(to_model(tiles[rows.numpy()]))
        if mask is None:
            order = choose_order(request.strategy, memory, tokens, order_draws, request.choosing)
            chosen[rows] = mask_first(order, masked_count(request.percent / 100, memory.tokens)).cpu()
        labels = None if request.label is None else torch.full((len(rows),), request.label, device=memory.device)
        hole = dig(tokens, chosen[rows].to(memory.device), labels)
        for number, drawn in enumerate(draws):
            decoding = "sample" if number else request.decoding
            paintings[number, rows.numpy()] = from_model(memory.paint(filler.fill(hole, decoding, drawn)))
    return chosen, paintings


def _classify(memory: Memory, pixels: np.ndarray, classes: Sequence[str]) -> list[tuple[str, float]]:
    """(H, W, C) uint8, resized to the model's size -> class names with their probabilities, likeliest first."""
    side = memory.vqvae.config.image_size
    pictures = to_model(resize(pixels, side, side)[None]).to(memory.device)
    probabilities = memory.class_probabilities(pictures, memory.encode(pictures))
    if probabilities is None:
        return []
    return sorted(zip(classes, probabilities[0].tolist(), strict=True), key=lambda pair: -pair[1])


def _describe_fit(fit: str, side: int, height: int, width: int, painted: int) -> str:
    if (height, width) == (side, side):
        return ""
    if fit == "tile":
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        padded = ", padded by reflection" if height % side or width % side else ""
        each = f"{painted} of them completed, each on its own"
        return f"cut into {columns}x{rows} tiles of {side}x{side}{padded}, {each}"
    effects = ["squeezed to a square in between"] if height != width else []
    effects += [f"what is painted has no more detail than {side}x{side}"] if max(height, width) > side else []
    text = f"resized from {width}x{height} to {side}x{side} and back"
    return f"{text}: {', '.join(effects)}" if effects else text


def request_of(
    section: ReconstructMaskedSection, distil: "DistilBertForMaskedLM", classes: Sequence[str], seed: int
) -> Request:
    """The settings as a request. Raises InputError for a class that is unknown or cannot be told."""
    return configured(
        Request,
        section.own,
        label=class_number(section.own.label, distil, classes),
        seed=seed,
        choosing=configured(Choosing, section),
        filling=configured(Filling, section),
    )


def class_number(name: str | None, distil: "DistilBertForMaskedLM", classes: Sequence[str]) -> int | None:
    """The number of a class. Raises InputError when there is no such class, or the DistilBERT was told none."""
    if name is None:
        return None
    check_label(distil, 0)
    if name not in classes:
        raise InputError(f"--class {name} is not a class of the data; expected one of: {', '.join(classes)}")
    return list(classes).index(name)
