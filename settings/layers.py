"""Who set what: config.yaml as it ships, the files that are laid over it, and what is typed, one layer over the other.

`shipped.json` holds the values of config.yaml and of the presets as they ship, so that an edit in one of these files is
known as one. `python -m settings.layers` writes it anew.

What a user sets is not searched: a key that was set in a later layer than its entry in `tune.space` leaves the space.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.commands import HOME
from settings.kinds import flatten
from settings.plain_yaml import read_plain

TYPED = "typed"
SHIPPED_FILE = Path(__file__).with_name("shipped.json")


@dataclass(frozen=True)
class Layer:
    """origin: a file's name, or `typed`. shipped: what a file of that name holds as it ships. whole: the settings that
    a run was made with, which hold as they stand."""

    origin: str
    values: Mapping[str, Any]
    shipped: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True)
class Setter:
    """Who gave a key its value. at: the layer's place; what is edited in a file comes half a place after what ships in
    it. lost: what a user had set before, in a lower layer."""

    at: float
    origin: str
    value: Any
    by_user: bool
    lost: "Setter | None" = None


@dataclass(frozen=True)
class Provenance:
    """set: key -> who set it, of those that a user has set. lost: key -> what a user had set in a layer below. kept:
    key -> its entry in the search space, which it has left."""

    set: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, Setter] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


def shipped_values(file: Path) -> dict[str, Any]:
    """What ships in config.yaml or a preset; nothing for other files."""
    place = file.resolve()
    if not place.is_relative_to(HOME):
        return {}
    found: dict[str, Any] = json.loads(SHIPPED_FILE.read_text(encoding="utf-8")).get(
        place.relative_to(HOME).as_posix(), {}
    )
    return found


def is_of_a_run(file: Path) -> bool:
    """Whether it holds all settings of a run, as run folders do."""
    return (file.parent / "run.json").is_file()


def setters_of(layers: list[Layer]) -> dict[str, Setter]:
    """Key -> who set it last; entries of a search space are keys of their own. What a file says that holds already is
    not set by it: people copy whole files, and change a line."""
    setters: dict[str, Setter] = {}
    for number, layer in enumerate(layers):
        ships = _entries(layer.shipped)
        for key, value in _entries(layer.values).items():
            below = setters.get(key)
            known = below is not None and alike(below.value, value)
            if known and layer.origin != TYPED and not layer.whole:
                continue
            by_user = not (key in ships and alike(ships[key], value)) and not (known and layer.whole)
            lost = None if below is None else below if below.by_user else below.lost
            setters[key] = Setter(number + (by_user or layer.whole) / 2, layer.origin, value, by_user, lost)
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
    """Key -> its entry in tune.space, for keys that were set in a later layer than this entry."""
    found = {}
    for stage, section in merged.items():
        tune = section.get("tune") if isinstance(section, dict) else None
        for name, entry in (tune.get("space") or {}).items() if isinstance(tune, dict) else ():
            value, searched = setters.get(f"{stage}.{name}"), setters.get(f"{stage}.tune.space.{name}")
            if value and searched and value.by_user and value.at > searched.at:
                found[f"{stage}.{name}"] = entry
    return found


def provenance(setters: Mapping[str, Setter], kept: Mapping[str, Any]) -> Provenance:
    lost = {key: one.lost for key, one in setters.items() if one.lost and not alike(one.lost.value, one.value)}
    by_user = {key: one.origin for key, one in setters.items() if one.by_user}
    spaces = {f"{key.partition('.space.')[0]}.space": who for key, who in by_user.items() if ".space." in key}
    return Provenance(by_user | spaces, lost, kept)


def write_shipped() -> None:
    """shipped.json, from the files as they are."""
    files = [HOME / "config.yaml", *sorted((HOME / "presets").glob("*.yaml"))]
    values = {file.relative_to(HOME).as_posix(): read_plain(file.read_text(encoding="utf-8")) for file in files}
    SHIPPED_FILE.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_shipped()
