"""Priors over grids, as they are handed on."""

from pathlib import Path

from masked_memory.handoff.handed import Handed, checked_meta
from masked_memory.handoff.memory import prior_key
from masked_memory.handoff.split import Split
from masked_memory.handoff.taking import take_run
from masked_memory.handoff.vqvae import HandedVQVAE, mend_for
from masked_memory.models.conditioning import Columns, columns_of
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.runs import Sought, read_best
from masked_memory.pipeline.stage import say
from masked_memory.rivals.priors.gan import Generator
from masked_memory.rivals.priors.pixelcnn import PixelCNN
from masked_memory.settings.config import Config


class HandedPrior(Handed[PixelCNN | Generator]):
    """A prior over grids."""

    @property
    def columns(self) -> Columns:
        """What it can be told."""
        return columns_of(self.meta["conditions"])

    @property
    def label_drop(self) -> float | None:
        """How often nothing was told in training; None: it can be told nothing."""
        return self.meta["label_drop"]

    @property
    def pixelcnn(self) -> PixelCNN:
        """The model of a prior of that kind."""
        if not isinstance(self.model, PixelCNN):
            raise TypeError(f"{self.folder} holds a {type(self.model).__name__}, no PixelCNN")
        return self.model

    @property
    def generator(self) -> Generator:
        """The model of a prior of kind gan."""
        if not isinstance(self.model, Generator):
            raise TypeError(f"{self.folder} holds a {type(self.model).__name__}, no GAN's generator")
        return self.model


def take_prior(
    cfg: Config, asked: str, kind: str, split: Split, vqvae: HandedVQVAE, by_class: bool, values: int
) -> HandedPrior:
    """The best prior of a kind that can be told the class (if by_class) and so many values; or the run that is named.

    Raises InputError when there is none, when there are several that are told other columns, or when the named one is
    of another kind or codebook.
    """
    command = f"{mend_for('train_prior', cfg, split, vqvae)} --train_prior.kind {kind}"
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
    sampled, mine = cfg.typed.stage == "sample", cfg.train_prior.kind
    if sampled and kind != mine and "train_prior.kind" in cfg.typed.by.set:
        say(f"train_prior.kind is {mine}, and a {kind} is taken, as sample.prior says")
    folder = take_run(cfg, asked, Sought("train_prior", key, wanted, command), "prior_run", sampled and kind == mine)
    meta = checked_meta(folder, "train_prior", split.identity | vqvae.identity | {"kind": kind}, command)
    model = (Generator if kind == "gan" else PixelCNN).from_pretrained(folder, vqvae.device)
    handed = HandedPrior("train_prior", folder, model, meta)
    say(f"inherited: {kind} {folder}{', told ' + ', '.join(handed.columns.names) if handed.columns else ''}")
    return handed


def take_untold_pixelcnn(cfg: Config, asked: str | None, split: Split, vqvae: HandedVQVAE) -> HandedPrior | None:
    """A PixelCNN that is told nothing: the best, or the run that is named. None for none asked for; and when there is
    no best one, which is said. Raises InputError for a named one that is told something."""
    if asked is None:
        return None
    command = f"{mend_for('train_prior', cfg, split, vqvae)} --train_prior.kind pixelcnn"
    if asked == "best" and prior_key(split, vqvae, "pixelcnn", []) not in read_best(Path(cfg.run.dir), "train_prior"):
        say(f"no PixelCNN that is told nothing, so none is asked; to have one, type: {command}")
        return None
    handed = take_prior(cfg, asked, "pixelcnn", split, vqvae, False, 0)
    if handed.columns:
        told = ", ".join(handed.columns.names)
        raise InputError(f"{handed.folder} is told {told}, but one that is told nothing is needed; type: {command}")
    return handed


def _tells(key: str, plain: str, by_class: bool, values: int) -> bool:
    """Whether a prior with this key can be told just so much."""
    if not by_class and not values:
        return key == plain
    head, _, names = key.partition(" by ")
    told = names.split(", ") if names else []
    return head == plain and ("class" in told) == by_class and len(set(told) - {"class"}) == values
