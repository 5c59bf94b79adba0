"""The picture of a comparison: one panel a score, a curve with its band for each side."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stepcredit.runs.compare import Comparison, half_width

_COLOURS = ("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c")
_POINTS = 60


def draw(found: Comparison, path: Path) -> None:
    """Gain over the base against cost, mean over seeds with a 95 % band; a lone seed is a line without a band."""
    count = len(found.names)
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.5 * columns, 2.7 * rows + 0.5), dpi=150, facecolor="white", layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    costs = np.linspace(0, found.budget, _POINTS)
    for k, (name, axes) in enumerate(zip(found.names, panels, strict=False)):
        for side, colour in zip(found.sides, _COLOURS * 9, strict=False):
            gains = np.stack(
                [_between(curve.costs, curve.means[:, k] - curve.means[0, k], costs) for curve in side.curves]
            )
            mean, band = gains.mean(0), half_width(gains)
            axes.plot(costs, mean, color=colour, label=f"{side.name} ({len(side.curves)} seeds)")
            for one in gains:
                axes.plot(costs, one, color=colour, linewidth=0.6, alpha=0.4)
            if np.isfinite(band).all():
                axes.fill_between(costs, mean - band, mean + band, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
        axes.set_title(f"{name} ({'trained' if name in found.trained else 'held out'})", fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"cost in {found.cost}", fontsize=8)
        axes.set_ylabel("gain over the base", fontsize=8)
    for axes in panels[count:]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path)


def _between(costs: np.ndarray, gains: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.interp(wanted, costs, gains)
