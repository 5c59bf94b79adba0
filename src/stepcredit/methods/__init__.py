"""Published methods, one file each; the file's name is the method's name in a recipe.

A module holds one final subclass of `base.Method`, the method's settings with the paper's values as defaults, and
`rule`, the pure function of one group, unless it shares another method's. `stepcredit.methods.otca.rule(rewards,
similarity)` is all that a foreign trainer needs.
"""

import importlib
import pkgutil
from types import ModuleType

_SHARED = ("base",)


def names() -> list[str]:
    """The methods of this folder; reads file names only, so it is free of torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)


def __getattr__(name: str) -> ModuleType:
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
