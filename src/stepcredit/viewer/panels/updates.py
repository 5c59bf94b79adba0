"""The updates: the optimiser's side."""

import numpy as np

from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line
from stepcredit.viewer.panels.story import Panel, Story, number_or_nan, series, spread

_CURVES = (
    ("update/gradient_norm", "Gradient norm", "before clipping, mean of the updates of an iteration"),
    ("update/ratio_deviation", "Ratio deviation", "mean |ratio - 1| against the policy that sampled"),
    ("update/clip_fraction", "Clip fraction", "share of (sample, step) pairs cut off by the clip"),
    ("update/kl", "KL to the reference", "pull towards the policy before training"),
)
_MAPS = (
    ("update/ratio_deviation", "Ratio deviation by step"),
    ("update/clip_fraction", "Clip fraction by step"),
)


def update(story: Story) -> list[Panel]:
    """What the optimiser did, over iterations and for each trained step."""
    return [*_curves(story), *_maps(story)]


def _curves(story: Story) -> list[Panel]:
    panels = []
    for key, title, note in _CURVES:
        x, y = series(story.metrics, key)
        if any(y):  # a run without KL has zeros there, and nothing to show
            line = Line("", x, y, "--c1")
            chart = charts.lines([line], alt=f"{title} over iterations", x_label="iteration", floor=0.0)
            panels.append(Panel(title, note, chart))
    return panels


def _maps(story: Story) -> list[Panel]:
    panels = []
    for key, title in _MAPS:
        names = sorted({name for line in story.metrics for name in line if name.startswith(f"{key}/")})
        if names:
            panels.append(Panel(title, "the same, for each trained step", _map(story, names, title), wide=True))
    return panels


def _map(story: Story, names: list[str], title: str) -> str:
    """A metric by step, from names such as update/clip_fraction/03: steps down, iterations across."""
    lines = spread(story.metrics)
    values = [number_or_nan(line.get(name)) for name in names for line in lines]
    return charts.heat(
        np.array(values).reshape(len(names), len(lines)),
        alt=title,
        rows=[f"step {int(name.rpartition('/')[2]) + 1}" for name in names],
        columns=[str(line["iteration"]) for line in lines],
        x_label="iteration",
        tips=True,
        digits=6,  # ratios deviate by 1e-5 and less
        room=960.0,
    )
