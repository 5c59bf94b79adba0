"""Every command of README and docs runs, in the order of the page, on runs that are shortened."""

import glob
import re
import runpy
import shlex
from pathlib import Path

import pytest

from stepcredit.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "start.md", ROOT / "docs" / "demo.md"]
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


def commands(page):
    """The stepcredit commands in the fenced and indented blocks of a page, without comments."""
    lines = re.findall(r"^ *(?:\.venv/bin/)?(stepcredit [^\n#]*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


def run(words):
    """As a shell would: wildcards are expanded. Training is shortened, whatever the page says."""
    arguments = [found for word in words[1:] for found in (sorted(glob.glob(word)) if "*" in word else [word])]
    if arguments[0] == "train" and "--resume" not in arguments and "--dry-run" not in arguments:
        arguments += [part for key, value in SHORT.items() for part in (f"--{key}", str(value))]
    ended = 0
    try:
        main(arguments)
    except SystemExit as end:
        ended = end.code or 0
    assert ended == 0, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert found, "the pattern finds the commands of the page"
    if page.name == "README.md":
        run(["stepcredit", "train"])  # what its `make demo` does
    for words in found:
        run(words)
    if page.name == "start.md":  # its runs serve the snippets of another page
        for code in re.findall(r"```python\n(.*?)```", (page.parent / "run_folder.md").read_text(), flags=re.DOTALL):
            exec(code, {})


def test_the_recipe_page_is_what_the_settings_say():
    page = runpy.run_path(str(ROOT / "scripts" / "recipe_page.py"))["page"]()
    assert (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8") == page, "python scripts/recipe_page.py"
