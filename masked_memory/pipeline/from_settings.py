"""Dataclasses filled from a section of the settings, so that no field is copied by hand."""

from dataclasses import fields
from typing import Any, TypeVar

Fields = TypeVar("Fields")


def configured(kind: type[Fields], section: Any, **others: Any) -> Fields:
    """An instance of the dataclass `kind`: `others` as given, each further field from the setting of its name.

    Fields that the section does not have keep their default. Raises TypeError for one of `others` that is no field, or
    for a field without a value.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    found = {name: getattr(section, name) for name in names if name not in others and hasattr(section, name)}
    return kind(**found, **others)
