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
import json
import re
import unicodedata
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, Literal

Phase = Literal["text", "rollout", "decode", "rewards", "update"]
"""What an iteration is doing: encoding texts, sampling, decoding, scoring, or taking gradients."""


_PHASE = "stepcredit_phase"  # an attribute of foreign errors, too
_COLUMNS = 120
_DEEPEST = 3
_ITEMS = 8
_DIGITS_PER_BIT = 0.30103
_BEGINNING = 20_000
_LINES = 20  # with the prompt and the command above it, that is a screen
# What terminals take for commands: `ESC [ ... letter`, `ESC ] ... BEL` and `ESC` with one more sign.
_TERMINAL_COMMAND = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -~]"
)
# Controls, halves of surrogates, and separators of lines that are no line ends to anybody else.
_INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}
# They turn the direction of what follows: a path would read as another one.
_TURNING = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


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
    # Cut, because comparing takes the product of both lengths, and no name is as long.
    close = difflib.get_close_matches(name[:_COLUMNS], known, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    return f"{hint}(known: {', '.join(known)})"


def readable(text: str, *, lines: int = _LINES) -> str:
    """Foreign text as a terminal may show it: no commands to the terminal, no control characters, at most a screen.

    | argument | meaning |
    |---|---|
    | text | a message that quotes files, names or other people's errors |
    | lines | how many lines of 120 columns it may take; a note says how much was left out |
    """
    # The rest would not be shown in any case, and may be megabytes.
    plain = "".join(map(_visible, _TERMINAL_COMMAND.sub("", text[:_BEGINNING])))
    note = f"... ({len(text):,} characters in all)"
    visible_lines: list[str] = []
    room = lines
    every_line = plain.split("\n")
    for number, line in enumerate(every_line):
        needed = max(1, -(-len(line) // _COLUMNS))  # rounded up
        left = len(every_line) - number - 1
        if needed > room or (room == needed and left):
            visible_lines.append(_cut(line, (room - 1) * _COLUMNS) if room > 1 else "")
            return "\n".join([*filter(None, visible_lines), note])
        visible_lines.append(line)
        room -= needed
    return "\n".join([*visible_lines, note] if len(text) > _BEGINNING else visible_lines)


def shown(value: Any, *, length: int = 60) -> str:
    """A value of a recipe as it would be written there, `true`, `null`, `"text"`, cut to a length that can be read."""
    if isinstance(value, int) and value.bit_length() > 4 * length:
        # Python refuses to write out an integer of more than 4,300 digits.
        return f"a number of about {int(value.bit_length() * _DIGITS_PER_BIT) + 1:,} digits"
    if isinstance(value, str):
        # Cut before it is quoted: the whole may be megabytes, of which nobody reads more than the beginning.
        return "".join(map(_visible, json.dumps(_cut(value, length), ensure_ascii=False)))
    if isinstance(value, dict | list | tuple):
        return _cut(_with_first_items(value, depth=0), length)
    known = value is None or isinstance(value, bool | int | float)
    return json.dumps(value) if known else f"a {type(value).__name__}"


def _with_first_items(value: Any, *, depth: int) -> str:
    """A list or mapping with its first items, as deep as anybody reads."""
    if not isinstance(value, dict | list | tuple):
        return shown(value)
    if depth == _DEEPEST:
        return "..."
    if isinstance(value, dict):
        first = list(value.items())[:_ITEMS]
        return f"{{{', '.join([f'{shown(key)}: {_with_first_items(item, depth=depth + 1)}' for key, item in first])}}}"
    return f"[{', '.join([_with_first_items(item, depth=depth + 1) for item in value[:_ITEMS]])}]"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: max(length - 3, 0)]}..."


def _visible(character: str) -> str:
    """A character, or its number where a terminal would do something else than show it."""
    if character in "\n\t" or (character.isascii() and character.isprintable()):
        return character
    hidden = unicodedata.category(character) in _INVISIBLE or character in _TURNING
    return f"\\x{ord(character):02x}" if hidden else character
