"""A run in the terminal: tables and maps of characters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from stepcredit.evaluation.paired import Difference, HackingGap
from stepcredit.files import screen
from stepcredit.runs.notes import notes
from stepcredit.runs.reader import RunReader
from stepcredit.viewer.panels.steps import step_weights
from stepcredit.viewer.panels.story import Story
from stepcredit.viewer.report import state, verdict

_BARS = "▁▂▃▄▅▆▇█"
_EVEN = 110  # of red, green and blue: a grey that is seen on black and on white
_MORE = (56, 120, 240)
_LESS = (235, 130, 30)  # blue and orange are told apart by nearly everybody
_WIDTH = 48
"""Characters of a row of bars: with its name and numbers it fits 80 columns."""


def differences(rows: Sequence[Difference], trained: set[str], title: str = "held-out captions") -> Table:
    """Base against tuned."""
    table = _table(title, "", "", "base", "tuned", "gain and 95 % interval", "")
    for column in table.columns[2:5]:
        column.justify = "right"
        column.no_wrap = True
    for row in rows:
        kind = "trained" if row.name in trained else "held out"
        if row.verdict == "unscored":
            table.add_row(screen.name(row.name), kind, "-", "-", "-", "[yellow]could not be scored[/]")
            continue
        colour = {"up": "green", "down": "red", "unclear": "default"}[row.verdict]
        table.add_row(
            screen.name(row.name),
            kind,
            f"{row.base:.4f}",
            f"{row.tuned:.4f}",
            # rich would take an interval in brackets for a colour
            f"{row.difference:+.4f} \\[{row.low:+.4f}, {row.high:+.4f}]",
            f"[{colour}]{row.verdict}[/]{', ' * bool(row.coverage)}{row.coverage}",
        )
    return table


def unscored(rows: Sequence[Difference]) -> list[str]:
    """A sentence for each score that pictures lack, for below the table: reasons are longer than its cells."""
    sentences: list[str] = []
    for row in rows:
        if row.coverage:
            sentences.append(
                f"{row.name} could be scored on {row.coverage}: {row.unscored_base} of the base and "
                f"{row.unscored_tuned} of the tuned have no score. {row.reason}".rstrip()
            )
    return sentences


def _warn(sentences: Sequence[str], console: Console) -> None:
    for sentence in sentences:
        console.print(f"[yellow]{screen.literal(sentence)}[/]", highlight=False, soft_wrap=True)


def _table(title: str, *heads: str) -> Table:
    return Table(
        *heads, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )


def evaluation(found: Mapping[str, Any], run: Path, console: Console) -> None:
    """What `stepcredit evaluate` found: every score, kinds of captions, questions, hacking gap."""
    trained = set(RunReader(run).trained)
    title = f"{found['pictures']} pictures of {found['captions']} captions"
    rows = _rows(found["rows"])
    console.print(differences(rows, trained, title))
    _warn([*unscored(rows), *changed(found)], console)
    if found["kinds"]:
        console.print(_kinds([row["name"] for row in found["rows"]], found["kinds"]))
    if found["questions"]:
        console.print(differences(_rows(found["questions"]), set(), "questions of the exact checker"))
    gap = found["hacking_gap"]
    if gap:
        coverage = HackingGap.read(gap).coverage
        console.print(
            f"hacking gap {gap['gap']:+.2f} standard deviations [{gap['low']:+.2f}, {gap['high']:+.2f}]: "
            f"trained rewards {gap['trained']:+.2f}, held out {gap['held_out']:+.2f}{', ' * bool(coverage)}{coverage}",
            highlight=False,
            markup=False,
        )


def changed(evaluation: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the evaluated checkpoint was written, a sentence each."""
    return [f"not as it was when the checkpoint was written: {what}" for what in evaluation.get("changed", ())]


def _rows(stored: Sequence[Mapping[str, Any]]) -> list[Difference]:
    return [Difference.read(row) for row in stored]


def _kinds(names: Sequence[str], kinds: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Gain of every score for each kind of caption, empty where the kind has no such score."""
    table = _table("gain by kind of caption", "")
    for name in names:
        table.add_column(screen.name(name), justify="right")
    for kind, rows in kinds.items():
        gains = {row.name: f"{row.difference:+.3f}" for row in _rows(rows) if row.verdict != "unscored"}
        table.add_row(screen.name(kind), *(gains.get(name, "") for name in names))
    return table


def show(run: RunReader, console: Console) -> None:
    """Verdict, table, reward curves and credit map of a run."""
    story = Story.read(run)
    rows = story.differences()
    where = screen.literal(f"on {run.recipe['policy']['weights']}, {run.path}: {state(story)}")
    console.print(f"[bold]{screen.name(run.method)}[/] {where}", soft_wrap=True)
    for sentence in verdict(story, rows):
        console.print(screen.literal(sentence), highlight=False)
    for note in notes(run):
        console.print(screen.plain(note), style="yellow", highlight=False, markup=False)
    if rows:
        console.print(differences(rows, set(run.trained)))
        _warn(unscored(rows), console)
    console.print(Group(*(_curve(name, story) for name in run.trained)))
    if story.credits:
        console.print(credit_map(story))


def credit_map(story: Story) -> Table:
    """Mean weight of each step over the iterations: even is grey, more is blue, less is orange, untrained is blank."""
    weights = step_weights(story)
    places = np.linspace(0, weights.shape[1] - 1, min(_WIDTH, weights.shape[1])).round().astype(int)
    columns = np.unique(places)  # rounding may hit an iteration twice
    table = Table("step", "weight over the iterations", "first", "last", box=None, pad_edge=False, header_style="bold")
    for step, row in enumerate(weights):
        cells = Text()
        for value in row[columns]:
            cells.append_text(_weight_cell(float(value)))
        ends = ["" if np.isnan(value) else f"{value:.2f}" for value in (row[0], row[-1])]
        table.add_row(str(step + 1), cells, *ends)
    return table


def _weight_cell(weight: float) -> Text:
    """One letter: the further from an even share, the more of the colour, full at 0 and at 2."""
    if np.isnan(weight):
        return Text(" ")
    strength = min(abs(weight - 1), 1.0)
    full = _MORE if weight >= 1 else _LESS
    red, green, blue = (round(_EVEN + strength * (part - _EVEN)) for part in full)
    return Text("█", style=f"rgb({red},{green},{blue})")


def _curve(name: str, story: Story) -> Text:
    """One reward over training, as a row of bars."""
    # dtype: a reward that could not be scored is stored as null, and None becomes NaN
    label = f"{screen.plain(name):>12}  "
    values = np.array([line.get(f"reward/{name}") for line in story.metrics], dtype=float)
    if not np.isfinite(values).any():
        return Text(f"{label}nothing yet")
    parts = [part[np.isfinite(part)] for part in np.array_split(values, min(_WIDTH, len(values)))]
    means = np.array([part.mean() if part.size else np.nan for part in parts])
    low = np.nanmin(means)
    high = np.nanmax(means)
    heights = (means - low) / ((high - low) or 1)  # a reward that never moved lies on the floor
    levels = np.nan_to_num(heights * (len(_BARS) - 1)).round().astype(int)
    bars = "".join(_BARS[level] if np.isfinite(mean) else " " for level, mean in zip(levels, means, strict=True))
    return Text(f"{label}{bars}  {means[0]:.3f} to {means[-1]:.3f}")
