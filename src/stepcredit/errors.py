"""Everything this package raises on purpose.

    StepcreditError
     +-- RecipeError     a recipe, a flag or a combination of settings cannot be run
     +-- PromptError     prompts are missing, empty or unreadable
     +-- WeightsError    a model folder is missing, partial, of another kind or not safetensors
     +-- RewardError     a reward returned something that is not a score table
     +-- CreditError     a credit rule was given or returned something that is not usable
     +-- RunError        a run folder exists already, cannot be written or cannot be read
     +-- NumericsError   a check on the numbers failed while training
     +-- VersionError    an installed package is too old to be right
     +-- MemoryNeeded    the device ran out of memory

A message says what was got, what was wanted, and what to do.
"""

import difflib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Literal

Phase = Literal["text", "rollout", "decode", "rewards", "update"]
"""What an iteration is doing: encoding texts, sampling, decoding, scoring, or taking gradients."""


_PHASE = "stepcredit_phase"  # an attribute of foreign errors, too


class StepcreditError(Exception):
    """The root; the command line prints these without a traceback."""


class RecipeError(StepcreditError, ValueError):
    """A recipe, a flag or a combination of settings cannot be run."""


class PromptError(StepcreditError, ValueError):
    """Prompts are missing, empty or unreadable."""


class WeightsError(StepcreditError, OSError):
    """A model folder is missing, partial, of another kind or not safetensors."""


class RewardError(StepcreditError, ValueError):
    """A reward returned something that is not a score table."""


class CreditError(StepcreditError, ValueError):
    """A credit rule was given or returned something that is not usable."""


class RunError(StepcreditError, OSError):
    """A run folder exists already, cannot be written or cannot be read."""


class NumericsError(StepcreditError, ArithmeticError):
    """A check on the numbers failed while training."""


class VersionError(StepcreditError, ImportError):
    """An installed package is too old to be right."""


class MemoryNeeded(StepcreditError, RuntimeError):  # noqa: N818 - it says what is needed
    """The device ran out of memory."""


@contextmanager
def during(phase: Phase) -> Generator[None]:
    """Says what is being done inside, also as a decorator; an error that leaves it can be asked with `phase_of`."""
    try:
        yield
    except Exception as error:
        # The innermost word stays: decoding is decoding, whoever asked for it.
        error.__dict__.setdefault(_PHASE, phase)
        raise


def phase_of(error: BaseException) -> Phase | None:
    """What was being done when an error was raised; None outside every phase."""
    return error.__dict__.get(_PHASE)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `did you mean "floor"? (known: clip, floor, ...)`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    return f"{hint}(known: {', '.join(known)})"
