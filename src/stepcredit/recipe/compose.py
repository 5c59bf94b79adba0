"""Composition: a recipe file, those that it extends, what its model gives a method, and flags become one recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepcredit.errors import RecipeError, nearest, shown
from stepcredit.methods import names
from stepcredit.recipe.flags import put
from stepcredit.recipe.read import find_recipe, is_file, read_yaml

_LONGEST_CHAIN = 20
FILE_KEYS = ("extends", "methods")
"""Keys of a recipe file that composition uses up; a resolved recipe has none of them."""


def compose(path: Path, *, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe file laid over the one that it extends, and that over its own, and so on."""
    recipe = spelled_out(read_yaml(path))
    if "extends" not in recipe:
        return recipe
    chain = (*extended_by, path.resolve())
    if len(chain) > _LONGEST_CHAIN:
        raise RecipeError(f"{path} is the last of {len(chain)} recipes that extend each other; write fewer")
    base = _find_base(recipe.pop("extends"), path)
    if base.resolve() in chain:
        steps = " -> ".join(str(link) for link in (*chain, base.resolve()))
        raise RecipeError(f"{path} extends itself ({steps}); take one of these `extends` out")
    return merge(compose(base, extended_by=chain), recipe)


def _find_base(name: Any, path: Path) -> Path:
    """The file that `extends` names: beside the recipe first, then as on the command line."""
    if not isinstance(name, str):
        raise RecipeError(f"{path}: extends is {shown(name)}, wanted one recipe file or a model such as flux1_dev")
    beside = path.parent / name
    if is_file(beside):
        return beside
    try:
        return find_recipe(name)
    except RecipeError as error:
        raise RecipeError(f"{path}, extends: {error}") from None


def spelled_out(recipe: dict[str, Any]) -> dict[str, Any]:
    """`method: otca` is short for `method: {type: otca}`."""
    method = recipe.get("method")
    return {**recipe, "method": {"type": method}} if isinstance(method, str) else recipe


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: mappings key by key, everything else replaces; another `type` replaces its mapping."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _other_type(below, value):
            merged[key] = merge(below, value)
        else:
            # Lists too: two reward lists laid on each other item by item would be a third one that nobody wrote.
            merged[key] = value
    return merged


def _other_type(base: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    """Whether the keys of `base` belong to another choice; one that names no type leaves the choice open."""
    return "type" in over and base.get("type") not in (None, over["type"])


def overlay(recipe: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A composed recipe with settings such as `("rollout.steps", 8)` put in, and with what its model gives its method.

    A key that the recipe or a setting sets goes before what `methods` says. A key that two settings set is a mistake.
    """
    recipe = dict(recipe)
    per_method = _checked_methods(recipe.pop("methods", {}))
    # The wider first: a section that is set as a whole would clear the key that was set before it.
    named = sorted((_method_by_name(key, value) for key, value in settings), key=lambda setting: setting[0].count("."))
    _refuse_doubles(named)
    # Choices first, wherever they stand: a type clears what belongs to the old one, so its settings have to follow.
    for key, value in named:
        if is_choice(key):
            put(recipe, key, value)
    # Between the two, so that settings that reach into a list find the model's list there.
    method = recipe.get("method")
    if isinstance(method, Mapping):
        recipe["method"] = merge(per_method.get(str(method.get("type")), {}), method)
    for key, value in named:
        if not is_choice(key):
            put(recipe, key, value)
    return recipe


def _method_by_name(key: str, value: Any) -> tuple[str, Any]:
    return ("method.type", value) if key == "method" and isinstance(value, str) else (key, value)


def _refuse_doubles(settings: Sequence[tuple[str, Any]]) -> None:
    """Refuse a key that is set twice, by itself or as a part of its section; nobody can know which was meant."""
    values: dict[str, Any] = {}
    for key, value in settings:
        if key.partition(".")[0] == "methods":
            raise RecipeError(f"--{key}: methods is for recipe files; the method of this run is set as --method.KEY")
        if key in values:
            raise RecipeError(f"--{key} is given twice, {shown(values[key])} and {shown(value)}; keep one")
        values[key] = value
    for key in values:
        parts = key.split(".")
        for depth in range(1, len(parts)):
            owner = ".".join(parts[:depth])
            if owner in values and _holds(values[owner], parts[depth:]):
                raise RecipeError(f"--{key} is given twice, by itself and in --{owner}; keep one")


def _holds(value: Any, parts: Sequence[str]) -> bool:
    """Whether a mapping has a key at this place; the items of a list may be changed one by one."""
    for part in parts:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def is_choice(key: str) -> bool:
    """Whether a setting chooses which class reads its section."""
    return key == "method" or key.endswith(".type")


def _checked_methods(section: Any) -> dict[str, dict[str, Any]]:
    """The section `methods` of a model's recipe: `{pcpo: {...}, flow_grpo: {...}}`."""
    if not isinstance(section, dict):
        raise RecipeError(f"methods: got {shown(section)}, wanted what each method is given, {{otca: {{...}}, ...}}")
    known = names()
    for name, settings in section.items():
        if name not in known and "." not in name:  # with a dot it is a module outside this package
            raise RecipeError(f'methods.{name}: there is no method "{name}"; {nearest(name, known)}')
        if not isinstance(settings, dict):
            raise RecipeError(
                f"methods.{name}: got {shown(settings)}, wanted settings of the method, {{key: value, ...}}"
            )
        if "type" in settings:
            raise RecipeError(f"methods.{name}: leave out type, {name} is the method")
    return section
