"""My picture, my mask: any picture completed by the memory, its known pixels kept byte by byte.

Arrays of pixels are uint8 (H, W, C), masks of pixels bool (H, W), True = missing. Sizes in messages and in the
argument `size` are (width, height), as Pillow has them. Letters: T tiles, S side of the model's pictures, N = h*w
tokens of a tile.

A picture of another size is resized to the model's and back ("resize"), or cut into tiles of it ("tile"). Without a
mask of pixels the memory stores the picture and forgets tokens of it; with one it never sees what is missing.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import distance_transform_edt, uniform_filter
from torch import Tensor

from completion import Filling, classes_of
from config import ReconstructMaskedSection
from data_split import from_model, to_model
from masking import mask_first, masked_count, touched_pixels, touched_tokens
from pipeline.figures import new_figure, show_picture
from pipeline.files import InputError, replacing, write_csv
from pipeline.machine import generator
from pipeline.progress import progress_bar
from pipeline.stage import Stage, say
from recall import Memory
from schema import OwnPicture
from selection import Choosing, choose_order
from sources.folders import PICTURE_ENDINGS
from sources.pictures import MAX_PIXELS, _plain
from sources.stacks import ORDINARY

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

GREY = 128  # of missing pixels, where they are shown
SEAM = 4.0  # pixels over which detail at the border of a hole fades
ORDER_DRAWS = 211  # number of the generator of strategies; 0 and up are those of drawn codes
FIGURES = 8  # pictures that get a figure
FIGURE_SAMPLES = 4
FIGURE_SIDE = 512  # pixels; larger pictures are shown smaller
NAME_LENGTH = 60


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
    choosing: Choosing = Choosing()  # noqa: RUF009 (frozen)
    filling: Filling = Filling()  # noqa: RUF009 (frozen)


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
        _check_size("the mask", missing.shape[::-1], (width, height))
        near = nearest_known(missing)
        tiles = to_tiles(original[near.rows, near.columns], request.fit, side)
        mask, paintings = _complete_tiles(memory, tiles, tokens_to_predict(missing, request, config), request)
    painted = mask.any(1).numpy()
    cell = config.stride if request.fit == "tile" else config.stride * math.sqrt(height * width) / side
    completed, *samples = (
        paste(original, _assemble(part, painted, request.fit, height, width), missing, near, cell) for part in paintings
    )
    return OwnResult(
        original=original,
        masked=np.where(missing[:, :, None], np.uint8(GREY), original),
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
            "leave it out, or type: python train_distil.py --train_distil.condition_on_class true"
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
    order_draws = generator(request.seed, ORDER_DRAWS)
    draws = [generator(request.seed, number) for number in range(1 + request.samples)]
    for part in progress_bar(list(memory.batches(len(todo))), desc="completing", unit="batch"):
        rows = todo[part]
        tokens = memory.encode(to_model(tiles[rows.numpy()]))
        if mask is None:
            order = choose_order(request.strategy, memory, tokens, order_draws, request.choosing)
            chosen[rows] = mask_first(order, masked_count(request.percent / 100, memory.tokens)).cpu()
        for number, drawn in enumerate(draws):
            decoding = "sample" if number else request.decoding
            painted = _fill_and_paint(memory, tokens, chosen[rows].to(memory.device), decoding, request, drawn)
            paintings[number, rows.numpy()] = from_model(painted)
    return chosen, paintings


def _fill_and_paint(
    memory: Memory, tokens: Tensor, mask: Tensor, decoding: str, request: Request, draws: torch.Generator
) -> Tensor:
    """(B, N) indices and mask -> (B, C, S, S) in [-1, 1]."""
    temperature = (request.filling.temperature or 1.0) if decoding == "sample" else 0.0
    filling = replace(request.filling, temperature=temperature)
    labels = None if request.label is None else torch.full((len(tokens),), request.label, device=tokens.device)
    filled = memory.complete(tokens, mask, filling, draws, labels)
    return memory.paint(filled.expected) if decoding == "expected" else memory.paint_indices(filled.indices)


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


# --- fitting to the model's size and back -----------------------------------------------------------------------------


def to_tiles(pixels: np.ndarray, fit: str, side: int) -> np.ndarray:
    """(H, W, C) uint8 -> (T, side, side, C): the whole picture resized (T = 1), or cut."""
    return cut(pixels, side) if fit == "tile" else resize(pixels, side, side)[None]


def mask_to_tiles(missing: np.ndarray, fit: str, side: int) -> np.ndarray:
    """(H, W) bool -> (T, side, side). Resized, a pixel is missing when any pixel that it covers is."""
    if fit == "tile":
        return cut(missing, side)
    return _any_covered(_any_covered(missing, side).T, side).T[None].copy()


def mask_from_tiles(missing: np.ndarray, fit: str, height: int, width: int) -> np.ndarray:
    """(T, side, side) bool -> (height, width): a pixel is missing when the one at its centre is."""
    if fit == "tile":
        return join(missing, height, width)
    side = missing.shape[1]
    rows, columns = ((2 * np.arange(count) + 1) * side // (2 * count) for count in (height, width))
    return missing[0][rows][:, columns]


def _any_covered(missing: np.ndarray, count: int) -> np.ndarray:
    """(rows, columns) bool -> (count, columns): whether any of the rows is True that fall, even in part, in each of
    `count` equal bands."""
    rows = len(missing)
    places = np.arange(count)
    first, last = places * rows // count, -((places + 1) * -rows // count)
    seen = np.concatenate([np.zeros((1, missing.shape[1]), dtype=np.int64), missing.cumsum(0)])
    return seen[last] > seen[first]


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, C) uint8 -> (height, width, C), antialiased (Lanczos); the same array when it has that size."""
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = _image(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.array(resized).reshape(height, width, pixels.shape[2])


def cut(array: np.ndarray, side: int, padding: Literal["reflect", "constant"] = "reflect") -> np.ndarray:
    """(H, W, ...) -> (T, side, side, ...), row by row, padded at the right and below to whole tiles."""
    height, width, *rest = array.shape
    pads = [(0, -height % side), (0, -width % side), *((0, 0) for _ in rest)]
    padded = np.pad(array, pads, mode=padding)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side, *rest).swapaxes(1, 2).reshape(rows * columns, side, side, *rest)


def join(tiles: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, side, side, ...) -> (height, width, ...), the way back of `cut`."""
    _, side, _, *rest = tiles.shape
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    padded = tiles.reshape(rows, columns, side, side, *rest).swapaxes(1, 2)
    return padded.reshape(rows * side, columns * side, *rest)[:height, :width]


def _assemble(tiles: np.ndarray, painted: np.ndarray, fit: str, height: int, width: int) -> np.ndarray:
    """(T, S, S, C) uint8, which of them are painted (T,) -> (height, width, C). Tiles that are not painted continue
    their neighbours, so that the step from painted to known is known at their borders, too."""
    if fit == "resize":
        return resize(tiles[0], width, height)
    side = tiles.shape[1]
    blank = join(np.broadcast_to(~painted[:, None, None], (len(tiles), side, side)), height, width)
    near = nearest_known(blank)
    return join(tiles, height, width)[near.rows, near.columns]


# --- pasting ----------------------------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """For each pixel the nearest known one: its distance in pixels, row and column, (H, W) each."""

    distance: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def nearest_known(missing: np.ndarray) -> Nearest:
    """Known pixels are their own nearest, at distance 0. Where none is known, each is its own at infinite distance."""
    if missing.all():
        places = np.indices(missing.shape)
        return Nearest(np.full(missing.shape, np.inf), places[0], places[1])
    distance, places = distance_transform_edt(missing, return_indices=True)
    return Nearest(distance, places[0], places[1])


def paste(original: np.ndarray, painted: np.ndarray, missing: np.ndarray, near: Nearest, cell: float) -> np.ndarray:
    """`original` with painted pixels where they are missing, all (H, W, C) uint8.

    Painted pixels are moved by what the painting lacks at the nearest known pixel, so that there is no edge and known
    pixels stay as they are. Its tone (the mean over half a cell) fades to nothing over `cell` pixels; the rest over
    SEAM pixels, as detail that is carried farther shows as streaks.
    """
    lacking = original[near.rows, near.columns].astype(np.float32) - painted[near.rows, near.columns]
    tone = uniform_filter(lacking, size=(max(1, round(cell / 2)),) * 2 + (1,), mode="nearest")[missing]
    distance = near.distance[missing][:, None]
    moved = painted[missing] + _fade(distance, cell) * tone + _fade(distance, SEAM) * (lacking[missing] - tone)
    completed = original.copy()
    completed[missing] = np.rint(moved).clip(0, 255).astype(np.uint8)
    return completed


def _fade(distance: np.ndarray, over: float) -> np.ndarray:
    """1 at distance 0, 0 from `over` (at least SEAM) pixels on: half a cosine."""
    return (1 + np.cos(np.pi * np.minimum(distance / max(over, SEAM), 1))) / 2


def diversity_of(samples: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) float32 in [0, 0.5]: standard deviation over the samples in [0, 1] pixel units, mean over channels. Exact
    zeros where all samples agree, and for fewer than two."""
    if len(samples) < 2:
        return np.zeros(shape, dtype=np.float32)
    count = len(samples)
    total = np.zeros(samples[0].shape, dtype=np.int64)
    squares = np.zeros_like(total)
    for sample in samples:
        total += sample
        squares += sample.astype(np.int64) ** 2
    deviation = np.sqrt(count * squares - total**2) / (count * 255)
    return deviation.mean(2).astype(np.float32)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_picture(path: Path, option: str = "--image") -> Image.Image:
    """The picture in a file, loaded and upright, in its own mode. Raises InputError when there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise InputError(f"{option} {path} is not a picture; expected PNG, JPEG or another picture file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{option} {path} has more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except FileNotFoundError:
        raise InputError(f"{option} {path} does not exist; expected a picture file") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise InputError(f"{option} {path} cannot be read: {' '.join(str(error).split())}") from error


def upright_pixels(picture: Image.Image, channels: int) -> np.ndarray:
    """Any mode -> (H, W, channels) uint8; turned as its EXIF says, on white where transparent."""
    plain = _plain(ImageOps.exif_transpose(picture), channels)
    return np.array(plain).reshape(plain.height, plain.width, channels)


def read_mask(path: Path | str, size: tuple[int, int]) -> np.ndarray:
    """The picture in a file -> (H, W) bool, True where it is white: at least half bright; transparent is not white.

    size: (width, height) of the picture it is for. Raises InputError when the file is no picture, has another size, or
    says that nothing or everything is missing.
    """
    picture = read_picture(Path(path), "--mask")
    _check_size(f"--mask {path}", picture.size, size)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, "black")
        picture.alpha_composite(layer)
    values = np.asarray(_plain(picture, 1))
    missing = values >= 128
    if not missing.any():
        raise InputError(
            f"--mask {path} has no white pixel (the brightest is {values.max()} of 255), so nothing is missing; "
            "paint what is missing white"
        )
    return _checked_not_all(missing, f"--mask {path} is white all over")


def box_mask(box: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """x0 y0 x1 y1 in pixels, x1 and y1 not included -> (H, W) bool; size: (width, height).

    Raises InputError for a box that is empty, reaches outside, or takes the whole picture.
    """
    x0, y0, x1, y1 = box
    width, height = size
    asked = f"--box {x0} {y0} {x1} {y1}"
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{asked} is empty; expected x0 y0 x1 y1 with x0 < x1 and y0 < y1")
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        raise InputError(f"{asked} reaches outside the picture; expected at most 0 0 {width} {height}")
    missing = np.zeros((height, width), dtype=bool)
    missing[y0:y1, x0:x1] = True
    return _checked_not_all(missing, f"{asked} takes the whole picture of {width}x{height}")


def _checked_not_all(missing: np.ndarray, found: str) -> np.ndarray:
    if missing.all():
        raise InputError(f"{found}, so nothing is known; leave some pixels, or type --percent 100 instead")
    return missing


def _check_size(name: str, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(found) != tuple(expected):
        sizes = f"{'x'.join(map(str, found))}; expected {expected[0]}x{expected[1]}"
        raise InputError(f"{name} is {sizes}, the size of the picture")


# --- the stage's own-picture mode -------------------------------------------------------------------------------------

PICTURES_HEADER = (
    "path",
    "class_before",
    "probability_before",
    "class_after",
    "probability_after",
    "pixels_missing",
    "share_missing",
    "tokens_dropped",
    "tokens",
    "note",
)


def complete_own(
    stage: Stage, memory: Memory, section: ReconstructMaskedSection, channels: int, classes: Sequence[str], seed: int
) -> float:
    """Complete the picture or folder of `section.own` into own/ of the run folder; returns the share of missing pixels.

    Raises InputError, before anything is written, for all that `check_own` and `request_of` refuse.
    """
    request = request_of(section, memory.distil, classes, seed)
    files = check_own(section.own, channels)
    folder = stage.folder.path / "own"
    rows, missing, pixels = [], 0, 0
    bar = progress_bar(zip(files, unique_names(files), strict=True), "own pictures", "picture", total=len(files))
    for number, (file, name) in enumerate(bar):
        picture = read_picture(file)
        result = complete_picture(memory, picture, asked_mask(section.own, picture.size), classes, request)
        write_result(folder, name, result)
        if number < FIGURES:
            stage.figure(f"own_{name}", result_figure(result))
        rows.append(_row(file, result))
        missing, pixels = missing + int(result.missing.sum()), pixels + result.missing.size
        say(_sentence(file, result))
    write_csv(folder / "pictures.csv", PICTURES_HEADER, rows)
    stage.metrics |= {"own_pictures": len(files), "own_missing_share": missing / pixels}
    stage.finish(None, extra_artifacts=("own",))
    return missing / pixels


def request_of(
    section: ReconstructMaskedSection, distil: "DistilBertForMaskedLM", classes: Sequence[str], seed: int
) -> Request:
    """The settings as a request. Raises InputError for a class that is unknown or cannot be told."""
    own = section.own
    return Request(
        percent=own.percent,
        strategy=own.strategy,
        decoding=own.decoding,
        samples=own.samples,
        fit=own.fit,
        margin=own.margin,
        label=class_number(own.label, distil, classes),
        seed=seed,
        choosing=Choosing(
            passes=section.choosing_passes,
            look_ahead=section.look_ahead,
            candidates=section.candidates,
            code_share=section.code_share,
            blocks=section.blocks,
        ),
        filling=Filling(
            passes=section.passes,
            order=section.fill_order,
            temperature=section.temperature,
            top_k=section.top_k,
            top_p=section.top_p,
            guidance_scale=section.guidance_scale,
        ),
    )


def class_number(name: str | None, distil: "DistilBertForMaskedLM", classes: Sequence[str]) -> int | None:
    """The number of a class. Raises InputError when there is no such class, or the DistilBERT was told none."""
    if name is None:
        return None
    check_label(distil, 0)
    if name not in classes:
        raise InputError(f"--class {name} is not a class of the data; expected one of: {', '.join(classes)}")
    return list(classes).index(name)


def check_own(own: OwnPicture, channels: int) -> list[Path]:
    """The picture file, or the picture files of the folder, each of them tried out with the mask that is asked for.

    Raises InputError when there is none, and one that lists those that cannot be used.
    """
    if channels not in ORDINARY:
        raise InputError(
            f"--image takes grey and RGB pictures, these models have {channels} components; type "
            "python vqvae_reconstruction.py --input STACK --components NAMES"
        )
    if own.mask is not None and own.box is not None:
        raise InputError("--mask and --box exclude each other; give one of them")
    files, problems = own_files(own), []
    for file in progress_bar(files, "checking", "picture") if len(files) > 1 else files:
        try:
            picture = read_picture(file)
            upright_pixels(picture, channels)
            asked_mask(own, picture.size)
        except InputError as error:
            problems.append(str(error))
    if problems and len(files) == 1:
        raise InputError(problems[0])
    if problems:
        listed = "; ".join(list(dict.fromkeys(problems))[:5])
        raise InputError(f"{len(problems)} of {len(files)} pictures cannot be used: {listed}")
    return files


def own_files(own: OwnPicture) -> list[Path]:
    """Raises InputError when the setting names neither a file nor a folder with pictures in it."""
    if own.image is None:
        raise InputError("no picture is named; type --image PICTURE_OR_FOLDER")
    source = Path(own.image)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"--image {source} does not exist; expected a picture or a folder with pictures in it")
    visible = (file for file in source.iterdir() if file.is_file() and not file.name.startswith("."))
    files = sorted(file for file in visible if file.suffix.lower() in PICTURE_ENDINGS)
    if not files:
        raise InputError(f"--image {source} has no pictures; expected files such as {source / 'a.png'}")
    return files


def asked_mask(own: OwnPicture, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) bool of the mask or box of the settings; None when the strategy is to choose. size: (width, height)."""
    if own.mask is not None:
        return read_mask(own.mask, size)
    return None if own.box is None else box_mask(own.box, size)


def unique_names(files: Sequence[Path]) -> list[str]:
    """The files' names without endings, cut to a length that any disk takes; equal ones are numbered."""
    taken: dict[str, str] = {}  # some disks do not tell a from A
    for file in files:
        name, number = file.stem[:NAME_LENGTH], 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem[:NAME_LENGTH]}_{number}"
        taken[name.lower()] = name
    return list(taken.values())


def write_result(folder: Path, name: str, result: OwnResult) -> None:
    """NAME_completed.png, NAME_masked.png, NAME_sample_1.png ..., NAME_diversity.png (black 0, white 0.5, the most
    there can be) and NAME_dropped.csv (tile, row and column of each token that was predicted)."""
    write_png(folder / f"{name}_completed.png", result.completed)
    write_png(folder / f"{name}_masked.png", result.masked)
    for number, sample in enumerate(result.samples, start=1):
        write_png(folder / f"{name}_sample_{number}.png", sample)
    if result.samples:
        write_png(folder / f"{name}_diversity.png", np.rint(result.diversity * 510).astype(np.uint8)[:, :, None])
    write_csv(folder / f"{name}_dropped.csv", ("tile", "row", "column"), np.argwhere(result.dropped).tolist())


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W, C) uint8."""
    with replacing(path) as temporary:
        _image(pixels).save(temporary, format="PNG")


def _image(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 -> L or RGB."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _row(file: Path, result: OwnResult) -> list[Any]:
    """A line of pictures.csv."""
    before, after = (ranked[0] if ranked else ("", math.nan) for ranked in (result.before, result.after))
    classes = [before[0], f"{before[1]:.6g}", after[0], f"{after[1]:.6g}"] if result.before else [""] * 4
    missing = [int(result.missing.sum()), f"{result.missing.mean():.6g}"]
    return [str(file), *classes, *missing, int(result.dropped.sum()), result.dropped.size, result.note]


def _sentence(file: Path, result: OwnResult) -> str:
    """What happened to a picture, in one line."""
    tokens = f"{int(result.dropped.sum())} of {result.dropped.size} tokens predicted"
    parts = [f"{file}: {result.missing.mean():.1%} of the pixels missing, {tokens}"]
    parts += [f"class {_likeliest(result.before)} before, {_likeliest(result.after)} after"] if result.before else []
    parts += [result.note] if result.note else []
    return "; ".join(parts)


def _likeliest(ranked: list[tuple[str, float]]) -> str:
    return f"{ranked[0][0]} ({ranked[0][1]:.0%})" if ranked else ""


def result_figure(result: OwnResult) -> Figure:
    """original | masked | completed | samples | diversity, with the class and its probability above."""
    panels = [
        (f"original\n{_likeliest(result.before)}", result.original),
        ("masked\n", result.masked),
        (f"completed\n{_likeliest(result.after)}", result.completed),
    ]
    panels += [(f"sample {n}\n", sample) for n, sample in enumerate(result.samples[:FIGURE_SAMPLES], start=1)]
    height, width = result.missing.shape
    columns = len(panels) + (1 if result.samples else 0)
    figure, axes = new_figure(1.9 * columns, 0.5 + 1.8 * min(3.0, max(0.4, height / width)), 1, columns)
    for axis, (title, pixels) in zip(axes[0], panels, strict=False):
        show_picture(axis, torch.from_numpy(_smaller(pixels)).permute(2, 0, 1) / 255)
        axis.set_title(title, fontsize=8)
    if result.samples:
        shown = _smaller(np.rint(result.diversity * 510).astype(np.uint8)[:, :, None])[:, :, 0] / 510
        axes[0][-1].imshow(shown, cmap="magma", vmin=0, vmax=max(0.05, float(shown.max())), interpolation="nearest")
        axes[0][-1].set_title("diversity\n", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 with no side longer than FIGURE_SIDE."""
    image = _image(pixels)
    image.thumbnail((FIGURE_SIDE, FIGURE_SIDE))
    return np.array(image).reshape(image.height, image.width, pixels.shape[2])
