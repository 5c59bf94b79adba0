"""Published methods, one file each; the file's name is the method's name in a recipe.

A module holds `rule`, the pure function of one group, and one final subclass of `base.Method`, the method's settings
with the paper's values as defaults. `stepcredit.methods.otca.rule(rewards, similarity)` is all that a foreign
trainer needs.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepcredit.methods import dance_grpo, flow_grpo, moca, otca, tcd

__all__ = ["dance_grpo", "flow_grpo", "moca", "names", "otca", "tcd"]


def names() -> list[str]:
    """The methods of this folder; reads file names only, so it is free of torch."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def __getattr__(name: str) -> object:
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
