"""Looking at runs that are there: `show`, `report`, `compare`, `cite`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stepcredit.cli.options import FILE, STEM
from stepcredit.cli.terminal import console, say
from stepcredit.errors import RecipeError

Cost = Literal["pictures", "forwards", "seconds"]


def report(run: Path, /, *, out: Annotated[Path | None, FILE] = None) -> None:
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
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


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


def compare(
    *runs: Annotated[str, Parameter(allow_leading_hyphen=True, help="Run folders, several seeds of each side.")],
    by: str = "method",
    cost: Cost = "forwards",
    dump: Annotated[Path | None, FILE] = None,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    out: Annotated[Path, STEM] = Path("comparison"),
) -> None:
    """Compare runs at equal cost, seeds grouped: a Markdown table and a picture of the curves.

    With --dump FILE no runs are compared but credit rules: all of them on one frozen rollout. The file is drawn first
    if it is not there yet, from the recipe and flags given in place of runs, as in `train`; the recipe's own method is
    --method.type there.

    Parameters
    ----------
    by
        The recipe key whose values are compared, such as `method` or `method.rule.floor`.
    cost
        What has to be equal.
    dump
        A stored rollout (.safetensors).
    method
        With --dump: only these methods; `package.module` works too.
    out
        Where OUT.md and OUT.png are written.
    """
    # Not with_suffix: a name such as "eta-0.5" would lose its end.
    page = out.with_name(f"{out.name}.md")
    picture = out.with_name(f"{out.name}.png")
    if dump is not None:
        table = _compare_rules(dump, runs, method, page, picture)
    else:
        stray = [run for run in runs if run.startswith("-")]
        stray += ["--method"] if method else []
        if stray:
            raise RecipeError(f"{stray[0]} belongs to --dump FILE; runs are compared by --by KEY")
        table = _compare_runs(runs, by, cost, page, picture)
    say(table)
    say(f"{page}   {picture}")


def _compare_rules(dump: Path, recipe: tuple[str, ...], methods: list[str] | None, page: Path, picture: Path) -> str:
    from stepcredit.runs.folder import write_text
    from stepcredit.studies.frozen import lay_side_by_side
    from stepcredit.viewer import credit_maps

    side_by_side, caption = lay_side_by_side(dump, recipe, methods)
    table = credit_maps.markdown(side_by_side)
    write_text(page, table, advice="choose another place with --out")
    credit_maps.draw(side_by_side, picture, prompt=caption)
    return table


def _compare_runs(runs: tuple[str, ...], by: str, cost: Cost, page: Path, picture: Path) -> str:
    from stepcredit.runs.compare import compare as side_by_side
    from stepcredit.runs.compare import markdown
    from stepcredit.runs.folder import write_text
    from stepcredit.runs.reader import RunReader
    from stepcredit.viewer.comparison import draw

    sides = side_by_side([RunReader(run) for run in runs], by=by, cost=cost)
    table = markdown(sides)
    write_text(page, table, advice="choose another place with --out")
    draw(sides, picture)
    return table


def cite(run: Path, /) -> None:
    """Print BibTeX of exactly what a run used.

    Parameters
    ----------
    run
        A run folder.
    """
    from stepcredit.files.screen import plain
    from stepcredit.runs.reader import RunReader
    from stepcredit.viewer.cite import references

    for what, entry in references(RunReader(run).recipe):
        print(plain(f"% {what}\n{entry}\n"))  # noqa: T201 - for a file, so without colours or wrapping
