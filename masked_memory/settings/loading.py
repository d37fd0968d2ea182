"""Settings as the stages get them: config.yaml, overlays and command-line values, checked all at once."""

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from masked_memory.home import HOME
from masked_memory.settings.config import Config, Typed
from masked_memory.settings.kinds import Only, Section, flatten, nearest
from masked_memory.settings.layers import (
    TYPED,
    Layer,
    is_copy,
    is_of_a_run,
    lacking_of,
    provenance,
    searched_no_more,
    setters_of,
    shipped_values,
)
from masked_memory.settings.own_modules import OwnModuleError, import_own_modules
from masked_memory.settings.plain_yaml import odd_text, read_plain
from masked_memory.settings.strategies import OneOf

BASE_FILE = HOME / "config.yaml"


class ConfigError(ValueError):
    """Settings that cannot be used. `problems` lists them all, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(overlays: list[Path], overrides: dict[str, Any], base: Path | None = None) -> Config:
    """config.yaml, then each overlay, then command-line values such as {"train_vqvae.epochs": 3}. What config.yaml
    lacks is as it ships. A key that a user sets leaves the search space, see `settings.layers`.

    Raises ConfigError that lists every problem: missing files, misspelt keys, values out of range.
    """
    layers = [_layer(file) for file in [base or BASE_FILE, *overlays]]
    typed: dict[str, Any] = {}
    for dotted, value in overrides.items():
        _set(typed, dotted.split("."), value)
    merged = deepcopy(dict(shipped_values(BASE_FILE)))
    for layer in layers:
        _merge(merged, deepcopy(dict(layer.values)))
    for dotted, value in overrides.items():
        _set(merged, dotted.split("."), value)
    _import_own(merged)
    check(merged)
    setters = setters_of([*layers, Layer(TYPED, typed)])
    kept = searched_no_more(setters, merged)
    for stage, name in (key.split(".", 1) for key in kept):
        del merged[stage]["tune"]["space"][name]
    by = provenance(setters, layers[0].origin, kept, lacking_of(layers[0].values, shipped_values(BASE_FILE)))
    noted = Typed(tuple(str(file) for file in overlays), overrides, by, known=True)
    return check(merged).noting(noted)


def _import_own(values: dict[str, Any]) -> None:
    """Import `run.modules`. Raises ConfigError for one that cannot be imported; others are left to `check`."""
    names = values.get("run", {}).get("modules") if isinstance(values.get("run"), dict) else None
    names = names.split(",") if isinstance(names, str) else names
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        try:
            import_own_modules([name.strip() for name in names])
        except OwnModuleError as error:
            raise ConfigError([str(error)]) from None


def _layer(file: Path) -> Layer:
    here = Path.cwd()
    shown = file.relative_to(here) if file.is_relative_to(here) else file
    values, whole = _without_empty(_read_yaml(file), Config), is_of_a_run(file)
    copied = not whole and is_copy(values, shipped_values(BASE_FILE))
    return Layer(str(shown), values, shipped_values(_found(file)), whole, copied)


def _without_empty(values: dict[str, Any], section: type[Section]) -> dict[str, Any]:
    """Without sections in which nothing stands: all lines below a heading may have been taken out."""
    found = {}
    for key, value in values.items():
        kind = field.annotation if (field := section.model_fields.get(key)) else None
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            found[key] = value
        elif value is not None:
            found[key] = _without_empty(value, kind) if isinstance(value, dict) else value
    return found


def check(values: dict[str, Any]) -> Config:
    """Plain values -> Config. Raises ConfigError that lists every problem."""
    if odd := _with_odd_text(values, ""):
        raise ConfigError(odd)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [line for entry in error.errors() for line in _explain(entry)]
        raise ConfigError(list(dict.fromkeys(problems))) from None


def _with_odd_text(values: dict[Any, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _with_odd_text(value, f"{prefix}{key}.")
        elif what := odd_text(value) or odd_text(key):
            found.append(f"{prefix}{str(key)[:40]} holds {what}")
    return found


def changed_keys(config: Config) -> dict[str, Any]:
    """The settings that differ from those that ship, dotted key -> value."""
    shipped = as_shipped()
    return {key: value for key, value in flatten(config.model_dump()).items() if shipped.get(key) != value}


def as_shipped() -> dict[str, Any]:
    """The settings as they ship, dotted key -> value."""
    return flatten(check(deepcopy(shipped_values(BASE_FILE))).model_dump())


def without_effect(config: Config, keys: Iterable[str]) -> dict[str, list[str]]:
    """Why -> those of the keys that do nothing with these settings, see `kinds.Only`."""
    values, fields = flatten(config.model_dump()), dict(options(Config))
    found: dict[str, list[str]] = {}
    for key in keys:
        for only in [item for item in fields[key].metadata if isinstance(item, Only)] if key in fields else ():
            if why := only.unmet(key, values):
                found.setdefault(why, []).append(key)
                break
    return found


def as_typed(value: Any) -> str:
    """A value as it is written in YAML and on the command line: false, null, [1, 2]."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def options(section: type[Section], prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """All dotted keys of a section with their fields, for help and for tests."""
    found: list[tuple[str, FieldInfo]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += options(field.annotation, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def describe_range(field: FieldInfo) -> str:
    """The values a field takes, in words: 'a | b', 'number > 0', 'whole number 1 to 64'."""
    return _describe_type(field.annotation, list(field.metadata))


def _describe_type(kind: Any, metadata: list[Any]) -> str:
    arguments = get_args(kind)
    if get_origin(kind) is Annotated:
        nested = [m for item in arguments[1:] for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _describe_type(arguments[0], metadata + nested)
    if names := [str(item) for item in metadata if isinstance(item, OneOf)]:
        return names[0]
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in arguments)
    if get_origin(kind) is list:
        return f"list of {_describe_type(arguments[0], [])}"
    if get_origin(kind) is dict:
        return "mapping"
    if arguments:
        return " or ".join(_describe_type(choice, metadata) for choice in arguments)
    words = {int: "whole number", float: "number", bool: "true | false", str: "text", type(None): "null"}[kind]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
    bounds = [
        f"{sign} {_readable(getattr(item, name))}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f"{words} {', '.join(bounds)}" if bounds and kind in (int, float) else words


def _readable(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) and abs(bound) >= 10_000 else f"{bound}"


def _found(file: Path) -> Path:
    """presets/NAME.yaml is found from any folder, as the installed commands need."""
    shipped = BASE_FILE.parent / file
    return shipped if file.parent == Path("presets") and not file.is_file() and shipped.is_file() else file


def _read_yaml(file: Path) -> dict[str, Any]:
    file = _found(file)
    if not file.is_file():
        presets = sorted(p.name for p in BASE_FILE.parent.glob("presets/*.yaml"))
        found = "is a folder" if file.is_dir() else "does not exist"
        raise ConfigError([f"config file {file} {found}; in presets/ are: {', '.join(presets)}"])
    try:
        values = read_plain(file.read_text(encoding="utf-8"), file.name)
    except UnicodeDecodeError:
        raise ConfigError([f"{file} is not UTF-8 text"]) from None
    except OSError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError([f"{file} {error}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{file} holds {type(values).__name__}; expected sections with keys"])
    return values


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Deep, key by key; a search space is replaced whole."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "space":
            _merge(into[key], value)
        else:
            into[key] = value


def _set(into: dict[str, Any], path: list[str], value: Any) -> None:
    """One value at a dotted path, such as train_vqvae.tune.space.code_dim; all beside it stays."""
    for part in path[:-1]:
        if not isinstance(into.get(part), dict):
            into[part] = {}
        into = into[part]
    into[path[-1]] = value


def _explain(entry: Any) -> list[str]:
    """One pydantic error as lines: key, what was found, what was expected."""
    path = [str(part) for part in entry["loc"]]
    dotted = ".".join(path)
    if entry["type"] == "extra_forbidden":
        section: Any = Config
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        prefix = "".join(f"{part}." for part in path[:-1])
        return [f"{dotted} is not a setting{nearest(path[-1], list(section.model_fields), prefix)}"]
    fields = ((name, field) for name, field in options(Config) if dotted == name or dotted.startswith(name + "."))
    key, field = next(fields, (dotted, None))
    if entry["type"] == "value_error" and field is None:
        lines = entry["msg"].removeprefix("Value error, ").splitlines()
        return [f"{dotted}: {line}" if dotted else line for line in lines]
    expected = describe_range(field) if field else entry["msg"].removeprefix("Input should be ")
    return [f"{key} is {entry['input']!r}; expected {expected}"]
