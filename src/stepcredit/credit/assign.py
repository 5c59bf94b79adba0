"""The product that the trainer executes: one number per sample and transition."""

import torch
from jaxtyping import Float
from torch import Tensor


def per_step(
    weights: Float[Tensor, "G N"], advantage: Float[Tensor, " G"] | Float[Tensor, "G N"]
) -> Float[Tensor, "G N"]:
    """credit = weights x advantage (OTCA arXiv 2604.19234, eq. 15), `[G, N]`.

    weights     [G, N]          >= 0, when a sample was decided; 0 for transitions that are not trained
    advantage   [G] or [G, N]   how good it is, one number per sample or one per step

    A sample with a number that is not finite gets no credit at all.
    """
    credit = weights * (advantage[:, None] if advantage.ndim == 1 else advantage)
    # All or nothing: a sample that keeps some of its steps would be weighed by where its numbers broke.
    whole = credit.isfinite().all(-1, keepdim=True)
    return torch.where(whole, credit, 0)
