"""Kinds of values that settings have, and what all sections share."""

import difflib
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
