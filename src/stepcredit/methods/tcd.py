"""TCD only: OTCA's weights over steps, the plain mean of the advantages (ablation of arXiv 2604.19234, Table 4)."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.observers import Compared, similarities, watching
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
    floor: float = 0.5,
    weights: temporal.Reading = "affine",
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = w x mean_k A_k for one group; arguments as in `otca.rule`."""
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    share = temporal.similarity_share(similarity.to(rewards), trained=trained)
    when = temporal.READINGS[weights](share, floor=floor, trained=trained)
    mixed = mix.mean(advantages)
    speaks = ~advantages.isnan()
    return Credit(
        per_step=assign.per_step(when, mixed),
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=speaks / speaks.sum(-1, keepdim=True).clamp(min=1).to(rewards),
        strength=torch.zeros_like(mixed),
    )


class TCDRule(Rule):
    """The temporal half of OTCA's rule."""

    mixes_objectives: ClassVar[bool] = True

    floor: float = Field(default=0.5, ge=0, le=1)
    """Least weight of a trained transition."""
    weights: temporal.Reading = "affine"
    """How shares of similarity gain become weights."""
    compared: Compared = "latents"
    """Whose similarity with the picture is read: the noisy latents', as published, or the clean predictions' (ours)."""

    def observers(self) -> tuple[Observer, ...]:
        return (watching(self.compared),)

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            similarities(evidence, self.compared).double(),
            trained=evidence.trained,
            floor=self.floor,
            weights=self.weights,
            advantage_clip=self.advantage_clip,
        )


class TCD(Method):
    """The temporal half of OTCA."""

    paper: ClassVar[str] = "arXiv 2604.19234"
    summary: ClassVar[str] = "ablation of otca: its weights over steps, the mean of the advantages"
    fills: ClassVar[str] = "when"

    type: Literal["tcd"] = "tcd"
    sampler: Stochastic = DanceSDE()
    plan: Planning = Planning()
    rule: TCDRule = TCDRule()
    objective: LikelihoodRatio = LikelihoodRatio()
