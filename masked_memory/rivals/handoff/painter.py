"""The painter of recalled codes, as it is handed on."""

from typing import Any

from masked_memory.handoff.handed import Handed, checked_meta
from masked_memory.handoff.split import Split
from masked_memory.handoff.taking import take_run
from masked_memory.handoff.vqvae import HandedVQVAE, mend_for
from masked_memory.pipeline.runs import Sought
from masked_memory.pipeline.stage import say
from masked_memory.rivals.models.painter import CodePainter, load_painter
from masked_memory.settings.config import Config


def painter_key(split: Split, vqvae: HandedVQVAE, distil: Handed[Any]) -> str:
    """Painters of the answers of one DistilBERT compete for being the best."""
    return f"{vqvae.key(split)}-painter for {distil.folder.name}"


def painter_identity(vqvae: HandedVQVAE, distil: Handed[Any]) -> dict[str, Any]:
    """What a painter was made for, beside the split."""
    return vqvae.identity | {"vqvae": vqvae.folder.name, "distil": distil.folder.name}


def take_painter(cfg: Config, asked: str, split: Split, vqvae: HandedVQVAE, distil: Handed[Any]) -> Handed[CodePainter]:
    """The best painter of what this DistilBERT answers, or the run that is named.

    Raises InputError when there is none, or it was made for another split, VQ-VAE or DistilBERT.
    """
    command = f"{mend_for('train_painter', cfg, split, vqvae)} --train_painter.distil {distil.folder}"
    wanted = f"DistilBERT {distil.folder}"
    key = painter_key(split, vqvae, distil)
    folder = take_run(cfg, asked, Sought("train_painter", key, wanted, command), "painter")
    meta = checked_meta(folder, "train_painter", split.identity | painter_identity(vqvae, distil), command)
    say(f"inherited: painter {folder}")
    return Handed("train_painter", folder, load_painter(folder / "model", vqvae.model), meta)
