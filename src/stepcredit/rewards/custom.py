"""A reward of the user's own: any importable function of (media, texts)."""

import importlib
import inspect
from collections.abc import Callable

import numpy as np

from stepcredit.errors import RecipeError
from stepcredit.records import RewardBatch, RewardOutput


class Custom:
    """Calls `function(media, texts) -> B numbers`; media are uint8, pictures `[B, H, W, 3]` or videos
    `[B, F, H, W, 3]`. A function with a parameter `facts` gets those of the prompts too, one mapping a sample."""

    def __init__(self, path: str, *, name: str) -> None:
        self.outputs = (name,)
        self._path = path
        self._function = _find(path)
        self._wants_facts = "facts" in _parameters(self._function)

    def score(self, batch: RewardBatch) -> RewardOutput:
        extra = {"facts": [prompt.facts for prompt in batch.prompts]} if self._wants_facts else {}
        numbers = self._function(batch.media, batch.texts, **extra)
        return RewardOutput({self.outputs[0]: np.asarray(numbers, dtype=float)})

    def fingerprint(self) -> dict[str, str]:
        return {"path": self._path, "file": _source(self._function) or "unknown"}


def _find(path: str) -> Callable[..., object]:
    module, colon, name = path.partition(":")
    if not colon:
        raise RecipeError(f'reward path "{path}" has no colon; write it as package.module:function')
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, TypeError) as error:
        raise RecipeError(f'reward path "{path}": {error}; is the module on the Python path?') from None
    except AttributeError:
        raise RecipeError(f'reward path "{path}": {module} has no "{name}"') from None
    # A class is callable too, but calling it would make an object of the pictures instead of scoring them.
    if not callable(function) or isinstance(function, type):
        raise RecipeError(f'reward path "{path}" is {type(function).__name__}, wanted a function or a callable object')
    return function


def _parameters(function: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # some builtins have no signature that can be read
        return []


def _source(function: Callable[..., object]) -> str | None:
    try:
        return inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:  # builtins have none
        return None
