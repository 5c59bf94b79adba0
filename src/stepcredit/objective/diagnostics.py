"""What an update did: numbers for people, computed without gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def clipped_elements(log_ratio: Float[Tensor, " B"], credit: Float[Tensor, " B"], *, clip: float) -> Bool[Tensor, " B"]:
    """Where the clipped surrogate has no gradient: the ratio is already past the clip in the wanted direction."""
    ratio = log_ratio.exp()
    return ((credit > 0) & (ratio > 1 + clip)) | ((credit < 0) & (ratio < 1 - clip))


def effective_steps(weights: Float[Tensor, "*P G N"]) -> Float[Tensor, "*P G"]:
    """(sum w)^2 / sum w^2 over transitions: N for uniform weights, 1 if one transition has everything."""
    return weights.sum(-1).square() / weights.square().sum(-1).clamp(min=torch.finfo(weights.dtype).tiny)
