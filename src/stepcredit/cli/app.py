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
def train(
    *recipe: Settings,
    dry_run: bool = False,
    peak_tflops: float = 790.0,
    utilisation: float = 0.5,
    resume: Path | None = None,
) -> None:
    """Train a generator. Without arguments: OTCA on the embedded scenes world, on a CPU, in minutes.

    A recipe is a YAML file, here or inside the package, such as `recipes/scenes/otca.yaml`. Any of its keys is a
    flag: `--seed 3`, `--method.floor 0`, `--training.iterations 20`, `--rewards.0.name clip`.

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
    """
    from stepcredit.recipe.load import DEFAULT, load_recipe

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
        from stepcredit.costs.dry_run import show

        show(settings, console, peak_tflops=peak_tflops, utilisation=utilisation)
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
    *runs: Annotated[str, Parameter(allow_leading_hyphen=True, help="Run folders, several seeds of each side.")],
    by: str = "method",
    cost: Literal["pictures", "forwards", "seconds"] = "forwards",
    dump: Path | None = None,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Path = Path("comparison"),
) -> None:
    """Compare runs at equal cost, seeds grouped: a Markdown table and a picture of the curves.

    With --dump FILE no runs are compared but credit rules: all of them on one frozen rollout. The file is drawn first
    if it is not there yet, from the recipe and flags given in place of runs, as in `train`.

    Parameters
    ----------
    by
        The recipe key whose values are compared, such as `method` or `method.floor`.
    cost
        What has to be equal.
    dump
        A stored rollout (.safetensors).
    method
        With --dump: only these methods; `package.module` works too.
    out
        Where OUT.md and OUT.png are written.
    """
    from stepcredit.runs.folder import write_text

    page, picture = (out.with_name(f"{out.name}{end}") for end in (".md", ".png"))
    if dump is not None:
        from stepcredit.studies.frozen import lay_side_by_side
        from stepcredit.viewer import credit_maps

        found, prompt = lay_side_by_side(dump, runs, method)
        table = credit_maps.markdown(found)
        write_text(page, table, advice="choose another place with --out")
        credit_maps.draw(found, picture, prompt=prompt)
    else:
        from stepcredit.runs.compare import compare as runs_side_by_side
        from stepcredit.runs.compare import markdown
        from stepcredit.runs.reader import RunReader
        from stepcredit.viewer.comparison import draw

        odd = [run for run in runs if run.startswith("-")]
        if odd or method:
            raise RecipeError(f"{odd[0] if odd else '--method'} belongs to --dump FILE; runs are compared by --by KEY")
        sides = runs_side_by_side([RunReader(run) for run in runs], by=by, cost=cost)
        table = markdown(sides)
        write_text(page, table, advice="choose another place with --out")
        draw(sides, picture)
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
    from stepcredit.recipe.load import load_recipe
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
    reward_guidance: float = 1.0,
    also: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
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
    reward_guidance
        How far the fine-tune is followed: 1 as trained, 0 the base, 1.5 beyond it. Other than 1 doubles the cost.
    also
        Other runs of the same base to follow at the same time, each as FOLDER=STRENGTH.
    out
        The picture to write; by default samples.png in the run folder.
    """
    from stepcredit.api import sample as draw

    others = dict(map(_strength, also or ()))
    path = draw(run, prompt, count=count, seed=seed, raw=raw, reward_guidance=reward_guidance, also=others, out=out)
    console.print(f"base (left) and tuned (right): {path}", soft_wrap=True, markup=False)


@app.command
def export(
    run: Path,
    /,
    *,
    out: Path | None = None,
    checkpoint: int | None = None,
    raw: bool = False,
    merged: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
) -> None:
    """Write what a run trained for plain diffusers, with a model card: a LoRA, or the networks that were trained.

    Parameters
    ----------
    run
        A run folder.
    out
        The folder to write; by default export in the run folder. An earlier export there is replaced.
    checkpoint
        Iterations of the checkpoint; by default the newest whole one.
    raw
        The last weights instead of their moving average.
    merged
        The whole pipeline with the trained weights merged in, instead of what was trained alone.
    push_to_hub
        OWNER/NAME on the Hugging Face hub, to which the finished folder is uploaded.
    private
        Make that repository private.
    """
    from stepcredit.api import export as write

    folder = write(run, out=out, iteration=checkpoint, raw=raw, merged=merged, push_to_hub=push_to_hub, private=private)
    place = f"   https://huggingface.co/{push_to_hub}" if push_to_hub else ""
    console.print(f"{folder}   card: {folder / 'README.md'}{place}", highlight=False, soft_wrap=True, markup=False)


def _strength(text: str) -> tuple[str, float]:
    folder, _, strength = text.rpartition("=")
    try:
        return folder, float(strength)
    except ValueError:
        raise RecipeError(f'--also got "{text}", wanted FOLDER=STRENGTH such as runs/otca-1=0.5') from None


@app.command
def methods() -> None:
    """List the methods: name, paper, what each decides itself, how it was checked, what it does."""
    from stepcredit.methods import names
    from stepcredit.recipe.recipe import method_class

    table = Table(
        "method", "paper", "decides", "checked", "what it does", box=None, pad_edge=False, header_style="bold"
    )
    for name in names():
        method = method_class(name)
        paper = method.paper.removeprefix("arXiv ")  # type: ignore[attr-defined]
        table.add_row(name, paper, method.fills, method.status, method.summary)  # type: ignore[attr-defined]
    console.print(table)
    console.print(
        "\nWhat a method does not decide it shares; every key of every method: docs/recipes.md. checked: against its "
        "formula by hand and by NumPy, or against published code as well.",
        style="dim",
    )


bench = App(name="bench", help="Studies of credit rules: the exact oracle, the paper's tables on the drawn world.")
app.command(bench)


@bench.command(name="credit")
def bench_credit(
    *,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    groups: int = 1000,
    seeds: int = 5,
    out: Path = Path("bench_credit"),
) -> None:
    """Judge every credit rule on flows whose policy gradient is known exactly, at equal cost. Minutes on a CPU.

    Prints and writes OUT.md, OUT.png and OUT.json: cosine of an estimate with the truth, bias, signal to noise; the
    exact-law check of every kernel; similarity gain against reward gain beside its shuffled null.

    Parameters
    ----------
    method
        Only these methods; `package.module` works too. By default all, with some variants.
    groups
        Groups of 12 samples per seed.
    seeds
        Seeds; intervals are over them.
    out
        Where the files go.
    """
    from stepcredit.studies.credit import study
    from stepcredit.viewer.benchmarks import show_oracle

    show_oracle(study(method, groups=groups, seeds=seeds, console=console), out, console)


@bench.command(name="paper")
def bench_paper(
    *recipe: Annotated[str, Parameter(allow_leading_hyphen=True, help="--recipe.key VALUE ... for every run")],
    folder: Path = Path("runs/paper"),
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    seeds: int = 5,
    budget: int = 120_000,
    count: int = 512,
    workers: int = 1,
    proxy_prompts: int = 12,
    report: bool = False,
) -> None:
    """Train every method on the drawn world at equal cost and print the analogues of OTCA's tables. Hours on a CPU.

    Every run is an ordinary run folder; started again, the study goes on where it was stopped. Writes results.md,
    curves.png and results.json into the folder.

    Parameters
    ----------
    folder
        Where the runs and tables go.
    method
        Rows of the tables: by default the paper's, PCPO and our variant of OTCA; any method of `stepcredit methods`.
    seeds
        Runs of each.
    budget
        Network forwards of each run (a forward with gradient counts as three).
    count
        Held-out pictures of each evaluation.
    workers
        Runs at a time.
    proxy_prompts
        Captions of the study of similarity against reward, 8 samples each.
    report
        Train nothing; make the tables of what is there.
    """
    from stepcredit.studies.paper import study
    from stepcredit.viewer.benchmarks import show_paper

    found = study(
        folder,
        recipe,
        rows=method,
        seeds=seeds,
        budget=budget,
        count=count,
        workers=workers,
        proxy_prompts=proxy_prompts,
        train=not report,
        console=console,
    )
    show_paper(found, folder, console)


@app.command
def doctor() -> None:
    """Check this installation: versions, devices, embedded assets, one tiny sampling step."""
    from stepcredit.cli.doctor import examine

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
