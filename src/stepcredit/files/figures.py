"""Foreign text in figures, such as captions and names, drawn letter by letter; and figures as files."""

import io
import sys
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from stepcredit.errors import RunError, readable
from stepcredit.files.text import write_bytes

_NAME = 60  # characters of a name: longer ones would push what they name out of the figure
_LOST = "\N{REPLACEMENT CHARACTER}"
_INVISIBLE = ("Cf", "Mn", "Me")  # joiners and marks: without a letter for them nothing is missed

_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei"),
    *("Malgun Gothic", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Noto Emoji", "Segoe UI Symbol", "Symbola", "Arial Unicode MS", "Unifont"),
)
"""Fonts with letters that matplotlib's own lacks, asked in this order where they are installed."""


@contextmanager
def literal_text() -> Generator[None]:
    """Inside, also as a decorator, text of new figures is no formula, and any installed font may lend it letters."""
    families = [*matplotlib.rcParams["font.family"], *_installed()]
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False, "font.family": families}):
        yield


def drawable(text: str, *, otherwise: str = _LOST) -> str:
    """A foreign text as it can be drawn: in one line, without control characters, with a mark for a letter in no font.

    `otherwise` is what stands for a text of which no font here has most letters.
    """
    letters = " ".join(readable(text, lines=sys.maxsize).split())
    drawn = "".join(filter(None, map(_drawn, letters)))
    if 2 * drawn.count(_LOST) > len(drawn.replace(" ", "")):
        return otherwise
    return drawn


def name(text: str) -> str:
    """The name of a line or panel, cut to what fits. A legend leaves out names that begin with an underscore."""
    drawn = drawable(text)
    short = drawn if len(drawn) <= _NAME else f"{drawn[: _NAME - 1]}…"
    return f" {short}" if short.startswith("_") else short


def save(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all, in the format that the file's name ends with."""
    page = io.BytesIO()
    kind = path.suffix.removeprefix(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind.lower() not in known:
        raise RunError(f"a figure cannot be written as {path.name}; wanted one of {', '.join(f'.{k}' for k in known)}")
    figure.savefig(page, format=kind)
    write_bytes(path, page.getvalue(), advice="make room, or choose another place")


def _drawn(letter: str) -> str:
    if letter == " " or ord(letter) in _letters():
        return letter
    return "" if unicodedata.category(letter) in _INVISIBLE else _LOST


@cache
def _installed() -> tuple[str, ...]:
    names = set(font_manager.get_font_names())
    return tuple(family for family in _FALLBACKS if family in names)


@cache
def _letters() -> frozenset[int]:
    """The numbers of all letters that some font of a figure has."""
    letters: set[int] = set()
    for family in (*matplotlib.rcParams["font.family"], *_installed()):
        file = font_manager.findfont(font_manager.FontProperties(family=[family]))
        letters |= font_manager.get_font(file).get_charmap().keys()
    return frozenset(letters)
