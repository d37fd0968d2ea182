"""Modules of a user's own, named in `run.modules`: they are imported before settings are checked, so that what they
register, such as strategies, can be named there."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path


class OwnModuleError(ValueError):
    """A module that cannot be imported: one line with why, and where in it."""


def import_own_modules(names: Sequence[str]) -> None:
    """Import each once: a Python file, as a path from where one stands, or the name of a module that can be imported.

    Raises OwnModuleError for one that is not there, and for one that fails.
    """
    for name in names:
        file = Path(name)
        try:
            if file.suffix == ".py" and file.is_file():
                _import_file(file.resolve())
            elif importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name)
            else:
                importlib.import_module(name)
        except Exception as error:  # whatever a module of someone's own may raise
            raise OwnModuleError(f"run.modules names {name}, {_why(name, error)}") from error


def _import_file(file: Path) -> None:
    """The file as a module of its own name; what is imported by its path already is not run again."""
    known = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    if str(file) in known:
        return
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None  # as it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"own modules: {file}"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[f"own modules: {file}"]
        raise


def _why(name: str, error: Exception) -> str:
    absent = isinstance(error, ModuleNotFoundError) and (error.name is None or name.startswith(error.name))
    if absent or (name.endswith(".py") and isinstance(error, ModuleNotFoundError) and not Path(name).is_file()):
        return "which is neither a Python file here nor a module; expected such as my_strategy.py"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    places = [frame for frame in frames if frame.filename != __file__]
    where = f" in line {places[-1].lineno} of {places[-1].filename}" if places else ""
    return f"which ends with {type(error).__name__}{where}: {' '.join(str(error).split())}"
