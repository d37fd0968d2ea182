"""Where the stages lie, with config.yaml, the presets and the shipped models."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "stages"

#: The project's folder in a checkout; `masked_memory/stages/` where the package is installed.
HOME = _INSTALLED if (_INSTALLED / "config.yaml").is_file() else _PACKAGE.parent
