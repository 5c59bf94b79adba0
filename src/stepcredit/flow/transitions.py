"""What a sampler does to a velocity at each transition: the numbers that every re-weighting of steps is made of."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stepcredit.flow.kernels import KERNELS

Prediction = Literal["velocity", "noise"]


@dataclass(frozen=True)
class Transitions:
    """Constants of the N transitions of a sampler; every kernel's mean is linear in x and v, mean = a x + b v.

    levels   `[L]`, from 1 (noise) to 0 (data), such as `[1, 0.5, 0]`
    slope    `[N]`, |b|: how far the mean moves with the prediction
    std      `[N]`, the standard deviation of the noise that is added; 0 where a transition is deterministic
    """

    levels: Float[Tensor, " L"]
    slope: Float[Tensor, " L-1"]
    std: Float[Tensor, " L-1"]

    @property
    def length(self) -> Float[Tensor, " N"]:
        """Step lengths, level minus next level."""
        return -self.levels.diff()

    @property
    def native(self) -> Float[Tensor, " N"]:
        """slope / std, the weight that plain policy gradient gives each transition (PCPO arXiv 2509.25774, Prop. 1, 2).

        With d the change of the prediction and e the noise drawn, log ratio = native mean(d e) - native^2 mean(d^2)/2
        up to a sign. Infinite where the move is deterministic.
        """
        return self.slope / self.std


def read_transitions(
    kernel: str, levels: Float[Tensor, " L"], *, noise_level: float, prediction: Prediction = "velocity"
) -> Transitions:
    """Read the constants off a kernel, by moving the prediction 1 from the latent 0.

    kernel        one of `kernels.KERNELS`
    levels        `[L]`, falling from noise to data
    noise_level   how much noise the kernel adds (the papers' eta)
    prediction    what the network predicts by itself. A change of the predicted noise is a change of the velocity
                  1 / (1 - level) times as large, so weights that are flat for one are not flat for the other; PCPO's
                  w_t of Stable Diffusion 1.5 is that of the noise

    ValueError for a noise-predicting model with a level of exactly 1, where its noise says nothing of the velocity.
    """
    levels = levels.double()
    start = levels[:-1]
    end = levels[1:]
    law = KERNELS[kernel](torch.zeros_like(start), torch.ones_like(start), start, end, noise_level=noise_level)
    slope = law.mean.abs()
    if prediction == "noise":
        if (start == 1).any():
            raise ValueError(
                "at level 1 the noise says nothing of the velocity; levels of a noise-predicting model start lower"
            )
        slope = slope / (1 - start)
    return Transitions(levels, slope, law.std.expand_as(start))
