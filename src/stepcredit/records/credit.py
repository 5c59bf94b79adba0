"""What a rule may look at, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.flow.transitions import Transitions


@dataclass(frozen=True)
class Evidence:
    """All that a rule may look at when it assigns credit; whole groups, on the CPU.

    rewards       raw scores `[P, G, K]`; NaN = could not be scored
    weights       the recipe's weights of the objectives `[K]`
    trained       each sample's trained transitions `[P, G, N]`
    transitions   the sampler's constants
    seen          what the rule's observers left, by name, one row a sample: `similarity [P, G, L]`, ...

    Example: `Evidence(scores, torch.ones(3), plan.trained, sampler.transitions, {"similarity": similarity})`.
    """

    rewards: Float[Tensor, "P G K"]
    weights: Float[Tensor, " K"]
    trained: Bool[Tensor, "P G N"]
    transitions: Transitions
    seen: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Credit:
    """What multiplies the loss of every (sample, transition), and the parts it was made of, for people to look at.

    One group has no P axis; a rollout has one.

    per_step       weights x mixed, for most rules
    weights        when: how much each transition counts
    mixed          how good: all objectives in one number
    advantages     how good, objective by objective; NaN = no opinion
    coefficients   how much each objective counted
    strength       MOCA's lambda; 0 for rules without one
    terms          loss terms that are clipped each for itself; None: `per_step` is the only one

    Example: a sample that is one standard deviation better than its siblings, at two steps of equal weight, has
    `per_step [1.0, 1.0]`, `weights [1.0, 1.0]`, `mixed 1.0`, `advantages [1.0]`.
    """

    per_step: Float[Tensor, "*P G N"]
    weights: Float[Tensor, "*P G N"]
    mixed: Float[Tensor, "*P G"]
    advantages: Float[Tensor, "*P G K"]
    coefficients: Float[Tensor, "*P G K"]
    strength: Float[Tensor, "*P G"]
    terms: Float[Tensor, "*P G N M"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of it that there is, by name."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def over_prompts(rule: Callable[..., Credit]) -> Callable[..., Credit]:
    """Map a rule that is written for one group over the prompts of a rollout.

    Tensors get a leading P axis, be they positional or named; everything else is shared by all groups.
    """

    def mapped(*batched: Tensor, **named: object) -> Credit:
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        shared = {name: value for name, value in named.items() if name not in tensors}

        # vmap takes and returns plain containers of tensors; a record would be an opaque leaf to it.
        def one(group: tuple[Tensor, ...], own: dict[str, Tensor]) -> dict[str, Tensor]:
            return rule(*group, **own, **shared).tensors()

        return Credit(**torch.vmap(one)(batched, tensors))

    return mapped
