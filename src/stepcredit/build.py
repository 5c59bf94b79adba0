"""Recipe to objects: the only factory in the house."""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from stepcredit.errors import during
from stepcredit.files.folders import resolve
from stepcredit.files.models import identity
from stepcredit.files.quiet import quiet_loading
from stepcredit.files.seal import digest_of
from stepcredit.files.versions import check_versions
from stepcredit.parts.observers import Similarity
from stepcredit.policies.families import family_of
from stepcredit.policies.generator import Generator, device_of
from stepcredit.prompts.sources import Listed, read_file
from stepcredit.protocols import Observer, Policy, PromptSource, Reward, Tracker
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Prompt
from stepcredit.rewards import aesthetic, clip, clip_t, custom, diversity, hps
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import RollOut
from stepcredit.runs.environment import COMPUTING, describe
from stepcredit.runs.ground import Ground
from stepcredit.scenes import captions, exact, moving, worlds
from stepcredit.scenes.prompts import Scenes
from stepcredit.settings.keys import RESUMABLE, flatten
from stepcredit.settings.policies import LoRA, PolicySettings
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
from stepcredit.tracking.wandb import WandBTracker, known_as
from stepcredit.training.anchors import Anchors, Average
from stepcredit.training.looking import Evaluator
from stepcredit.training.step import Parts
from stepcredit.training.update import Recompute


@quiet_loading()
def open_generator(settings: PolicySettings, *, seed: int = 0) -> Generator:
    """A generator, with what is trainable attached."""
    check_versions()
    return Generator(family_of(settings), settings, seed=seed)


def build_policy(recipe: Recipe) -> Generator:
    """The recipe's generator."""
    return open_generator(recipe.policy, seed=recipe.seed)


def build_parts(recipe: Recipe) -> tuple[Parts, Evaluator]:
    """Everything that training needs. Prompts and rewards come first: their mistakes cost no model loading."""
    # Another number of threads adds up sums in another order: equal runs need equal threads.
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    prompts = build_prompts(recipe.prompts)
    rewards = build_rewards(recipe.rewards, device_of(recipe.policy))
    evaluator = build_evaluator(recipe, rewards)
    policy = build_policy(recipe)
    return wire(recipe, policy, prompts, rewards), evaluator


def wire(
    recipe: Recipe,
    policy: Policy,
    prompts: PromptSource,
    rewards: RewardSuite,
    *,
    optimiser: torch.optim.Optimizer | None = None,
) -> Parts:
    """The parts of a run around a policy; `optimiser` is by default the recipe's."""
    method = recipe.method
    # Now, while the weights are those from before training: a resumed run's are restored into the finished parts.
    if method.objective.asks_reference:
        policy.keep_reference()
    optimiser = optimiser or build_optimiser(recipe, policy)
    average = None if recipe.training.ema is None else Average(policy.parameters(), recipe.training.ema)
    update = Recompute(
        policy=policy,
        objective=method.objective,
        optimiser=optimiser,
        updates=recipe.training.updates,
        passes=recipe.training.passes,
        micro_batch=recipe.training.micro_batch,
        max_gradient_norm=recipe.optimiser.max_gradient_norm,
        share_states=recipe.rollout.share_states,
    )
    return Parts(
        seed=recipe.seed,
        policy=policy,
        prompts=prompts,
        prompt_count=recipe.rollout.prompts,
        roll_out=build_roll_out(recipe, policy, update.observers()),
        rewards=rewards,
        objective_weights=recipe.objective_weights,
        method=method,
        update=update,
        optimiser=optimiser,
        anchors=Anchors(average),
    )


def build_roll_out(recipe: Recipe, policy: Policy, observers: Sequence[Observer] = ()) -> RollOut:
    """Who draws the samples, watched by what the rule asks for, by these observers and by people's similarity."""
    method = recipe.method
    watching = (Similarity(), *method.rule.observers(), *observers)
    levels = policy.levels(recipe.rollout.steps, recipe.rollout.shift)
    # Only the model says which steps it decides; that a window has no room there is said before anything is drawn.
    method.plan.could_train(method.sampler, steps=recipe.rollout.steps, trainable=policy.trainable(levels))
    return RollOut(
        policy=policy,
        sampling=method.sampler,
        planning=method.plan,
        levels=levels,
        group_size=recipe.rollout.group_size,
        micro_batch=recipe.rollout.micro_batch,
        # People look at the similarity of every run, and a rule may ask for the same observer.
        observers=list({observer.name: observer for observer in watching}.values()),  # each watches once
        share_states=recipe.rollout.share_states,
    )


def ground_of(recipe: Recipe, prompts: PromptSource, evaluator: Evaluator) -> Ground:
    """What a run of these parts stands on."""
    about = describe()
    packages: dict[str, str] = about.pop("packages")
    keys = flatten(recipe.model_dump(mode="json"))
    return Ground(
        recipe={key: value for key, value in keys.items() if not key.startswith(RESUMABLE)},
        prompts={"training": _digest(prompts.prompts), "held-out": _digest(evaluator.prompts.prompts)},
        rewards={
            f"{name}.{key}": value
            for name, fingerprint in evaluator.rewards.fingerprints().items()
            for key, value in fingerprint.items()
            if key != "file"  # where the source lies is of no matter, and another place on another machine
        },
        weights=_weights(recipe.policy),
        versions={name: packages.pop(name) for name in COMPUTING},
        machine={**about, **packages},
    )


def _digest(prompts: Sequence[Prompt]) -> str:
    return digest_of([[prompt.text, prompt.facts] for prompt in prompts])[:16]


def _weights(settings: PolicySettings) -> dict[str, str]:
    """Digests of the generator's files, and of the LoRA from which it goes on."""
    files = identity(resolve(settings.weights, family_of(settings).embedded), settings.revision)
    start = settings.surface.start if isinstance(settings.surface, LoRA) else None
    started = {} if start is None else {f"start/{name}": value for name, value in identity(start).items()}
    return files | started


def build_optimiser(recipe: Recipe, policy: Policy) -> torch.optim.Optimizer:
    """The recipe's optimiser over what is trained."""
    return torch.optim.AdamW(
        policy.parameters(),
        lr=recipe.optimiser.learning_rate,
        betas=recipe.optimiser.betas,
        weight_decay=recipe.optimiser.weight_decay,
    )


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


def build_evaluator(recipe: Recipe, rewards: RewardSuite) -> Evaluator:
    """Who evaluates: the trained rewards, which are there already, and the held-out ones."""
    held_out = build_rewards(recipe.held_out, device_of(recipe.policy))
    return Evaluator(build_prompts(recipe.evaluation.prompts), rewards.joined(held_out), worlds.answers_of)


def build_trackers(recipe: Recipe, folder: Path, tell: Callable[[str], None]) -> list[Guarded]:
    """The services of the recipe; one that cannot even start is told of and left out."""
    return [Guarded(choice.type, partial(_tracker, choice, recipe, folder), tell) for choice in recipe.tracking]


def _tracker(choice: TrackingChoice, recipe: Recipe, folder: Path) -> Tracker:
    config = recipe.model_dump(mode="json")
    match choice:
        case TensorBoard():
            return TensorBoardTracker(choice.folder or folder / "tensorboard")
        case WandB():
            wandb = importlib.import_module("wandb")
            # A run that goes on has the name of before there, so that its curves are one run's.
            same = {"id": known_as(folder / "wandb.json"), "resume": "allow"}
            where = {"mode": choice.mode, "dir": str(folder), **same}
            return WandBTracker(wandb, project=choice.project, name=folder.name, config=config, **where)
        case Trackio():
            trackio = importlib.import_module("trackio")
            return WandBTracker(trackio, project=choice.project, name=folder.name, config=config)


@during("rewards")
@quiet_loading()
def build_rewards(settings: Sequence[RewardChoice], device: torch.device) -> RewardSuite:
    """Scorers; those that are networks stand on this device, unless their own settings name another."""
    check_versions()
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
            return custom.Custom(settings.path, name=name, time_limit=settings.time_limit)
