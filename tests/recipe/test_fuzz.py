"""Broken recipes are answered by sentences; `python scripts/fuzz_recipes.py` breaks twenty thousand."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "fuzz_recipes.py"))


def test_broken_recipes_end_in_sentences_that_name_the_key():
    tally = SCRIPT["run"](60, seed=1, shown_every=10_000)
    assert not tally.failures, tally.failures[0]
    assert tally.outcomes["refused"] > 30
    assert tally.named_share >= 0.95, tally.unnamed


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), MemoryError(), SystemExit(0)])
def test_what_is_no_error_of_the_package_is_noticed(monkeypatch, tmp_path, error):
    def broken(*_):
        raise error

    path = tmp_path / "recipe.yaml"
    path.touch()
    monkeypatch.setitem(SCRIPT["judged"].__globals__, "load_recipe", broken)
    assert SCRIPT["judged"](path, SCRIPT["Case"](b""), whole=False)[0] == "traceback"
