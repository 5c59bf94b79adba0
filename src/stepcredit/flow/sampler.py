"""A sampler at work: a kernel, how much noise it adds, and the noise levels that it walks down.

x         [B, *latent]   the latent before the transition
velocity  [B, *latent]   noise - data, what the network predicts
change    [B, *latent]   of the velocity, since the rollout
step      int or [B]     the transition, counted from noise to data
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stepcredit.flow.gaussian import Gaussian
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.transitions import Prediction, Transitions, read_transitions

Step = int | Int[Tensor, " B"]
"""One transition for all rows, or each row's own; counted from noise to data."""


@dataclass(frozen=True)
class Sampler:
    """N transitions from noise to data, such as `Sampler("dance_sde", 0.3, schedules.linear(16))`.

    kernel        the stochastic transition, one of `kernels.KERNELS`
    noise_level   how much noise it adds (the papers' eta)
    levels        `[L]`, falling from 1 (noise) to 0 (data)
    prediction    what the network predicts by itself; only `transitions` asks
    """

    kernel: str
    noise_level: float
    levels: Float[Tensor, " L"]
    prediction: Prediction = "velocity"

    @property
    def steps(self) -> int:
        """N, the number of transitions."""
        return len(self.levels) - 1

    @cached_property
    def transitions(self) -> Transitions:
        """The constants of each transition."""
        return read_transitions(self.kernel, self.levels, noise_level=self.noise_level, prediction=self.prediction)

    def law(self, x: Float[Tensor, "B *latent"], velocity: Float[Tensor, "B *latent"], step: Step) -> Gaussian:
        """The law of the next latents where the transition adds noise."""
        levels = self.levels.to(x)
        return KERNELS[self.kernel](x, velocity, levels[step], levels[step + 1], noise_level=self.noise_level)

    def straight(
        self, x: Float[Tensor, "B *latent"], velocity: Float[Tensor, "B *latent"], step: Step
    ) -> Float[Tensor, "B *latent"]:
        """The next latents where it does not: Euler's step of the probability-flow ODE."""
        levels = self.levels.to(x)
        return KERNELS["ode"](x, velocity, levels[step], levels[step + 1]).mean

    def drift(self, change: Float[Tensor, "B *latent"], step: Step) -> Float[Tensor, "B *latent"]:
        """What a change of velocity does to a transition's mean, in units of its standard deviation.

        Every kernel's mean is linear in (x, velocity), so this is the kernel at x = 0 and the change alone: no two
        large numbers are subtracted, and a log-ratio of 1e-7 survives float32.
        """
        law = self.law(torch.zeros_like(change), change, step)
        return law.mean / law.std
