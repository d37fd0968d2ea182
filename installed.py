"""Starts a stage of the installed package: `rmi-train-vqvae` runs train_vqvae.py, and so for each stage."""

import importlib
import sys
from pathlib import Path

PREFIX = "rmi-"


def main() -> int:
    """Run the stage that the command is named after. Returns its exit status, 2 for a command of another name."""
    folder, command = Path(__file__).resolve().parent, Path(sys.argv[0]).name.removesuffix(".exe")
    stage = command.removeprefix(PREFIX).replace("-", "_")
    if not command.startswith(PREFIX) or not (folder / f"{stage}.py").is_file():
        print(f"error: this command is called {command}; expected {PREFIX}STAGE, as pip named it", file=sys.stderr)
        return 2
    sys.path.insert(0, str(folder))  # as for `python STAGE.py`: the rooms import each other by their own names
    module = importlib.import_module(stage)
    return int(module.main())
