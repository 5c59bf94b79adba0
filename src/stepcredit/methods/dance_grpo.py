"""DanceGRPO (arXiv 2505.07818): one group-relative advantage per sample, handed to every step alike."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit import advantage, mix
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule, same_for_every_step
from stepcredit.parts.sampling import DanceSDE, Stochastic
from stepcredit.records import Credit, Evidence, over_prompts

MixOf = Literal["advantages", "rewards", "losses"]


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, "*G N"],
    mix_of: MixOf = "advantages",
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = A at every trained step, for one group.

    A is the weighted sum of per-objective advantages, or the advantage of the weighted sum of raw scores. In the
    second case a sample with a missing score has no advantage. With `losses` every objective has a loss of its own,
    clipped for itself, which differs from `advantages` only where something is clipped.
    """
    if mix_of == "rewards":
        # From here on the sum is the one objective; its weight is 1, because the recipe's weights are in it already.
        rewards = mix.weighted_scores(rewards, weights.expand_as(rewards))[:, None]
        weights = torch.ones_like(weights[:1])
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    mixed = mix.weighted_sum(advantages, weights)
    # Losses are summed after each is clipped for itself, so their sum has no bound of its own.
    mixed = mixed if mix_of == "losses" else mixed.clamp(-advantage_clip, advantage_clip)
    credit = same_for_every_step(mixed, advantages, weights, trained=trained)
    if mix_of != "losses":
        return credit
    each = (weights * advantages).nan_to_num(0.0)
    return replace(credit, terms=credit.weights[..., None] * each[:, None])


class DanceGRPORule(Rule):
    """One advantage for all steps."""

    mix_of: MixOf = "advantages"
    """Sum the objectives after (`advantages`) or before (`rewards`) they are standardised, or sum their `losses`."""

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            mix_of=self.mix_of,
            advantage_clip=self.advantage_clip,
        )


class DanceGRPO(Method):
    """DanceGRPO with its FLUX setting: constant-noise SDE, shared initial noise, no KL.

    Its FLUX script trains `timestep_fraction: 0.6` of the steps; its video recipe has `mix_of: losses` and `best_of`.
    """

    paper: ClassVar[str] = "arXiv 2505.07818"
    summary: ClassVar[str] = "GRPO on a constant-noise SDE; one advantage for all steps"
    fills: ClassVar[str] = "kernel, advantage, mix"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["dance_grpo"] = "dance_grpo"
    sampler: Stochastic = DanceSDE(noise_level=0.3)
    plan: Planning = Planning()
    rule: DanceGRPORule = DanceGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio()
