"""What a sampler does to a velocity at each transition: the numbers that every re-weighting of steps is made of."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.flow.kernels import KERNELS


@dataclass(frozen=True)
class Transitions:
    """Constants of the N transitions of a sampler; every kernel's mean is linear in x and v, mean = a x + b v."""

    levels: Float[Tensor, " L"]
    slope: Float[Tensor, " L-1"]  # |b|: how far the mean moves with the velocity
    std: Float[Tensor, " L-1"]

    @property
    def length(self) -> Float[Tensor, " N"]:
        """Step lengths, level minus next level."""
        return -self.levels.diff()

    @property
    def native(self) -> Float[Tensor, " N"]:
        """|b| / std, the weight that plain policy gradient gives each transition (PCPO arXiv 2509.25774, Prop. 1, 2).

        With dv the change of the velocity and e the noise drawn, log ratio = native mean(dv e) - native^2 mean(dv^2)/2
        up to the sign of b. Infinite where the move is deterministic. It belongs to the velocity: a change of the
        predicted noise is (1 - level) times that of the velocity, so its weight is native / (1 - level). On DDIM that
        is PCPO's w_t, and a profile that is flat in one of them is not flat in the other.
        """
        return self.slope / self.std


def transitions(kernel: str, levels: Float[Tensor, " L"], *, noise_level: float) -> Transitions:
    """Read the constants off a kernel, by moving the velocity 1 from the latent 0."""
    levels = levels.double()
    start, end = levels[:-1], levels[1:]
    law = KERNELS[kernel](torch.zeros_like(start), torch.ones_like(start), start, end, noise_level=noise_level)
    return Transitions(levels, law.mean.abs(), law.std.expand_as(start))
