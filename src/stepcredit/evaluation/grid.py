"""What people look at first: the same captions and noise, before and after training; moving where they are videos."""

import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox, BboxBase, TransformedBbox

from stepcredit.files import figures, media
from stepcredit.files.text import write_bytes

_ROW = 1.62  # inches of a row, with its caption
_LINE = 34  # letters of a line of caption, half as many where letters are wide
_LINES = 3  # of a caption, before they would reach the row above
_NEUTRAL = "#888888"
_RIGHT = "#2a9d55"
_WRONG = "#d1495b"


@figures.literal_text()
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
    stills = [side if fps is None else side[:, 0] for side in (before, after)]
    figure, images = _grid(captions, stills, columns=columns, marks=marks)
    if fps is None:
        figures.save(figure, path)
        return
    videos = list(chain(*zip(before, after, strict=True)))
    frames = []
    # The figure is laid out once; only the pixels of its images change from frame to frame.
    for at in range(before.shape[1]):
        for image, video in zip(images, videos, strict=True):
            image.set_data(video[at])
        frames.append(_pixels(figure))
    write_bytes(path, media.webp(np.stack(frames), fps))


def _grid(
    captions: Sequence[str],
    sides: Sequence[np.ndarray],
    *,
    columns: int,
    marks: Sequence[tuple[bool, bool]] | None,
) -> tuple[Figure, list[AxesImage]]:
    """The figure, and its images in the order before, after, before, after, ..."""
    rows = -(-len(captions) // columns)  # rounded up
    height = _ROW * rows + 0.45
    figure = Figure(figsize=(2.3 * columns, height), dpi=110, facecolor="white")
    figure.suptitle("base (left) and tuned (right): same caption, same noise", fontsize=11)
    cells = figure.add_gridspec(
        rows, columns, hspace=0.42, wspace=0.08, left=0.01, right=0.99, bottom=0.02, top=1 - 0.62 / height
    )
    images = []
    for index, caption in enumerate(captions):
        cell = cells[index // columns, index % columns]
        pair = cell.subgridspec(1, 2, wspace=0.04)
        for side, pictures in enumerate(sides):
            axes = figure.add_subplot(pair[0, side])
            # nearest: miniature worlds draw 32 pixels, and what is seen should be what was scored
            images.append(axes.imshow(pictures[index], interpolation="nearest"))
            _frame(axes, _NEUTRAL if marks is None else _verdict_colour(marks[index][side]))
            if side == 0:
                title = axes.set_title(_lines(caption, index + 1), fontsize=7.5, loc="left", pad=3)
                # Broad letters take more room than lines are counted for: they end with their pair of pictures.
                title.set_clip_box(TransformedBbox(_column(cell.get_position(figure)), figure.transFigure))
                title.set_clip_on(True)
    return figure, images


def _lines(caption: str, number: int) -> str:
    """A caption as it stands above its pictures: cut to a few lines, numbered if no font here has its letters."""
    text = figures.drawable(caption, otherwise=f"caption {number}, in letters that no font here has")
    is_wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    width = _LINE // 2 if is_wide else _LINE
    return "\n".join(textwrap.wrap(text, width, max_lines=_LINES, placeholder=" …"))


def _column(place: BboxBase) -> Bbox:
    """From edge to edge of the figure, as wide as a pair of pictures."""
    return Bbox.from_extents(place.x0, 0, place.x1, 1)


def _verdict_colour(right: bool) -> str:
    return _RIGHT if right else _WRONG


def _frame(axes: Axes, colour: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(2.5)


def _pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # the canvas draws the next frame into the same memory
