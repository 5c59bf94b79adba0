"""Where stored recipes keep their settings: those of format 2 are flat below `method`, later ones have parts. No torch.

A run of either format can be shown and compared, by keys of either; only going on with it needs today's keys.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

MOVED = {
    "method.kernel": "method.sampler.type",
    "method.noise_level": "method.sampler.noise_level",
    "method.shared_noise": "method.sampler.shared_noise",
    "method.train_last": "method.sampler.train_last",
    "method.final_state": "method.sampler.final_state",
    "method.window": "method.plan.window",
    "method.timestep_fraction": "method.plan.timestep_fraction",
    "method.best_of": "method.plan.best_of",
    "method.head": "method.objective.loss.type",
    "method.clip": "method.objective.loss.clip",
    "method.profile": "method.objective.profile",
    "method.place": "method.objective.place",
    "method.preserve": "method.objective.preserve",
    "method.form": "method.objective.form",
    "method.kl_weight": "method.objective.kl_weight",
    "method.kl_form": "method.objective.kl_form",
    "training.ema": "method.anchors.average",
}
"""Keys of format 2 that have another place; what else it had below `method` is now a setting of the rule."""

_PARTS = ("type", "sampler", "plan", "rule", "objective", "anchors")
"""What stands directly below `method` today; every other name there is an old one."""


def moved(key: str) -> str:
    """A dotted key as today's recipes spell it: `method.window.size` is `method.plan.window.size`, `seed` is `seed`."""
    section, _, name = key.partition(".")
    first = name.split(".")[0]  # what lies below an old key moves with it
    old = f"{section}.{first}"
    if old in MOVED:
        return MOVED[old] + key.removeprefix(old)
    if section == "method" and first and first not in _PARTS:
        return f"method.rule.{name}"
    return key


def today(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe with every setting where today's recipes have it; one of today is returned as it is."""
    current = deepcopy(dict(recipe))  # deep: readers keep the recipe that they were given
    for section in ("method", "training"):
        for name in recipe.get(section, {}):
            old = f"{section}.{name}"
            if moved(old) != old:
                _put(current, moved(old), current[section].pop(name))
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
