"""Composition: what a recipe extends, what a model gives its methods, and that packaged models are what they were."""

import json
import re
from pathlib import Path

import pytest
import yaml

from stepcredit.errors import RecipeError
from stepcredit.methods import names
from stepcredit.recipe.compose import compose, merge, overlay
from stepcredit.recipe.load import load_recipe, validate
from stepcredit.recipe.read import model_recipes, read_yaml
from stepcredit.recipe.recipe import method_named

STORED = json.loads((Path(__file__).parent / "one_file_a_method.json").read_text(encoding="utf-8"))
"""The packaged recipes as they were written out whole, one file for each model and method."""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(source: object, flags: list[str] | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, flags or [])
    return str(caught.value)


# Packaged models


@pytest.mark.parametrize("name", STORED)
def test_a_model_with_a_method_is_the_recipe_that_was_written_out_whole(name):
    model, method = name.split("/")
    assert load_recipe(model, ["--method", method]) == validate(STORED[name])


@pytest.mark.parametrize("model", ["flux1_dev", "wan22_t2v_a14b", "scenes", "scenes_video"])
def test_the_paper_s_file_is_the_model_with_otca(model):
    assert load_recipe(f"recipes/{model}/otca.yaml") == load_recipe(model)


@pytest.mark.parametrize("model", [model for model in model_recipes() if model != "scenes"])
def test_every_model_has_settings_for_four_methods(model):
    assert {"otca", "dance_grpo", "flow_grpo", "pcpo"} <= set(read_yaml(model_recipes()[model])["methods"])


@pytest.mark.parametrize("model", model_recipes())
def test_every_method_runs_on_every_model(model):
    for method in names():
        assert load_recipe(model, ["--method", method]).method_name == method


# Laying one mapping on another


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": {"type": "x", "b": 1}}, {"a": {"type": "x", "c": 2}}, {"a": {"type": "x", "b": 1, "c": 2}}),
        ({"a": {"type": "x", "b": 1}}, {"a": {"type": "y", "c": 2}}, {"a": {"type": "y", "c": 2}}),
        ({"a": {"type": "x", "b": 1}}, {"a": {"c": 2}}, {"a": {"type": "x", "b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": {"type": "x"}}, {"a": {"b": 1, "type": "x"}}),
    ],
    ids=[
        "mappings key by key",
        "a list replaces",
        "null replaces",
        "a mapping replaces a value",
        "the same type keeps",
        "another type replaces",
        "no type keeps the choice",
        "a type where none was named",
    ],
)
def test_one_mapping_is_laid_on_another(base, over, merged):
    assert merge(base, over) == merged


# Extending


def test_a_recipe_extends_a_model_of_the_package(tmp_path):
    text = "extends: flux1_dev\nmethod: {type: pcpo, rule: {advantage_clip: 2}}\nseed: 3\n"
    flags = ["--method", "pcpo", "--method.rule.advantage_clip", "2", "--seed", "3"]
    assert load_recipe(write(tmp_path / "recipe.yaml", text)) == load_recipe("flux1_dev", flags)


def test_a_recipe_extends_a_file_beside_it_and_that_another(tmp_path):
    write(tmp_path / "world.yaml", "extends: scenes\nseed: 1\nrollout: {steps: 5}\n")
    write(tmp_path / "small.yaml", "extends: world.yaml\nrollout: {prompts: 2}\nrewards: [{type: hps}]\n")
    recipe = load_recipe(write(tmp_path / "own" / "recipe.yaml", "extends: ../small.yaml\nrollout: {prompts: 3}\n"))
    assert (recipe.seed, recipe.rollout.steps, recipe.rollout.prompts, recipe.rollout.group_size) == (1, 5, 3, 12)
    assert recipe.objectives == ["hps"]


def test_a_file_beside_the_recipe_goes_before_a_model_of_that_name(tmp_path):
    write(tmp_path / "flux1_dev", yaml.safe_dump({**STORED["scenes/otca"], "seed": 9}))
    assert load_recipe(write(tmp_path / "recipe.yaml", "extends: flux1_dev\n")).seed == 9


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    first = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    second = write(tmp_path / "b.yaml", "extends: a.yaml\n")
    message = refused(first)
    assert f"{second} extends itself ({first} -> {second} -> {first})" in message
    assert "extends itself" in refused(write(tmp_path / "c.yaml", "extends: ./c.yaml\n"))


def test_a_recipe_that_extends_nothing_there_is_refused_with_the_nearest(tmp_path):
    path = write(tmp_path / "recipe.yaml", "extends: flux1_dve\n")
    message = refused(path)
    assert message.startswith(f'{path}, extends: there is no recipe "flux1_dve"')
    assert 'did you mean "flux1_dev"?' in message


@pytest.mark.parametrize("value", ["[scenes, flux1_dev]", "null", "3"])
def test_extending_anything_but_one_recipe_is_refused(tmp_path, value):
    assert "wanted one recipe file" in refused(write(tmp_path / "recipe.yaml", f"extends: {value}\n"))


def test_a_misspelt_extends_is_named(tmp_path):
    assert 'did you mean "extends"?' in refused(write(tmp_path / "recipe.yaml", "extend: scenes\n"))


# What a model gives its methods

GIVEN = {"rule": {"scale": "batch"}, "plan": {"window": {"size": 2}}}


@pytest.fixture
def model(tmp_path) -> Path:
    recipe = {
        **STORED["scenes/otca"],
        "method": "otca",
        "methods": {"otca": {"rule": {"floor": 0.25}}, "flow_grpo": GIVEN},
    }
    return write(tmp_path / "model.yaml", yaml.safe_dump(recipe))


@pytest.mark.parametrize(
    "flags", [["--method", "flow_grpo"], ["--method.type=flow_grpo"], ["--method={type: flow_grpo}"]]
)
def test_a_method_gets_what_its_model_gives_it_however_it_is_chosen(model, flags):
    assert load_recipe(model, flags).method == method_named("flow_grpo", GIVEN)


def test_without_a_choice_the_model_s_own_method_counts(model):
    assert load_recipe(model).method_name == "otca"
    assert load_recipe(model).method.model_dump()["rule"]["floor"] == 0.25


def test_what_a_recipe_or_a_flag_sets_goes_before_what_the_model_gives(model, tmp_path):
    flags = ["--method.rule.scale", "group", "--method.plan.window.end", "3", "--method", "flow_grpo"]
    wanted = method_named("flow_grpo", {"rule": {"scale": "group"}, "plan": {"window": {"size": 2, "end": 3}}})
    assert load_recipe(model, flags).method == wanted
    text = "extends: model.yaml\nmethod: {type: flow_grpo, rule: {scale: group}, plan: {window: {end: 3}}}\n"
    assert load_recipe(write(tmp_path / "recipe.yaml", text)).method == wanted


def test_a_recipe_adds_to_what_the_model_gives(model, tmp_path):
    text = "extends: model.yaml\nmethods: {flow_grpo: {sampler: {noise_level: 0.25}}}\n"
    method = load_recipe(write(tmp_path / "recipe.yaml", text), {"method": "flow_grpo"}).method
    assert method == method_named("flow_grpo", {"sampler": {"noise_level": 0.25}, **GIVEN})


def test_a_method_that_the_model_says_nothing_of_has_its_own_settings(model):
    assert load_recipe(model, ["--method", "tcd"]).method == method_named("tcd")


def test_naming_the_method_that_is_there_keeps_its_settings(tmp_path):
    path = write(tmp_path / "recipe.yaml", "extends: scenes\nmethod: {type: otca, rule: {floor: 0.125}}\n")
    assert load_recipe(path, ["--method", "otca"]).method.model_dump()["rule"]["floor"] == 0.125


def test_a_list_that_the_model_gives_can_be_reached_into():
    recipe = {"method": {"type": "otca"}, "methods": {"otca": {"numbers": [1, 2]}}}
    assert overlay(recipe, [("method.numbers.0", 3)]) == {"method": {"type": "otca", "numbers": [3, 2]}}


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ("[otca]", 'methods: got ["otca"], wanted what each method is given'),
        ("{otac: {}}", 'methods.otac: there is no method "otac"; did you mean "otca"?'),
        ("{otca: 0.5}", "methods.otca: got 0.5, wanted settings of the method"),
        ("{otca: {type: tcd}}", "methods.otca: leave out type"),
    ],
)
def test_a_methods_section_that_makes_no_sense_is_refused(tmp_path, section, wanted):
    assert wanted in refused(write(tmp_path / "recipe.yaml", f"extends: scenes\nmethods: {section}\n").resolve())


def test_a_misspelt_setting_in_a_methods_section_is_named(tmp_path):
    path = write(tmp_path / "recipe.yaml", "extends: scenes\nmethods: {otca: {rule: {flor: 0.5}}}\n")
    assert 'method.rule.flor: unknown key; did you mean "floor"?' in refused(path)


def test_a_resolved_recipe_knows_nothing_of_composition():
    assert "methods" in compose(model_recipes()["scenes"])
    assert not {"extends", "methods"} & set(load_recipe("scenes").model_dump())
    assert "methods is for recipe files" in refused("scenes", ["--methods.otca.floor", "1"])


# Names


def test_a_model_is_named_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("flux1_dev") == load_recipe("recipes/flux1_dev.yaml") == load_recipe("flux1_dev.yaml")
    assert 'did you mean "sd35_medium"?' in refused("sd35_medum")


def test_a_file_that_was_one_of_the_package_is_named_as_it_is_now():
    for old in ("recipes/scenes/dance_grpo.yaml", "scenes/dance_grpo.yaml"):
        assert refused(old) == f"{old} is now: scenes --method dance_grpo"
    assert refused("recipes/sd15/ddpo.yaml") == "recipes/sd15/ddpo.yaml is now: sd15 --method ddpo"
    assert re.search("there is no recipe", refused("recipes/sd15/ddpq.yaml"))


def test_the_example_of_the_page_is_the_recipe_that_it_says(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[0]
    wanted = load_recipe("flux1_dev", ["--method", "pcpo", "--seed", "1"])
    assert load_recipe(write(tmp_path / "recipe.yaml", example)) == wanted


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_a_file_of_an_impossible_name_extends_nothing(tmp_path, name):
    write(tmp_path / "own.yaml", f"extends: {name}\n")
    with pytest.raises(RecipeError, match="extends: there is no recipe"):
        load_recipe(tmp_path / "own.yaml")
