"""Flow-GRPO (arXiv 2505.05470): scores are summed first, centred within the group, scaled by the whole batch."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit import advantage, mix
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule, same_for_every_step
from stepcredit.parts.sampling import FlowSDE, Stochastic
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    scores: Float[Tensor, " G"],
    scale: Float[Tensor, ""],
    *,
    trained: Bool[Tensor, "*G N"],
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = (score - group mean) / scale at every trained step, for one group of already summed scores."""
    advantages = advantage.centre(scores[:, None], scale[None]).clamp(-advantage_clip, advantage_clip)
    mixed = advantages[:, 0].nan_to_num(0.0)
    return same_for_every_step(mixed, advantages, torch.ones_like(advantages), trained=trained)


def broadcast(
    evidence: Evidence, *, scale: Literal["batch", "group"], eps: float = 1e-4, advantage_clip: float = 5.0
) -> Credit:
    """`rule` for a rollout: the weighted sum of the scores, over the std of all of them or of the group's (ddof 0).

    What Flow-CPS, GRPO-Guard, Flow-DPPO, TempFlow-GRPO, Flash-GRPO and DDPO have in common. A sample with a missing
    score has no advantage.
    """
    scores = mix.weighted_scores(evidence.rewards.double(), evidence.weights.double().expand_as(evidence.rewards))
    valid = scores.isfinite()
    # The batch is seen out here alone: `rule` has one group at a time.
    if scale == "batch":
        spread = scores[valid].std(correction=0).expand(len(scores)) if valid.any() else scores.new_ones(len(scores))
    else:
        mean = torch.where(valid, scores, torch.nan).nanmean(1, keepdim=True)
        spread = torch.where(valid, scores - mean, torch.nan).square().nanmean(1).sqrt().nan_to_num(1.0)
    return over_prompts(rule)(scores, spread + eps, trained=evidence.trained, advantage_clip=advantage_clip)


class FlowGRPORule(Rule):
    """Summed scores, centred within the group."""

    scale: Literal["batch", "group"] = "batch"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)


class FlowGRPO(Method):
    """Flow-GRPO with its SD3.5 setting: level-dependent SDE, KL to the base, independent initial noise.

    Flow-GRPO-Fast is `window: {size: 2, end: 5}` with kl_weight 0 and clip 1e-5.
    """

    paper: ClassVar[str] = "arXiv 2505.05470"
    summary: ClassVar[str] = "GRPO on a level-dependent SDE; summed rewards, batch-wide scale, KL"
    fills: ClassVar[str] = "kernel, advantage"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["flow_grpo"] = "flow_grpo"
    sampler: Stochastic = FlowSDE(noise_level=0.7)
    plan: Planning = Planning(shared_noise=False)
    rule: FlowGRPORule = FlowGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio(kl_weight=0.04, kl_form="flow_grpo")
