"""Where the stages lie, with config.yaml, the presets and the shipped models."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

IS_INSTALLED = (_PACKAGE / "stages" / "config.yaml").is_file()
#: The project's folder in a checkout; `masked_memory/stages/` where the package is installed.
HOME = _PACKAGE / "stages" if IS_INSTALLED else _PACKAGE.parent
