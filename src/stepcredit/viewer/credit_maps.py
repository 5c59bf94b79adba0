"""All rules on one frozen rollout: a heat map of credit for each, how far they agree, and a table."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from stepcredit.files import figures
from stepcredit.files.tables import markdown_table
from stepcredit.studies.side_by_side import SideBySide

_COLUMNS = 6
_WIDTH = 13.0  # inches; heights are in inches too, and become shares of the figure, which grows with the rows of maps
_LIMIT = 2.5  # credit of the full colour: its mean size is 1, so that few cells lie beyond
_COLOURS = ("#2463c8", "#b4560a", "#1f7a4d", "#8a3fb0", "#0e7c86", "#b0305c", "#7a6a00", "#444444")
_NAMED = 4  # rules of one line that its label names


@figures.literal_text()
def draw(comparison: SideBySide, path: Path, *, prompt: str, group: int = 0) -> None:
    """Credit of one group, samples down, steps from noise to data across, best sample on top; then the agreement."""
    rows = -(-len(comparison.verdicts) // _COLUMNS)  # rounded up
    figure = Figure(figsize=(_WIDTH, 1.75 * rows + 5.85), dpi=130, facecolor="white")
    high = figure.get_figheight()
    title = "Credit of every rule"
    if prompt:
        title += f" for one group of one rollout: “{shorten(figures.drawable(prompt), 90, placeholder=' …')}”"
    figure.suptitle(title, fontsize=12, x=0.02, ha="left", y=1 - 0.1 / high)
    image = _draw_maps(figure, comparison, group)
    _draw_agreement(figure, figure.add_axes((0.13, 0.75 / high, 3.9 / _WIDTH, 3.9 / high)), comparison)
    _draw_when(figure.add_axes((0.5, 0.75 / high, 0.31, 3.9 / high)), comparison)
    if image is not None:
        _draw_scale(figure, image)
    figures.save(figure, path)


def _draw_maps(figure: Figure, comparison: SideBySide, group: int) -> AxesImage | None:
    """A map of each rule; returns the last one, whose colours are those of all."""
    credits = {name: verdict.effective[group].numpy() for name, verdict in comparison.verdicts.items()}
    high = figure.get_figheight()
    rows = -(-len(credits) // _COLUMNS)
    maps = figure.add_gridspec(
        rows,
        _COLUMNS,
        left=0.02,
        right=0.98,
        top=1 - 1.0 / high,
        bottom=5.1 / high + 0.02,
        hspace=0.55,
        wspace=0.08,
    )
    best_first = _order(comparison, group)
    # Grey is where no rule at all gives credit, a step that is not trained; a rule's own zeros stay white.
    nobody = np.all([credit == 0 for credit in credits.values()], axis=0)
    image = None
    for index, (name, credit) in enumerate(credits.items()):
        axes = figure.add_subplot(maps[index // _COLUMNS, index % _COLUMNS])
        values = np.where(nobody, np.nan, credit)[best_first]
        image = axes.imshow(values, cmap="RdBu", vmin=-_LIMIT, vmax=_LIMIT, aspect="auto", interpolation="nearest")
        axes.set_facecolor("#d4d4d4")
        axes.set_title(figures.name(name), fontsize=9, loc="left", pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
    return image


def _draw_agreement(figure: Figure, axes: Axes, comparison: SideBySide) -> None:
    """How far every two rules rank the credits of this rollout alike."""
    names = list(map(figures.name, comparison.verdicts))
    image = axes.imshow(comparison.agreement, cmap="PuOr", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_title("rank correlation of credit between rules", fontsize=9, loc="left")
    for i, j in np.ndindex(comparison.agreement.shape):
        value = float(comparison.agreement[i, j])
        colour = "white" if abs(value) > 0.75 else "black"  # what can be read on the cell
        axes.text(j, i, _short(value), ha="center", va="center", fontsize=5.5, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02).ax.tick_params(labelsize=7)


def _short(value: float) -> str:
    """One digit without a leading zero, since up to 25 rules share the width; nothing for a rule without credit."""
    return f"{value:.1f}".replace("0.", ".").replace("1.0", "1") if np.isfinite(value) else ""


def _draw_scale(figure: Figure, image: AxesImage) -> None:
    """Above the maps at the right: what their colours mean."""
    high = figure.get_figheight()
    bottom = 1 - 0.55 / high
    scale = figure.add_axes((0.83, bottom, 0.15, 0.1 / high))
    figure.colorbar(image, cax=scale, orientation="horizontal").set_ticks([-_LIMIT, 0, _LIMIT])
    scale.tick_params(labelsize=7)
    text = "samples from the best to the worst, steps from noise to data; grey: no rule; credit of mean size 1:"
    figure.text(0.82, bottom + 0.05 / high, text, fontsize=8, ha="right", va="center")


def _draw_when(axes: Axes, comparison: SideBySide) -> None:
    """Mean size of credit at every step, one line for all rules that agree; dotted where all steps are alike."""
    colours = cycle(_COLOURS)
    lines = _lines(comparison)
    for size, names in lines:
        label = ",\n".join(map(figures.name, names[:_NAMED])) + (
            f"\nand {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        )
        trained = np.where(size > 0, size, np.nan)
        if np.nanmax(trained) - np.nanmin(trained) < 1e-6:
            axes.plot(trained, color="#888888", linestyle=":", label=label)
        else:
            axes.plot(trained, marker="o", markersize=3, color=next(colours), label=label)
    axes.set_title("mean size of credit at every step, noise to data", fontsize=9, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if lines:  # matplotlib warns about a legend of nothing
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(comparison: SideBySide) -> list[tuple[np.ndarray, list[str]]]:
    """Mean size of credit by step with the names of all rules that have it; a rule without any credit has no line."""
    lines: list[tuple[np.ndarray, list[str]]] = []
    for name, verdict in comparison.verdicts.items():
        size = verdict.effective.abs().mean((0, 1)).numpy()
        same = [names for line, names in lines if np.allclose(line, size, rtol=1e-6)]
        if same:
            same[0].append(name)
        elif size.any():
            lines.append((size, [name]))
    return lines


def _order(comparison: SideBySide, group: int) -> np.ndarray:
    """Samples of the group from the one that most rules like to the one that most dislike."""
    totals: Sequence[np.ndarray] = [v.effective[group].sum(-1).numpy() for v in comparison.verdicts.values()]
    return np.argsort(-np.mean(totals, axis=0))


def markdown(comparison: SideBySide) -> str:
    """A row for each rule."""
    head = ("rule", "zero credit", "sign against the sum", "Pareto share", "in the first half", "mean credit")
    rows = []
    for name, verdict in comparison.verdicts.items():
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
    return f"{markdown_table(head, rows)}\n\n{about}\n"
