"""What a run cites is what it used."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from stepcredit.methods import names
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import method_class
from stepcredit.viewer.cite import entries, references

RECIPES = sorted(Path(str(resources.files("stepcredit") / "recipes")).rglob("*.yaml"))
SOURCE = (resources.files("stepcredit.viewer") / "references.bib").read_text(encoding="utf-8")


def cited(*flags, recipe="recipes/scenes/otca.yaml"):
    """Keys of what is cited, with what for."""
    recipe = load_recipe(recipe, flags).model_dump(mode="json")
    return {re.match(r"@\w+\{([^,]+),", entry)[1]: what for what, entry in references(recipe)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_cites_its_method_its_model_and_its_rewards(recipe):
    found = ", ".join(cited(recipe=recipe).values())
    settings: Any = load_recipe(recipe)  # every family has a type, the class that all share has none
    assert f"method {settings.method_name}" in found
    assert f"model {settings.policy.type}" in found
    assert all(f"reward {', '.join(reward.labels)}" in found for reward in settings.rewards if reward.type != "custom")


@pytest.mark.parametrize("name", names())
def test_every_method_cites_the_paper_that_it_names(name):
    paper = method_class(name).paper.removeprefix("arXiv ")
    assert f"method {name}" in cited("--method.type", name)[paper]


def test_a_run_on_ddim_cites_ddim():
    assert cited("--method.sampler.type", "ddim")["2010.02502"] == "kernel ddim"


def test_what_is_cited_follows_the_recipe():
    assert cited() == {
        "2604.19234": "method otca",
        "2505.07818": "kernel dance_sde",
        "flux": "model flux",
        "2103.00020": "reward clip_t",
        "2306.09341": "reward hps",
        "2210.08402": "reward aesthetic",
        "2310.11513": "reward composition",
        "2106.09685": "low-rank adapters",
        "1711.05101": "optimiser",
    }
    other = cited("--method.sampler.type", "cps", "--policy.surface.type", "full", "--held_out", "[]")
    assert other["2509.05952"] == "kernel cps"
    assert not {"2505.07818", "2106.09685", "2310.11513"} & other.keys()


def test_what_one_paper_brought_is_cited_once():
    assert cited("--method.type", "dance_grpo")["2505.07818"] == "method dance_grpo, kernel dance_sde"


def test_rewards_without_a_paper_are_left_out():
    found = ", ".join(cited("--rewards", "[{type: custom, path: 'mine:score'}, {type: hps, name: taste}]").values())
    assert "reward score" not in found
    assert "diversity" not in found
    assert "reward taste" in found


def test_every_entry_is_found_and_well_formed():
    known = entries()
    assert len(known) == SOURCE.count("\n@") + SOURCE.startswith("@")
    for key, entry in known.items():
        depth = [entry[: at + 1].count("{") - entry[: at + 1].count("}") for at in range(len(entry))]
        assert min(depth[entry.index("{") :]) == 0 == depth[-1]
        assert depth.index(0, entry.index("{")) == len(entry) - 1
        assert re.match(r"@misc\{\S+,\n", entry)
        assert all(re.search(rf"\b{field}\s*= \{{\S", entry) for field in ("title", "author", "year"))
        assert f"eprint = {{{key}}}" in entry or "howpublished" in entry
