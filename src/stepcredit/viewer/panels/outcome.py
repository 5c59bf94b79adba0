"""Did the samples get better?"""

from collections.abc import Mapping

import numpy as np

from stepcredit.evaluation.paired import by_kind, by_question, hacking_gap
from stepcredit.runs.looks import Look
from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line
from stepcredit.viewer.panels.story import Panel, Story


def outcome(story: Story) -> list[Panel]:
    """Gains in common units, hacking gap over time, kinds of captions, questions of the checker."""
    if story.base is None or story.last is None:
        return []
    # The newest look may be at the watched pictures only: both sides are taken on what both have.
    base = story.base.among(story.last.rows)
    # Scores have units of their own; the base's deviation on the same captions makes them comparable.
    spreads = {name: _deviation(base.scores[:, k]) for k, name in enumerate(base.names)}
    return [
        _gains(story, spreads),
        *_gap_over_time(story, base),
        *_kinds(base, story.last, spreads),
        *_questions(base, story.last),
    ]


def _gains(story: Story, spreads: Mapping[str, float]) -> Panel:
    rows = [
        (
            row.name,
            row.difference / spreads[row.name],
            row.low / spreads[row.name],
            row.high / spreads[row.name],
            story.colour(row.name),
        )
        for row in story.differences()
        # a score that is the same for all pictures has no unit, and one that no picture has no gain
        if spreads[row.name] > 0 and row.verdict != "unscored"
    ]
    return Panel(
        "Gains over the base",
        "in standard deviations of the base's samples, with 95 % intervals over captions"
        + "".join(f"; {row.name} on {row.coverage}" for row in story.differences() if row.coverage),
        charts.intervals(rows, alt="gain of every score over the base", x_label="gain in standard deviations")
        if rows
        else charts.empty("no gains yet"),
    )


def _gap_over_time(story: Story, base: Look) -> list[Panel]:
    rows = story.looks[0].rows  # the watched ones; the last look may have more
    before = base.among(rows)
    gaps = {look.iteration: hacking_gap(before, look.among(rows), story.run.trained) for look in story.looks}
    known = {iteration: gap for iteration, gap in gaps.items() if gap is not None}
    if not known:
        return []
    x = [0, *known]
    lines = [
        Line("trained rewards", x, [0.0, *(gap.trained for gap in known.values())], "--c1", dots=True),
        Line("held out", x, [0.0, *(gap.held_out for gap in known.values())], "--c4", dots=True),
    ]
    return [
        Panel(
            "Hacking gap",
            "mean gain of the trained rewards and of what was held out; when the first rises and the second does "
            "not, rewards are won and pictures are not"
            + "".join(f"; after {iteration}: {gap.coverage}" for iteration, gap in known.items() if gap.coverage),
            charts.lines(
                lines,
                alt="mean gain of trained and of held-out scores over iterations",
                x_label="iteration",
                reference=0.0,
            ),
        )
    ]


def _kinds(base: Look, last: Look, spreads: Mapping[str, float]) -> list[Panel]:
    kinds = by_kind(base, last)
    if not kinds:
        return []
    names = [name for name in base.names if spreads[name] > 0]
    table = np.full((len(kinds), len(names)), np.nan)  # a score that no caption of a kind has stays hatched
    for r, rows in enumerate(kinds.values()):
        for row in rows:
            if row.name in names:
                table[r, names.index(row.name)] = row.difference / spreads[row.name]
    chart = charts.heat(
        table,
        alt="gain by kind of caption and score",
        rows=list(kinds),
        columns=names,
        x_label="",
        write=True,
        tips=True,
    )
    return [Panel("Which captions gained", "gain in standard deviations, by kind of caption", chart)]


def _questions(base: Look, last: Look) -> list[Panel]:
    questions = by_question(base, last)
    if not questions:
        return []
    chart = charts.heat(
        np.array([[row.base, row.tuned, row.difference] for row in questions]),
        alt="checker's questions before and after",
        rows=[row.name for row in questions],
        columns=["base", "tuned", "change"],
        x_label="",
        write=True,
        tips=True,
    )
    note = "share of samples in which the question is answered right, over the captions that ask it"
    return [Panel("What the exact checker says", note, chart)]


def _deviation(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std()) if known.size else 0.0
