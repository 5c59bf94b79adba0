"""From a recipe file and flags to a checked `Recipe`."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stepcredit.errors import RecipeError, shown
from stepcredit.policies.families import settings_class
from stepcredit.recipe.compose import compose, overlay, spelled_out
from stepcredit.recipe.explain import explain, without_type
from stepcredit.recipe.flags import parse_flags
from stepcredit.recipe.moved import refuse_moved
from stepcredit.recipe.plain import write_plain
from stepcredit.recipe.read import find_recipe
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.recipe.targets import read_flags
from stepcredit.settings.keys import flatten
from stepcredit.settings.policies import PolicySettings
from stepcredit.settings.run import Training
from stepcredit.settings.strict import Strict

DEFAULT = "recipes/scenes/otca.yaml"


def load_recipe(source: str | Path = DEFAULT, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """Read a recipe and apply flags such as `["--seed", "3"]`, or settings such as `{"seed": 3, "method": "tcd"}`.

    `source` is a file, or a model or file inside the package: `flux1_dev`, `recipes/flux1_dev/otca.yaml`.
    """
    # A copy of settings: keys such as `rewards.0.name` reach into values, and the caller's list is to stay as it was.
    recipe = compose(find_recipe(source))
    if isinstance(overrides, Mapping):
        return validate(overlay(recipe, list(deepcopy(overrides).items())))
    return validate(overlay(recipe, read_flags(recipe, parse_flags(overrides))))


def validate(data: Mapping[str, Any]) -> Recipe:
    """Check a recipe that is already a dictionary; the mistakes of all its sections are told together."""
    recipe = spelled_out(dict(data))
    problems: list[str] = []
    for section, find_class in _BY_NAME.items():
        if section in recipe:
            recipe[section] = _read_section(section, find_class, recipe, problems)
    try:
        checked = Recipe.model_validate(recipe)
    except ValidationError as error:
        across_sections = error.errors()[0]["loc"] == ()
        if not (across_sections and problems):  # what is checked across sections means nothing with a stand-in
            problems.append(explain(error, Recipe))
        raise RecipeError("\n".join(problems)) from None
    if problems:
        raise RecipeError("\n".join(problems))
    return checked


_BY_NAME: dict[str, Callable[[str], type[Strict]]] = {"policy": settings_class, "method": method_class}
"""Sections without a union of classes to choose from: each `type` is a file, here or in a package of one's own."""
_EXAMPLES = {"policy": "{type: flux}", "method": "otca"}
_NAMES = {"policy": "family of models", "method": "method"}


def _read_section(
    section: str, find_class: Callable[[str], type[Strict]], recipe: Mapping[str, Any], problems: list[str]
) -> Strict:
    """A section by its `type`. Its mistakes are added to `problems`, and a stand-in lets those of others be found."""
    value = recipe[section]
    example = _EXAMPLES[section]
    if isinstance(value, Strict):
        return value
    if not isinstance(value, Mapping):
        raise RecipeError(f"{section}: got {shown(value)}, wanted one such as {example}")
    if "type" not in value:
        raise RecipeError(
            without_type(section, value, PolicySettings.model_fields, f"name a {_NAMES[section]}, e.g. {example}")
        )
    if not isinstance(value["type"], str):
        raise RecipeError(f"{section}.type: got {shown(value['type'])}, wanted a {_NAMES[section]}, e.g. {example}")
    model = find_class(value["type"])
    if section == "method":
        refuse_moved(recipe, {"method": model, "training": Training})
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems.append(explain(error, model, (section,)))
        return model.model_construct()


def changed_keys(before: Recipe, after: Recipe) -> list[str]:
    """Dotted keys whose values differ."""
    old = flatten(before.model_dump(mode="json"))
    new = flatten(after.model_dump(mode="json"))
    every_key = dict.fromkeys([*old, *new])  # a set would lose the order of the recipe
    return [key for key in every_key if old.get(key) != new.get(key)]


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out."""
    return write_plain(recipe.model_dump(mode="json"))
