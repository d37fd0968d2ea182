"""Rivals of the memory, as they are handed on to the study."""

from typing import NamedTuple

from masked_memory.handoff.handed import Handed, check_unseen, checked_meta
from masked_memory.handoff.memory import HandedDistil, take_distil
from masked_memory.handoff.split import Split
from masked_memory.handoff.taking import take_run
from masked_memory.handoff.vqvae import HandedVQVAE, mend_for
from masked_memory.pipeline.runs import Sought
from masked_memory.pipeline.stage import inputs_of, say
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder
from masked_memory.settings.config import Config


class TrainedRivals(NamedTuple):
    """Those that were trained for it; None: not there."""

    published: HandedDistil | None = None  # a DistilBERT of the published recipe
    mae: Handed[MaskedAutoencoder] | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """name -> run folder."""
        return inputs_of([], rival_distil=self.published, rival_mae=self.mae)


def take_rivals(cfg: Config, split: Split, vqvae: HandedVQVAE) -> TrainedRivals:
    """The rivals that cfg.reconstruct_masked names; none without `rivals`. Raises InputError for one that is missing,
    does not fit, or was trained on what is to be measured."""
    section = cfg.reconstruct_masked
    published, mae = None, None
    if section.rivals and section.rival_distil:
        published = take_distil(cfg, section.rival_distil, split, vqvae, published=True)
    if section.rivals and section.rival_mae:
        mae = take_mae(cfg, section.rival_mae, split, vqvae)
    check_unseen([rival for rival in (published, mae) if rival is not None], section.part, cfg)
    return TrainedRivals(published, mae)


def mae_key(split: Split, vqvae: HandedVQVAE, inputs: str) -> str:
    """Masked autoencoders that see the same pictures compete for being the best."""
    return f"{vqvae.key(split)}-mae of {inputs}"


def take_mae(cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE) -> Handed[MaskedAutoencoder]:
    """The best that sees what cfg.train_mae.inputs says, or the run that is named, whatever it sees.

    Raises InputError when there is none, or it was made for other cells or pictures.
    """
    inputs, command = cfg.train_mae.inputs, mend_for("train_mae", cfg, split, vqvae)
    command += f" --train_mae.inputs {inputs}"
    wanted = f"{inputs} and {vqvae.describe()}"
    folder = take_run(cfg, asked, Sought("train_mae", mae_key(split, vqvae, inputs), wanted, command), "rival_mae")
    meta = checked_meta(folder, "train_mae", split.identity | vqvae.identity, command)
    say(f"inherited: masked autoencoder {folder} ({meta['inputs']})")
    return Handed("train_mae", folder, MaskedAutoencoder.from_pretrained(folder, vqvae.device), meta)
