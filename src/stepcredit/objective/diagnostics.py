"""What an update did: numbers for people, computed without gradient."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def silent_elements(
    head: Callable[[Tensor], Tensor], log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"]
) -> Bool[Tensor, "*B"]:
    """Where a loss has no gradient although there is credit: the ratio is past its bound in the wanted direction."""
    with torch.enable_grad():
        point = log_ratio.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(head(point).sum(), point)
    return (slope == 0) & (credit != 0)


def effective_steps(weights: Float[Tensor, "*P G N"]) -> Float[Tensor, "*P G"]:
    """(sum w)^2 / sum w^2 over transitions: N for uniform weights, 1 if one transition has everything."""
    return weights.sum(-1).square() / weights.square().sum(-1).clamp(min=torch.finfo(weights.dtype).tiny)
