"""stepcredit: the right credit for the right step, objective and region in reinforcement learning of generators.

Three depths: a pure rule for anybody's trainer (`stepcredit.methods.otca.rule`), the parts (`credit`, `flow`,
`objective`), the whole (`train`). Importing the package is cheap; torch is loaded with the first part that needs it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepcredit import credit, flow, methods, objective
    from stepcredit.api import Run, evaluate, export, resume, sample, train

__version__ = "0.2.0"
__all__ = ["Run", "credit", "evaluate", "export", "flow", "methods", "objective", "resume", "sample", "train"]

_ROOMS = {"credit", "flow", "methods", "objective"}
_WHOLE = {"Run", "evaluate", "export", "resume", "sample", "train"}


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"stepcredit.{name}")
    if name in _WHOLE:
        return getattr(importlib.import_module("stepcredit.api"), name)
    raise AttributeError(f"module 'stepcredit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
