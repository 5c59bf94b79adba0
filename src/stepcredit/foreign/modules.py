"""Modules of somebody else that a recipe names: to import one is to run its code."""

import hashlib
import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType

from stepcredit.errors import RecipeError


def import_named(module: str, *, key: str) -> ModuleType:
    """The module that a recipe's key names; whatever its code does meanwhile becomes a `RecipeError`.

    What it changes of the process is put back, and said in a warning: it would hold for everybody.

    module   its dotted name
    key      what is said to name it, such as `reward path "my_module:f"`
    """
    # Here, because it brings torch along, and recipes of this package alone are checked without it.
    from stepcredit.foreign.fence import Fence

    outcome = Fence().call(lambda: _import(module))
    if outcome.changed:
        warnings.warn(f"{module} changed {' and '.join(outcome.changed)} when imported; put back", stacklevel=2)
    if outcome.value is None:
        raise RecipeError(f"{key} cannot be imported: the module {outcome.reason}")
    if isinstance(outcome.value, ImportError):
        raise RecipeError(f"{key} cannot be imported: {outcome.value}; is the module on the Python path?")
    return outcome.value


def _import(module: str) -> ModuleType | ImportError:
    """Errors that mean a wrong name or path are values: they have an advice of their own."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return error


def file_of(module: str) -> Path | None:
    """Where the code of a module stands, if it was imported; to search for one could run its package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if isinstance(file, str) else None


def digest(files: list[Path]) -> str:
    """SHA-256 of these files, one after the other; `unknown` if one cannot be read."""
    content = hashlib.sha256()
    try:
        for file in files:
            content.update(file.read_bytes())
    except OSError:
        return "unknown"
    return content.hexdigest()
