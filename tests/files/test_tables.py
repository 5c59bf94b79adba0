"""Markdown tables: text stays as it was written, columns line up, no name breaks a row."""

from stepcredit.files.tables import markdown_table


def test_numbers_stay_as_they_were_written_and_columns_line_up():
    assert markdown_table(["score", "gain"], [["hps", "**+0.2500**"], ["a long name", "-1.0"]]).splitlines() == [
        "| score       |        gain |",
        "|:------------|------------:|",
        "| hps         | **+0.2500** |",
        "| a long name |        -1.0 |",
    ]


def test_so_many_columns_as_asked_for_are_aligned_left():
    assert markdown_table(["a", "b", "c"], [["1", "2", "3"]], left=2).splitlines()[1] == "|:----|:----|----:|"


def test_a_bar_in_a_name_does_not_begin_a_column():
    head, _, row = markdown_table(["a|b"], [["c|d"]]).splitlines()
    assert (head, row) == (r"| a\|b   |", r"| c\|d   |")


def test_a_table_without_rows_is_its_head():
    assert markdown_table(["a", "b"], []).splitlines()[0] == "| a   | b   |"
