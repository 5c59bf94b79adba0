"""What people look at first: the same captions and noise, before and after training; moving where they are videos."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stepcredit.files import media


def before_after(
    path: Path,
    captions: Sequence[str],
    before: UInt8[np.ndarray, "B *frames H W 3"],
    after: UInt8[np.ndarray, "B *frames H W 3"],
    *,
    columns: int = 6,
    marks: Sequence[tuple[bool, bool]] | None = None,
    fps: float | None = None,
) -> None:
    """Pairs of pictures, base on the left, tuned on the right; `marks` (right or wrong) colours their frames.

    With `fps` they are videos, and the file is an animation.
    """
    first = [sides if fps is None else sides[:, 0] for sides in (before, after)]
    figure, shown = _grid(captions, first, columns=columns, marks=marks)
    if fps is None:
        figure.savefig(path)
        return
    videos, frames = [video for pair in zip(before, after, strict=True) for video in pair], []
    for at in range(before.shape[1]):
        for image, video in zip(shown, videos, strict=True):
            image.set_data(video[at])
        frames.append(_pixels(figure))
    path.write_bytes(media.webp(np.stack(frames), fps))


def _grid(
    captions: Sequence[str],
    sides: Sequence[np.ndarray],
    *,
    columns: int,
    marks: Sequence[tuple[bool, bool]] | None,
) -> tuple[Figure, list]:
    """The figure, and its images in the order before, after, before, after, ..."""
    rows = -(-len(captions) // columns)
    figure = Figure(figsize=(2.3 * columns, 1.62 * rows + 0.45), dpi=110, facecolor="white")
    figure.suptitle("base (left) and tuned (right): same caption, same noise", fontsize=11)
    outer = figure.add_gridspec(
        rows, columns, hspace=0.42, wspace=0.08, left=0.01, right=0.99, bottom=0.02, top=1 - 0.62 / (1.62 * rows + 0.45)
    )
    images = []
    for index, caption in enumerate(captions):
        cell = outer[index // columns, index % columns].subgridspec(1, 2, wspace=0.04)
        for side, pictures in enumerate(sides):
            axes = figure.add_subplot(cell[0, side])
            images.append(axes.imshow(pictures[index], interpolation="nearest"))
            axes.set_xticks([])
            axes.set_yticks([])
            colour = "#888888" if marks is None else ("#2a9d55" if marks[index][side] else "#d1495b")
            for spine in axes.spines.values():
                spine.set_edgecolor(colour)
                spine.set_linewidth(2.5)
            if side == 0:
                text = "\n".join(textwrap.wrap(caption, 34))
                axes.set_title(text, fontsize=7.5, loc="left", pad=3)
    return figure, images


def _pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
