"""Foreign text in figures is drawn letter by letter: no formula, no box, no warning, nothing over other pictures."""

import os
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from stepcredit.errors import RunError
from stepcredit.evaluation import grid
from stepcredit.files import figures

FOREIGN = {
    "formula": "Ma$$ive $x^{ in gold",
    "backslashes": r"\frac{1}{2} \$ { } % \\",
    "Chinese": "一只红色的圆",
    "both": "the word 圆 on a wall",
    "Arabic": "مرحبا بالعالم",
    "Devanagari": "लाल वृत्त",
    "emoji": "a cat 🐱 and a family 👩‍👩‍👧",
    "control": "a\tb\nc\r\x07\x1b[31md\x00",
    "turned": "\u202egnp",
    "surrogate": "half \ud83d a letter",
    "long": " ".join(f"word{number}" for number in range(60)),
    "endless": "W" * 5000,
    "empty": "",
}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("caption", FOREIGN.values(), ids=FOREIGN)
def test_any_caption_is_drawn_without_a_warning(tmp_path, caption):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid.before_after(tmp_path / "pairs.png", [caption, "a red circle"], PICTURES, PICTURES, columns=2)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.png"]


@pytest.mark.parametrize("caption", [FOREIGN["long"], FOREIGN["endless"], "圆" * 500])
def test_a_long_caption_is_cut_and_stays_above_its_own_pictures(caption):
    with figures.literal_text():
        _, images = grid._grid([caption, "next"], [PICTURES, PICTURES], columns=2, marks=None)
    title = images[0].axes.get_title(loc="left")
    assert title.count("\n") <= 2
    assert title.endswith("…") or title.startswith("caption 1")
    text = next(text for text in images[0].axes.get_children() if getattr(text, "get_text", str)() == title)
    assert text.get_clip_on()
    assert text.get_clip_box().x1 <= images[2].axes.get_window_extent().x0  # where the next pair begins


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a red circle", "a red circle"),
        ("$x^{", "$x^{"),
        ("two\nlines\t", "two lines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\U000e0100a", "a"),  # a mark that changes the look of a letter, where a font has it
        ("\U0010fffda", "�a"),
        ("\U0010fffd\U0010fffd a", "otherwise"),
        ("", ""),
    ],
)
def test_what_is_drawn_for_a_text(text, wanted):
    assert figures.drawable(text, otherwise="otherwise") == wanted


def test_names_fit_and_are_in_the_legend():
    """matplotlib leaves out what begins with an underscore."""
    assert figures.name("_mine") == " _mine"
    assert figures.name("a" * 500) == f"{'a' * 59}…"
    axes = Figure().subplots()
    axes.plot([1], label=figures.name("_mine"))
    assert axes.get_legend_handles_labels()[1] == [" _mine"]


def test_inside_text_is_no_formula_and_afterwards_all_is_as_before():
    figure = Figure()
    with figures.literal_text():
        literal = figure.text(0, 0, "$a$")
    assert not literal.get_parse_math()
    assert figure.text(0, 0, "$a$").get_parse_math()


def test_a_figure_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    figures.save(Figure(), path)
    before = path.read_bytes()

    def full(*parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"figure\.png could not be written .*No space left"):
        figures.save(Figure(figsize=(1, 1)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_says_which_formats_there_are(tmp_path):
    with pytest.raises(RunError, match=r"cannot be written as figure\.txt; wanted one of .*\.png"):
        figures.save(Figure(), tmp_path / "figure.txt")
