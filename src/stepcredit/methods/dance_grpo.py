"""DanceGRPO (arXiv 2505.07818): one group-relative advantage per sample, handed to every step alike."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.methods.base import Method
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, " N"],
    mix_of: Literal["advantages", "rewards"] = "advantages",
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = A at every trained step, for one group.

    A is the weighted sum of per-objective advantages, or the advantage of the weighted sum of raw scores. In the
    second case a sample with a missing score has no advantage.
    """
    if mix_of == "rewards":
        rewards, weights = (rewards * weights).sum(-1, keepdim=True), torch.ones_like(weights[:1])
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    mixed = mix.weighted_sum(advantages, weights).clamp(-advantage_clip, advantage_clip)
    when = temporal.uniform(rewards.new_ones(rewards.shape[0], trained.shape[0]), trained=trained)
    return Credit(
        per_step=assign.per_step(when, mixed),
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=weights.expand_as(advantages).clone(),
        strength=torch.zeros_like(mixed),
    )


class DanceGRPO(Method):
    """DanceGRPO with its FLUX setting: constant-noise SDE, shared initial noise, no KL."""

    paper: ClassVar[str] = "arXiv 2505.07818"
    summary: ClassVar[str] = "GRPO on a constant-noise SDE; one advantage for all steps"

    type: Literal["dance_grpo"] = "dance_grpo"
    mix_of: Literal["advantages", "rewards"] = "advantages"
    """Sum the objectives after (`advantages`) or before (`rewards`) they are standardised."""

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            mix_of=self.mix_of,
            advantage_clip=self.advantage_clip,
        )
