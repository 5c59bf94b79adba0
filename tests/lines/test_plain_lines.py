"""The counter of dense lines counts what it says, and the package is as plain as it aims to be."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "plain_lines.py"))
HERE = Path("here.py")


def read(text):
    return SCRIPT["read_text"](text, HERE)


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("[x for row in rows for x in row]", 0),
        ("[[x for x in row] for row in rows]", 1),
        ("[x for x in [y for y in row]]", 1),
        ("{key: sum(x for x in row) for key, row in rows}", 1),
        ("[[[x for x in row] for row in page] for page in book]", 2),
        ("[lambda: {x for x in row} for row in rows]", 1),
        ("a = [x for x in row]\nb = [y for y in a]", 0),
    ],
)
def test_comprehensions_inside_comprehensions(text, nested):
    assert read(text).nested == nested


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a, b = x, y", 1),
        ("(a, b) = [x, y]", 1),
        ("a, *b = x, y, z", 1),
        ("c = a, b = x, y", 1),
        ("a, b = b + 1, a", 1),
        ("a, b = b, a", 0),
        ("a.data, b[0] = b[0], a.data", 0),
        ("a, b = divmod(7, 2)", 0),
        ("a, b = (f(x) for x in row)", 0),
        ("both = x, y", 0),
        ("for a, b in rows:\n    pass", 0),
    ],
)
def test_two_unrelated_things_in_one_line(text, pairs):
    assert read(text).pairs == pairs


def test_vague_names_are_a_share_of_all_that_are_assigned():
    lines = read("found = 1\nrewards = found\nfor kept in [other]:\n    pass\n")
    assert (lines.vague, lines.names) == (2, 3)
    assert lines.places == ["here.py:1 vague name found", "here.py:3 vague name kept"]


@pytest.mark.parametrize(
    "definition", ["class Thing: ...", "from world import Thing", "from world import Object as Thing"]
)
def test_a_variable_may_be_called_after_its_class(definition):
    assert read(f"{definition}\nthing = Thing()\nthings = [thing]").vague == 0


def test_of_another_file_it_may_not():
    assert read("thing = make()").vague == 1


def test_code_is_neither_blank_nor_comment_nor_documentation():
    text = '"""A module.\n\nOf two lines.\n"""\n\n# why\nx = 1  # and why\n"""An attribute."""\ny = """a\n\nb"""\n'
    lines = read(text)
    assert (lines.code, lines.comments, lines.length) == (3, 2, 11)


@pytest.mark.parametrize("comment", ["# noqa: E501", "# type: ignore", "#!/usr/bin/env python", "# pyright: basic"])
def test_comments_for_tools_are_none(comment):
    assert read(f"{comment}\nx = '# a string'").comments == 0


def test_functions_are_as_long_as_their_code():
    text = 'def outer():\n    """Says\n    much."""\n    # why\n\n'
    text += "    def inner():\n        return 1\n    return inner\n"
    assert sorted(read(text).functions) == [2, 4]


@pytest.mark.parametrize(
    ("text", "annotated"),
    [
        ("def f() -> int: ...", 1),
        ("def f(a: int, *b: int, c: int = 1, **d: int) -> int: ...", 1),
        ("async def f(a: int) -> int: ...", 1),
        ("class C:\n    def f(self, a: int) -> int: ...", 1),
        ("def f(a: int): ...", 0),
        ("def f(a) -> int: ...", 0),
        ("def f(*a) -> int: ...", 0),
        ("def f(*, a) -> int: ...", 0),
        ("def f(a, /) -> int: ...", 0),
        ("def f(**a) -> int: ...", 0),
    ],
)
def test_annotated_functions(text, annotated):
    lines = read(text)
    assert len(lines.functions) == 1
    assert lines.annotated == annotated


def repeated(*texts):
    return list(SCRIPT["repetitions"]({Path(f"{index}.py"): read(text) for index, text in enumerate(texts)}))


def block(count, indent=""):
    return "".join(f"{indent}x{index} = {index}\n" for index in range(count))


def test_eight_lines_that_occurred_before_are_a_repetition():
    assert repeated(block(7), block(7)) == []
    assert repeated(block(8), block(8)) == ["1.py:1 repeats 0.py:1"]
    assert len(repeated(block(10), "if True:\n" + block(10, "    "))) == 3, "indentation is no difference"
    assert repeated(block(8) + "y = 0\n" + block(8)) == ["0.py:10 repeats 0.py:1"]


def test_imports_brackets_and_comments_make_no_repetition():
    imports = "".join(f"import m{index}\n" for index in range(9))
    assert repeated(imports, imports) == []
    spread = block(4) + "f(\n)\n# why\n\n" + "".join(f"z{index} = 0\n" for index in range(3))
    closed = block(4) + "f(\n)\n" + "".join(f"z{index} = 0\n" for index in range(3))
    assert len(repeated(spread, closed)) == 1


def test_measures_of_several_files_together():
    files = {Path("a.py"): read("a, b = x, y\n"), Path("b.py"): read("# why\nfound = 1\nz = 2\nw = 3\n")}
    measures = SCRIPT["measure"](files)
    assert measures["pairs"] == 250
    assert measures["comments"] == 25
    assert measures["vague"] == 20
    assert measures["largest"] == 4
    assert measures["annotated"] == 100
    assert "pairs is 250.00, wanted at most 2" in SCRIPT["missed"](measures)


def test_the_package_is_as_plain_as_it_aims_to_be():
    assert SCRIPT["missed"](SCRIPT["measure"](SCRIPT["gather"]([SCRIPT["PACKAGE"]]))) == []
