"""`stepcredit train`: a new run, a run that goes on, or only what it would cost."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from stepcredit.cli.options import POSITIVE, SHARE
from stepcredit.cli.terminal import RecipeWords, console, recipe_and_flags
from stepcredit.errors import RecipeError

if TYPE_CHECKING:
    from stepcredit.api import Run


def train(
    *recipe: RecipeWords,
    dry_run: bool = False,
    peak_tflops: Annotated[float, POSITIVE] = 790.0,
    utilisation: Annotated[float, SHARE] = 0.5,
    resume: Path | None = None,
    accept_changes: bool = False,
) -> None:
    """Train a generator. Without arguments: OTCA on the embedded scenes world, on a CPU, in minutes.

    A recipe is a YAML file, or a model of `stepcredit recipes` such as `flux1_dev`; `--method pcpo` takes another
    method on it. Any recipe key is a flag: `--seed 3`, `--training.iterations 20`, `--rewards.0.name clip`.

    Ctrl-C finishes the iteration and saves; a second one saves at once. Both print the line that resumes.

    Parameters
    ----------
    dry_run
        Print the resolved recipe, what it computes, its work, memory and time; load no weights and write nothing.
    peak_tflops
        With --dry-run: what the device can do, TFLOP/s in the recipe's dtype. 790 is what an H200 reaches in bfloat16.
    utilisation
        With --dry-run: the share of it that training is expected to reach.
    resume
        Go on with this run folder, exactly; flags may raise training.iterations or change output.
    accept_changes
        With --resume: go on although something the run stands on has changed, and write down what.
    """
    source, flags = recipe_and_flags(recipe)
    if resume is not None:
        if source is not None or dry_run:
            raise RecipeError("--resume goes on with the recipe in the run folder; leave out the recipe and --dry-run")
        _go_on(resume, flags, accept_changes=accept_changes)
        return
    if accept_changes:
        raise RecipeError("--accept-changes belongs to --resume FOLDER; a new run has nothing to be changed from")

    from stepcredit.recipe.load import DEFAULT, load_recipe

    settings = load_recipe(DEFAULT if source is None else source, flags)
    if dry_run:
        from stepcredit.costs.dry_run import show

        show(settings, console, peak_tflops=peak_tflops, utilisation=utilisation)
        return

    from stepcredit.api import train as run

    _finish(run(settings, console=console))


def _go_on(folder: Path, flags: Sequence[str], *, accept_changes: bool) -> None:
    from stepcredit.api import go_on

    _finish(go_on(folder, flags, console, accept_changes=accept_changes))


def _finish(run: "Run") -> None:
    """A run that was stopped by a signal ends with that signal's exit code."""
    if run.interrupted is not None:
        sys.exit(128 + run.interrupted)  # as shells do: a script around it sees why it stopped
