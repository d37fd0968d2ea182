"""Which runs a summary and a report are about: the best of each stage for one split, and others on the same split."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masked_memory.handoff.split import Split, open_split
from masked_memory.handoff.taking import best_run, otherwise_in_words
from masked_memory.handoff.vqvae import vqvae_key
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.pipeline.runs import read_best
from masked_memory.reporting.stages import CHAIN_STAGES, KINDS_OF, OTHER_STAGES, SECOND_JUDGE
from masked_memory.settings.config import Config


@dataclass(frozen=True)
class Chain:
    """folders: the run folder of each stage, by the stage or what is typed for another of its runs, in the order in
    which they are made. others: the same for stages that are no part of the demo. troubles: what is left out and why,
    a line each. wanted: what the demo runs with these settings. remarks: runs that were made with other
    settings, a line each."""

    split: Split
    folders: dict[str, Path]
    others: dict[str, Path]
    troubles: list[str]
    wanted: tuple[str, ...] = CHAIN_STAGES
    remarks: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Stages of the demo without a run, as they are typed."""
        return [stage for stage in self.wanted if stage not in self.folders]

    @property
    def missing_typed(self) -> list[str]:
        """The same as names of scripts with their options."""
        return [" ".join([f"{stage}.py", *options]) for stage, *options in map(str.split, self.missing)]

    @property
    def with_vqvae(self) -> str:
        """For which VQ-VAE stages may be missing, in words: others may have runs of them."""
        return f" with VQ-VAE {self.folders['train_vqvae'].name}, the best" if "train_vqvae" in self.folders else ""


def find_chain(cfg: Config) -> Chain:
    """The best run of each stage for the split of these settings, and of the other stages those that belong to it.

    A run that is gone, not finished or cannot be read is left out with a sentence. Raises InputError when there is no
    split, or its files or a best.json are damaged.
    """
    runs, split = Path(cfg.run.dir), open_split(cfg)
    chain = Chain(split, {"data_split": split.folder}, {}, [], _wanted(cfg, split))
    _take(cfg, chain, chain.folders, "train_vqvae", best_run(cfg, "train_vqvae", vqvae_key(split, cfg.train_vqvae)))
    codebook = _codebook(chain)
    if codebook is not None:
        key = f"{split.key}-codebook {codebook}"
        for stage in CHAIN_STAGES[2:]:
            _take(cfg, chain, chain.folders, stage, best_run(cfg, stage, key))
            if stage == "train_classifier":
                _take(cfg, chain, chain.folders, SECOND_JUDGE, best_run(cfg, stage, f"{key}-clean"))
        for stage, kinds in KINDS_OF.items():
            start = f"{key}-{kinds} "
            for name in sorted(one for one in read_best(runs, stage) if one.startswith(start)):
                label = f"{stage}: {name.removeprefix(start)}"
                _take(cfg, chain, chain.others, label, runs / stage / read_best(runs, stage)[name]["run"])
    for stage in OTHER_STAGES:
        _take_newest(chain, stage, runs)
    return chain


def _wanted(cfg: Config, split: Split) -> tuple[str, ...]:
    """Judges need classes; the second one may not be wanted."""
    judges = [] if not split.classes else ["train_classifier"]
    judges += [SECOND_JUDGE] if judges and cfg.reconstruct_masked.clean_classifier is not None else []
    before, after = CHAIN_STAGES[: CHAIN_STAGES.index("train_classifier")], CHAIN_STAGES[-2:]
    return (*before, *judges, *after)


def _take(cfg: Config, chain: Chain, into: dict[str, Path], label: str, folder: Path | None) -> None:
    """Enter the run of a stage, or say why not; a stage that has none stays away. What is not as set is remarked."""
    if folder is None:
        return
    if trouble := trouble_with(folder):
        chain.troubles.append(f"{label}: {trouble}")
        return
    into[label] = folder
    if otherwise := otherwise_in_words(cfg, folder.parent.name, folder) if into is chain.folders else "":
        chain.remarks.append(f"{label}: {folder.name} is shown, but {otherwise}")


def trouble_with(folder: Path) -> str:
    """Why nothing can be told of a run, in words; nothing when it is finished and can be read."""
    if not folder.is_dir():
        return f"{folder.name}, the best run, is gone"
    try:
        record = read_json(folder / "run.json")
        if record["status"] != "finished":
            error = f" ({record['error']})" if record.get("error") else ""
            return f"{folder.name} is {record['status']}{error}"
        metrics_of(folder)
    except (KeyError, TypeError, AttributeError):
        return f"run.json of {folder.name} does not say how the run ended"
    except (ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError, too
        return f"{folder.name} cannot be read: {error}"
    return ""


def _codebook(chain: Chain) -> str | None:
    """What names the codes of the VQ-VAE in the keys of later stages; None without a VQ-VAE that says so."""
    if "train_vqvae" not in chain.folders:
        return None
    file = chain.folders["train_vqvae"] / "model" / "meta.json"
    try:
        return str(read_json(file)["codebook"])
    except (ValueError, KeyError, TypeError, OSError):
        name = chain.folders["train_vqvae"].name
        why = f"{name} has no model/meta.json that names its codebook; later stages are left out"
        chain.troubles.append(f"train_vqvae: {why}")
        return None


def _take_newest(chain: Chain, stage: str, runs: Path) -> None:
    """Enter the newest finished run of this split, one with the VQ-VAE of the chain before all others; a newer one that
    has not ended well gets a sentence."""
    splits = _same_splits(chain.split, runs)
    vqvae = chain.folders["train_vqvae"].name if "train_vqvae" in chain.folders else None
    found: list[tuple[bool, str, Path]] = []
    failed = ""
    for file in sorted((runs / stage).glob("*/run.json"), reverse=True):
        try:
            record = read_json(file)
        except (ValueError, OSError):
            continue
        if not isinstance(record, dict) or not _belongs(record, chain.split, splits):
            continue
        if trouble := trouble_with(file.parent):
            failed = failed or ("" if found else trouble)
            continue
        found.append((_name_of_input(record, "train_vqvae") in (None, vqvae), file.parent.name, file.parent))
    if failed:
        chain.troubles.append(f"{stage}: {failed}")
    if found:
        chain.others[stage] = max(found)[2]


def _same_splits(split: Split, runs: Path) -> set[str]:
    """Names of all run folders of data_split that hold this very split, in the same picture format."""
    names = {split.folder.name}
    for file in (runs / "data_split").glob("*/split.json"):
        try:
            meta = read_json(file)
            same = all(meta[name] == value for name, value in split.identity.items())
        except (ValueError, KeyError, TypeError, OSError):
            continue
        names |= {file.parent.name} if same else set()
    return names


def _belongs(record: dict[str, Any], split: Split, splits: set[str]) -> bool:
    key = str(record.get("key") or "")
    named = _name_of_input(record, "data_split") in splits
    return named or key.startswith(f"{split.key}-") or key == f"seeds of {split.hash}"


def _name_of_input(record: dict[str, Any], name: str) -> str | None:
    """The run folder's name; folders may have been moved since."""
    inputs = record.get("inputs")
    taken = inputs.get(name) if isinstance(inputs, dict) else None
    return Path(str(taken)).name if taken else None


def metrics_of(folder: Path) -> dict[str, float]:
    """The final numbers of a run, by name. Raises InputError when they cannot be read."""
    found = read_json(folder / "metrics.json")
    if not isinstance(found, dict):
        raise InputError(f"{folder / 'metrics.json'} does not hold names and numbers")
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
