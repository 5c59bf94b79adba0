"""From a recipe file and flags to a checked `Recipe`."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stepcredit.errors import RecipeError
from stepcredit.methods.base import Method
from stepcredit.recipe.compose import compose, overlay, spelled_out
from stepcredit.recipe.explain import explain
from stepcredit.recipe.flags import parse_flags
from stepcredit.recipe.moved import refuse_moved
from stepcredit.recipe.read import find_recipe
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.settings.keys import flatten
from stepcredit.settings.run import Training

DEFAULT = "recipes/scenes/otca.yaml"


def load_recipe(source: str | Path = DEFAULT, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """Read a recipe and apply flags such as `["--seed", "3"]`, or settings such as `{"seed": 3, "method": "tcd"}`.

    `source` is a file, or a model or file inside the package: `flux1_dev`, `recipes/flux1_dev/otca.yaml`.
    """
    # A copy: flags such as `rewards.0.name` reach into values, and the caller's list is to stay as it was.
    settings = list(deepcopy(overrides).items()) if isinstance(overrides, Mapping) else parse_flags(overrides)
    return validate(overlay(compose(find_recipe(source)), settings))


def validate(data: Mapping[str, Any]) -> Recipe:
    """Check a recipe that is already a dictionary."""
    recipe = spelled_out(dict(data))
    if "method" in recipe:
        recipe["method"] = _read_method(recipe["method"], recipe)
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe)) from None


def _read_method(section: Any, recipe: Mapping[str, Any]) -> Method:
    """The method by its `type`, which may be a module outside this package: no union of classes could list it."""
    if isinstance(section, Method):
        return section
    if not isinstance(section, Mapping):
        raise RecipeError(f"method: got {section!r}, wanted a method such as otca, or {{type: otca, ...}}")
    if "type" not in section:
        raise RecipeError('method: no "type"; name a method, e.g. method: otca')
    model = method_class(str(section["type"]))
    refuse_moved(recipe, {"method": model, "training": Training})
    try:
        return model.model_validate(section)
    except ValidationError as error:
        raise RecipeError(explain(error, model, ("method",))) from None


def changed_keys(before: Recipe, after: Recipe) -> list[str]:
    """Dotted keys whose values differ."""
    old = flatten(before.model_dump(mode="json"))
    new = flatten(after.model_dump(mode="json"))
    every_key = dict.fromkeys([*old, *new])  # a set would lose the order of the recipe
    return [key for key in every_key if old.get(key) != new.get(key)]


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
