"""Who set what: config.yaml as it ships, the files that are laid over it, and what is typed, one layer over the other.

`shipped.json` holds the values of config.yaml and of the presets as they ship, so that an edit in one of these files is
known as one. `python -m masked_memory.settings.layers` writes it anew.

What a user sets is not searched: a key that was set in a later layer than its entry in `tune.space` leaves the space.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masked_memory.pipeline.commands import HOME
from masked_memory.settings.kinds import flatten
from masked_memory.settings.plain_yaml import read_plain

TYPED = "typed"
SHIPPED_FILE = Path(__file__).with_name("shipped.json")


@dataclass(frozen=True)
class Layer:
    """origin: a file's name, or `typed`. shipped: what a file of that name holds as it ships. whole: the settings that
    a run was made with, which hold as they stand. copy: it has most of all keys, as a copy of config.yaml in which some
    lines were changed: what it repeats is not set by it."""

    origin: str
    values: Mapping[str, Any]
    shipped: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Setter:
    """Who gave a key its value. at: the layer's place, from 1 on; 0 for what ships. lost: what a layer above
    config.yaml, or a user, had set before."""

    at: int
    origin: str
    value: Any
    by_user: bool
    lost: "Setter | None" = None


@dataclass(frozen=True)
class Provenance:
    """set: key -> who set it, of those that a user has set. origin: the same of all keys that a user or any layer above
    config.yaml has set. lost: key -> what a layer below had set. kept: key -> its entry in the search space, which it
    has left. lacking: keys that config.yaml lacks, which are as they ship."""

    set: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, Setter] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()


def shipped_values(file: Path) -> dict[str, Any]:
    """What ships in config.yaml or a preset; nothing for other files."""
    place = file.resolve()
    if not place.is_relative_to(HOME):
        return {}
    found: dict[str, Any] = json.loads(SHIPPED_FILE.read_text(encoding="utf-8")).get(
        place.relative_to(HOME).as_posix(), {}
    )
    return found


def lacking_of(values: Mapping[str, Any], shipped: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """What a file lacks of what ships: sections that are not there at all by their name, otherwise keys."""
    found: list[str] = []
    for key, value in shipped.items():
        if key not in values:
            found.append(prefix + key)
        elif isinstance(value, dict) and key != "space" and isinstance(inner := values[key], dict):
            found += lacking_of(inner, value, f"{prefix}{key}.")
    return tuple(found)


def is_copy(values: Mapping[str, Any], shipped: Mapping[str, Any]) -> bool:
    return len(flatten(dict(values))) > len(flatten(dict(shipped))) / 2


def is_of_a_run(file: Path) -> bool:
    """Whether it holds all settings of a run, as run folders do."""
    return (file.parent / "run.json").is_file()


def setters_of(layers: list[Layer]) -> dict[str, Setter]:
    """Key -> who set it last; entries of a search space are keys of their own."""
    setters: dict[str, Setter] = {}
    for number, layer in enumerate(layers, 1):
        ships = _entries(layer.shipped)
        for key, value in _entries(layer.values).items():
            below = setters.get(key)
            known = below is not None and alike(below.value, value)
            if known and layer.copy:
                continue
            by_user = not (key in ships and alike(ships[key], value)) and not (known and layer.whole)
            counts = below is not None and (below.by_user or below.origin != layers[0].origin)
            lost = below if counts else below and below.lost
            setters[key] = Setter(number if by_user or layer.whole else 0, layer.origin, value, by_user, lost)
    return setters


def _entries(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, with a key for each entry of a search space."""
    found: dict[str, Any] = {}
    for key, value in flatten(dict(values)).items():
        if key.endswith(".space") and isinstance(value, dict):
            found |= {f"{key}.{name}": entry for name, entry in value.items()}
        else:
            found[key] = value
    return found


def alike(one: Any, other: Any) -> bool:
    """Whether two values of YAML are the same setting: 1e-3 is text there, and 1.0e-3 a number."""
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def searched_no_more(setters: Mapping[str, Setter], merged: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> its entry in tune.space, for keys that a user set in a later layer than this entry."""
    found = {}
    for stage, section in merged.items():
        tune = section.get("tune") if isinstance(section, dict) else None
        for name, entry in (tune.get("space") or {}).items() if isinstance(tune, dict) else ():
            value, searched = setters.get(f"{stage}.{name}"), setters.get(f"{stage}.tune.space.{name}")
            if value and searched and value.by_user and value.at > searched.at:
                found[f"{stage}.{name}"] = entry
    return found


def provenance(
    setters: Mapping[str, Setter], base: str, kept: Mapping[str, Any], lacking: tuple[str, ...]
) -> Provenance:
    """base: what config.yaml is called."""
    lost = {key: one.lost for key, one in setters.items() if one.lost and not alike(one.lost.value, one.value)}
    origin = {key: one.origin for key, one in setters.items() if one.by_user or one.origin != base}
    origin |= {f"{key.partition('.space.')[0]}.space": who for key, who in origin.items() if ".space." in key}
    by_user = {key for key, one in setters.items() if one.by_user}
    by_user |= {f"{key.partition('.space.')[0]}.space" for key in by_user if ".space." in key}
    return Provenance({key: origin[key] for key in origin if key in by_user}, origin, lost, kept, lacking)


def write_shipped() -> None:
    """shipped.json, from the files as they are."""
    files = [HOME / "config.yaml", *sorted((HOME / "presets").glob("*.yaml"))]
    values = {file.relative_to(HOME).as_posix(): read_plain(file.read_text(encoding="utf-8")) for file in files}
    SHIPPED_FILE.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_shipped()
