"""DPOK (arXiv 2305.16381): policy gradient without a clip, and a KL to the pretrained model at every step."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit import mix
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio, Unclipped
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule, same_for_every_step
from stepcredit.parts.sampling import DDIM, Stochastic
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, "*G N"],
    baseline: Literal["group", "none"] = "group",
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = r, or r - group mean, at every trained step; r is the weighted sum of the raw scores."""
    scores = mix.weighted_scores(rewards, weights.expand_as(rewards))
    known = scores.isfinite()
    level = torch.where(known, scores, torch.nan).nanmean() if baseline == "group" else scores.new_zeros(())
    # Not divided by a spread: DPOK is the plain policy gradient of the reward in its own unit.
    advantages = (scores - level).clamp(-advantage_clip, advantage_clip)[:, None]
    mixed = mix.mean(torch.where(known[:, None], advantages, torch.nan))
    return same_for_every_step(mixed, advantages, torch.ones_like(advantages), trained=trained)


class DPOKRule(Rule):
    """Raw rewards minus a baseline."""

    baseline: Literal["group", "none"] = "group"
    """What is subtracted from the reward."""

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            baseline=self.baseline,
            advantage_clip=self.advantage_clip,
        )


class DPOK(Method):
    """DPOK. Ours: the group's mean stands for its learned value baseline; code not compared."""

    paper: ClassVar[str] = "arXiv 2305.16381"
    summary: ClassVar[str] = "raw rewards, unclipped policy gradient, KL to the base at every step"
    fills: ClassVar[str] = "advantage, loss"

    type: Literal["dpok"] = "dpok"
    sampler: Stochastic = DDIM(noise_level=1.0)
    plan: Planning = Planning(shared_noise=False)
    rule: DPOKRule = DPOKRule()
    objective: LikelihoodRatio = LikelihoodRatio(loss=Unclipped(), kl_weight=0.01)
