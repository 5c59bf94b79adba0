"""What all commands share: where they print, and how a recipe stands on a command line."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from stepcredit.files.screen import plain

console = Console()

# Leading hyphens, because recipe keys are flags that this room does not know: `--training.iterations 20`.
RecipeWords = Annotated[str, Parameter(allow_leading_hyphen=True, help="[RECIPE] [--recipe.key VALUE] ...")]


def recipe_and_flags(words: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """A recipe is named first or not at all; everything else are flags."""
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    return None, words


def say(text: str) -> None:
    """Print a line as it is: paths may hold brackets, which rich would read as colours, and are not to be wrapped."""
    console.print(plain(text), highlight=False, soft_wrap=True, markup=False)
