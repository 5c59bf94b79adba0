"""The picture of a comparison: one panel a score, a curve with its band for each side."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stepcredit.files import figures
from stepcredit.runs.compare import Comparison, half_width

_COLOURS = ("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c")
_POINTS = 60  # runs were looked at after other costs than each other: curves meet on a grid of so many


@figures.literal_text()
def draw(comparison: Comparison, path: Path) -> None:
    """Gain over the base against cost, mean over seeds with a 95 % band; a lone seed is a line without a band."""
    count = len(comparison.names)
    columns = min(3, count)
    rows = -(-count // columns)  # rounded up
    figure = Figure(figsize=(3.5 * columns, 2.7 * rows + 0.5), dpi=150, facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for k, axes in enumerate(panels[:count]):
        _draw_score(axes, comparison, k)
    for axes in panels[count:]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    figures.save(figure, path)


def _draw_score(axes: Axes, comparison: Comparison, k: int) -> None:
    costs = np.linspace(0, comparison.budget, _POINTS)
    for side, colour in zip(comparison.sides, _COLOURS * 9, strict=False):  # there may be more sides than colours
        gains = [np.interp(costs, curve.costs, curve.gains[:, k]) for curve in side.curves]
        mean = np.mean(gains, axis=0)
        band = half_width(np.stack(gains))
        axes.plot(costs, mean, color=colour, label=f"{figures.name(side.name)} ({len(side.curves)} seeds)")
        for seed in gains:
            axes.plot(costs, seed, color=colour, linewidth=0.6, alpha=0.4)
        if np.isfinite(band).all():
            axes.fill_between(costs, mean - band, mean + band, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
    name = comparison.names[k]
    axes.set_title(
        f"{figures.name(name)} ({'trained' if name in comparison.trained else 'held out'})", fontsize=10, loc="left"
    )
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=4)  # costs are long numbers
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"cost in {comparison.cost}", fontsize=8)
    axes.set_ylabel("gain over the base", fontsize=8)
