"""The records that pass between rooms. Frozen; shapes use the letters of `axes.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the generator is told, one row per sample: named tensors `[B, ...]` that only the policy understands."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, rows: Tensor) -> "Condition":
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Trajectory:
    """A rollout of P prompts, G samples each, from noise to data.

    `log_probs` are of the move x_n -> x_{n+1} under the policy that sampled, NaN where the move was deterministic.
    `final` is the latent that is decoded.
    """

    latents: Float[Tensor, "P G L *latent"]
    log_probs: Float[Tensor, "P G L-1"]
    final: Float[Tensor, "P G *latent"]
    levels: Float[Tensor, " L"]
    similarity: Float[Tensor, "P G L"]


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of a rollout. NaN = could not be scored, for the reason in `errors`; never a made-up number."""

    names: tuple[str, ...]
    scores: Float[Tensor, "P G K"]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """All that a method may look at when it assigns credit.

    `weights` are the recipe's weights of the objectives; `trained` marks the trained transitions.
    """

    rewards: Float[Tensor, "P G K"]
    weights: Float[Tensor, " K"]
    similarity: Float[Tensor, "P G L"]
    trained: Bool[Tensor, " L-1"]


@dataclass(frozen=True)
class Credit:
    """What multiplies the loss of every (sample, transition), and the parts it was made of, for people to look at.

    One group has no P axis; a rollout has one.
    """

    per_step: Float[Tensor, "*P G N"]
    weights: Float[Tensor, "*P G N"]  # when
    mixed: Float[Tensor, "*P G"]  # how good, all objectives in one number
    advantages: Float[Tensor, "*P G K"]  # how good, objective by objective; NaN = no opinion
    coefficients: Float[Tensor, "*P G K"]  # how much each objective counted
    strength: Float[Tensor, "*P G"]  # MOCA's lambda; 0 for methods without one

    def tensors(self) -> dict[str, Tensor]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


def over_prompts(rule: Callable[..., Credit]) -> Callable[..., Credit]:
    """Map a rule that is written for one group over the prompts of a rollout.

    Positional tensors get a leading P axis; keyword arguments are shared by all groups.
    """

    def mapped(*batched: Tensor, **shared: object) -> Credit:
        return Credit(**torch.vmap(lambda *group: rule(*group, **shared).tensors())(*batched))

    return mapped


@dataclass(frozen=True)
class RewardBatch:
    """Finished pictures with their captions, one row per sample; `groups` says which rows share a prompt."""

    images: UInt8[np.ndarray, "B H W 3"]
    prompts: tuple[str, ...]
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.prompts) == len(self.groups):
            raise ValueError(
                f"got {len(self.images)} images, {len(self.prompts)} prompts and {len(self.groups)} group numbers; "
                "wanted one of each per sample"
            )


@dataclass(frozen=True)
class RewardOutput:
    """Scores `[B]` under each name that a reward offers, float; NaN where it could not score, reasons in `errors`."""

    scores: Mapping[str, Float[np.ndarray, " B"]]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """One iteration in numbers: flat, named `group/what`, ready for a table."""

    iteration: int
    metrics: Mapping[str, float] = field(default_factory=dict)
