"""Advantages: how much better than its group a sample is, objective by objective."""

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.credit import spread


def standardise(rewards: Float[Tensor, "G K"], *, eps: float = 1e-8) -> Float[Tensor, "G K"]:
    """Group-relative advantages (r - mean) / (std + eps), per objective (OTCA arXiv 2604.19234, eq. 2).

    rewards   [G, K]   scores of one group, each objective in its own unit; NaN where one could not be scored
    eps       > 0      far below `spread.NO_SPREAD`, so that it only keeps the quotient finite

    Returns `[G, K]`, of mean 0 and standard deviation 1. std has Bessel's correction, as in DanceGRPO. Rewards that
    are NaN or infinite stay out of both statistics and come back NaN; so does a whole objective with fewer than two
    valid rewards or without spread (`spread.least`), because a column of zeros would count as an opinion in `mix.moca`.
    Where std is below `spread.NO_SPREAD`, eps shrinks with it: a reward in a small unit counts as much as any other.
    """
    centred, valid = _centred(rewards)
    count = valid.sum(0)
    # Bessel's correction; with one valid reward or none the quotient is 0 / 1, and `speaks` refuses it below.
    variance = centred.square().sum(0) / (count - 1).clamp(min=1)
    std = variance.sqrt()
    speaks = valid & (count > 1) & (std > spread.least(_size(rewards, valid)))
    # The clamp is exactly 1 for a std in any usual unit: there eps is the paper's to the last bit.
    eps_in_unit = eps * (std / spread.NO_SPREAD).clamp(max=1)
    return torch.where(speaks, centred / (std + eps_in_unit), torch.nan)


def centre(rewards: Float[Tensor, "G K"], scale: Float[Tensor, " K"]) -> Float[Tensor, "G K"]:
    """(r - group mean) / scale, for a scale that was measured elsewhere (Flow-GRPO, arXiv 2505.05470, divides by the
    std of the whole batch).

    rewards   [G, K]   scores of one group, each objective in its own unit
    scale     [K]      > 0, in the unit of each objective

    Returns `[G, K]`; NaN where the reward is not finite, and for objectives without spread in the group.
    """
    centred, valid = _centred(rewards)
    # The batch's std says nothing of this group's: whether the group has spread is read off its largest deviation.
    speaks = valid & (valid.sum(0) > 1) & (centred.abs().amax(0) > spread.least(_size(rewards, valid)))
    return torch.where(speaks, centred / scale, torch.nan)


def standardise_batch(scores: Float[Tensor, "P G"], *, eps: float = 1e-4) -> Float[Tensor, "P G"]:
    """(s - mean) / (std + eps) over a whole batch, with Bessel's correction (GDPO's last whitening, arXiv 2601.05242).

    scores   [P, G]   one number per sample, objectives already mixed
    eps      > 0      what a batch without spread is divided by

    Returns `[P, G]`; scores that are not finite come back 0.
    """
    known = scores.isfinite()
    count = known.sum()
    # Both clamps are for a batch of no or one known score, where every offset is 0 and the result has to be 0 too.
    offset = torch.where(known, scores - torch.where(known, scores, 0).sum() / count.clamp(min=1), 0)
    return offset / ((offset.square().sum() / (count - 1).clamp(min=1)).sqrt() + eps)


def _centred(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards minus their column's mean over valid entries (0 where invalid), and which entries are valid."""
    valid = rewards.isfinite()
    known = torch.where(valid, rewards, 0)
    mean = known.sum(0) / valid.sum(0).clamp(min=1)  # a column without any valid entry has mean 0, not 0 / 0
    return torch.where(valid, known - mean, 0), valid


def _size(rewards: Tensor, valid: Tensor) -> Tensor:
    """The largest absolute reward of each objective."""
    return torch.where(valid, rewards, 0).abs().amax(0)
