"""OTCA, Objective-aware Trajectory Credit Assignment (arXiv 2604.19234).

    credit_{i,n} = w_{i,n} A_eff,i            w: when (TCD)            A_eff: how good, objectives mixed (MOCA)

Defaults are the paper's FLUX setting where it states one. Ours: the affine floor (its text asks for a minimum weight
of 0.5, which its sum-to-one weights cannot have), and that an objective without spread in a group is left out of it.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import Clipped, LikelihoodRatio
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
    centred: bool = False,
    recentred: bool = False,
    objective_floor: float = 0.0,
    step_mix: bool = False,
    advantage_clip: float = 5.0,
) -> Credit:
    """OTCA's credit for one group.

    rewards      raw scores of the G samples under K objectives; NaN = could not be scored
    similarity   cosine of each latent with the clean one, from noise to data (`temporal.similarity_to_final`)
    trained      which transitions are trained; None = all
    weights      how shares become weights (`temporal.READINGS`); `floor` is their minimum
    centred      subtract the group mean in the exploration strength, as the paper's text (not its equation) says
    recentred, objective_floor, step_mix    ours, see `OTCA`
    """
    advantages = advantage.standardise(rewards).clamp(-advantage_clip, advantage_clip)
    share = temporal.similarity_share(similarity.to(rewards), trained=trained)
    when = temporal.READINGS[weights](share, floor=floor, trained=trained)
    explore = mix.step_exploration if step_mix else mix.exploration
    strength = explore(advantages, share, similarity.to(rewards), centred=centred)

    silent = advantages.isnan().all(-1)  # no opinion: 0, and no part in a mean

    # Of one strength a sample, so that vmap can do it for each step where the mix depends on the step.
    def good(strength: Tensor) -> Tensor:
        mixed = mix.with_objective_floor(mix.moca(advantages, strength), advantages, floor=objective_floor)
        return torch.where(silent, 0, mix.centre(torch.where(silent, torch.nan, mixed))) if recentred else mixed

    mixed = torch.vmap(good, in_dims=1, out_dims=1)(strength) if step_mix else good(strength)
    per_step = assign.per_step(when, mixed)
    if step_mix:  # people look at one number per sample: the mean over its steps, weighted as they are
        total = when.sum(-1).clamp(min=1e-12)
        strength = (strength * when).sum(-1) / total
        mixed = (mixed * when).sum(-1) / total
    return Credit(
        per_step=per_step,
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=mix.moca_coefficients(advantages, strength),
        strength=strength,
    )


class OTCARule(Rule):
    """OTCA's rule with the paper's FLUX.1-dev setting (section 4.1)."""

    mixes_objectives: ClassVar[bool] = True

    floor: float = Field(default=0.5, ge=0, le=1)
    """Least weight of a trained transition (the paper's w_min)."""
    weights: temporal.Reading = "affine"
    """How shares of similarity gain become weights."""
    compared: Compared = "latents"
    """Whose similarity with the picture is read: the noisy latents', as published, or the clean predictions' (ours)."""
    centred: bool = False
    """Centre the exploration strength within the group (ours; the paper's equation does not): makes it informative."""
    recentred: bool = False
    """Subtract the group's mean from the mixed advantage (ours): MOCA's is positive, which reinforces any sample."""
    objective_floor: float = Field(default=0.0, ge=0, le=1)
    """Share of the plain mean of the objectives in the mix (our reading of section 6.5): removes MOCA's exact zeros."""
    step_mix: bool = False
    """One mix of the objectives per step (ours): the paper's text has c depend on the step, its equations do not."""

    def observers(self) -> tuple[Observer, ...]:
        return (watching(self.compared),)

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            similarities(evidence, self.compared).double(),
            trained=evidence.trained,
            floor=self.floor,
            weights=self.weights,
            centred=self.centred,
            recentred=self.recentred,
            objective_floor=self.objective_floor,
            step_mix=self.step_mix,
            advantage_clip=self.advantage_clip,
        )


class OTCA(Method):
    """OTCA with the paper's FLUX.1-dev setting (section 4.1)."""

    paper: ClassVar[str] = "arXiv 2604.19234"
    summary: ClassVar[str] = "per-step weights from similarity gains x a per-sample mix of the rewards"
    fills: ClassVar[str] = "when, mix"

    type: Literal["otca"] = "otca"
    sampler: Stochastic = DanceSDE(noise_level=0.3)
    plan: Planning = Planning()
    rule: OTCARule = OTCARule()
    objective: LikelihoodRatio = LikelihoodRatio(loss=Clipped(clip=1e-4))
