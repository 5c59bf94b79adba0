"""A run in the terminal: tables and maps of characters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stepcredit.evaluation.paired import Difference
from stepcredit.runs.reader import RunReader
from stepcredit.viewer.panels import Story, step_weights
from stepcredit.viewer.report import state, verdict

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
"""Characters of a row of bars: with its name and numbers it fits 80 columns."""


def differences(rows: Sequence[Difference], trained: set[str], title: str = "held-out captions") -> Table:
    """Base against tuned."""
    shown = _table(title, "", "", "base", "tuned", "gain and 95 % interval", "")
    for column in shown.columns[2:5]:
        column.justify = "right"
        column.no_wrap = True
    for row in rows:
        colour = {"up": "green", "down": "red", "unclear": "default"}[row.verdict]
        shown.add_row(
            row.name,
            "trained" if row.name in trained else "held out",
            f"{row.base:.4f}",
            f"{row.tuned:.4f}",
            f"{row.difference:+.4f} \\[{row.low:+.4f}, {row.high:+.4f}]",
            f"[{colour}]{row.verdict}[/]",
        )
    return shown


def _table(title: str, *heads: str) -> Table:
    return Table(
        *heads, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )


def evaluation(found: Mapping[str, Any], run: Path, console: Console) -> None:
    """What `stepcredit evaluate` found: every score, kinds of captions, questions, hacking gap."""
    trained = set(RunReader(run).trained)

    def rows(stored: Sequence[Mapping[str, Any]]) -> list[Difference]:
        return [Difference(**row) for row in stored]

    title = f"{found['pictures']} pictures of {found['captions']} captions"
    console.print(differences(rows(found["rows"]), trained, title))
    if found["kinds"]:
        kinds = _table("gain by kind of caption", "")
        names = [row["name"] for row in found["rows"]]
        for name in names:
            kinds.add_column(name, justify="right")
        for kind, stored in found["kinds"].items():
            by_name = {row["name"]: row for row in stored}
            cells = [f"{by_name[n]['difference']:+.3f}" if n in by_name else "" for n in names]
            kinds.add_row(kind, *cells)
        console.print(kinds)
    if found["questions"]:
        console.print(differences(rows(found["questions"]), set(), "questions of the exact checker"))
    gap = found["hacking_gap"]
    if gap:
        console.print(
            f"hacking gap {gap['gap']:+.2f} standard deviations [{gap['low']:+.2f}, {gap['high']:+.2f}]: "
            f"trained rewards {gap['trained']:+.2f}, held out {gap['held_out']:+.2f}",
            highlight=False,
            markup=False,
        )


def show(run: RunReader, console: Console) -> None:
    """Verdict, table, reward curves and credit map of a run."""
    story = Story.read(run)
    rows = story.differences()
    where = escape(f"on {run.recipe['policy']['weights']}, {run.path}: {state(story)}")
    console.print(f"[bold]{escape(run.method)}[/] {where}", soft_wrap=True)
    for sentence in verdict(story, rows):
        console.print(sentence, highlight=False)
    if rows:
        console.print(differences(rows, set(run.trained)))
    console.print(Group(*(_curve(name, story) for name in run.trained)))
    if story.credits:
        console.print(credit_map(story))


def credit_map(story: Story) -> Table:
    """Mean weight of each step over the iterations: even is grey, more is blue, less is orange, untrained is blank."""
    weights = step_weights(story)
    columns = np.unique(np.linspace(0, weights.shape[1] - 1, min(_WIDTH, weights.shape[1])).round().astype(int))
    shown = Table("step", "weight over the iterations", "first", "last", box=None, pad_edge=False, header_style="bold")
    for step, row in enumerate(weights):
        cells = Text()
        for value in row[columns]:
            if np.isnan(value):
                cells.append(" ")
                continue
            strength = min(abs(float(value) - 1), 1.0)
            far = (56, 120, 240) if value >= 1 else (235, 130, 30)
            colour = tuple(round(110 + strength * (part - 110)) for part in far)
            cells.append("█", style=f"rgb({colour[0]},{colour[1]},{colour[2]})")
        ends = ["" if np.isnan(value) else f"{value:.2f}" for value in (row[0], row[-1])]
        shown.add_row(str(step + 1), cells, *ends)
    return shown


def _curve(name: str, story: Story) -> Text:
    """One reward over training, as a row of bars."""
    values = np.array([line.get(f"reward/{name}") for line in story.metrics], dtype=float)
    if not np.isfinite(values).any():
        return Text(f"{name:>12}  nothing yet")
    parts = [part[np.isfinite(part)] for part in np.array_split(values, min(_WIDTH, len(values)))]
    means = np.array([part.mean() if part.size else np.nan for part in parts])
    low, high = np.nanmin(means), np.nanmax(means)
    levels = np.nan_to_num((means - low) / ((high - low) or 1) * (len(_BARS) - 1)).round().astype(int)
    bars = "".join(_BARS[level] if np.isfinite(mean) else " " for level, mean in zip(levels, means, strict=True))
    return Text(f"{name:>12}  {bars}  {means[0]:.3f} to {means[-1]:.3f}")
