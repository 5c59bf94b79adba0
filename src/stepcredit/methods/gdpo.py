"""GDPO (arXiv 2601.05242): every reward is standardised within its group, the sum once more over the batch."""

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
def rule(
    advantages: Float[Tensor, "G K"],
    mixed: Float[Tensor, " G"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, "*G N"],
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = the whitened sum at every trained step, for one group of a batch that is whitened already."""
    mixed = mixed.clamp(-advantage_clip, advantage_clip)
    return same_for_every_step(mixed, advantages, weights, trained=trained)


class GDPORule(Rule):
    """Rewards standardised one by one, their sum whitened over the batch."""

    @torch.no_grad()
    def assign(self, evidence: Evidence) -> Credit:
        weights = evidence.weights.double().expand(len(evidence.rewards), -1)
        advantages = torch.vmap(lambda group: advantage.standardise(group, eps=1e-4))(evidence.rewards.double())
        summed = torch.vmap(mix.weighted_sum)(advantages, weights)
        silent = advantages.isnan().all(-1)  # nobody has an opinion: stays out of the batch's statistics
        whitened = advantage.standardise_batch(summed.masked_fill(silent, torch.nan))
        return over_prompts(rule)(
            advantages, whitened, weights, trained=evidence.trained, advantage_clip=self.advantage_clip
        )


class GDPO(Method):
    """GDPO's mix of objectives on DanceGRPO's sampler; the paper is about language models."""

    paper: ClassVar[str] = "arXiv 2601.05242"
    summary: ClassVar[str] = "rewards standardised one by one, their sum whitened over the batch"
    fills: ClassVar[str] = "mix"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["gdpo"] = "gdpo"
    sampler: Stochastic = DanceSDE()
    plan: Planning = Planning()
    rule: GDPORule = GDPORule()
    objective: LikelihoodRatio = LikelihoodRatio()
