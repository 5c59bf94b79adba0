"""Policy-gradient losses of one (sample, transition), to be minimised.

`log_ratio` is per latent dimension (a mean, not a sum), which is why the field's clip is 1e-4. Shapes are those of the
credit, `[B]` or, with several loss terms, `[B, M]`. Every loss is
homogeneous in the credit: twice the credit is twice the loss, whatever is clipped.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Head = Literal["clipped", "hinge", "trust_region", "unclipped"]


def clipped(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"], *, clip: float = 1e-4) -> Float[Tensor, "*B"]:
    """PPO's clipped surrogate, max(-c rho, -c clip(rho, 1 - clip, 1 + clip)) with rho = e^log_ratio
    (arXiv 1707.06347, eq. 7)."""
    ratio = log_ratio.exp()
    return torch.maximum(-credit * ratio, -credit * ratio.clamp(1 - clip, 1 + clip))


def hinge(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"], *, clip: float = 1e-4) -> Float[Tensor, "*B"]:
    """PCPO's log-ratio hinge, max(0, clip |c| - c log rho) (arXiv 2509.25774).

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
    """Flow-DPPO's: -c rho without a clip; nothing once the transition's KL has reached `limit` and rho moves away."""
    ratio = log_ratio.exp()
    away = (credit * (ratio.detach() - 1)) > 0
    return torch.where(away & (divergence.detach() >= limit), 0, -credit * ratio)


def unclipped(log_ratio: Float[Tensor, "*B"], credit: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The score-function estimator, -c log rho (REINFORCE; DDPO's DDPO_SF, DPOK's policy term)."""
    return -credit * log_ratio
