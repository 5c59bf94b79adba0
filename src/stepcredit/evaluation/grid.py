"""The picture that people look at first: the same captions and noise, before and after training."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure


def before_after(
    path: Path,
    captions: Sequence[str],
    before: UInt8[np.ndarray, "B H W 3"],
    after: UInt8[np.ndarray, "B H W 3"],
    *,
    columns: int = 6,
    marks: Sequence[tuple[bool, bool]] | None = None,
) -> None:
    """Pairs of pictures, base on the left, tuned on the right; `marks` (right or wrong) colours their frames."""
    rows = -(-len(captions) // columns)
    figure = Figure(figsize=(2.3 * columns, 1.62 * rows + 0.45), dpi=110, facecolor="white")
    figure.suptitle("base (left) and tuned (right): same caption, same noise", fontsize=11)
    outer = figure.add_gridspec(
        rows, columns, hspace=0.42, wspace=0.08, left=0.01, right=0.99, bottom=0.02, top=1 - 0.62 / (1.62 * rows + 0.45)
    )
    for index, caption in enumerate(captions):
        cell = outer[index // columns, index % columns].subgridspec(1, 2, wspace=0.04)
        for side, pictures in enumerate((before, after)):
            axes = figure.add_subplot(cell[0, side])
            axes.imshow(pictures[index], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            colour = "#888888" if marks is None else ("#2a9d55" if marks[index][side] else "#d1495b")
            for spine in axes.spines.values():
                spine.set_edgecolor(colour)
                spine.set_linewidth(2.5)
            if side == 0:
                text = "\n".join(textwrap.wrap(caption, 34))
                axes.set_title(text, fontsize=7.5, loc="left", pad=3)
    figure.savefig(path)
