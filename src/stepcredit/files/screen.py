"""Foreign text in a terminal: names, captions, paths and other people's errors, shown and never obeyed."""

import sys

from rich.markup import escape

from stepcredit.errors import readable

_NAME = 60  # characters of a name in a table: longer ones would push its numbers out of the screen


def plain(text: object) -> str:
    """All of a text, without commands to the terminal; for whatever is printed as it is."""
    return readable(str(text), lines=sys.maxsize)


def literal(text: object) -> str:
    """The same for a place where rich would read [brackets] as colours."""
    return escape(plain(text))


def name(text: object) -> str:
    """A name in a table or a line: on one line, cut to what fits, and literal."""
    words = " ".join(plain(text).split())
    return escape(words if len(words) <= _NAME else f"{words[: _NAME - 1]}…")
