"""What objectives and credit say of one another: numbers for people. One group, without gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def conflict(advantages: Float[Tensor, "G K"]) -> Bool[Tensor, " G"]:
    """Samples that one objective likes and another dislikes, `[G]` (ours).

    advantages   [G, K]   in standard deviations; NaN has no opinion and is in no conflict
    """
    return (advantages > 0).any(-1) & (advantages < 0).any(-1)


def non_dominated(rewards: Float[Tensor, "G K"]) -> Bool[Tensor, " G"]:
    """The group's Pareto front, `[G]`: no sibling is at least as good in every objective and better in one.

    rewards   [G, K]   scores of one group, higher is better in each; the units need not agree

    A score that is NaN counts as the worst; a sample without any score is not on the front.
    """
    known = torch.where(rewards.isfinite(), rewards, -torch.inf)
    # [i, j]: i against j. Equal samples do not dominate one another, so both may be on the front.
    at_least = (known[:, None] >= known[None]).all(-1)
    better = (known[:, None] > known[None]).any(-1)
    return ~(at_least & better).any(0) & rewards.isfinite().any(-1)


def pareto_share(credit: Float[Tensor, "G N"], rewards: Float[Tensor, "G K"]) -> Float[Tensor, ""]:
    """The share of the positive credit that goes to the Pareto front, in [0, 1], `[]` (ours).

    credit    [G, N]   of every sample and transition; its negative part is not looked at
    rewards   [G, K]   the scores that it was made of

    NaN if there is no positive credit.
    """
    positive = credit.clamp(min=0)
    # 0 / 0 is left NaN: "no opinion" is what the trackers skip, and any number here would be an invented one.
    return torch.where(non_dominated(rewards)[:, None], positive, 0).sum() / positive.sum()
