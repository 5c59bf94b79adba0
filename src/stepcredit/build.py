"""Recipe to objects: the only factory in the house."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch

from stepcredit.files.folders import resolve
from stepcredit.flow.transitions import transitions
from stepcredit.methods.base import Method
from stepcredit.policies.family import Family
from stepcredit.policies.generator import Generator, device_of
from stepcredit.prompts.sources import Listed, read_file
from stepcredit.protocols import PromptSource, Reward, Tracker
from stepcredit.recipe.recipe import Recipe
from stepcredit.rewards import aesthetic, clip, clip_t, custom, diversity, hps
from stepcredit.rewards.suite import RewardSuite
from stepcredit.scenes import captions, exact, moving, worlds
from stepcredit.scenes.prompts import Scenes
from stepcredit.settings.policies import PolicyChoice
from stepcredit.settings.prompts import FilePrompts, ListedPrompts, MovingScenesPrompts, PromptChoice, ScenesPrompts
from stepcredit.settings.rewards import (
    HPS,
    Aesthetic,
    ClipT,
    Composition,
    Custom,
    Diversity,
    Learned,
    Motion,
    RewardChoice,
    VideoAlign,
)
from stepcredit.settings.tracking import TensorBoard, TrackingChoice, Trackio, WandB
from stepcredit.tracking.guarded import Guarded
from stepcredit.tracking.tensorboard import TensorBoardTracker
from stepcredit.tracking.wandb import WandBTracker
from stepcredit.training.anchors import Average
from stepcredit.training.loop import Judges
from stepcredit.training.step import Trainer
from stepcredit.training.update import Recompute

FAMILIES = {
    "flux": "stepcredit.policies.families.flux:FluxFamily",
    "sd3": "stepcredit.policies.families.sd3:SD3Family",
    "wan": "stepcredit.policies.families.wan:WanFamily",
    "qwen_image": "stepcredit.policies.families.qwen_image:QwenImageFamily",
    "sd": "stepcredit.policies.families.sd:SDFamily",
}
"""`policy.type` and its adapter; imported when it is needed, since each pulls in a pipeline of its own."""


def family(settings: PolicyChoice) -> type[Family]:
    """The adapter that these settings ask for."""
    module, _, name = FAMILIES[settings.type].partition(":")
    return getattr(importlib.import_module(module), name)


def open_generator(settings: PolicyChoice, *, seed: int = 0) -> Generator:
    """A generator, with its trainable surface attached."""
    return Generator(family(settings), settings, seed=seed)


def build_policy(recipe: Recipe) -> Generator:
    """The recipe's generator."""
    return open_generator(recipe.policy, seed=recipe.seed)


def build_trainer(recipe: Recipe) -> tuple[Trainer, Judges]:
    """Everything that training needs. Prompts and rewards come first: their mistakes cost no model loading."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    prompts = build_prompts(recipe.prompts)
    rewards = build_rewards(recipe.rewards, device_of(recipe.policy))
    judges = build_judges(recipe, rewards)
    method = cast(Method, recipe.method)
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
    levels = policy.levels(recipe.rollout.steps, recipe.rollout.shift)
    trainer = Trainer(
        recipe=recipe,
        policy=policy,
        prompts=prompts,
        rewards=rewards,
        method=method,
        levels=levels,
        update=Recompute(
            policy=policy,
            method=method,
            transitions=transitions(
                method.kernel, levels, noise_level=method.noise_level, prediction=policy.prediction
            ),
            updates=training.updates,
            passes=training.passes,
            micro_batch=training.micro_batch,
            max_gradient_norm=recipe.optimiser.max_gradient_norm,
        ),
        optimiser=optimiser,
        average=Average(policy.parameters(), training.ema) if training.ema is not None else None,
    )
    return trainer, judges


def build_prompts(settings: PromptChoice) -> PromptSource:
    """The source that a recipe names. Captions of a drawn world are known as such, whoever lists them."""
    match settings:
        case FilePrompts():
            return Listed(read_file(settings.path), facts=worlds.facts_of)
        case ListedPrompts():
            return Listed(settings.prompts, facts=worlds.facts_of)
        case ScenesPrompts():
            return Scenes(captions.split(settings.split))
        case MovingScenesPrompts():
            return Scenes(moving.split(settings.split))


def build_judges(recipe: Recipe, rewards: RewardSuite) -> Judges:
    """Who evaluates: the trained rewards, which are there already, and the held-out ones."""
    held_out = build_rewards(recipe.held_out, device_of(recipe.policy))
    return Judges(build_prompts(recipe.evaluation.prompts), rewards.joined(held_out), worlds.answers_of)


def build_trackers(recipe: Recipe, folder: Path, tell: Callable[[str], None]) -> list[Guarded]:
    """The services of the recipe; one that cannot even start is told of and left out."""
    return [Guarded(choice.type, partial(_tracker, choice, recipe, folder), tell) for choice in recipe.tracking]


def _tracker(choice: TrackingChoice, recipe: Recipe, folder: Path) -> Tracker:
    about = {"name": folder.name, "config": recipe.model_dump(mode="json")}
    match choice:
        case TensorBoard():
            return TensorBoardTracker(choice.folder or folder / "tensorboard")
        case WandB():
            module = importlib.import_module("wandb")
            return WandBTracker(module, project=choice.project, mode=choice.mode, dir=str(folder), **about)
        case Trackio():
            return WandBTracker(importlib.import_module("trackio"), project=choice.project, **about)


def build_rewards(settings: Sequence[RewardChoice], device: torch.device) -> RewardSuite:
    """Scorers; those that are networks stand on this device, unless their own settings name another."""
    return RewardSuite([build_reward(item, device) for item in settings])


def build_reward(settings: RewardChoice, device: torch.device) -> Reward:
    """One scorer."""
    name = settings.labels[0]
    if isinstance(settings, Learned) and settings.device is not None:
        device = device_of(settings, f"device of the reward {name}")
    where = str(device)
    match settings:
        case ClipT():
            return clip_t.ClipT(clip.load_clip(resolve(settings.weights, "clip_scenes"), where), name=name)
        case HPS():
            return hps.HPS(clip.load_clip(resolve(settings.weights, "hps_scenes"), where), name=name)
        case Aesthetic():
            embedded = Path(resolve("scenes", "aesthetic_scenes")) / "head.safetensors"
            head = Path(settings.head) if settings.head else embedded
            return aesthetic.Aesthetic(clip.load_clip(resolve(settings.weights, "clip_scenes"), where), head, name=name)
        case Composition():
            return exact.composition(name)
        case VideoAlign():
            video_align = importlib.import_module("stepcredit.rewards.video_align")  # a vision-language model
            model = video_align.load_video_align(resolve(settings.weights, "video_align_scenes"), where)
            return video_align.VideoAlign(model, outputs=tuple(settings.outputs), prefix=settings.name or "")
        case Motion():
            return exact.motion(name)
        case Diversity():
            return diversity.Diversity(name=name)
        case Custom():
            return custom.Custom(settings.path, name=name)
