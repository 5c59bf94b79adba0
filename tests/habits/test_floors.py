"""The floors that the README draws are those that import-linter holds."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def drawn() -> list[str]:
    """The rooms of the README's tree, from top to bottom."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## Where things are")[2].partition("src/stepcredit/\n")[2].partition("```")[0]
    lines = re.findall(r"^  (\w+)/? {2,}", tree, flags=re.MULTILINE)
    return [room for room in lines if (ROOT / "src" / "stepcredit" / room / "__init__.py").exists() or is_file(room)]


def is_file(room: str) -> bool:
    return (ROOT / "src" / "stepcredit" / f"{room}.py").is_file()


def held() -> list[list[str]]:
    """The floors of the contract, from top to bottom, each with its rooms."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[room.strip().removeprefix("stepcredit.") for room in re.split(r"[|:]", floor)] for floor in floors]


def test_the_readme_draws_the_floors_that_are_held():
    rooms = drawn()
    for floor in held():
        assert set(rooms[: len(floor)]) == set(floor), f"the README has {rooms[: len(floor)]}, the contract {floor}"
        rooms = rooms[len(floor) :]
    assert not rooms


def test_every_room_has_a_floor():
    package = ROOT / "src" / "stepcredit"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    rooms |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert rooms == {room for floor in held() for room in floor}
