"""What an update did: numbers for people, computed without gradient."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def silent_elements(
    head: Callable[[Tensor], Tensor], log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"]
) -> Bool[Tensor, "*B"]:
    """Where a loss has no gradient although there is credit: the ratio is past its bound in the wanted direction.

    head        a loss   from `[*B]` log-ratios to `[*B]` losses, element by element, its credit already in it
    log_ratio   [*B]     of new to old density, per latent dimension
    credit      [*B]     what the head was given; elements without credit are never silent

    Returns `[*B]` (ours): asked of the gradient itself, so it is right for every loss.
    """
    # Diagnostics run under no_grad; this one needs a gradient, of a copy that leaves no trace in the update's graph.
    with torch.enable_grad():
        point = log_ratio.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(head(point).sum(), point)
    return (slope == 0) & (credit != 0)


def effective_steps(weights: Float[Tensor, "*P G N"]) -> Float[Tensor, "*P G"]:
    """Over how many transitions a sample's weight is spread, (sum w)^2 / sum w^2 (Kish's effective sample size).

    weights   [*P, G, N]   >= 0

    Returns `[*P, G]`: N for uniform weights, 1 if one transition has everything, 0 if none has any.
    """
    # tiny stands in for 0 / 0 only: any weights at all have a far larger sum of squares.
    return weights.sum(-1).square() / weights.square().sum(-1).clamp(min=torch.finfo(weights.dtype).tiny)
