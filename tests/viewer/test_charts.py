"""Charts: well-formed SVG, everything inside the picture, strange numbers and words do no harm."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.viewer import charts
from stepcredit.viewer.charts import Line

ODD = "<b>&\"'"
NAN = math.nan
INF = math.inf
reals = st.floats(-1e9, 1e9, allow_subnormal=False)
odd_reals = reals | st.just(NAN) | st.just(INF)


def drawn(svg):
    """The chart as a tree; a legend before it is HTML and no part of it."""
    tree = ElementTree.fromstring(svg[svg.index("<svg") :])
    assert tree.get("role") == "img"
    return tree


def texts(tree):
    return ["".join(item.itertext()) for item in tree.iter("text")]


def outside(tree):
    """Coordinates that are not inside the picture."""
    _, _, width, height = (float(part) for part in tree.get("viewBox").split())
    places = []
    for item in tree.iter():
        sizes = {key: float(value) for key, value in item.attrib.items() if re.fullmatch(r"c?[xy][12]?", key)}
        if item.tag == "rect":
            sizes |= {"x2": sizes["x"] + float(item.get("width")), "y2": sizes["y"] + float(item.get("height"))}
        for point in item.get("points", "").split():
            x, y = point.split(",")
            places += [("x", float(x), width), ("y", float(y), height)]
        places += [(key, value, width if "x" in key else height) for key, value in sizes.items()]
    assert places
    return [place for place in places if not 0 <= place[1] <= place[2] + 0.1]


def line(y, **settings):
    return Line("a", list(range(len(y))), y, "--c1", **settings)


def draw_lines(*curves, **settings):
    return drawn(charts.lines(curves, alt="x", x_label="iteration", **settings))


# Curves


@given(st.lists(odd_reals, max_size=8), st.none() | odd_reals, st.none() | reals)
def test_every_curve_stays_inside_the_picture(values, reference, floor):
    tree = draw_lines(line(values, dots=True), reference=reference, floor=floor)
    assert not outside(tree)
    assert len(list(tree.iter("circle"))) == sum(map(math.isfinite, values))


@given(reals, reals)
def test_ticks_lie_in_the_range_and_rise(one, other):
    axis = charts._Axis(min(one, other), max(one, other), 10.0, 110.0)
    places = [axis.at(tick) for tick in axis.ticks]
    assert 2 <= len(places) <= 8
    assert places == sorted(places)
    assert min(places) >= 10 - 1e-3
    assert max(places) <= 110 + 1e-3


@pytest.mark.parametrize("values", [[], [NAN], [NAN, INF]])
def test_nothing_to_draw_is_said(values):
    assert texts(draw_lines(line(values))) == ["nothing yet"]


def test_a_single_point_and_a_constant_have_readable_ticks():
    for values in ([0.0], [0.0, 0.0], [0.1 + 0.2, 0.3]):
        assert not [text for text in texts(draw_lines(line(values))) if "e" in text.replace("iteration", "")]


def test_a_reference_that_is_not_a_number_is_left_out():
    tree = draw_lines(line([1.0, 2.0]), reference=NAN)
    assert "base" not in texts(tree)


def test_words_in_a_chart_are_escaped():
    svg = charts.lines(
        [Line(ODD, [0], [1.0], "--c1", dots=True), Line("b", [0], [2.0], "--c2", dashed=True)],
        alt=ODD,
        x_label=ODD,
        reference=1.0,
        reference_name=ODD,
    )
    tree = drawn(svg)
    assert tree.get("aria-label") == ODD
    assert ODD in texts(tree)
    assert "<b>" not in svg


def test_the_legend_tells_dashed_from_solid_and_leaves_faint_curves_out():
    svg = charts.lines([line([1.0], dashed=True), line([1.0]), line([1.0], faint=True)], alt="x", x_label="iteration")
    key = svg[: svg.index("<svg")]
    assert (key.count("dashed"), key.count("solid")) == (1, 1)


# Tables of colours


@given(
    st.integers(1, 6).flatmap(lambda width: st.lists(st.lists(odd_reals, min_size=width, max_size=width), min_size=1)),
    st.booleans(),
)
def test_every_cell_stays_inside_the_picture(values, write):
    table = np.array(values)
    rows = [f"row {i}" for i in range(table.shape[0])]
    columns = [f"c{i}" for i in range(table.shape[1])]
    tree = drawn(charts.heat(table, alt="x", rows=rows, columns=columns, x_label="step", write=write, tips=True))
    assert not outside(tree)
    cells = list(tree.iter("rect"))
    assert len(cells) == table.size
    assert [cell.get("class") == "missing" for cell in cells] == (~np.isfinite(table)).ravel().tolist()
    assert all(0 <= float(cell.get("fill-opacity", 0)) <= (0.5 if write else 1) for cell in cells)


def test_more_and_less_than_the_middle_have_different_colours():
    svg = charts.heat(np.array([[0.5, 1.5]]), alt="x", rows=["a"], columns=["b", "c"], x_label="", low=1.0)
    assert [re.search(r"--\w+", cell.attrib["style"])[0] for cell in drawn(svg).iter("rect")] == ["--less", "--more"]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_table_says_so(shape):
    rows = ["r"] * shape[0]
    columns = ["c"] * shape[1]
    assert texts(drawn(charts.heat(np.empty(shape), alt="x", rows=rows, columns=columns, x_label="")))


def test_names_of_columns_are_all_there_when_they_are_few_and_thinned_when_many():
    few = ["clip_t", "hps", "aesthetic", "composition", "diversity"]
    words = texts(drawn(charts.heat(np.zeros((1, 5)), alt="x", rows=["a"], columns=few, x_label="")))
    assert [name for name in few if name in words] == few
    many = [str(number) for number in range(120)]
    words = texts(drawn(charts.heat(np.zeros((1, 120)), alt="x", rows=["a"], columns=many, x_label="", room=960.0)))
    assert 10 < len(words) < 60


def test_a_table_escapes_and_has_no_negative_zero():
    svg = charts.heat(
        np.array([[-1e-9, 1.0]]), alt=ODD, rows=[ODD], columns=[ODD, "b"], x_label=ODD, write=True, tips=True
    )
    assert "<b>" not in svg
    assert "0.00" in texts(drawn(svg))


# Intervals


@given(st.lists(st.tuples(st.text("ab_", min_size=1, max_size=90), reals, reals, reals), min_size=1, max_size=6))
def test_every_interval_stays_inside_the_picture(rows):
    given_rows = [(name, sorted(ends)[1], min(ends), max(ends), "--c1") for name, *ends in rows]
    assert not outside(drawn(charts.intervals(given_rows, alt="x", x_label="gain")))


def test_a_long_name_leaves_room_for_its_interval():
    tree = drawn(charts.intervals([("a" * 100, 0.5, 0.0, 1.0, "--c1")], alt="x", x_label="gain"))
    assert not outside(tree)
    low, high = next((float(item.get("x1")), float(item.get("x2"))) for item in tree.iter("line") if item.get("style"))
    assert high - low > 100


def test_no_intervals_say_so():
    assert texts(drawn(charts.intervals([], alt="x", x_label="gain"))) == ["nothing yet"]


def test_names_of_intervals_are_escaped():
    assert "<b>" not in charts.intervals([(ODD, 0.0, -1.0, 1.0, "--c1")], alt="x", x_label=ODD)


# Numbers


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0"),
        (-0.25, "-0.25"),
        (0.30000000000000004, "0.3"),
        (12.345, "12.3"),
        (12345.6, "12346"),
        (0.0000123, "1.2e-5"),
        (-2e6, "-2.0e6"),
        (3e12, "3.0e+12"),
    ],
)
def test_numbers_are_short(value, wanted):
    assert charts.number(value) == wanted


@given(reals.filter(lambda value: value == 0 or abs(value) > 1e-12))
def test_a_short_number_is_close_to_what_it_was(value):
    assert math.isclose(float(charts.number(value)), value, rel_tol=0.06)
