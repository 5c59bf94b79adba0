"""All rules on one frozen rollout: a heat map of credit for each, how far they agree, and a table."""

from itertools import cycle
from pathlib import Path
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stepcredit.studies.side_by_side import SideBySide
from stepcredit.viewer.benchmarks import table

_COLUMNS = 6


def draw(found: SideBySide, path: Path, *, prompt: str, group: int = 0) -> None:
    """Credit of one group, samples down, steps from noise to data across, best sample on top; then the agreement."""
    names = list(found.verdicts)
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(13, 1.75 * rows + 5.85), dpi=130, facecolor="white")
    caption = shorten(prompt, 90, placeholder=" …")
    title = f"Credit of every rule for one group of one rollout: “{caption}”" if prompt else "Credit of every rule"
    figure.suptitle(title, fontsize=12, x=0.02, ha="left", y=1 - 0.1 / figure.get_figheight())
    top = 1 - 1.0 / figure.get_figheight()
    split = 5.1 / figure.get_figheight()
    maps = figure.add_gridspec(
        rows, _COLUMNS, left=0.02, right=0.98, top=top, bottom=split + 0.02, hspace=0.55, wspace=0.08
    )
    order = _order(found, group)
    nobody = np.all([verdict.effective[group].numpy() == 0 for verdict in found.verdicts.values()], axis=0)
    limit = 2.5
    image = None
    for index, name in enumerate(names):
        axes = figure.add_subplot(maps[index // _COLUMNS, index % _COLUMNS])
        values = np.where(nobody, np.nan, found.verdicts[name].effective[group].numpy())[order]
        image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.set_facecolor("#d4d4d4")
        axes.set_title(name, fontsize=9, loc="left", pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
    below = figure.add_axes((0.13, 0.75 / figure.get_figheight(), 3.9 / 13, 3.9 / figure.get_figheight()))
    shown = below.imshow(found.agreement, cmap="PuOr", vmin=-1, vmax=1)
    below.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    below.set_yticks(range(len(names)), names, fontsize=7)
    below.set_title("rank correlation of credit between rules", fontsize=9, loc="left")
    for i, j in np.ndindex(found.agreement.shape):
        value = found.agreement[i, j]
        text = "" if not np.isfinite(value) else f"{value:.1f}".replace("0.", ".").replace("1.0", "1")
        below.text(j, i, text, ha="center", va="center", fontsize=5.5, color="white" if abs(value) > 0.75 else "black")
    figure.colorbar(shown, ax=below, shrink=0.7, pad=0.02).ax.tick_params(labelsize=7)
    when = figure.add_axes((0.5, 0.75 / figure.get_figheight(), 0.31, 3.9 / figure.get_figheight()))
    _draw_when(when, found)
    if image is not None:
        height = 1 - 0.55 / figure.get_figheight()
        bar = figure.add_axes((0.83, height, 0.15, 0.1 / figure.get_figheight()))
        figure.colorbar(image, cax=bar, orientation="horizontal").set_ticks([-limit, 0, limit])
        bar.tick_params(labelsize=7)
        told = "samples from the best to the worst, steps from noise to data; grey: no rule; credit of mean size 1:"
        figure.text(0.82, height + 0.05 / figure.get_figheight(), told, fontsize=8, ha="right", va="center")
    figure.savefig(path)


def _draw_when(axes: Axes, found: SideBySide) -> None:
    """Mean size of credit at every step, one line for all rules that agree; dotted where all steps are alike."""
    lines: list[tuple[np.ndarray, list[str]]] = []
    for name, verdict in found.verdicts.items():
        size = verdict.effective.abs().mean((0, 1)).numpy()
        same = [names for line, names in lines if np.allclose(line, size, rtol=1e-6)]
        if same:
            same[0].append(name)
        elif size.any():
            lines.append((size, [name]))
    colours = cycle(("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c", "#7a6a00", "#444444"))
    for size, names in lines:
        label = ",\n".join(names[:4]) + (f"\nand {len(names) - 4} more" if len(names) > 4 else "")
        shown = np.where(size > 0, size, np.nan)
        if np.nanmax(shown) - np.nanmin(shown) < 1e-6:
            axes.plot(shown, color="#888888", linestyle=":", label=label)
        else:
            axes.plot(shown, marker="o", markersize=3, color=next(colours), label=label)
    axes.set_title("mean size of credit at every step, noise to data", fontsize=9, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _order(found: SideBySide, group: int) -> np.ndarray:
    """Samples of the group from the one that most rules like to the one that most dislike."""
    totals = [verdict.effective[group].sum(-1).numpy() for verdict in found.verdicts.values()]
    return np.argsort(-np.mean(totals, axis=0))


def markdown(found: SideBySide) -> str:
    """A row for each rule."""
    head = ("rule", "zero credit", "sign against the sum", "Pareto share", "in the first half", "mean credit")
    rows = []
    for name, verdict in found.verdicts.items():
        cells = (
            f"{verdict.zero_share:.0%}",
            f"{verdict.sign_disagreement:.0%}",
            f"{verdict.pareto_share:.0%}",
            f"{verdict.early_share:.0%}",
            f"{verdict.mean:+.2f}",
        )
        rows.append([name, *cells])
    about = (
        "Shares of trained (sample, step) pairs without credit; of pairs whose credit has the other sign than the sum "
        "of the standardised rewards; of positive credit that goes to its group's Pareto front; of gradient weight in "
        "the first half of the steps; and the mean credit, 0 for a rule that only compares siblings. Credit includes "
        "the factors of a rule's profile and has mean size 1."
    )
    return f"{table(head, rows)}\n\n{about}\n"
