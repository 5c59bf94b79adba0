"""What a rule may look at, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit.temporal import of_predictions
from stepcredit.flow.transitions import Transitions

Compared = Literal["latents", "predictions"]


@dataclass(frozen=True)
class Evidence:
    """All that a method may look at when it assigns credit.

    `weights` are the recipe's weights of the objectives; `trained` marks each sample's trained transitions;
    `transitions` are the sampler's constants. Similarities as in `Trajectory`.
    """

    rewards: Float[Tensor, "P G K"]
    weights: Float[Tensor, " K"]
    similarity: Float[Tensor, "P G L"]
    clean_similarity: Float[Tensor, "P G L-1"]
    trained: Bool[Tensor, "P G L-1"]
    transitions: Transitions

    def similarities(self, of: Compared) -> Float[Tensor, "P G L"]:
        """With the final picture: of the noisy latents, or of the clean predictions (`temporal.of_predictions`)."""
        return self.similarity if of == "latents" else torch.vmap(of_predictions)(self.clean_similarity)


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
    terms: Float[Tensor, "*P G N M"] | None = None  # loss terms that are clipped each for itself; None: per_step is one

    def tensors(self) -> dict[str, Tensor]:
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def over_prompts(rule: Callable[..., Credit]) -> Callable[..., Credit]:
    """Map a rule that is written for one group over the prompts of a rollout.

    Tensors get a leading P axis, be they positional or named; everything else is shared by all groups.
    """

    def mapped(*batched: Tensor, **named: object) -> Credit:
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        shared = {name: value for name, value in named.items() if name not in tensors}

        def one(group: tuple[Tensor, ...], own: dict[str, Tensor]) -> dict[str, Tensor]:
            return rule(*group, **own, **shared).tensors()

        return Credit(**torch.vmap(one)(batched, tensors))

    return mapped
