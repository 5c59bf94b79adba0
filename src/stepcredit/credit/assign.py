"""The product that the trainer executes: one number per sample and transition."""

import torch
from jaxtyping import Float
from torch import Tensor


def per_step(
    weights: Float[Tensor, "G N"], advantage: Float[Tensor, " G"] | Float[Tensor, "G N"]
) -> Float[Tensor, "G N"]:
    """credit = weights x advantage (OTCA eq. 15). A sample with a number that is not finite gets no credit at all."""
    credit = weights * (advantage[:, None] if advantage.ndim == 1 else advantage)
    whole = credit.isfinite().all(-1, keepdim=True)
    return torch.where(whole, credit, 0)
