"""README and the model card run as they are written."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import stepcredit
from stepcredit.recipe.load import validate

ROOT = Path(__file__).parents[2]
CARD = Path(stepcredit.__file__).parent / "assets" / "README.md"


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks(ROOT / "README.md", "python"))
def test_python_of_the_readme_runs_and_keeps_its_shapes(code):
    torch.manual_seed(0)
    names = {}
    exec(code, names)
    assert names["credit"].per_step.shape == (12, 16)
    assert torch.allclose(names["weights"].mean(1), torch.ones(12))
    assert torch.allclose(names["credit"].per_step, names["weights"] * names["merged"][:, None], atol=1e-6), (
        "the parts put together are the rule"
    )
    assert names["loss"].shape == (12,)


def test_recipes_of_the_readme_validate():
    (recipe,) = blocks(ROOT / "README.md", "yaml")
    assert validate(yaml.safe_load(recipe)).rollout.group_size == 12


def test_python_of_the_model_card_draws_a_picture(monkeypatch):
    monkeypatch.chdir(ROOT)
    pictures, videos = blocks(CARD, "python")
    names = {}
    exec(pictures, names)
    assert names["picture"].size == (32, 32)
    exec(videos, names)
    assert names["frames"].shape == (9, 32, 32, 3)


def test_files_that_the_documentation_names_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"
