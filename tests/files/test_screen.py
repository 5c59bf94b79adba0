"""Foreign text in a terminal is shown and never obeyed."""

import io

import pytest
from rich.console import Console

from stepcredit.evaluation.paired import Difference
from stepcredit.files import screen
from stepcredit.viewer.terminal import differences

COMMANDS = {
    "red": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;a title\x07",
    "link": "\x1b]8;;http://x\x1b\\here",
    "return": "a\rb",
    "bell": "a\x07b",
    "eight bits": "\x9b31mred",
    "backspace": "a\x08b",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066abc\u2069",
}
MARKUP = ["[bold]a[/]", "[/]", "[link=http://x]a[/link]", "a\\", "[red", "a\\[b]", "[@click=x]y"]


def printed(text):
    page = io.StringIO()
    Console(file=page, width=500, force_terminal=True, color_system=None).print(text, highlight=False)
    return page.getvalue()


@pytest.mark.parametrize("text", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("show", [screen.plain, screen.literal, screen.name])
def test_commands_to_the_terminal_never_reach_it(show, text):
    shown = show(text)
    assert all(letter.isprintable() for letter in shown)
    assert not set(shown) & set("\u202e\u2066\u2069")


@pytest.mark.parametrize("text", MARKUP)
@pytest.mark.parametrize("show", [screen.literal, screen.name])
def test_brackets_are_letters(show, text):
    assert printed(f"[bold]{show(text)}[/]").strip() == text


def test_all_of_a_text_is_shown_and_of_a_name_what_fits():
    page = "\n".join(f"line {number}" for number in range(500))
    assert screen.plain(page) == page
    assert screen.name("a" * 5000) == f"{'a' * 59}…"
    assert screen.name("two\nlines\tof a name") == "two lines of a name"


def test_a_table_shows_the_names_of_foreign_rewards():
    row = Difference("[red]tas\x1b[31mte[/]\n2", 0.1, 0.2, 0.1, 0.05, 0.0, 0.2)
    table = differences([row], set())
    assert "[red]taste[/] 2" in printed(table)
