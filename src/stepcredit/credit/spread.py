"""Whether a group's scores differ at all: a test that knows no unit, and the precision that keeps differences."""

import torch
from jaxtyping import Float
from torch import Tensor

NO_SPREAD = 1e-6
"""Differences below this part of the scores' own size, or of 1 where they are larger, have nothing to say."""
_ROUNDING = 64 * torch.finfo(torch.float64).eps
"""What sums over a group may leave of equal scores, in units of the larger of their size and 1."""
_HIDDEN = 0.1  # of a group's deviation: an error of float32 beyond it blurs the order of the siblings


def least(size: Float[Tensor, " *K"]) -> Float[Tensor, " *K"]:
    """The deviation above which scores of this size differ, `[*K]`: max(1e-6 min(1, size), 64 eps max(1, size)) (ours).

    size   [*K]   >= 0, the largest absolute score of a group, in the unit of each objective

    A reward of 1e-9 speaks as well as one of 1: the first term goes with its size. Above 1 it does not, so that an
    offset silences nobody; there float64 is the limit, which also keeps what is left of 1 - 1 from being a score.
    """
    return torch.maximum(NO_SPREAD * size.clamp(max=1), _ROUNDING * size.clamp(min=1))


def in_float32(scores: Float[Tensor, "P G K"]) -> Float[Tensor, "P G K"]:
    """The scores rounded to float32, except in groups whose differences that would hide: an offset of 1e9, say.

    scores   [P, G, K]   in float64, each objective in its own unit; NaN where one could not be scored

    Returns float32 where nothing is hidden; else float64, with everything else rounded all the same, so that one group
    does not move another's last digits.
    """
    rounded = scores.float()
    known = torch.where(scores.isfinite(), scores, torch.nan)
    centred = known - known.nanmean(1, keepdim=True)
    deviation = centred.square().nanmean(1).sqrt()
    size = known.abs().nan_to_num(0.0).amax(1)
    error = (rounded.double() - known).abs().nan_to_num(0.0).amax(1)
    hidden = (deviation > least(size)) & (error > _HIDDEN * deviation)
    return torch.where(hidden[:, None], scores, rounded.double()) if hidden.any() else rounded
