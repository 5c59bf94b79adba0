"""A reward of the user's own: any importable function of (media, texts)."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stepcredit.errors import RecipeError, RewardError
from stepcredit.foreign.fence import Fence
from stepcredit.foreign.modules import digest, file_of, import_named
from stepcredit.records import Problem, RewardBatch, RewardOutput
from stepcredit.rewards.numbers import numbers_of


class Custom:
    """Calls `function(media, texts) -> B numbers`; media are uint8, pictures `[B, H, W, 3]` or videos
    `[B, F, H, W, 3]`. A function with a parameter `facts` gets those of the prompts too, one mapping a sample."""

    def __init__(self, path: str, *, name: str, time_limit: float | None = None) -> None:
        self.outputs = (name,)
        self.time_limit = time_limit  # the suite asks for it: a call runs in a thread that can be given up
        self._path = path
        self._function = _find(path)
        self._wants_facts = "facts" in _parameters(self._function)
        # Now, while the file is what was imported: somebody may edit it during the run.
        self._identity = _identity(path, self._function)

    def score(self, batch: RewardBatch) -> RewardOutput:
        """The function's numbers, in whatever form they come."""
        extra = {"facts": [prompt.facts for prompt in batch.prompts]} if self._wants_facts else {}
        answer = self._function(batch.media, batch.texts, **extra)
        name = self.outputs[0]
        count = len(batch.media)
        try:
            values, reasons = numbers_of(answer, count)
        except RewardError as error:
            return RewardOutput({name: np.full(count, np.nan)}, (Problem(name, (), str(error)),))
        return RewardOutput({name: values}, Problem.by_reason(name, reasons))

    def fingerprint(self) -> dict[str, str]:
        """Its path, file and the SHA-256 of its source; modules that it imports are not followed."""
        return dict(self._identity)


def _find(path: str) -> Callable[..., object]:
    module, colon, name = path.partition(":")
    if not colon:
        raise RecipeError(f'reward path "{path}" has no colon; write it as package.module:function')
    key = f'reward path "{path}"'
    if "" in module.split("."):
        raise RecipeError(f"{key} names no module before the colon; write it as package.module:function")
    imported = import_named(module, key=key)
    # Behind the fence: a module may answer for its names with code.
    outcome = Fence().call(lambda: (getattr(imported, name),))
    if outcome.value is None:
        raise RecipeError(f'{key}: {module} has no "{name}" ({outcome.reason})')
    function = outcome.value[0]
    # A class is callable too, but calling it would make an object of the pictures instead of scoring them.
    if not callable(function) or isinstance(function, type):
        raise RecipeError(f"{key} is {type(function).__name__}, wanted a function or a callable object")
    return function


def _parameters(function: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (ValueError, TypeError):  # some builtins have no signature that can be read
        return []


def _identity(path: str, function: Callable[..., object]) -> dict[str, str]:
    """What a fingerprint says, of the file that defines the function and, if it is another, the one that is named."""
    defining = _source(function)
    named = file_of(path.partition(":")[0])
    files = list(dict.fromkeys(file for file in (defining, named) if file is not None))
    file = defining or named
    return {
        "path": path,
        "file": "unknown" if file is None else str(file),
        "sha256": digest(files) if files else "unknown",
    }


def _source(function: Callable[..., object]) -> Path | None:
    """The file of a function, through decorators and partials, or of the class of a callable object."""
    try:
        function = inspect.unwrap(function)
        while isinstance(function, functools.partial):
            function = function.func
        file = inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except (TypeError, ValueError):  # builtins have none
        return None
    return Path(file) if file else None
