"""MOCA only: OTCA's mix of objectives, with the same weight for every step (ablation of arXiv 2604.19234, Table 4)."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.observers import Similarity
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import DanceSDE, Stochastic
from stepcredit.protocols import Observer
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    similarity: Float[Tensor, "G L"],
    *,
    trained: Bool[Tensor, "*G L-1"] | None = None,
    centred: bool = False,
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = A_eff at every trained step, for one group; arguments as in `otca.rule`."""
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    share = temporal.similarity_share(similarity.to(rewards), trained=trained)
    # Shares serve the strength alone: what this ablation leaves out is that they weigh the steps.
    strength = mix.exploration(advantages, share, similarity.to(rewards), centred=centred)
    when = temporal.uniform(share, trained=trained)
    mixed = mix.moca(advantages, strength)
    return Credit(
        per_step=assign.per_step(when, mixed),
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=mix.moca_coefficients(advantages, strength),
        strength=strength,
    )


class MOCARule(Rule):
    """The objective half of OTCA's rule."""

    mixes_objectives: ClassVar[bool] = True

    centred: bool = False
    """Centre the exploration strength within the group (ours)."""

    def observers(self) -> tuple[Observer, ...]:
        return (Similarity(),)

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.seen[Similarity.name].double(),
            trained=evidence.trained,
            centred=self.centred,
            advantage_clip=self.advantage_clip,
        )


class MOCA(Method):
    """The objective half of OTCA."""

    paper: ClassVar[str] = "arXiv 2604.19234"
    summary: ClassVar[str] = "ablation of otca: its mix of the rewards, every step alike"
    fills: ClassVar[str] = "mix"

    type: Literal["moca"] = "moca"
    sampler: Stochastic = DanceSDE()
    plan: Planning = Planning()
    rule: MOCARule = MOCARule()
    objective: LikelihoodRatio = LikelihoodRatio()
