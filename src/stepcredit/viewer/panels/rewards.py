"""Rewards over time."""

from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line
from stepcredit.viewer.panels.story import Panel, Story, series, smooth


def curves(story: Story) -> list[Panel]:
    """Training and held-out means of each score."""
    return [_curve(story, name) for name in [*story.run.trained, *story.run.held_out]]


def _curve(story: Story, name: str) -> Panel:
    trained = name in story.run.trained
    lines = _training(story, name) if trained else []
    base = None
    if story.base is not None and name in story.base.names:
        # The last look may be at all pictures: every point of the curve is a mean over the same ones.
        rows = story.looks[0].rows if story.looks else story.base.rows
        base = story.base.among(rows).means()[name]
        iterations = [0, *(look.iteration for look in story.looks)]
        means = [base, *(look.among(rows).means()[name] for look in story.looks)]
        lines.append(Line("held-out captions", iterations, means, story.colour(name), dots=True))
    return Panel(
        name,
        f"{'trained on' if trained else 'never trained on'}; the line is the base model on the same held-out captions"
        + "".join(_uncovered(story, name)),
        charts.lines(lines, alt=f"{name} over iterations", x_label="iteration", reference=base),
    )


def _uncovered(story: Story, name: str) -> list[str]:
    """Points of the held-out curve that are means over fewer pictures than others, and do not compare with them."""
    looks = [look for look in [story.base, *story.looks] if look is not None and name in look.names]
    sizes = [(look.iteration, look.unscored()[name], len(look.rows)) for look in looks]
    return [f"; after {at} only {total - missing} of {total} pictures" for at, missing, total in sizes if missing]


def _training(story: Story, name: str) -> list[Line]:
    """The reward of the rollouts as it was and smoothed: captions change, so that single iterations jump."""
    x, y = series(story.metrics, f"reward/{name}")
    return [
        Line("", x, y, story.colour(name), faint=True),
        Line("training captions, with sampling noise", x, smooth(y), story.colour(name), dashed=True),
    ]
