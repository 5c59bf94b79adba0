"""`stepcredit bench`: studies of credit rules, minutes (`credit`) or hours (`paper`) on a CPU."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from stepcredit.cli.options import BUDGET, COUNT, PICTURES, STEM
from stepcredit.cli.terminal import console

bench = App(name="bench", help="Studies of credit rules: the exact oracle, the paper's tables on the drawn world.")


@bench.command
def credit(
    *,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    groups: Annotated[int, COUNT] = 1000,
    seeds: Annotated[int, COUNT] = 5,
    out: Annotated[Path, STEM] = Path("bench_credit"),
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
    # Inside, as in every command: torch takes seconds to import, and `--help` needs none of it.
    from stepcredit.studies.credit import study
    from stepcredit.viewer.benchmarks import show_oracle

    show_oracle(study(method, groups=groups, seeds=seeds, console=console), out, console)


@bench.command
def paper(
    *recipe: Annotated[str, Parameter(allow_leading_hyphen=True, help="--recipe.key VALUE ... for every run")],
    folder: Path = Path("runs/paper"),
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    seeds: Annotated[int, COUNT] = 5,
    budget: Annotated[int, BUDGET] = 120_000,
    count: Annotated[int, PICTURES] = 512,
    workers: Annotated[int, COUNT] = 1,
    proxy_prompts: Annotated[int, COUNT] = 12,
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

    results = study(
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
    show_paper(results, folder, console)
