"""Policy-gradient losses of one (sample, transition), to be minimised.

All of them take and return `[B]` or, with several loss terms, `[B, M]`:

    log_ratio   [*B]     log of new to old density, per latent dimension (a mean, not a sum); 0 before any update
    credit      [*B]     what the move is worth; its sign says whether to make the move more or less likely
    clip        > 0      half-width of the trust region, in units of the ratio; 1e-4 in the field, because of the mean

Every loss is homogeneous in the credit: twice the credit is twice the loss, whatever is clipped.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Head = Literal["clipped", "hinge", "trust_region", "unclipped"]


def clipped(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"], *, clip: float = 1e-4) -> Float[Tensor, "*B"]:
    """PPO's clipped surrogate, max(-c rho, -c clip(rho, 1 - clip, 1 + clip)) with rho = e^log_ratio
    (arXiv 1707.06347, eq. 7), `[*B]`."""
    ratio = log_ratio.exp()
    # The larger of two losses: a bound holds only in the wanted direction, and a move gone wrong keeps its gradient.
    return torch.maximum(-credit * ratio, -credit * ratio.clamp(1 - clip, 1 + clip))


def hinge(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"], *, clip: float = 1e-4) -> Float[Tensor, "*B"]:
    """PCPO's log-ratio hinge, max(0, clip |c| - c log rho) (arXiv 2509.25774), `[*B]`.

    PPO's surrogate is the same hinge in rho - 1, up to a constant; this one needs no exponential.
    """
    return (clip * credit.abs() - credit * log_ratio).clamp(min=0)


def trust_region(
    log_ratio: Float[Tensor, "*B"],
    credit: Float[Tensor, "*B"],
    divergence: Float[Tensor, "*B"],
    *,
    limit: float = 1e-5,
) -> Float[Tensor, "*B"]:
    """Flow-DPPO's (arXiv 2606.11025): -c rho without a clip; nothing once the transition's KL has reached `limit` and
    rho moves away.

    divergence   [*B]   KL of the transition's old law to its new one, per latent dimension; without gradient
    limit        >= 0   in the same unit

    Returns `[*B]`.
    """
    ratio = log_ratio.exp()
    # Detached: which side of the limit a move is on is a decision, and the loss must not learn to change it.
    away = (credit * (ratio.detach() - 1)) > 0
    return torch.where(away & (divergence.detach() >= limit), 0, -credit * ratio)


def unclipped(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The score-function estimator, -c log rho, `[*B]` (REINFORCE; DDPO's DDPO_SF, arXiv 2305.13301; DPOK's policy
    term, arXiv 2305.16381)."""
    return -credit * log_ratio
