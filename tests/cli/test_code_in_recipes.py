"""A recipe that names a module is code: it is said, and whoever only looks at recipes and runs imports nothing."""

import sys

import pytest

from drawn_runs import drawn_run
from stepcredit import cli
from stepcredit.recipe.foreign import named_modules, warning_of
from stepcredit.recipe.load import load_recipe

TATTLE = "raise SystemExit('it was imported')\n"
METHOD = """
from typing import Literal
from stepcredit.methods.dance_grpo import DanceGRPO
class Own(DanceGRPO):
    type: Literal["their_lab.own"] = "their_lab.own"
"""


def run(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def tattle(their_lab):
    return their_lab("tattle", TATTLE)


def test_a_dry_run_names_the_code_of_rewards_and_does_not_run_it(tattle, capsys):
    trained, held_out = (f"[{{type: custom, path: '{tattle}:{name}'}}]" for name in ("trained", "held_out"))
    small = ("--rollout.prompts", "1", "--rollout.group_size", "2", "--rollout.steps", "2", "--method", "dance_grpo")
    assert run("train", "scenes", "--rewards", trained, "--held_out", held_out, *small, "--dry-run") == 0
    assert "this recipe runs code of their_lab.tattle; train only with code that you trust" in capsys.readouterr().out
    assert not [name for name in sys.modules if name.startswith("their_lab")]


def test_a_method_of_somebody_else_is_said_with_its_file(their_lab):
    own = their_lab("own", METHOD)
    recipe = load_recipe(overrides={"method": own, "held_out": [{"type": "custom", "path": "their_lab.own:f"}]})
    assert named_modules(recipe) == ("their_lab.own",)  # once
    assert f"code of their_lab.own ({sys.modules[own].__file__}); train only" in str(warning_of(recipe))


def test_a_recipe_without_code_says_nothing():
    assert warning_of(load_recipe()) is None


@pytest.mark.parametrize("command", ["cite", "show", "report"])
def test_who_looks_at_a_run_imports_nothing_that_its_recipe_names(tattle, tmp_path, command, capsys):
    folder = drawn_run(tmp_path / "run")
    recipe = (folder / "run.yaml").read_text()
    recipe = recipe.replace("type: otca", f"type: {tattle}").replace("type: flux", f"type: {tattle}")
    (folder / "run.yaml").write_text(recipe.replace("- type: hps", f"- type: custom\n  path: {tattle}:hps"))
    assert run(command, str(folder)) == 0
    assert not [name for name in sys.modules if name.startswith("their_lab")]
    if command == "cite":
        cited = capsys.readouterr().out
        assert "% kernel dance_sde" in cited
        assert "tattle" not in cited
