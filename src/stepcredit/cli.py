"""The command line. This module and `--help` load no torch; each command imports what it needs when it runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stepcredit.errors import RecipeError, StepcreditError

if TYPE_CHECKING:
    from stepcredit.api import Run

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns about processors that nobody asked for

app = App(
    name="stepcredit",
    help="Reinforcement-learning post-training of image generators, with credit for the right step and objective.",
    help_format="markdown",
    version_flags=["--version"],
)
console = Console()
Settings = Annotated[str, Parameter(allow_leading_hyphen=True, help="[RECIPE.yaml] [--recipe.key VALUE] ...")]


@app.command
def train(*recipe: Settings, dry_run: bool = False, resume: Path | None = None) -> None:
    """Train a generator. Without arguments: OTCA on the embedded scenes world, on a CPU, in minutes.

    A recipe is a YAML file, here or inside the package, such as `recipes/scenes/otca.yaml`. Any of its keys is a
    flag: `--seed 3`, `--method.floor 0`, `--training.iterations 20`, `--rewards.0.name clip`.

    Ctrl-C finishes the iteration and saves; a second one saves at once. Both print the line that resumes.

    Parameters
    ----------
    dry_run
        Print the resolved recipe, the geometry and the cost; load no weights and write nothing.
    resume
        Go on with this run folder, exactly; flags may raise training.iterations or change output.
    """
    from stepcredit.config.load import DEFAULT, load_recipe

    named = bool(recipe) and not recipe[0].startswith("-")
    flags = recipe[1:] if named else recipe
    if resume is not None:
        if named or dry_run:
            raise RecipeError("--resume goes on with the recipe in the run folder; leave out the recipe and --dry-run")
        from stepcredit.api import go_on

        finish(go_on(resume, flags, console))
        return
    settings = load_recipe(recipe[0] if named else DEFAULT, flags)
    if dry_run:
        from stepcredit.geometry import show

        show(settings, console)
        return
    from stepcredit.api import train as run

    finish(run(settings, console=console))


def finish(run: "Run") -> None:
    """A run that was stopped by a signal ends with that signal's exit code."""
    if run.interrupted is not None:
        sys.exit(128 + run.interrupted)


@app.command
def evaluate(run: Path, /, *, checkpoint: int | None = None, raw: bool = False, count: int | None = None) -> None:
    """Score base and tuned on held-out captions with the same noise; writes JSON, a table, and the report.

    Parameters
    ----------
    run
        A run folder.
    checkpoint
        Iterations of the checkpoint; by default the newest whole one.
    raw
        The last weights instead of their moving average.
    count
        Pictures; by default the recipe's number.
    """
    from stepcredit.api import evaluate as measure
    from stepcredit.viewer.report import write
    from stepcredit.viewer.terminal import evaluation

    path, found = measure(run, iteration=checkpoint, raw=raw, count=count)
    evaluation(found, run, console)
    console.print(f"{path}   report: {write(run)}", highlight=False, soft_wrap=True, markup=False)


@app.command
def report(run: Path, /, *, out: Path | None = None) -> None:
    """Write one self-contained HTML page about a run, finished or not.

    Parameters
    ----------
    run
        A run folder.
    out
        The file to write; by default report.html in the run folder.
    """
    from stepcredit.viewer.report import write

    path = write(run, out)
    console.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True, markup=False)


@app.command
def show(run: Path, /) -> None:
    """Print the essentials of a run: verdict, gains, reward curves, where the credit went.

    Parameters
    ----------
    run
        A run folder.
    """
    from stepcredit.runs.reader import RunReader
    from stepcredit.viewer.terminal import show as present

    present(RunReader(run), console)


@app.command
def compare(
    *runs: Path,
    by: str = "method",
    cost: Literal["pictures", "forwards", "seconds"] = "forwards",
    out: Path = Path("comparison"),
) -> None:
    """Compare runs at equal cost, seeds grouped: a Markdown table and a picture of the curves.

    Parameters
    ----------
    runs
        Run folders, several seeds of each side.
    by
        The recipe key whose values are compared, such as `method` or `method.floor`.
    cost
        What has to be equal.
    out
        Where OUT.md and OUT.png are written.
    """
    from stepcredit.runs.compare import compare as side_by_side
    from stepcredit.runs.compare import markdown
    from stepcredit.runs.files import write_text
    from stepcredit.runs.reader import RunReader
    from stepcredit.viewer.comparison import draw

    found = side_by_side([RunReader(run) for run in runs], by=by, cost=cost)
    table = markdown(found)
    page, picture = (out.with_name(f"{out.name}{end}") for end in (".md", ".png"))
    write_text(page, table, advice="make room, or choose another place with --out")
    draw(found, picture)
    console.print(table, highlight=False, soft_wrap=True, markup=False)
    console.print(f"{page}   {picture}", highlight=False, soft_wrap=True, markup=False)


@app.command
def cite(run: Path, /) -> None:
    """Print BibTeX of exactly what a run used.

    Parameters
    ----------
    run
        A run folder.
    """
    from stepcredit.config.load import load_recipe
    from stepcredit.runs.reader import RunReader
    from stepcredit.viewer.cite import references

    for what, entry in references(load_recipe(RunReader(run).path / "run.yaml")):
        print(f"% {what}\n{entry}\n")  # noqa: T201 - for a file, so without colours or wrapping


@app.command
def sample(
    run: Path,
    /,
    *,
    prompt: Annotated[list[str], Parameter(consume_multiple=True)],
    count: int = 4,
    seed: int = 0,
    raw: bool = False,
    out: Path | None = None,
) -> None:
    """Draw pictures with a tuned generator, beside those of its base from the same noise.

    Parameters
    ----------
    run
        A run folder.
    prompt
        One or more prompts.
    count
        Pictures of each prompt.
    seed
        Seed of the noise.
    raw
        The last weights instead of their moving average.
    out
        The picture to write; by default samples.png in the run folder.
    """
    from stepcredit.api import sample as draw

    path = draw(run, prompt, count=count, seed=seed, raw=raw, out=out)
    console.print(f"base (left) and tuned (right): {path}", soft_wrap=True, markup=False)


@app.command
def methods() -> None:
    """List the methods: name, paper, what they do."""
    from stepcredit.config.recipe import method_class
    from stepcredit.methods import names

    table = Table("method", "paper", "kernel", "what it does", box=None, pad_edge=False, header_style="bold")
    for name in names():
        method = method_class(name)
        kernel = method.model_fields["kernel"].default
        table.add_row(name, method.paper, kernel, method.summary)  # type: ignore[attr-defined]
    console.print(table)


@app.command
def doctor() -> None:
    """Check this installation: versions, devices, embedded assets, one tiny sampling step."""
    from stepcredit.doctor import examine

    if not examine(console):
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of this package are printed without a traceback, with exit code 2."""
    try:
        app(arguments)
    except StepcreditError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped by the keyboard; what the run wrote so far is in its folder")
        sys.exit(130)


if __name__ == "__main__":
    main()
