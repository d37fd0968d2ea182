"""Priors over grids, as they are handed on."""

from dataclasses import dataclass
from pathlib import Path

import torch

from handoff.split import Split, mend
from handoff.vqvae import HandedVQVAE, _checked_meta
from models.conditioning import Columns, columns_of
from pipeline.files import InputError, read_json
from pipeline.runs import read_best, resolve_run
from pipeline.stage import say
from priors.gan import Generator, LatentGANConfig
from priors.pixelcnn import PixelCNN, PixelCNNConfig
from settings.config import Config


@dataclass(frozen=True)
class HandedPrior:
    """A prior over grids, where it came from, what it can be told, and how often nothing was told in training."""

    folder: Path
    model: PixelCNN | Generator
    columns: Columns
    label_drop: float | None  # None: it can be told nothing


def prior_key(split: Split, vqvae: HandedVQVAE, kind: str, names: list[str]) -> str:
    """Priors of one kind that are told the same compete for being the best."""
    told = f" by {', '.join(names)}" if names else ""
    return f"{vqvae.key(split)}-prior {kind}{told}"


def take_prior(
    cfg: Config,
    asked: str,
    kind: str,
    split: Split,
    vqvae: HandedVQVAE,
    device: torch.device,
    by_class: bool,
    values: int,
) -> HandedPrior:
    """The best prior of a kind that can be told the class (if by_class) and so many values; or the run that is named.

    Raises InputError when there is none, when there are several that are told other columns, or when the named one is
    of another kind or codebook.
    """
    from safetensors.torch import load_file

    command = f"{mend('train_prior', cfg)} --train_prior.kind {kind}"
    command += " --train_prior.condition_on_class true" if by_class else ""
    command += " --train_prior.condition_numbers COLUMN,COLUMN" if values else ""
    plain = prior_key(split, vqvae, kind, [])
    fitting = [key for key in read_best(Path(cfg.run.dir), "train_prior") if _tells(key, plain, by_class, values)]
    some = f"{values} value{'s' if values > 1 else ''}"
    told = [word for word, asked_for in (("the class", by_class), (some, values)) if asked_for]
    if asked == "best" and len(fitting) > 1:
        found = " or ".join(key.partition(" by ")[2] for key in fitting)
        raise InputError(
            f"the best {kind} may be one that is told {found}; name its run folder, runs/train_prior/TIME-ID"
        )
    wanted = f"{kind}{' told ' + ' and '.join(told) if told else ''} on {vqvae.describe()}"
    key = fitting[0] if fitting else f"{plain} told {' and '.join(told)}"
    folder = resolve_run(Path(cfg.run.dir), "train_prior", asked, key, wanted, command)
    meta = _checked_meta(folder, "train_prior", split.identity | vqvae.identity | {"kind": kind}, command)
    stored, weights = read_json(folder / "model" / "config.json"), load_file(folder / "model" / "model.safetensors")
    model = Generator(LatentGANConfig(**stored)) if kind == "gan" else PixelCNN(PixelCNNConfig(**stored))
    model.load_state_dict(weights)
    columns = columns_of(meta["conditions"])
    say(f"inherited: {kind} {folder}{', told ' + ', '.join(columns.names) if columns else ''}")
    return HandedPrior(folder, model.to(device).eval(), columns, meta["label_drop"])


def _tells(key: str, plain: str, by_class: bool, values: int) -> bool:
    """Whether a prior with this key can be told just so much."""
    if not by_class and not values:
        return key == plain
    head, _, names = key.partition(" by ")
    told = names.split(", ") if names else []
    return head == plain and ("class" in told) == by_class and len(set(told) - {"class"}) == values
