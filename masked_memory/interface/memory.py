"""A memory of pictures for Python: load it, and encode, forget, recall, complete, paint and judge.

Letters: B pictures, H W pixels, C channels, h w the grid, N = h*w tokens, K codes, S side of the model's pictures.
Pictures that are given may be a path, a PIL picture, an array or a tensor, or a sequence of these. Arrays are (H, W),
(H, W, C) or (B, H, W, C), tensors (H, W), (C, H, W) or (B, C, H, W); both hold whole numbers of 8 bits from 0 to 255,
or floats from 0 to 1. Another size is resized to S x S. Pictures that come back are arrays (B, S, S, C) of 8 bits.

Whatever cannot be used raises InputError, with what was found, what was expected and what to do.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from masked_memory.handoff.memory import take_memory
from masked_memory.handoff.shipped import read_examples, read_shipped
from masked_memory.handoff.split import open_split
from masked_memory.interface.results import CompletedPicture, Judged, RecalledPictures, StudiedPictures
from masked_memory.measuring.curves import bits_of, is_placed, summarise
from masked_memory.measuring.study import StudyPlan, measure_recall
from masked_memory.models.classifier import Classifier
from masked_memory.models.codes import Filling
from masked_memory.own_picture.completing import Request, class_number, complete_picture
from masked_memory.own_picture.given import given_picture, given_pictures
from masked_memory.own_picture.reading import box_mask, mask_of_picture, read_mask
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, choose_device, generator
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.runs import read_best
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.strategies import DECODINGS, STRATEGIES
from masked_memory.sources.pixels import from_model, plain_image, to_model
from masked_memory.stages.masking import mask_first, masked_count, stored_bits
from masked_memory.stages.vqvae import VQVAE

PicturesGiven = Any  # see the top of this module
SHIPPED_RUNS = "shipped"


def open_memory(
    runs: str | Path | None = None,
    data: str | Path | Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> "ImageMemory":
    """The best models of a folder of runs, or those that come with the project.

    runs: the folder; "shipped" for the models of the demo that come with the project; None for runs/ here, where a
    DistilBERT was trained, else for those. data: YAML files that the stages were given with --config, one or several.
    settings: what the stages were given on the command line, such as {"reconstruct_masked.passes": 8}. device: auto,
    cpu, cuda or mps.

    Raises InputError where a model is missing or does not fit, with what to type.
    """
    overlays = [Path(data)] if isinstance(data, str | Path) else [Path(file) for file in data]
    if runs is None:
        runs = "runs" if read_best(Path("runs"), "train_distil") else SHIPPED_RUNS
    shipped = str(runs) == SHIPPED_RUNS
    try:
        cfg = loading.load(overlays, {**(settings or {}), **({} if shipped else {"run.dir": str(runs)})})
    except loading.ConfigError as error:
        raise InputError("; ".join(error.problems)) from None
    machine = Machine(choose_device(device), bf16=False, threads=torch.get_num_threads())
    if shipped:
        memory, classes, folders = read_shipped(machine.device, cfg.reconstruct_masked.batch_size)
        return ImageMemory(memory, classes, cfg, folders)
    if not Path(runs).is_dir():
        raise InputError(f"{runs} is no folder; expected one of runs, such as runs, or {SHIPPED_RUNS!r}")
    split = open_split(cfg)
    handed = take_memory(cfg, split, machine)
    return ImageMemory(handed.memory, split.classes, cfg, {role: Path(found) for role, found in handed.inputs.items()})


def strategies() -> dict[str, str]:
    """The ways to choose what is kept, with a few words on each; also those that were registered."""
    return {name: entry.says for name, entry in STRATEGIES.items()}


def decodings() -> dict[str, str]:
    """The ways to paint what was forgotten, with a few words on each."""
    return {name: entry.says for name, entry in DECODINGS.items()}


def examples() -> tuple[np.ndarray, list[str]]:
    """Test pictures of the demo, which come with the project: (64, 32, 32, 3) of 8 bits, and the class of each."""
    return read_examples()


class ImageMemory:
    """A VQ-VAE that turns pictures into grids of codes, a DistilBERT that completes forgotten ones, and a classifier
    that says whether the result is still recognisable; made by `load`."""

    def __init__(self, memory: Memory, classes: Sequence[str], cfg: Config, folders: Mapping[str, Path]) -> None:
        """folders: where each model was found."""
        self._memory, self.classes, self.folders = memory, list(classes), dict(folders)
        section = cfg.reconstruct_masked
        self._section, self._seed = section, cfg.run.seed
        self._choosing, self._filling = configured(Choosing, section), configured(Filling, section)

    def __repr__(self) -> str:
        judged = f", {len(self.classes)} classes" if self.classifier is not None else ", no classifier"
        return (
            f"ImageMemory({self.side}x{self.side} pixels, {self.channels} channels, {self.grid}x{self.grid} tokens, "
            f"K {len(self._memory.codebook)}{judged}; VQ-VAE {self.folders['train_vqvae'].name})"
        )

    @property
    def vqvae(self) -> VQVAE:
        return self._memory.vqvae

    @property
    def distil(self) -> Any:
        """The DistilBERT."""
        return self._memory.distil

    @property
    def classifier(self) -> Classifier | None:
        """None for data without classes."""
        return self._memory.classifier

    @property
    def side(self) -> int:
        """S, pixels."""
        return int(self.vqvae.config.image_size)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.vqvae.config.channels)

    @property
    def grid(self) -> int:
        """Tokens along each side."""
        return int(self._memory.side)

    @torch.no_grad()
    def encode(self, pictures: PicturesGiven) -> Tensor:
        """Pictures -> (B, h, w) long on the CPU, codes from 0 to K - 1."""
        return self._memory.grid(self._memory.encode(self._given(pictures))).cpu()

    @torch.no_grad()
    def paint(self, tokens: Any) -> np.ndarray:
        """Whole grids of codes, (B, h, w) or one (h, w), -> (B, S, S, C) uint8.

        Raises InputError for another shape, and for what are no codes from 0 to K - 1.
        """
        return from_model(self._memory.paint_tokens(self._grids(tokens).flatten(1).to(self._memory.device)))

    @torch.no_grad()
    def judge(self, pictures: PicturesGiven) -> list[Judged]:
        """What the classifier sees in each picture: classes with their probabilities, likeliest first.

        Raises InputError where there is no classifier.
        """
        if self.classifier is None:
            raise InputError("this memory has no classifier, as its data have no classes")
        given = self._given(pictures).to(self._memory.device)
        return self._seen(given, self._memory.encode(given))

    @torch.no_grad()
    def recall(
        self,
        pictures: PicturesGiven,
        forget: float = 0.75,
        strategy: str = "adaptive",
        decoding: str = "expected",
        seed: int | None = None,
    ) -> RecalledPictures:
        """Store the pictures, forget a share of their tokens, and recall them from the rest.

        forget: the share, 0 to 1. strategy: how it is chosen what is kept, see `strategies()`. decoding: how forgotten
        tokens are painted, see `decodings()`. seed: of what is drawn; None takes that of the settings.

        Raises InputError for another share, strategy or decoding.
        """
        memory, seed = self._memory, self._seed if seed is None else seed
        _check_share(forget)
        _check_name("strategy", strategy, STRATEGIES)
        _check_name("decoding", decoding, DECODINGS)
        given = self._given(pictures)
        tokens = memory.encode(given)
        order = choose_order(strategy, memory, tokens, generator(seed, Stream.OWN_ORDERS), self._choosing)
        mask = mask_first(order, masked_count(forget, memory.tokens)).to(memory.device)
        filler, draws = distil_filler(memory, self._filling), generator(seed, Stream.OWN_CODES)
        filled = filler.fill(dig(tokens, mask), decoding, draws)
        painted, whole = memory.paint(filled), memory.paint_tokens(tokens)
        return RecalledPictures(
            originals=from_model(given),
            tokens=memory.grid(tokens).cpu(),
            kept=~memory.grid(mask).cpu(),
            filled=memory.grid(filled.tokens).cpu(),
            pictures=from_model(painted),
            whole=from_model(whole),
            bits=stored_bits(memory.tokens, int((~mask[0]).sum()), len(memory.codebook), is_placed(strategy)),
            error=mse(to_unit(painted), to_unit(whole)).cpu().numpy(),
            seen_as=self._seen(painted, filled.tokens),
            strategy=strategy,
            decoding=decoding,
            forget=forget,
        )

    def complete(
        self,
        picture: PicturesGiven,
        mask: Any,
        samples: int = 0,
        decoding: Literal["expected", "argmax", "sample"] = "expected",
        fit: Literal["resize", "tile"] = "resize",
        label: str | None = None,
        seed: int | None = None,
    ) -> CompletedPicture:
        """Complete one picture of any size, of which a part is missing.

        mask: True or white where pixels are missing, as an array or tensor (H, W) of bool, a PIL picture or a path; or
        the missing rectangle, x0 y0 x1 y1 in pixels, x1 and y1 not included. samples: further completions, drawn, 0 to
        64. fit: resize the picture to the model's size and back, or cut it into tiles of that size. label: a class that
        is told to a DistilBERT that knows classes.

        Raises InputError for a mask of another size, one that says that nothing or everything is missing, a class that
        cannot be told, and other values that cannot be used.
        """
        _check_name("decoding", decoding, DECODINGS)
        _check_name("fit", fit, ("resize", "tile"))
        if not isinstance(samples, int) or not 0 <= samples <= 64:
            raise InputError(f"samples is {samples!r}; expected a whole number from 0 to 64")
        given = given_picture(picture, self.channels)
        missing = _missing(mask, given.size)
        number = class_number(label, self.distil, self.classes)
        request = Request(
            decoding=decoding,
            samples=samples,
            fit=fit,
            label=number,
            seed=self._seed if seed is None else seed,
            choosing=self._choosing,
            filling=self._filling,
        )
        found = complete_picture(self._memory, given, missing, self.classes, request)
        return CompletedPicture(
            original=plain_image(found.original),
            masked=plain_image(found.masked),
            picture=plain_image(found.completed),
            samples=[plain_image(each) for each in found.samples],
            missing=found.missing,
            diversity=found.diversity,
            seen_before=found.before,
            seen_as=found.after,
            note=found.note,
        )

    def study(
        self,
        pictures: PicturesGiven,
        labels: Sequence[str] | None = None,
        strategies: Sequence[str] = ("random", "adaptive"),
        percentages: Sequence[int] = (25, 50, 75, 90),
        decodings: Sequence[str] = ("expected",),
        seeds: int = 1,
    ) -> StudiedPictures:
        """The study of reconstruct_masked.py on pictures of your own: each strategy at each percentage.

        labels: the class of each picture, in words; without them it is only measured whether the classifier sees the
        same as before. seeds: how often strategies that draw are repeated.

        Raises InputError for names, percentages and labels that cannot be used.
        """
        for name in strategies:
            _check_name("strategy", name, STRATEGIES)
        for name in decodings:
            _check_name("decoding", name, DECODINGS)
        if wrong := [each for each in percentages if not isinstance(each, int) or not 0 <= each <= 100]:
            raise InputError(f"percentages has {wrong[0]!r}; expected whole numbers from 0 to 100")
        if not (strategies and percentages and decodings):
            raise InputError("strategies, percentages and decodings must each name at least one")
        given = self._given(pictures)
        plan = replace(
            configured(
                StudyPlan,
                self._section,
                strategies=tuple(dict.fromkeys(strategies)),
                percentages=tuple(sorted(set(percentages))),
                decodings=tuple(dict.fromkeys(decodings)),
                seed=self._seed,
                choosing=self._choosing,
                filling=self._filling,
            ),
            seeds=seeds,
            tell_class=False,
        )
        shown: Any = _Pictures(given, self._memory.encode(given).cpu(), self._numbers(labels, len(given)))
        found = measure_recall(self._memory, shown, shown, np.arange(len(given)), plan)
        rows = summarise(found, self._section.bootstrap, self._seed, bits_of(self._memory))
        if labels is None:
            rows = [row for row in rows if "classification_error" not in row["measure"]]
        return StudiedPictures(rows, plan)

    def _given(self, pictures: PicturesGiven) -> Tensor:
        """(B, C, S, S) in [-1, 1], on the CPU."""
        return to_model(given_pictures(pictures, self.side, self.channels))

    def _grids(self, tokens: Any) -> Tensor:
        try:
            grids = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"tokens are {type(tokens).__name__}; expected codes (B, h, w)") from None
        grids = grids[None] if grids.ndim == 2 else grids
        codes = len(self._memory.codebook)
        if grids.ndim != 3 or grids.shape[1:] != (self.grid, self.grid) or not len(grids):
            raise InputError(f"tokens are of shape {tuple(grids.shape)}; expected (B, {self.grid}, {self.grid})")
        if grids.is_floating_point() or grids.is_complex() or grids.dtype == torch.bool:
            raise InputError(f"tokens are {grids.dtype}; expected whole numbers from 0 to {codes - 1}")
        if grids.min() < 0 or grids.max() >= codes:
            raise InputError(f"tokens are from {grids.min()} to {grids.max()}; expected from 0 to {codes - 1}")
        return grids.long()

    def _seen(self, pictures: Tensor, tokens: Tensor) -> list[Judged]:
        """Of (B, C, S, S) with the codes (B, N) behind them."""
        found = self._memory.class_probabilities(pictures, tokens)
        if found is None:
            return [[] for _ in pictures]
        return [sorted(zip(self.classes, row, strict=True), key=lambda pair: -pair[1]) for row in found.tolist()]

    def _numbers(self, labels: Sequence[str] | None, count: int) -> np.ndarray:
        """(B,) class numbers, -1 without labels."""
        if labels is None:
            return np.full(count, -1)
        if len(labels) != count:
            raise InputError(f"there are {len(labels)} labels for {count} pictures; expected one for each")
        if unknown := [label for label in labels if label not in self.classes]:
            raise InputError(f"{unknown[0]!r} is not a class of the data; expected one of: {', '.join(self.classes)}")
        return np.array([self.classes.index(label) for label in labels])


@dataclass(frozen=True)
class _Pictures:
    """Pictures as the study takes them: what it asks of a split and of its indices."""

    given: Tensor  # (B, C, S, S) in [-1, 1]
    encoded: Tensor  # (B, N)
    labels: np.ndarray  # (B,)

    def pictures(self, positions: np.ndarray) -> Tensor:
        return self.given[torch.from_numpy(positions)]

    def tokens(self, positions: np.ndarray) -> Tensor:
        return self.encoded[torch.from_numpy(positions)]


def _check_share(forget: object) -> None:
    known = isinstance(forget, int | float | np.number) and not isinstance(forget, bool)
    if not known or not 0 <= float(forget) <= 1:  # type: ignore[arg-type]  # also not a number is refused
        raise InputError(f"forget is {forget!r}; expected a share from 0 to 1, such as 0.75")


def _check_name(what: str, name: object, known: Any) -> None:
    if name not in known:
        raise InputError(f"{what} is {name!r}; expected one of: {', '.join(known)}")


def _missing(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. size: (width, height)."""
    if isinstance(mask, str | os.PathLike):
        return read_mask(Path(mask), size)
    if isinstance(mask, Image.Image):
        return mask_of_picture(mask, "mask", size)
    if isinstance(mask, list | tuple) and len(mask) == 4 and all(isinstance(side, int) for side in mask):
        return box_mask(mask, size)
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if values.dtype != bool:
        raise InputError(
            f"mask holds {values.dtype}; expected bool (H, W), True where pixels are missing, or x0 y0 x1 y1"
        )
    if values.shape != size[::-1]:
        raise InputError(f"mask is of shape {values.shape}; expected {size[::-1]}, (H, W) of the picture")
    if values.all() or not values.any():
        raise InputError(f"mask says that {'everything' if values.all() else 'nothing'} is missing")
    return values
