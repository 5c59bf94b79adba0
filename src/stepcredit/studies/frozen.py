"""`stepcredit compare --dump`: a rollout is drawn once and stored; every rule says what it would make of it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stepcredit.build import build_trainer
from stepcredit.errors import CreditError, RunError
from stepcredit.flow.transitions import Transitions
from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.records import Evidence
from stepcredit.studies.side_by_side import SideBySide, judge
from stepcredit.training.step import draw_plan, draw_samples, gather_evidence, score

DUMPED = "recipes/scenes/dance_grpo.yaml"
_TENSORS = ("rewards", "weights", "similarity", "clean_similarity", "trained", "levels", "slope", "std")


def draw(recipe: Recipe, *, iteration: int = 0) -> tuple[Evidence, dict[str, str]]:
    """The evidence of one rollout of a recipe before training, and what to say of it."""
    trainer, _ = build_trainer(recipe)
    prompts = trainer.prompts.draw(recipe.rollout.prompts, seed=recipe.seed, iteration=iteration)
    plan = draw_plan(trainer, iteration)
    texts = [prompt.text for prompt in prompts]
    trajectory = draw_samples(trainer, trainer.policy.encode(texts), plan, iteration, lambda pairs: None)
    rewards = score(trainer, trajectory, prompts)
    about = {
        "objectives": json.dumps(list(rewards.names)),
        "prompts": json.dumps(texts, ensure_ascii=False),
        "sampler": f"{trainer.method.kernel}, noise level {trainer.method.noise_level:g}",
    }
    return gather_evidence(trainer, trajectory, plan, rewards), about


def store(path: Path, evidence: Evidence, about: dict[str, str]) -> None:
    """One safetensors file: rewards, similarities, levels, the sampler's constants."""
    tensors = {name: getattr(evidence, name) for name in _TENSORS[:5]}
    tensors |= {name: getattr(evidence.transitions, name) for name in _TENSORS[5:]}
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=about)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors has an exception of its own for a full disk
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise RunError(f"{path} cannot be written ({error}); choose another place with --dump") from None


def load(path: Path) -> tuple[Evidence, dict[str, str]]:
    """What `store` wrote, or anybody else with these tensors: nothing but safetensors is needed to make one."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = [name for name in _TENSORS if name not in file.keys()]  # noqa: SIM118 - not a mapping
            if missing:
                raise RunError(f"{path} holds no {', '.join(missing)}; a stored rollout has {', '.join(_TENSORS)}")
            tensor = {name: file.get_tensor(name) for name in _TENSORS}
            about = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read as a stored rollout ({error}); draw it again") from None
    constants = Transitions(*(tensor.pop(name) for name in ("levels", "slope", "std")))
    tensor["trained"] = tensor["trained"].bool()
    return Evidence(**tensor, transitions=constants), about


def every_rule(evidence: Evidence, chosen: list[str] | None = None) -> SideBySide:
    """All methods of the folder, or the chosen ones (`package.module` works too), at their own settings."""
    methods = _methods(chosen)
    if (evidence.weights != 1).any():
        methods = {name: method for name, method in methods.items() if not method.mixes_objectives}
    if not methods:
        raise CreditError(
            f"{', '.join(chosen or ())} would ignore the weights {evidence.weights.tolist()} of the stored rollout; "
            "draw one with weights of 1, or take methods that sum the objectives (dance_grpo, flow_grpo)"
        )
    with torch.no_grad():
        return judge(methods, evidence)


def _methods(chosen: list[str] | None) -> dict[str, Method]:
    return {name: cast(Method, method_class(name)()) for name in chosen or names()}


def lay_side_by_side(path: Path, recipe: Sequence[str], chosen: list[str] | None = None) -> tuple[SideBySide, str]:
    """The stored rollout at `path` under every rule, and the caption of its first group.

    If there is none yet, it is drawn from a recipe and flags, by default the embedded one with DanceGRPO's sampler.
    """
    _methods(chosen)  # a misspelt one must not leave a drawn rollout behind
    if path.exists():
        if recipe:
            raise RunError(
                f"{path} is there already, so {recipe[0]} would change nothing; remove the file to draw again"
            )
        evidence, about = load(path)
    else:
        named = bool(recipe) and not recipe[0].startswith("-")
        settings = load_recipe(recipe[0] if named else DUMPED, recipe[1:] if named else recipe)
        evidence, about = draw(settings)
        store(path, evidence, about)
    return every_rule(evidence, chosen), _first_caption(about.get("prompts", "[]"))


def _first_caption(stored: str) -> str:
    """Of a file that somebody else wrote, whatever it has there."""
    try:
        prompts = json.loads(stored)
    except ValueError:
        return stored
    return str(prompts[0]) if isinstance(prompts, list) and prompts else ""
