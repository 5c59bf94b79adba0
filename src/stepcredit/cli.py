"""The command line. This module and `--help` load no torch; each command imports what it needs when it runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stepcredit.errors import StepcreditError

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
def train(*recipe: Settings, dry_run: bool = False) -> None:
    """Train a generator. Without arguments: OTCA on the embedded scenes world, on a CPU, in minutes.

    A recipe is a YAML file, here or inside the package, such as `recipes/scenes/otca.yaml`. Any of its keys is a
    flag: `--seed 3`, `--method.floor 0`, `--training.iterations 20`, `--rewards.0.name clip`.

    Parameters
    ----------
    dry_run
        Print the resolved recipe, the geometry and the cost; load no weights and write nothing.
    """
    from stepcredit.config.load import DEFAULT, load_recipe

    named = bool(recipe) and not recipe[0].startswith("-")
    settings = load_recipe(recipe[0] if named else DEFAULT, recipe[1:] if named else recipe)
    if dry_run:
        from stepcredit.geometry import show

        show(settings, console)
        return
    from stepcredit.api import train as run

    run(settings, console=console)


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
    console.print(f"base (left) and tuned (right): {path}", soft_wrap=True)


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
