"""Method settings in short: one flat dictionary in place of one for each part."""

from collections.abc import Mapping
from typing import Any

from stepcredit.recipe.recipe import method_named

_PARTS = {
    "sampler": ("kernel", "noise_level", "train_last", "final_state"),
    "plan": ("shared_noise", "window", "timestep_fraction", "best_of"),
    "objective": ("profile", "place", "preserve", "form", "kl_weight", "kl_form"),
}
_LOSS = {"head": "type", "clip": "clip"}


def composed(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"type": "otca", "kernel": "cps", "clip": 1e-3, "floor": 0}` as a recipe writes it, part by part."""
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        if key in ("type", "sampler", "plan", "rule", "objective"):
            settings[key] = value
        elif key in _LOSS:
            settings.setdefault("objective", {}).setdefault("loss", {})[_LOSS[key]] = value
        else:
            part = next((part for part, keys in _PARTS.items() if key in keys), "rule")
            settings.setdefault(part, {})["type" if key == "kernel" else key] = value
    return settings


def method(name: str, **flat: Any) -> Any:
    """A method with the paper's settings, and these instead of some of them.

    Any, because tests look into parts (`objective.profile`) of which the base class only knows that they are there.
    """
    return method_named(name, composed(flat))
