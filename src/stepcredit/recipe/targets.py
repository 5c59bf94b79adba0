"""Flags are read by what the recipe takes at their key: where that is text, `#`, `:` and brackets are part of it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from stepcredit.errors import RecipeError
from stepcredit.policies.families import settings_class
from stepcredit.recipe.compose import is_choice, overlay
from stepcredit.recipe.explain import below, tag
from stepcredit.recipe.flags import flag_value
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.settings.kinds import takes_text_only


def read_flags(recipe: dict[str, Any], flags: Sequence[tuple[str, str]]) -> list[tuple[str, Any]]:
    """Flags `("policy.negative_prompt", "a # b")` with their values, for a composed recipe that they change."""
    types = [(key, flag_value(key, text, is_text=False)) for key, text in flags if is_choice(key)]
    # With the types that the flags choose: a key that is text in one type may be a number in another.
    chosen = overlay(deepcopy(recipe), types)
    return [(key, flag_value(key, text, is_text=_takes_text(chosen, key.split(".")))) for key, text in flags]


def _takes_text(recipe: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether the recipe's classes take text alone at this key; False where no class is known for it."""
    owners: list[type[BaseModel]] = [Recipe]
    value: Any = recipe
    for part in parts[:-1]:
        value = _item(value, part)
        # A place in a list is no key: its classes are those of the list.
        owners = owners if part.isdecimal() else _owners(owners, part, value)
    annotations = [owner.model_fields[parts[-1]].annotation for owner in owners if parts[-1] in owner.model_fields]
    if parts[-1].isdecimal():  # an item of a list of texts is not worth a class of its own
        return False
    return bool(annotations) and all(map(takes_text_only, annotations))


def _item(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    in_list = isinstance(value, list) and part in map(str, range(len(value)))
    return value[int(part)] if in_list else None


def _owners(owners: list[type[BaseModel]], part: str, value: Any) -> list[type[BaseModel]]:
    """The classes that a section may have, or the one that its type names."""
    name = value.get("type") if isinstance(value, Mapping) else None
    if owners == [Recipe] and part in ("policy", "method"):
        try:
            return [settings_class(str(name)) if part == "policy" else method_class(str(name))]
        except RecipeError:
            return []  # said when the recipe is checked, together with what else is wrong
    candidates = below(owners, part)
    return [owner for owner in candidates if tag(owner) == name] or candidates
