"""MGDA-UB (arXiv 1810.04650): one mix of the objectives for all samples, the shortest vector of their convex hull."""

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


@torch.no_grad()
def rule(advantages: Float[Tensor, "G K"], weights: Float[Tensor, " K"], *, trained: Bool[Tensor, "*G N"]) -> Credit:
    """credit = sum_k weights_k A_k at every trained step, for one group."""
    mixed = mix.weighted_sum(advantages, weights)
    return same_for_every_step(mixed, advantages, weights, trained=trained)


class MGDARule(Rule):
    """One min-norm mix for all samples."""

    mixes_objectives: ClassVar[bool] = True

    over: Literal["batch", "group"] = "batch"
    """Which samples share one mix."""

    @torch.no_grad()
    def assign(self, evidence: Evidence) -> Credit:
        clip = self.advantage_clip
        advantages = torch.vmap(advantage.standardise)(evidence.rewards.double()).clamp(-clip, clip)
        if self.over == "batch":
            # Float64 throughout: the solver's ridge would be rounded away in float32.
            weights = mix.min_norm(advantages.flatten(0, 1)).expand(len(advantages), -1)
        else:
            weights = torch.vmap(mix.min_norm)(advantages)
        return over_prompts(rule)(advantages, weights, trained=evidence.trained)


class MGDA(Method):
    """MGDA-UB on DanceGRPO's sampler. OTCA's MOCA is the limit in which every sample has a mix of its own."""

    paper: ClassVar[str] = "arXiv 1810.04650"
    summary: ClassVar[str] = "min-norm mix of the objectives over the batch or the group"
    fills: ClassVar[str] = "mix"

    type: Literal["mgda"] = "mgda"
    sampler: Stochastic = DanceSDE()
    plan: Planning = Planning()
    rule: MGDARule = MGDARule()
    objective: LikelihoodRatio = LikelihoodRatio()
