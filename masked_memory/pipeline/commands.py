"""What to type for a stage, where one stands: in the project's folder, elsewhere, or with the installed commands."""

import shlex
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
INSTALLED_AS = "rmi-"


def command(stage: str) -> str:
    """`python STAGE.py`, with the script's path in another folder than the project's; the installed command where the
    program was started as one."""
    if Path(sys.argv[0]).name.startswith(INSTALLED_AS):
        return INSTALLED_AS + stage.replace("_", "-")
    return f"python {stage}.py" if _at_root() else f"python {shlex.quote(str(HOME / f'{stage}.py'))}"


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
