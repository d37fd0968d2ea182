"""Kinds of values that settings have, and what all sections share."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Real = Annotated[float, BeforeValidator(_no_bool)]
PositiveInt = Annotated[Whole, Field(ge=1, le=10**9)]
PositiveFloat = Annotated[Real, Field(gt=0)]
RunName = str  # best, a run folder, or models:/NAME@ALIAS


def _as_text(value: Any) -> Any:
    """A class, a component or a file may be called 3, which YAML reads as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    """Names may be typed as a,b, and a single one may be called 3."""
    value = _as_text(value)
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Names = Annotated[list[Text], BeforeValidator(_as_list)]


class Only:
    """Beside the type of a key that has an effect only where another key is so: one of the values, or the list that
    it is has one of them; without values it is anything but null, false, 0 and empty.

    key: of the same section, or with its own section's name before it; several, of which one is enough, with ` or `.
    above: it is larger than that. `Only(...) | Only(...)`: one of both is enough.
    """

    def __init__(self, key: str, *values: Any, above: float | None = None) -> None:
        self.keys, self.values, self.above = key.split(" or "), values, above
        self.other: Only | None = None

    def __or__(self, other: "Only") -> "Only":
        self.other = other
        return self

    def unmet(self, key: str, settings: Mapping[str, Any]) -> str:
        """Why `key` does nothing with these settings, in words; empty where it does something, or may while tuning."""
        beside = key.rpartition(".")[0]
        named = [name if name in settings else f"{beside}.{name}" for name in self.keys]
        if any(self._met(settings[name]) or self._searched(name, settings) for name in named):
            return ""
        if self.other and not self.other.unmet(key, settings):
            return ""
        found = " and ".join(f"{name} is {_shown(settings[name])}" for name in named)
        needs = [f"more than {self.above:g}"] if self.above is not None else [_shown(value) for value in self.values]
        return f"{found}, and not {' or '.join(needs)}" if needs else found

    def _met(self, value: Any) -> bool:
        if self.above is not None:
            return bool(value > self.above)
        if not self.values:
            return bool(value)
        return any(each in self.values for each in (value if isinstance(value, list) else [value]))

    def _searched(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether tuning may try a value with which it has an effect."""
        stage, _, key = name.partition(".")
        entry = (settings.get(f"{stage}.tune.space") or {}).get(key) if settings.get(f"{stage}.tune.trials") else None
        return isinstance(entry, dict) or any(self._met(value) for value in entry or ())


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Section(BaseModel):
    """Base of all sections: unknown keys and infinite numbers are refused, attribute docstrings describe the keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    def replace(self, values: dict[str, Any]) -> Self:
        """A checked copy with some values changed. Raises ValidationError when one is out of range."""
        return type(self).model_validate({**self.model_dump(), **values})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections -> dotted keys. Search spaces stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key != "space":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nearest(key: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; expected one of {', '.join(known)}"
