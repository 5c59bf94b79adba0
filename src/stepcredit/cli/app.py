"""The program `stepcredit`: its commands in the order of `--help`, and what becomes of errors."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App
from rich.console import Console

from stepcredit.cli.bench import bench
from stepcredit.cli.doctor import doctor
from stepcredit.cli.evaluating import evaluate, sample
from stepcredit.cli.exporting import export
from stepcredit.cli.listing import methods, recipes
from stepcredit.cli.looking import cite, compare, report, show
from stepcredit.cli.train import train
from stepcredit.errors import StepcreditError
from stepcredit.files.screen import literal
from stepcredit.files.streams import unbroken

# Read when transformers is imported, so before any command; it warns about processors that nobody asked for.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

app = App(
    name="stepcredit",
    help="Reinforcement-learning post-training of image generators, with credit for the right step and objective.",
    help_format="markdown",
    version_flags=["--version"],
)
for command in (train, evaluate, report, show, compare, cite, sample, export, methods, recipes, bench, doctor):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of this package are printed without a traceback, with exit code 2."""
    with unbroken():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    try:
        app(arguments)
    except StepcreditError as error:
        # Escaped: a message may quote brackets of a user's file, and rich would read them as colours.
        Console(stderr=True).print(f"[bold red]error:[/] {literal(in_words(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped by the keyboard; what the run wrote so far is in its folder")
        sys.exit(130)  # 128 and the number of the signal, as shells do


def in_words(error: BaseException) -> str:
    """An error and what was noted on it while it left, such as how much of a run is saved."""
    return ". ".join([str(error), *getattr(error, "__notes__", ())])


if __name__ == "__main__":
    main()
