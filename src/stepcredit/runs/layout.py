"""Where stored recipes keep their settings: those of format 2 are flat below `method`, later ones have parts. No torch.

A run of either format can be shown and compared, by keys of either; only going on with it needs today's keys.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from stepcredit.settings.moved import new_name

_PARTS = ("type", "sampler", "plan", "rule", "objective")
"""What stands directly below `method` today; every other name there is an old one."""


def moved(key: str) -> str:
    """A dotted key as today's recipes spell it: `method.window.size` is `method.plan.window.size`, `seed` is `seed`."""
    section, _, name = key.partition(".")
    if section == "method" and name and name.split(".")[0] not in _PARTS:
        # A method of somebody's own had settings that no table knows; those of a rule are the rule's today.
        return new_name(key) or f"method.rule.{name}"
    return key


def today(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe with every setting where today's recipes have it; one of today is returned as it is."""
    current = deepcopy(dict(recipe))  # deep: readers keep the recipe that they were given
    for name in recipe.get("method", {}):
        old = f"method.{name}"
        if moved(old) != old:
            _put(current, moved(old), current["method"].pop(name))
    return current


def setting(recipe: Mapping[str, Any], key: str) -> Any:
    """What a stored recipe of either format says at a dotted key of either format; KeyError where it has no such key.

    `setting(recipe, "method.noise_level")` and `setting(recipe, "method.sampler.noise_level")` are the same.
    """
    current = today(recipe)
    # As it is spelt first: a rule of today may have a setting with the name of an old key.
    for spelling in (key, moved(key)):
        parent, _, name = spelling.rpartition(".")
        section = _section(current, parent)
        if name in section:
            return section[name]
    raise KeyError(key)


def _section(recipe: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping at a dotted key, "" for the recipe itself; empty where there is none."""
    place: Any = recipe
    for part in key.split(".") if key else ():
        place = place.get(part) if isinstance(place, Mapping) else None
    return place if isinstance(place, Mapping) else {}


def _put(recipe: dict[str, Any], key: str, value: Any) -> None:
    *parents, name = key.split(".")
    for parent in parents:
        recipe = recipe.setdefault(parent, {})
    recipe[name] = value
