"""What an iteration costs in work and memory, counted by running PyTorch on tensors that have shapes and no memory.

The generator is built from configurations alone (`costs.blueprint`) and asked for one velocity, one gradient and
one picture; the operations that run are counted and multiplied. No formula of a model is written down here.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from stepcredit.build import build_prompts
from stepcredit.costs.blueprint import guessed_lengths
from stepcredit.costs.meter import Meter, metered
from stepcredit.costs.sketch import Encoding, decode, encode, gradient, sketch, velocity
from stepcredit.costs.weights import FLOAT32, Weights, bytes_of, weigh
from stepcredit.errors import Phase, PromptError
from stepcredit.policies.generator import Generator
from stepcredit.prompts.sources import Listed
from stepcredit.protocols import PromptSource
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Condition, Key, Plan
from stepcredit.settings.policies import LoRA

_WORDS = 20  # of a prompt that stands in for one that is not here


@dataclass(frozen=True)
class Need:
    """Bytes of a phase, beside what is there all the time: some whatever the batch, and some for each of a batch.

    Of decoding with FLUX.1-dev at 512 x 512, 12 pictures at a time: `Need(113_246_208, 403_046_400, 12)`.
    """

    fixed: int
    each: int
    batch: int

    @property
    def total(self) -> int:
        return self.fixed + self.each * self.batch


@dataclass(frozen=True)
class Costs:
    """One iteration. FLOPs: a multiplication and an addition are two. An upper bound: pairs without credit are skipped,
    a state that samples share is computed once, prompts that are in the text cache are not encoded again.

    `resident` is on the device all the time, `waiting` in main memory, by part; `needs` come and go. Of FLUX.1-dev with
    the recipe of OTCA: `work` {"rollout": 33_380_524_747_653_120, ...}, `resident` {"network": 23_802_816_640, ...},
    `waiting` {"text encoders": 9_770_742_272, ...}, `needs` {"update": Need(0, 10_986_495_296, 4), ...}, `pairs` 1440.
    """

    work: Mapping[str, int]
    resident: Mapping[str, int]
    waiting: Mapping[str, int]
    needs: Mapping[Phase, Need]
    pairs: int
    guessed_texts: bool
    """Whether lengths of texts had to be guessed: the tokenizer is not here, and the model does not pad."""
    missing: str | None = None
    """Why prompts of twenty words stand in for the recipe's own; None where they do not."""

    @property
    def flops(self) -> int:
        return sum(self.work.values())

    @property
    def peak(self) -> int:
        """Bytes on the device at the worst moment."""
        return sum(self.resident.values()) + max(need.total for need in self.needs.values())

    def seconds(self, *, peak_tflops: float, utilisation: float) -> float:
        """Of the counted work, on a device of so many TFLOP/s that is used so well."""
        return self.flops / (peak_tflops * 1e12 * utilisation)


def fitting_micro_batch(costs: Costs, available_bytes: int, phase: Phase = "update") -> int:
    """The largest micro-batch of a phase that fits; 0 when not even one does."""
    need = costs.needs[phase]
    room = available_bytes - sum(costs.resident.values()) - need.fixed
    return max(room // max(need.each, 1), 0)


def count_costs(recipe: Recipe) -> Costs:
    """Count the first iteration of a recipe; no weights are loaded."""
    policy = sketch(recipe)
    levels = policy.levels(recipe.rollout.steps, recipe.rollout.shift)
    plan = first_plan(recipe, policy.trainable(levels))
    reference = uses_reference(recipe)
    # Before anything is metered: weighing puts the gradients there, which are resident and no phase's own.
    weights = weigh(recipe, policy, reference=reference)
    prompts, missing = _prompts(recipe)
    first_prompts = prompts.draw(recipe.rollout.prompts, Key(recipe.seed, iteration=0))
    encoding, condition = encode(policy, [prompt.text for prompt in first_prompts])
    deciders = policy.family.deciding(levels)
    networks = [
        _Network.metered(policy, condition, name, steps=_steps_of(name, deciders, plan), reference=reference)
        for name in dict.fromkeys(deciders)
    ]
    phases = _Metered(encoding, networks, *decode(policy))
    cached = min(recipe.policy.text_cache, len(prompts.prompts))
    return Costs(
        work=_work(recipe, phases),
        resident={**weights.resident, "trajectories": _trajectories(recipe, policy)},
        waiting={**weights.waiting, "text cache": cached * _row(condition)},
        needs=_needs(recipe, plan, weights, phases),
        pairs=int(plan.trained.sum()),
        guessed_texts=guessed_lengths(policy.pipe),
        missing=missing,
    )


def first_plan(recipe: Recipe, trainable: Bool[Tensor, " N"] | None = None) -> Plan:
    """The plan of the first iteration; `trainable` are the steps that a trained network decides, by default all."""
    rollout = recipe.rollout
    return recipe.method.plan.draw(
        recipe.method.sampler,
        steps=rollout.steps,
        prompts=rollout.prompts,
        group_size=rollout.group_size,
        key=Key(recipe.seed, iteration=0),
        trainable=trainable,
    )


def uses_reference(recipe: Recipe) -> bool:
    """Whether the method asks the frozen policy as well, at every trained pair."""
    return recipe.method.objective.asks_reference


def samples_of(recipe: Recipe) -> int:
    """Pictures or videos of one iteration."""
    return recipe.rollout.prompts * recipe.rollout.group_size


def _prompts(recipe: Recipe) -> tuple[PromptSource, str | None]:
    """The recipe's prompts; where they are not here yet, stand-ins and the reason."""
    try:
        return build_prompts(recipe.prompts), None
    except PromptError as error:
        words = " ".join(["word"] * (_WORDS - 1))
        # Each ends with a number of its own: equal prompts would be encoded once.
        return Listed([f"{words} {index}" for index in range(recipe.rollout.prompts)]), str(error)


@dataclass(frozen=True)
class _Steps:
    """What one network has to do for one sample's trajectory and for the whole plan, e.g. `_Steps(16, 1440)`."""

    sampled: int
    trained_pairs: int


def _steps_of(network: str, deciders: Sequence[str], plan: Plan) -> _Steps:
    """The part of a plan that this network decides; `deciders` names one for each step."""
    pairs_by_step = plan.trained.sum((0, 1)).tolist()
    pairs = [count for name, count in zip(deciders, pairs_by_step, strict=True) if name == network]
    return _Steps(sampled=len(pairs), trained_pairs=sum(pairs))


@dataclass(frozen=True)
class _Network:
    """A network's steps, and what one sample takes of it; None where that is never asked for."""

    steps: _Steps
    forward: Meter
    update: Meter | None
    """Forward and backward."""
    reference: Meter | None

    @classmethod
    def metered(
        cls, policy: Generator, condition: Condition, name: str, *, steps: _Steps, reference: bool
    ) -> "_Network":
        with metered() as forward:
            velocity(policy, condition, name)
        if steps.trained_pairs == 0:  # an expert that samples only
            return cls(steps, forward, None, None)
        with metered() as update:
            gradient(policy, condition, name)
        return cls(steps, forward, update, _reference(policy, condition, name) if reference else None)


def _reference(policy: Generator, condition: Condition, name: str) -> Meter:
    """What the frozen policy takes: the network without its LoRA, or a copy of it that costs as much as itself."""
    # The copy of full training is not made: it would be one more module of that size, and its forward is the same.
    frozen = policy.reference() if isinstance(policy.settings.surface, LoRA) else nullcontext()
    with frozen, metered() as meter:
        velocity(policy, condition, name)
    return meter


@dataclass(frozen=True)
class _Metered:
    """What was metered of every phase: the prompts together, one sample of each network, one picture."""

    encoding: Encoding
    networks: Sequence[_Network]
    decoding: Meter
    picture: Tensor


def _work(recipe: Recipe, phases: _Metered) -> dict[str, int]:
    """FLOPs of one iteration by kind, in the order in which they are shown."""
    samples = samples_of(recipe)
    work = Counter({"text encoding": phases.encoding.flops})
    for network in phases.networks:
        work["rollout"] += samples * network.steps.sampled * network.forward.flops
        pairs = network.steps.trained_pairs * recipe.training.passes
        if network.update is not None:
            work["update, forward"] += pairs * network.forward.flops
            work["update, backward"] += pairs * (network.update.flops - network.forward.flops)
        if network.reference is not None:
            work["reference (KL)"] += pairs * network.reference.flops
    work["decoding"] = samples * phases.decoding.flops
    return dict(work)


def _needs(recipe: Recipe, plan: Plan, weights: Weights, phases: _Metered) -> dict[Phase, Need]:
    """What each phase takes while it runs; parts that wait in main memory are on the device then."""
    micro = min(recipe.rollout.micro_batch, samples_of(recipe))
    # Of one optimiser step: no micro-batch is larger.
    pairs_per_update = math.ceil(plan.trained.sum().item() / recipe.training.updates)
    encoding = phases.encoding
    updates = [network.update.peak for network in phases.networks if network.update is not None]
    # Pictures are there three times while they become bytes: as decoded, without NaN, and as 0 to 255.
    pictures = 3 * micro * phases.picture.numel() * FLOAT32
    return {
        "text": Need(
            fixed=weights.waiting.get("text encoders", 0),
            each=encoding.peak // min(encoding.batch, encoding.prompts),
            batch=encoding.batch,
        ),
        "rollout": Need(fixed=0, each=max(network.forward.peak for network in phases.networks), batch=micro),
        "decode": Need(
            fixed=pictures + weights.waiting.get("autoencoder", 0),
            each=phases.decoding.peak,
            batch=min(recipe.policy.decode_batch, micro),
        ),
        "update": Need(
            fixed=weights.copies,
            each=max(updates, default=0),
            batch=min(recipe.training.micro_batch, pairs_per_update),
        ),
    }


def _trajectories(recipe: Recipe, policy: Generator) -> int:
    """Bytes that the rollout leaves for the update."""
    numbers = math.prod(policy.latent_shape())
    # N + 1 latents, N velocities and the clean end of each sample.
    return samples_of(recipe) * numbers * FLOAT32 * (2 * recipe.rollout.steps + 2)


def _row(condition: Condition) -> int:
    """Bytes of one prompt's embeddings."""
    return sum(bytes_of(tensor[0]) for tensor in condition.tensors.values())
