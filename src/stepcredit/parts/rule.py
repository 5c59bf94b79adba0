"""How credit is assigned: from the scores of a rollout, and what its observers saw, to one number a sample and step."""

import inspect
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.credit import advantage, assign, temporal
from stepcredit.parts.border import check_credit, check_evidence
from stepcredit.protocols import Observer
from stepcredit.records import Credit, Evidence
from stepcredit.settings.strict import Strict


class Rule(Strict):
    """Settings of a rule and its decision. Abstract: each rule is one final subclass beside its pure function."""

    mixes_objectives: ClassVar[bool] = False
    """Whether the rule finds its own mix of the objectives, so that weights in the recipe would be ignored."""

    advantage_clip: float = Field(default=5.0, gt=0, le=1e30)
    """Advantages are clamped to plus or minus this."""

    def observers(self) -> tuple[Observer, ...]:
        """Who has to watch the rollout for this rule; what they leave is in `evidence.seen`, by their names."""
        return ()

    @abstractmethod
    def assign(self, evidence: Evidence) -> Credit:
        """Credit of a whole rollout, `[P, G, N]`."""

    def credit(self, evidence: Evidence) -> Credit:
        """`assign`, with evidence and credit checked; an error names the file of the rule."""
        check_evidence(evidence, mixes=self.mixes_objectives)
        credit = self.assign(evidence)
        # The file and not the class: most wrong credit comes from a method of one's own, which is a file.
        check_credit(credit, evidence, where=inspect.getfile(type(self)))
        # A rule that sums raw scores first has one advantage for all objectives.
        if credit.advantages.shape[-1] != evidence.rewards.shape[-1]:
            credit = _objective_by_objective(credit, evidence)
        return credit


def same_for_every_step(
    mixed: Float[Tensor, " G"],
    advantages: Float[Tensor, "G K"],
    coefficients: Float[Tensor, "... K"],
    *,
    trained: Bool[Tensor, "*G N"],
) -> Credit:
    """What a rule without an opinion on steps returns for one group: its mix of the objectives at every trained one."""
    when = temporal.uniform(mixed.new_ones(mixed.shape[0], trained.shape[-1]), trained=trained)
    return Credit(
        per_step=assign.per_step(when, mixed),
        weights=when,
        mixed=mixed,
        advantages=advantages,
        coefficients=coefficients.expand_as(advantages).clone(),
        strength=torch.zeros_like(mixed),
    )


@torch.no_grad()
def _objective_by_objective(credit: Credit, evidence: Evidence) -> Credit:
    """The parts of a rule that sums raw scores, as people look at them: each objective's own advantage, and what it
    counted in the sum, its weight times its spread in the group."""
    rewards = torch.where(evidence.rewards.isfinite(), evidence.rewards, torch.nan).to(credit.mixed)
    spread = (rewards - rewards.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
    return replace(
        credit,
        advantages=torch.vmap(advantage.standardise)(rewards),
        coefficients=(evidence.weights.to(rewards) * spread).nan_to_num(0.0).expand_as(rewards).clone(),
    )
