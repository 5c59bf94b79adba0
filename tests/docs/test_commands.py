"""Every command of README and docs is one that the command line understands; those of three pages run, shortened."""

import glob
import re
import runpy
import shlex
from pathlib import Path

import pytest
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError

from stepcredit.cli.app import app, main
from stepcredit.errors import RecipeError
from stepcredit.recipe.flags import laid_over
from stepcredit.recipe.load import DEFAULT, load_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES_THAT_RUN = [ROOT / "README.md", ROOT / "docs" / "start.md", ROOT / "docs" / "demo.md"]
IN_A_BLOCK = re.compile(r"^ *(?:\.venv/bin/)?(stepcredit [^\n#]*)", flags=re.MULTILINE)
IN_A_SENTENCE = re.compile(r"`(?:\.venv/bin/)?(stepcredit\s[^`]+)`")
STANDS_FOR = {"RECIPE": DEFAULT, "RECIPE.yaml": DEFAULT, "run.yaml": DEFAULT}
SHORT = {
    "threads": 1,
    "rollout.prompts": 2,
    "rollout.group_size": 2,
    "rollout.steps": 3,
    "training.iterations": 2,
    "evaluation.count": 16,
    "evaluation.watch": 8,
    "evaluation.steps": 2,
    "evaluation.every": 1,
    "output.checkpoint_every": 1,
}
# Half a minute to count fourteen billion parameters twice; tests/costs/ counts such networks, here it is only read.
COSTLY = shlex.split("stepcredit train recipes/wan22_t2v_a14b/otca.yaml --dry-run")


def commands(page):
    """The commands in the fenced and indented blocks of a page, without comments."""
    return [shlex.split(line) for line in IN_A_BLOCK.findall(page.read_text(encoding="utf-8"))]


def mentions(page):
    """The commands between backticks in the sentences of a page. One with "..." is a message, not a command."""
    lines = IN_A_SENTENCE.findall(page.read_text(encoding="utf-8"))
    return [shlex.split(line) for line in lines if "..." not in line]


def understand(words):
    """Parse a command as the command line does, and check its recipe and flags as `train` does. Runs nothing."""
    tokens = [STANDS_FOR.get(word, word) for word in words[1:]]
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    # `compare --dump` takes a recipe where runs would stand.
    recipe = bound.arguments.get("runs" if "dump" in bound.arguments else "recipe", ())
    named = bool(recipe) and not recipe[0].startswith("-")
    load_recipe(recipe[0] if named else DEFAULT, recipe[1:] if named else recipe)


def run(words):
    """As a shell would: wildcards are expanded. Training is shortened, whatever the page says."""
    arguments = []
    for word in words[1:]:
        arguments += sorted(glob.glob(word)) if "*" in word else [word]
    if arguments[0] == "train" and "--resume" not in arguments and "--dry-run" not in arguments:
        named = len(arguments) > 1 and not arguments[1].startswith("-")
        short = [f"--{key}={value}" for key, value in SHORT.items()]
        arguments = [*arguments[: 1 + named], *laid_over(arguments[1 + named :], short)]
    ended = 0
    try:
        main(arguments)
    except SystemExit as end:
        ended = end.code or 0
    assert ended == 0, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_understood(page):
    for words in commands(page):
        understand(words)
    for words in mentions(page):
        try:
            understand(words)
        except MissingArgumentError:
            # `stepcredit show` in a sentence names the command; with anything behind the name it has to be whole.
            assert len(words) == 2, " ".join(words)


def test_there_are_commands_in_blocks_and_in_sentences():
    assert ["stepcredit", "bench", "credit"] in commands(ROOT / "docs" / "results.md")
    assert ["stepcredit", "evaluate"] in mentions(ROOT / "docs" / "run_folder.md")
    assert COSTLY in commands(ROOT / "README.md"), "nothing else is left out"


def test_a_command_that_does_not_exist_is_noticed():
    with pytest.raises(UnknownOptionError, match="reward-guide"):
        understand(["stepcredit", "sample", "RUN", "--prompt", "a red circle", "--reward-guide", "1.5"])
    with pytest.raises(RecipeError, match=r"method\.flor"):
        understand(["stepcredit", "train", "RECIPE", "--method.flor", "0"])
    with pytest.raises(RecipeError, match="there is no recipe"):
        understand(["stepcredit", "compare", "--dump", "rollout.safetensors", "recipes/scenes/nothing.yaml"])


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.name)
def test_every_command_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.name == "README.md":
        run(["stepcredit", "train"])  # what its `make demo` does
    for words in commands(page):
        if words != COSTLY:
            run(words)
    if page.name == "start.md":  # its runs serve the snippets of another page
        for code in re.findall(r"```python\n(.*?)```", (page.parent / "run_folder.md").read_text(), flags=re.DOTALL):
            exec(code, {})


def test_the_recipe_page_is_what_the_settings_say():
    page = runpy.run_path(str(ROOT / "scripts" / "recipe_page.py"))["page"]()
    assert (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8") == page, "python scripts/recipe_page.py"
