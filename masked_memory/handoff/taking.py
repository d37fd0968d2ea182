"""Which run of an earlier stage is taken: the best of those that are made as the settings say, before all others; and a
line where what is taken is not what is set.
"""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.runs import (
    Sought,
    best_like,
    finished_runs,
    named_run,
    of_shape,
    resolve_run,
    run_settings,
    used_section,
)  # fmt: skip
from masked_memory.pipeline.stage import say
from masked_memory.settings.config import Config, names_run
from masked_memory.settings.kinds import flatten
from masked_memory.settings.loading import as_typed, without_effect
from masked_memory.settings.training import Training

UNKNOWN = object()  # the value of a key of which a run of an earlier version does not say what tuning chose
SEED = "run.seed"  # also that of the stage that asks, which is not to be changed for the sake of its input
NAMES_OF_RUNS = ("vqvae", "indices", "distil")  # settings of training stages


def take_run(cfg: Config, asked: str, sought: Sought, setting: str, described: bool = True) -> Path:
    """The run folder that `asked` stands for, see `resolve_run`. setting: what names it in the section of the asking
    stage, such as vqvae. described: the settings say how such a run is made, so that runs of the same shape come
    first, and it is said where one is made otherwise.

    Raises InputError when there is none.
    """
    stage, section = sought.stage, getattr(cfg, sought.stage)
    like = of_shape(stage, section if described else None)
    folder = resolve_run(Path(cfg.run.dir), asked, sought, cfg.run.tracking_uri, like)
    say_of_names(cfg, stage, asked, setting, folder)
    for key, used, here in made_otherwise(cfg, stage, folder, section.KIND) if described else ():
        say(f"{key} is {_shown(here)} here and {_shown(used)} in {folder}, which is of the kind that is asked for")
    if described and (found := made_otherwise(cfg, stage, folder)):
        known = [(key, used) for key, used, _ in found if used is not UNKNOWN and key != SEED and ".tune." not in key]
        so = " ".join(f"--{key} {shlex.quote(as_typed(used))}" for key, used in known)
        other = as_set(cfg, sought, folder, setting) or f"type: {sought.mend}"
        said = f"not as set: {folder} is taken, but {what_differs(found)}; for what is set, {other}"
        say(said + (f"; for what is taken, without this line, add {so}" if so else ""))
    return folder


def otherwise_in_words(cfg: Config, stage: str, folder: Path) -> str:
    """What of a run is not as set; empty where all is."""
    return what_differs(made_otherwise(cfg, stage, folder)) if isinstance(getattr(cfg, stage, None), Training) else ""


def what_differs(found: Sequence[tuple[str, Any, Any]]) -> str:
    """What differs, as `made_otherwise` found it; of the search only that it does."""
    said = [
        f"{key} is {_shown(used)} there and {_shown(here)} here" for key, used, here in found if ".tune." not in key
    ]
    tuned = [key.partition(".")[2] for key, _, _ in found if ".tune." in key]
    return ", ".join([*said, *([f"it was tuned otherwise ({', '.join(tuned)})"] if tuned else [])])


def as_set(cfg: Config, sought: Sought, but: Path, setting: str) -> str:
    """How to take the best other run that is made wholly as the settings say, in words; empty where there is none."""
    stage, runs = sought.stage, but.parent.parent
    section: Training = getattr(cfg, stage)
    every = [key for key in flatten(section.model_dump()) if key not in NAMES_OF_RUNS and not key.startswith("tune.")]
    option = names_run(cfg, setting)
    for one in finished_runs(runs, stage, sought.key):
        seed = _used(one.folder, "run").get("seed")
        otherwise = made_otherwise(cfg, stage, one.folder) or section.unlike(_used(one.folder, stage), every)
        if one.folder != but and not otherwise and seed == cfg.run.seed:
            return f"name {one.folder.name}{f' with {option}' if option else ''}"
    return ""


def say_of_names(cfg: Config, stage: str, asked: str, setting: str, folder: Path) -> None:
    """Say where the user has named another run for another stage, as people do who mean it for all."""
    option = names_run(cfg, setting)
    values = flatten(cfg.model_dump())
    for key in cfg.typed.by.set if option and asked == "best" else ():
        if key.split(".")[1:] != [setting] or key == option.removeprefix("--") or values[key] in (None, "best"):
            continue
        with suppress(InputError):
            if named_run(Path(cfg.run.dir), str(values[key]), stage).resolve() != folder.resolve():
                say(
                    f"{key} names {values[key]}, and this stage takes the best, {folder}; to take the other here, too, "
                    f"add {option} {values[key]}"
                )


def best_run(cfg: Config, stage: str, key: str) -> Path | None:
    """The run that `best` stands for; None where there is none."""
    found = finished_runs(Path(cfg.run.dir), stage, key)
    return best_like(found, of_shape(stage, getattr(cfg, stage))).folder if found else None


def made_otherwise(
    cfg: Config, stage: str, folder: Path, among: Sequence[str] | None = None
) -> list[tuple[str, Any, Any]]:
    """(dotted key, value in the run, value here) of what decides the shape of its model or was set by the user. among:
    of these keys only those that were set; None: of all but those that say of which kind a model is."""
    section: Training = getattr(cfg, stage)
    by_user = [key for key in cfg.typed.by.set if key.startswith(f"{stage}.")]
    useless = {key for keys in without_effect(cfg, by_user).values() for key in keys}
    names = [key.removeprefix(f"{stage}.") for key in by_user if key not in useless]
    others = [name for name in names if name not in (*section.KIND, *NAMES_OF_RUNS)]
    compared = dict.fromkeys([*section.SHAPE, *others]) if among is None else [name for name in names if name in among]
    used = _used(folder, stage)
    if isinstance(space := used.get("tune.space"), dict):  # without keys that have left it since
        used["tune.space"] = {
            name: entry for name, entry in space.items() if f"{stage}.{name}" not in cfg.typed.by.kept
        }
    found = [(f"{stage}.{name}", *both) for name, both in section.unlike(used, compared).items()]
    if among is not None:
        return found
    seed = _used(folder, "run").get("seed", cfg.run.seed)
    return found + ([(SEED, seed, cfg.run.seed)] if SEED in cfg.typed.by.set and seed != cfg.run.seed else [])


def _used(folder: Path, section: str) -> dict[str, Any]:
    """Dotted key -> value of a section that a run was made with, its search as it was asked for."""
    used = flatten(used_section(folder, section))
    try:
        asked = flatten(run_settings(folder)[section])
    except (InputError, AttributeError, KeyError, TypeError):
        return used
    return dict.fromkeys(asked, UNKNOWN) | used | {key: v for key, v in asked.items() if key.startswith("tune.")}


def _shown(value: Any) -> str:
    if value is UNKNOWN:
        return "not known"
    return f"{value:.4g}" if isinstance(value, float) else as_typed(value)
