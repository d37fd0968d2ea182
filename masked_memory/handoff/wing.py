"""The door to the wing of rivals, which nothing else of the core knows: it is opened when a setting asks for it."""

from importlib import import_module
from typing import Any


def wing(name: str) -> Any:
    """A module of the wing, such as "masked_memory.rivals.measuring.study_rivals"."""
    return import_module(f"masked_memory.rivals.{name}")
