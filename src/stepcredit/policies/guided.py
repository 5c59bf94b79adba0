"""Implicit reward guidance: how far a fine-tune is followed, chosen when pictures are drawn (PCPO, arXiv 2509.25774).

    v = v_ref + sum_k strength_k (v_k - v_ref)

One fine-tune at strength 1 is itself, below 1 goes back towards the base, above 1 beyond what was trained. What a
fine-tune changed acts like the gradient of the reward that it was trained for, so several of them add up; their sum is
our reading of the paper's "reward composition". A forward for the base and one for each fine-tune.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.protocols import Policy
from stepcredit.records import Condition

Weights = Sequence[Tensor]
"""Values for `policy.parameters()`, in their order."""


class Guided:
    """A policy that draws with several fine-tunes of one base at once; everything but the velocity is the policy's.

    `tunes` are pairs of weights and strength, e.g. `[(weights of run A, 1.5), (weights of run B, -0.25)]`.
    """

    def __init__(self, policy: Policy, tunes: Sequence[tuple[Weights, float]]) -> None:
        self.policy = policy
        self.tunes = tunes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    @torch.no_grad()
    def velocity(
        self, latents: Float[Tensor, "B *latent"], level: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B *latent"]:
        with self.policy.reference():
            base = self.policy.velocity(latents, level, condition)
        total = base.clone()
        for weights, strength in self.tunes:
            # the network has room for one fine-tune, so they take turns in its parameters; the last one stays there
            for parameter, value in zip(self.policy.parameters(), weights, strict=True):
                parameter.copy_(value)
            total += strength * (self.policy.velocity(latents, level, condition) - base)
        return total
