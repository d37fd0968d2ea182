"""Stages by their names: which module each is, and what to type for it where one stands."""

import shlex
import sys
from pathlib import Path

from masked_memory.home import HOME, IS_INSTALLED

PROGRAM = "masked-memory"


def module_of(stage: str) -> str:
    """The module of a stage: a file at the top of the project, or one of the package's own."""
    if stage in ("tune", "try_it"):
        return f"masked_memory.{stage}"
    return f"masked_memory.{'stages' if is_at_the_top(stage) else 'rivals'}.{stage}"


def is_at_the_top(stage: str) -> bool:
    """Whether a stage is a script at the top of the project."""
    return (HOME / f"{stage}.py").is_file()


def command(stage: str) -> str:
    """`python STAGE.py`, with the script's path in another folder than the project's; `python -m masked_memory STAGE`
    for those that are not at the top; the installed command where the program was started as one."""
    if Path(sys.argv[0]).name.removesuffix(".exe") == PROGRAM:
        return f"{PROGRAM} {stage}"
    if is_at_the_top(stage) and not IS_INSTALLED:
        return f"python {stage}.py" if _at_root() else f"python {shlex.quote(str(HOME / f'{stage}.py'))}"
    found = "" if IS_INSTALLED or _at_root() else f"PYTHONPATH={shlex.quote(str(HOME))} "
    return f"{found}python -m masked_memory {stage}"


def make(target: str) -> str:
    """`make TARGET`; the first stage where there is no Makefile."""
    if not (HOME / "Makefile").is_file():
        return command("data_split")
    return f"make {target}" if _at_root() else f"make -C {shlex.quote(str(HOME))} {target}"


def _at_root() -> bool:
    try:
        return Path.cwd() == HOME
    except FileNotFoundError:  # the folder was removed
        return False
