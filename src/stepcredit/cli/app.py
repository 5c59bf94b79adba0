"""The program `stepcredit`: its commands in the order of `--help`, and what becomes of errors."""

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console
from rich.markup import escape

from stepcredit.cli import last_resort
from stepcredit.cli.bench import bench
from stepcredit.cli.doctor import doctor
from stepcredit.cli.evaluating import evaluate, sample
from stepcredit.cli.exporting import export
from stepcredit.cli.listing import methods, recipes
from stepcredit.cli.looking import cite, compare, report, show
from stepcredit.cli.train import train
from stepcredit.errors import StepcreditError, readable
from stepcredit.files.streams import unbroken

# Read when transformers is imported, so before any command; it warns about processors that nobody asked for.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

app = App(
    name="stepcredit",
    help="Reinforcement-learning post-training of image generators, with credit for the right step and objective.",
    help_format="markdown",
    version_flags=["--version"],
    exit_on_error=False,  # `main` prints all errors in the same way
    print_error=False,
)
for command in (train, evaluate, report, show, compare, cite, sample, export, methods, recipes, bench, doctor):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. What is wrong with it is one sentence and exit code 2; a fault of ours ends with another code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        _take_every_character(stream)
    with unbroken():
        _run(words)


def _run(words: Sequence[str]) -> None:
    try:
        app(words)
    except (StepcreditError, CycloptsError) as error:
        _fail(str(error), notes_of(error), code=2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped by the keyboard; what the run wrote so far is in its folder")
        sys.exit(130)  # 128 and the number of the signal, as shells do
    except Exception as error:
        _fail(last_resort.sentence(error, words), notes_of(error), code=last_resort.CODE)


def _fail(message: str, notes: Sequence[str], *, code: int) -> None:
    # The notes come after what is cut to a screen: they say what is saved, and how to go on.
    sentences = ". ".join([readable(message), *map(readable, notes)])
    # Escaped: a message may quote brackets of a user's file, and rich would read them as colours.
    Console(stderr=True).print(f"[bold red]error:[/] {escape(sentences)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _take_every_character(stream: object) -> None:
    """A terminal of another encoding than UTF-8 shows what it has no sign for as a number, and nothing fails."""
    if isinstance(stream, io.TextIOWrapper):  # not so in a notebook, or without any output
        stream.reconfigure(errors="backslashreplace")


def notes_of(error: BaseException) -> Sequence[str]:
    """What was noted on an error while it left, such as how much of a run is saved."""
    return getattr(error, "__notes__", ())


if __name__ == "__main__":
    main()
