"""A reward of the user's own: any importable function of (images, prompts)."""

import importlib
import inspect
from collections.abc import Callable

import numpy as np

from stepcredit.errors import RecipeError
from stepcredit.records import RewardBatch, RewardOutput


class Custom:
    """Calls `function(media, prompts) -> B numbers`; media are uint8, pictures `[B, H, W, 3]` or videos
    `[B, F, H, W, 3]`."""

    def __init__(self, path: str, *, name: str) -> None:
        self.outputs = (name,)
        self._path, self._function = path, _find(path)

    def score(self, batch: RewardBatch) -> RewardOutput:
        return RewardOutput({self.outputs[0]: np.asarray(self._function(batch.media, batch.prompts), dtype=float)})

    def fingerprint(self) -> dict[str, str]:
        return {"path": self._path, "file": _source(self._function) or "unknown"}


def _find(path: str) -> Callable[..., object]:
    module, colon, name = path.partition(":")
    if not colon:
        raise RecipeError(f'reward path "{path}" has no colon; write it as package.module:function')
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, TypeError) as error:
        raise RecipeError(f'reward path "{path}": {error}; is the module on the Python path?') from None
    except AttributeError:
        raise RecipeError(f'reward path "{path}": {module} has no "{name}"') from None
    if not callable(found) or isinstance(found, type):
        raise RecipeError(f'reward path "{path}" is {type(found).__name__}, wanted a function or a callable object')
    return found


def _source(function: Callable[..., object]) -> str | None:
    try:
        return inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:  # builtins have none
        return None
