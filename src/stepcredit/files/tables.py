"""Markdown tables and the numbers in them. No torch."""

import math
from collections.abc import Sequence

from tabulate import tabulate


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table ready to paste, its first `left` columns aligned left and the others right, such as:

    | method   |   gain |
    |:---------|-------:|
    | otca     |   0.25 |
    """
    body = [list(map(_cell, row)) for row in rows]
    alignment = ["left"] * left + ["right"] * (len(head) - left)
    # Cells are text that is formatted already: tabulate would read "0.2500" as a number and drop its zeros.
    return tabulate(body, headers=list(map(_cell, head)), tablefmt="pipe", disable_numparse=True, colalign=alignment)


def plus_minus(mean: float, half: float, style: str = "+.4f") -> str:
    """A mean with half of its interval, such as +0.2500 ± 0.0300; without where it has none, as of a single seed."""
    interval = f" ± {half:{style.lstrip('+')}}" if math.isfinite(half) else ""
    return f"{mean:{style}}{interval}"


def _cell(text: str) -> str:
    # tabulate writes a bar as it is, and Markdown would begin a new column there: names of scores are free text
    return text.replace("|", r"\|")
