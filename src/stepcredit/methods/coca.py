"""CoCA (arXiv 2505.19196): a step is credited with the share of the similarity gain that is still to come."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.observers import CleanSimilarity
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import DDIM, Stochastic
from stepcredit.protocols import Observer
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    clean_similarity: Float[Tensor, "G N"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, "*G N"] | None = None,
    window: int = 5,
    floor: float = 0.0,
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = standardised over the group (A (floor + (1 - floor) C_n)), C the reward-to-go shares.

    The second standardisation takes the trained steps of all samples together, as the code does: one step at a time it
    would divide out every C that the samples share. Samples without an opinion stay out of it and get 0.

    clean_similarity   cosine of every step's clean prediction with the clean latent
    window             steps that share one gain
    """
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    mixed = mix.weighted_sum(advantages, weights).clamp(-advantage_clip, advantage_clip)
    come = temporal.reward_to_go(clean_similarity.to(rewards), window=window)
    when = floor + (1 - floor) * come
    when = when if trained is None else torch.where(trained, when, 0)
    speaks = when.isfinite().all(-1) & ~advantages.isnan().all(-1)
    used = speaks[:, None] if trained is None else speaks[:, None] & trained
    # NaN stays out of the statistics, which a 0 would not: it would pull the mean and shrink the spread.
    shaped = torch.where(used, assign.per_step(when, mixed), torch.nan)
    # As one column, which is what standardise takes for one objective of many samples.
    again = advantage.standardise(shaped.reshape(-1, 1), eps=1e-6).reshape(shaped.shape).nan_to_num(0.0)
    again = again.clamp(-advantage_clip, advantage_clip)
    return Credit(
        per_step=again,
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=weights.expand_as(advantages).clone(),
        strength=torch.zeros_like(mixed),
    )


class CoCARule(Rule):
    """Reward-to-go shares of what the clean prediction gains."""

    span: int = Field(default=5, ge=1, le=1_000)
    """Steps that share one gain (of the paper's 50)."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Least weight of a step (the code's temporal_alpha)."""

    def observers(self) -> tuple[Observer, ...]:
        return (CleanSimilarity(),)

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.seen[CleanSimilarity.name].double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            window=self.span,
            floor=self.floor,
            advantage_clip=self.advantage_clip,
        )


class CoCA(Method):
    """CoCA on DDIM, as published; the ancestor of OTCA's weights over steps."""

    paper: ClassVar[str] = "arXiv 2505.19196"
    summary: ClassVar[str] = "reward-to-go shares of the clean prediction's similarity gain"
    fills: ClassVar[str] = "when"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["coca"] = "coca"
    sampler: Stochastic = DDIM(noise_level=1.0)
    plan: Planning = Planning(shared_noise=False)
    rule: CoCARule = CoCARule()
    objective: LikelihoodRatio = LikelihoodRatio()
