"""Recipe to objects: the only factory in the house."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from stepcredit.config.policies import Flux
from stepcredit.config.recipe import Recipe
from stepcredit.config.rewards import HPS, Aesthetic, ClipT, Composition, Custom, Diversity, RewardChoice
from stepcredit.folders import resolve
from stepcredit.methods.base import Method
from stepcredit.policies.flux import FluxPolicy
from stepcredit.prompts.sources import from_settings
from stepcredit.protocols import Reward
from stepcredit.rewards import aesthetic, clip, clip_t, composition, custom, diversity, hps
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.plan import every_step
from stepcredit.training.anchors import Average
from stepcredit.training.loop import Judges
from stepcredit.training.step import Trainer
from stepcredit.training.update import Recompute


def build_policy(recipe: Recipe) -> FluxPolicy:
    """The generator, with its trainable surface attached."""
    return FluxPolicy(cast(Flux, recipe.policy), seed=recipe.seed)


def build_trainer(recipe: Recipe) -> tuple[Trainer, Judges]:
    """Everything that training needs. Prompts and rewards come first: their mistakes cost no model loading."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    prompts, asked = from_settings(recipe.prompts), from_settings(recipe.evaluation.prompts)
    rewards, held_out = build_rewards(recipe.rewards), build_rewards(recipe.held_out)
    method = cast(Method, recipe.method)
    plan = every_step(
        recipe.rollout.steps,
        kernel=method.kernel,
        train_last=method.train_last,
        noisy_end=method.final_state == "x_N",
    )
    policy = build_policy(recipe)
    if method.kl_weight > 0:
        policy.surface.keep_reference()
    optimiser = torch.optim.AdamW(
        policy.parameters(),
        lr=recipe.optimiser.learning_rate,
        betas=recipe.optimiser.betas,
        weight_decay=recipe.optimiser.weight_decay,
    )
    training = recipe.training
    trainer = Trainer(
        recipe=recipe,
        policy=policy,
        prompts=prompts,
        rewards=rewards,
        method=method,
        plan=plan,
        levels=policy.levels(recipe.rollout.steps, recipe.rollout.shift),
        update=Recompute(
            policy=policy,
            method=method,
            plan=plan,
            updates=training.updates,
            passes=training.passes,
            micro_batch=training.micro_batch,
            max_gradient_norm=recipe.optimiser.max_gradient_norm,
        ),
        optimiser=optimiser,
        average=Average(policy.parameters(), training.ema) if training.ema is not None else None,
    )
    return trainer, Judges(asked, rewards.joined(held_out))


def build_rewards(settings: Sequence[RewardChoice]) -> RewardSuite:
    return RewardSuite([build_reward(item) for item in settings])


def build_reward(settings: RewardChoice) -> Reward:
    """One scorer."""
    match settings:
        case ClipT():
            return clip_t.ClipT(clip.load_clip(resolve(settings.weights, "clip_scenes")), name=settings.label)
        case HPS():
            return hps.HPS(clip.load_clip(resolve(settings.weights, "hps_scenes")), name=settings.label)
        case Aesthetic():
            embedded = Path(resolve("scenes", "aesthetic_scenes")) / "head.safetensors"
            head = Path(settings.head) if settings.head else embedded
            return aesthetic.Aesthetic(
                clip.load_clip(resolve(settings.weights, "clip_scenes")), head, name=settings.label
            )
        case Composition():
            return composition.Composition(name=settings.label)
        case Diversity():
            return diversity.Diversity(name=settings.label)
        case Custom():
            return custom.Custom(settings.path, name=settings.label)
