"""Small charts as SVG text. Colours are the page's CSS variables, so one drawing serves light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain

import numpy as np

# Units are those of the viewBox, which are pixels until the chart is shrunk to its column. Nothing measures text here,
# so that room for it is reckoned from how wide letters of page.css are at most on average.
_LEFT = 52.0  # room for the numbers of a vertical axis
_RIGHT = 14.0
_TOP = 12.0
_BOTTOM = 34.0  # room for a row of numbers and a label
_LETTER = 6.2  # of class tick, right of which a cell begins
_COLUMN_LETTER = 6.5  # the same beside each other, with air between two names
_NAME_LETTER = 7.0  # the same with the gap to an interval
_NUMBER_WIDE = 46.0  # a cell that holds a number such as -12.34
_INTERVAL_ROW = 26.0


@dataclass(frozen=True)
class Line:
    """One curve. `colour` is a CSS variable's name; points that are not finite are left out.

    Such as Line("hps", [0, 20, 40], [0.21, 0.24, 0.26], "--c1", dots=True).
    """

    name: str
    x: Sequence[float | int]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    dots: bool = False
    faint: bool = False


def lines(
    curves: Sequence[Line],
    *,
    alt: str,
    x_label: str,
    reference: float | None = None,
    reference_name: str = "base",
    width: float = 460.0,
    height: float = 220.0,
    floor: float | None = None,
) -> str:
    """Curves over a common axis, with a legend; `reference` is a horizontal line, `floor` a lowest top of the axis."""
    drawn = [_known_points(curve) for curve in curves]
    points = list(chain(*drawn))
    if not points:
        return empty(alt, width=width, height=height)
    if reference is not None and not math.isfinite(reference):
        reference = None
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [level for level in (reference, floor) if level is not None]
    x_axis = _Axis(min(xs), max(xs), _LEFT, width - _RIGHT)
    y_axis = _Axis(min(ys), max(ys), height - _BOTTOM, _TOP)  # SVG counts downwards
    parts = [_grid(x_axis, y_axis, width, height, x_label)]
    if reference is not None:
        y = y_axis.at(reference)
        parts.append(f'<line class="reference" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(width - _RIGHT, y - 4, reference_name, "note", "end"))
    for curve, known in zip(curves, drawn, strict=True):
        parts += _curve(curve, known, x_axis, y_axis)
    named = [curve for curve in curves if curve.name and not curve.faint]
    key = legend(named) if len(named) > 1 else ""  # a single curve is named by the panel's title
    return key + _svg(parts, alt, width, height)


def _known_points(curve: Line) -> list[tuple[float, float]]:
    points = zip(curve.x, curve.y, strict=True)
    return [(float(x), y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _curve(curve: Line, points: Sequence[tuple[float, float]], x_axis: "_Axis", y_axis: "_Axis") -> list[str]:
    """The line, and with `dots` a mark at each point that names its numbers."""
    places = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)
    style = f"stroke:var({curve.colour})" + (";opacity:.35" if curve.faint else "")
    dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
    parts = [f'<polyline class="curve" style="{style}"{dashes} points="{places}"/>']
    if curve.dots:
        parts += [
            f'<circle r="3" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" style="fill:var({curve.colour})">'
            f"<title>{escape(curve.name)}: {number(y)} at {x:g}</title></circle>"
            for x, y in points
        ]
    return parts


def heat(
    values: np.ndarray,
    *,
    alt: str,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    digits: int = 2,
    tips: bool = False,
    write: bool = False,
    limit: float | None = None,
    low: float = 0.0,
    room: float = 400.0,
) -> str:
    """A table of numbers as colours: more than `low` in one hue, less in another; NaN is hatched.

    Rows go down, columns right, in about `room` units. With `write`, the numbers stand in the cells; with `tips`, a
    pointer shows them. `limit` is the distance from `low` that gets the full colour, which is half as strong under
    numbers, so that they can be read.
    """
    if not values.size:
        return empty(alt)
    count_rows, count_columns = values.shape
    longest = max(len(name) for name in columns)
    wide = max(3.0, min(max(_NUMBER_WIDE, _COLUMN_LETTER * longest), room / count_columns))
    high = max(10.0, min(26.0, 260 / count_rows))
    left = 16 + _LETTER * max(len(row) for row in rows)
    width = left + wide * count_columns + 8
    height = 8 + high * count_rows + 36
    shade = _Shade(low=low, top=limit or _largest(values, low), strongest=0.5 if write else 1.0)
    parts = []
    for r, row in enumerate(rows):
        parts.append(_text(left - 6, 8 + high * (r + 0.5) + 4, row, "tick", "end"))
        for c, column in enumerate(columns):
            value = values[r, c]
            tip = f"<title>{escape(row)}, {escape(column)}: {value:.{digits}f}</title>" if tips else ""
            place = f'x="{left + wide * c:.1f}" y="{8 + high * r:.1f}" width="{wide:.1f}" height="{high:.1f}"'
            parts.append(f"<rect {place} {shade.of(value)}>{tip}</rect>")
            if write and math.isfinite(value):
                middle = left + wide * (c + 0.5)
                # z: no minus before what is rounded to zero
                parts.append(_text(middle, 8 + high * (r + 0.5) + 4, f"{value:z.{digits}f}", "cell", "middle"))
    every = max(1, math.ceil(longest * _COLUMN_LETTER / wide))  # names of narrow columns are thinned out
    for c in range(0, count_columns, every):
        parts.append(_text(left + wide * (c + 0.5), height - 20, columns[c], "tick", "middle"))
    parts.append(_text(left + wide * count_columns / 2, height - 4, x_label, "label", "middle"))
    return _svg(parts, alt, width, height)


def _largest(values: np.ndarray, low: float) -> float:
    """The distance from `low` that gets the full colour; any but 0 where all values are equal or none is known."""
    distances = np.abs(values[np.isfinite(values)] - low)
    return (float(distances.max()) if distances.size else 1.0) or 1.0


@dataclass(frozen=True)
class _Shade:
    """Colours of a table: `low` has none, `top` away from it is the strongest. Such as _Shade(0.0, 2.5, 1.0)."""

    low: float
    top: float
    strongest: float

    def of(self, value: float | np.floating) -> str:
        """Attributes of a cell."""
        if not math.isfinite(value):
            return 'class="missing"'
        opacity = min(1.0, abs(value - self.low) / self.top) * self.strongest
        hue = "--more" if value >= self.low else "--less"
        return f'style="fill:var({hue})" fill-opacity="{opacity:.2f}"'


def intervals(
    rows: Sequence[tuple[str, float, float, float, str]], *, alt: str, x_label: str, width: float = 460.0
) -> str:
    """Name, value, low, high, colour of each: a dot with its interval around a line at 0."""
    if not rows:
        return empty(alt)
    height = _INTERVAL_ROW * len(rows) + 44
    left = 16.0 + _NAME_LETTER * max(len(name) for name, *_ in rows)
    width = max(width, left + 240)  # long names push the chart wider instead of squeezing it
    reach = [0.0, *(low for _, _, low, _, _ in rows), *(high for _, _, _, high, _ in rows)]
    axis = _Axis(min(reach), max(reach), left, width - _RIGHT)
    parts = [f'<line class="reference" x1="{axis.at(0.0):.1f}" x2="{axis.at(0.0):.1f}" y1="4" y2="{height - 34}"/>']
    for tick in axis.ticks:
        parts.append(_text(axis.at(tick), height - 20, number(tick), "tick", "middle"))
    for index, (name, value, low, high, colour) in enumerate(rows):
        y = 16.0 + _INTERVAL_ROW * index
        parts.append(_text(left - 8, y + 4, name, "tick", "end"))
        ends = f'x1="{axis.at(low):.1f}" x2="{axis.at(high):.1f}" y1="{y}" y2="{y}"'
        parts.append(f'<line style="stroke:var({colour})" stroke-width="3" {ends}/>')
        parts.append(
            f'<circle r="5" style="fill:var({colour})" cx="{axis.at(value):.1f}" cy="{y}">'
            f"<title>{escape(name)}: {value:+.3f} [{low:+.3f}, {high:+.3f}]</title></circle>"
        )
    parts.append(_text((left + width) / 2, height - 4, x_label, "label", "middle"))
    return _svg(parts, alt, width, height)


def legend(curves: Sequence[Line]) -> str:
    """Names beside a piece of their line, as HTML."""
    items = "".join(
        f'<span><i style="border-top:3px {"dashed" if curve.dashed else "solid"} var({curve.colour})"></i>'
        f"{escape(curve.name)}</span>"
        for curve in curves
    )
    return f'<div class="legend">{items}</div>'


def empty(alt: str, *, width: float = 460.0, height: float = 120.0) -> str:
    """A chart with nothing to show yet."""
    return _svg([_text(width / 2, height / 2, "nothing yet", "label", "middle")], alt, width, height)


def number(value: float) -> str:
    """Short, without a needless exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e5:
        # Python pads exponents to two digits: 1.2e-05
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if size < 100 else f"{value:.0f}"


class _Axis:
    """Values to places, with a little air and round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, but for rounding
            low -= 0.1 * abs(low) or 1.0
            high += 0.1 * abs(high) or 1.0
        air = 0.06 * (high - low)
        self._low = low - air
        self._high = high + air
        self._start = start
        self._end = end
        # Four ticks or a few more, at multiples of 1, 2 or 5 times a power of ten.
        rough = (high - low) / 4
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
        # multiples, not sums: adding up the step would show 0.30000000000000004
        first = math.ceil(self._low / step)
        self.ticks = [step * index for index in range(first, math.floor(self._high / step) + 1)]

    def at(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)


def _grid(x_axis: _Axis, y_axis: _Axis, width: float, height: float, x_label: str) -> str:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, number(tick), "tick", "end"))  # 4: text hangs on its base line
    for tick in x_axis.ticks:
        parts.append(_text(x_axis.at(tick), height - 18, number(tick), "tick", "middle"))
    parts.append(_text((_LEFT + width) / 2, height - 3, x_label, "label", "middle"))
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], alt: str, width: float, height: float) -> str:
    across = math.ceil(width)
    down = math.ceil(height)
    size = f'viewBox="0 0 {across} {down}" style="max-width:{across}px"'
    return f'<svg {size} role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'
