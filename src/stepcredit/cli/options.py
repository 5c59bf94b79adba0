"""What options may be, said once for all commands; cyclopts names the option and we the limits."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyclopts import Parameter

_PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".pdf", ".svg")
_LONGEST_NAME = 255  # bytes, in every file system of today
_LONGEST_PROMPT = 20_000

Check = Callable[[Any, Any], None]
"""As cyclopts calls it, with a type and a value; ValueError says what was wanted."""


def between(least: int | float, most: int | float, *, above: bool = False) -> Check:
    """A number within limits, and never NaN; with `above` it has to be more than the least."""

    def check(_: Any, value: Any) -> None:
        if value is None:
            return
        # Asked so that NaN fails, too.
        if not least <= value <= most or (above and value == least):
            raise ValueError(f"Wanted {'more than' if above else 'at least'} {least:,g} and at most {most:,.13g}.")

    return check


def finite_strengths(_: Any, values: Any) -> None:
    """FOLDER=STRENGTH, each with a finite number."""
    for text in values or ():
        folder, _, strength = text.rpartition("=")  # from the right: a folder may have an equals sign in its name
        try:
            usable = math.isfinite(float(strength))
        except ValueError:
            usable = False
        if not (folder and usable):
            raise ValueError(f'Got "{text}", wanted FOLDER=STRENGTH such as runs/otca-1=0.5.')


def prompts(_: Any, values: Any) -> None:
    """Texts with something in them."""
    for text in values or ():
        if not text.strip():
            raise ValueError("Got an empty prompt; write what is to be drawn.")
        if len(text) > _LONGEST_PROMPT:
            raise ValueError(f"Got a prompt of {len(text):,} characters, wanted at most {_LONGEST_PROMPT:,}.")


def a_file(_: Any, path: Path | None) -> None:
    """The name of a file, and not of an existing folder."""
    if path is not None and os.path.isdir(path):  # pathlib raises for a name that is too long
        raise ValueError(f"{path} is a folder; name a file in it.")
    if path is not None and len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise ValueError(f"Got a name of more than {_LONGEST_NAME} bytes; no file can be called so.")


def a_stem(_: Any, path: Path) -> None:
    """The name of several files without their ends."""
    if path.name in ("", ".."):
        raise ValueError(f"{path} is a folder; name files in it, without .md or .png.")


def a_picture(kind: Any, path: Path | None) -> None:
    """The same of a picture, in a folder that is there: nobody wants to hear of it after the drawing."""
    a_file(kind, path)
    if path is None:
        return
    if path.suffix.lower() not in _PICTURES:
        raise ValueError("Wanted a name that ends in .png, or in .webp for videos.")
    if not os.path.isdir(path.parent):
        raise ValueError(f"There is no folder {path.parent}; make it first.")


COUNT = Parameter(validator=between(1, 100_000))
PICTURES = Parameter(validator=between(2, 1_000_000))
SEED = Parameter(validator=between(0, 2**40 - 1))  # as in a recipe
ITERATION = Parameter(validator=between(0, 1_000_000_000))
BUDGET = Parameter(validator=between(1, 10**15))
POSITIVE = Parameter(validator=between(0, 1e12, above=True))
SHARE = Parameter(validator=between(0, 1, above=True))
STRENGTH = Parameter(validator=between(-1_000, 1_000))
STRENGTHS = Parameter(consume_multiple=True, validator=finite_strengths)
PROMPTS = Parameter(consume_multiple=True, validator=prompts)
FILE = Parameter(validator=a_file)
STEM = Parameter(validator=a_stem)
PICTURE = Parameter(validator=a_picture)
