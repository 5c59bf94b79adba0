"""What objectives and credit say of one another: numbers for people. One group, without gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def conflict(advantages: Float[Tensor, "G K"]) -> Bool[Tensor, " G"]:
    """Samples that one objective likes and another dislikes."""
    return (advantages > 0).any(-1) & (advantages < 0).any(-1)


def non_dominated(rewards: Float[Tensor, "G K"]) -> Bool[Tensor, " G"]:
    """The group's Pareto front: no sibling is at least as good in every objective and better in one.

    A score that is NaN counts as the worst; a sample without any score is not on the front.
    """
    known = torch.where(rewards.isfinite(), rewards, -torch.inf)
    at_least = (known[:, None] >= known[None]).all(-1)
    better = (known[:, None] > known[None]).any(-1)
    return ~(at_least & better).any(0) & rewards.isfinite().any(-1)


def pareto_share(credit: Float[Tensor, "G N"], rewards: Float[Tensor, "G K"]) -> Float[Tensor, ""]:
    """The share of the positive credit that goes to the Pareto front; NaN if there is none."""
    positive = credit.clamp(min=0)
    return torch.where(non_dominated(rewards)[:, None], positive, 0).sum() / positive.sum()
