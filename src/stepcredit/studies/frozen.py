"""`stepcredit compare --dump`: a rollout is drawn once and stored; every rule says what it would make of it."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stepcredit.build import build_parts
from stepcredit.errors import CreditError, RunError
from stepcredit.flow.transitions import Transitions
from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.parts.observers import CleanSimilarity, Similarity
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.recipe import Recipe, method_named
from stepcredit.records import Evidence, Key
from stepcredit.rollout.decoding import finished
from stepcredit.studies.side_by_side import SideBySide, judge
from stepcredit.training.step import evidence_of, score

DUMPED = ("scenes", "--method", "dance_grpo")
# What a file holds: of the evidence itself, of what observers saw, of the sampler's constants.
_OWN = ("rewards", "weights", "trained")
_SEEN = ("similarity", "clean_similarity")
_CONSTANTS = ("levels", "slope", "std")
_TENSORS = (*_OWN, *_SEEN, *_CONSTANTS)


def draw(recipe: Recipe, *, iteration: int = 0) -> tuple[Evidence, dict[str, str]]:
    """The evidence of one rollout of a recipe before training, and what to say of it."""
    parts, _ = build_parts(recipe)
    key = Key(recipe.seed, iteration)
    prompts = parts.prompts.draw(parts.prompt_count, key)
    # Every rule may look at the stored rollout, so everybody who watches for a rule has to watch this one.
    roll_out = replace(parts.roll_out, observers=[Similarity(), CleanSimilarity()])
    rollout = roll_out(prompts, key)
    rewards = score(parts.rewards, finished(parts.policy, rollout, roll_out.micro_batch), prompts)
    about = {
        "objectives": json.dumps(list(rewards.names)),
        "prompts": json.dumps([prompt.text for prompt in prompts], ensure_ascii=False),
        "sampler": f"{rollout.sampler.kernel}, noise level {rollout.sampler.noise_level:g}",
    }
    return evidence_of(rollout, rewards, parts.objective_weights), about


def store(path: Path, evidence: Evidence, about: dict[str, str]) -> None:
    """One safetensors file: rewards, similarities, levels, the sampler's constants."""
    tensors = {name: getattr(evidence, name) for name in _OWN}
    tensors |= {name: evidence.seen[name] for name in _SEEN}
    tensors |= {name: getattr(evidence.transitions, name) for name in _CONSTANTS}
    temporary = path.with_name(f".{path.name}.writing")  # an interrupted write must not look like a rollout
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=about)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors has an exception of its own for a full disk
        if path.parent.is_dir():  # below a file there is nothing, and asking for it is an error of its own
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written ({error}); choose another place with --dump") from None


def load(path: Path) -> tuple[Evidence, dict[str, str]]:
    """What `store` wrote, or anybody else with these tensors: nothing but safetensors is needed to make one."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = [name for name in _TENSORS if name not in file.keys()]  # noqa: SIM118 - not a mapping
            if missing:
                raise RunError(f"{path} holds no {', '.join(missing)}; a stored rollout has {', '.join(_TENSORS)}")
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            about = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read as a stored rollout ({error}); draw it again") from None
    evidence = Evidence(
        rewards=tensors["rewards"],
        weights=tensors["weights"],
        trained=tensors["trained"].bool(),  # NumPy and others may have no better than 0 and 1
        transitions=Transitions(*(tensors[name] for name in _CONSTANTS)),
        seen={name: tensors[name] for name in _SEEN},
    )
    return evidence, about


def every_rule(evidence: Evidence, chosen: list[str] | None = None) -> SideBySide:
    """All methods of the folder, or the chosen ones (`package.module` works too), at their own settings."""
    methods = _methods(chosen)
    # A rule that finds its own mix would judge another problem than the weighted one of its neighbours.
    if (evidence.weights != 1).any():
        methods = {name: method for name, method in methods.items() if not method.rule.mixes_objectives}
    if not methods:
        raise CreditError(
            f"{', '.join(chosen or ())} would ignore the weights {evidence.weights.tolist()} of the stored rollout; "
            "draw one with weights of 1, or take methods that sum the objectives (dance_grpo, flow_grpo)"
        )
    with torch.no_grad():
        return judge(methods, evidence)


def _methods(chosen: list[str] | None) -> dict[str, Method]:
    return {name: method_named(name) for name in chosen or names()}


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
        source, *flags = recipe if named else (*DUMPED, *recipe)
        settings = load_recipe(source, flags)
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
