"""The short form of scripts/damage_runs.py: a few damages of a run, and what is printed about it."""

import random
import runpy
import shutil
from pathlib import Path

import pytest

from drawn_runs import drawn_run
from stepcredit.files.seal import sealed_text

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "damage_runs.py"))
CHOSEN = [
    ("samples/000002", "renamed"),
    ("samples/000004", "deleted"),
    ("samples/000000", "a link"),
    ("samples/000006/look.json", "a bit flipped"),
    ("samples/000000/scores.jsonl", "cut after a third"),
    ("samples/000006/0000.png", "another bit flipped"),
    ("credit/000003.safetensors", "a bit flipped"),
    ("credit/000003.safetensors", "renamed"),
    ("credit/000003.safetensors", "doubled"),
    ("metrics.jsonl", "last line lost"),
    ("metrics.jsonl", "first line lost"),
    ("metrics.jsonl", "a line twice"),
    ("metrics.jsonl", "a bit flipped"),
    ("problems.jsonl", "another bit flipped"),
    ("result.json", "a bit flipped"),
    ("run.yaml", "a bit flipped"),
    ("run.yaml", "cut after two thirds"),
    ("environment.json", "a bit flipped"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, one to compare it with, and what is printed about them."""
    folder = tmp_path_factory.mktemp("damaged")
    for seed, name in enumerate(("run", "other")):
        path = drawn_run(folder / "place" / name, seed=seed, count=8, watch=8, iterations=6)
        (path / "run.yaml").write_text(sealed_text((path / "run.yaml").read_text()))
    commands = SCRIPT["commands"](folder / "place")
    wanted = {name: commands[name]() for name in ("show", "report", "compare")}
    assert [answer.code for answer in wanted.values()] == [0, 0, 0]
    (folder / "place").rename(folder / "whole")
    return folder, wanted


@pytest.mark.parametrize(("path", "name"), CHOSEN)
def test_nothing_is_printed_about_a_damaged_run_but_the_truth_or_a_word(whole, path, name):
    folder, wanted = whole
    shutil.rmtree(folder / "place", ignore_errors=True)
    shutil.copytree(folder / "whole", folder / "place")
    for elsewhere in folder.glob("place/elsewhere-*"):
        shutil.rmtree(elsewhere)
    ways = {**SCRIPT["OF_ALL"], **SCRIPT["OF_FILES"], **SCRIPT["OF_LOGS"]}
    ways[name](folder / "place" / "run" / path, random.Random(path))
    command = "report" if path.startswith(("samples", "problems")) else "compare"
    if path.startswith(("credit", "run.yaml")):
        command = "show"
    assert SCRIPT["wrong"](SCRIPT["commands"](folder / "place")[command](), wanted[command], command) is None


def test_other_numbers_without_a_word_and_tracebacks_are_called_wrong():
    answer = SCRIPT["Answer"]
    assert SCRIPT["wrong"](answer(0, "gain 1"), answer(0, "gain 1"), "show") is None
    assert SCRIPT["wrong"](answer(2, "error: no"), answer(0, "gain 1"), "show") is None
    assert SCRIPT["wrong"](answer(0, "gain 2, metrics.jsonl lacks iteration 1"), answer(0, "gain 1"), "show") is None
    assert "without a word" in SCRIPT["wrong"](answer(0, "gain 2"), answer(0, "gain 1"), "show")
    assert "ended with 1" in SCRIPT["wrong"](answer(1, "Traceback"), answer(0, "gain 1"), "show")
