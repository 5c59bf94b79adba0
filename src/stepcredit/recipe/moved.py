"""What recipes called something else before: old keys and old files, each with the name it has now."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepcredit.errors import RecipeError
from stepcredit.settings.keys import flatten

MOVED = {
    "method.kernel": "method.sampler.type",
    "method.noise_level": "method.sampler.noise_level",
    "method.shared_noise": "method.plan.shared_noise",
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
    "method.advantage_clip": "method.rule.advantage_clip",
    "method.floor": "method.rule.floor",
    "method.weights": "method.rule.weights",
    "method.compared": "method.rule.compared",
    "method.centred": "method.rule.centred",
    "method.recentred": "method.rule.recentred",
    "method.objective_floor": "method.rule.objective_floor",
    "method.step_mix": "method.rule.step_mix",
    "method.mix_of": "method.rule.mix_of",
    "method.scale": "method.rule.scale",
    "method.span": "method.rule.span",
    "method.baseline": "method.rule.baseline",
    "method.over": "method.rule.over",
}
"""Old dotted keys and their names now; what stands below an old key moves along."""


def new_name(key: str, moved: Mapping[str, str] = MOVED) -> str | None:
    """What an old dotted key is called now, or None if it was never another: `method.window.size` has moved too."""
    for old, new in moved.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None


def refuse_moved(
    recipe: Mapping[str, Any], sections: Mapping[str, type[BaseModel]], moved: Mapping[str, str] = MOVED
) -> None:
    """One error that names every old key of a recipe with its new name, so that a file is mended in one go.

    | argument | meaning |
    |---|---|
    | recipe | as it was read, `{"method": {"floor": 0.3}}` |
    | sections | the class that reads each section that keys have moved out of or into, `{"method": OTCA}` |
    """
    sentences = []
    for key in flatten(recipe):
        new = new_name(key, moved)
        # Only from where it is not read to where it is: a method of one's own may call its settings as it likes.
        if new is not None and not _is_read(key, sections) and _is_read(new, sections):
            sentences.append(f"{key} is now {new}")
    if sentences:
        raise RecipeError("\n".join(sentences))


def _is_read(key: str, sections: Mapping[str, type[BaseModel]]) -> bool:
    section, name, *_ = key.split(".")
    return section in sections and name in sections[section].model_fields


def moved_recipe(path: Path, models: Collection[str], methods: Collection[str]) -> str | None:
    """`recipes/MODEL/METHOD.yaml` was a file of its own: what is written instead, `MODEL --method METHOD`."""
    if path.suffix == ".yaml" and path.parent.name in models and path.stem in methods:
        return f"{path.parent.name} --method {path.stem}"
    return None
