"""The law of one transition of the sampler: a Gaussian with one standard deviation per sample."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2 I) per sample, in float32 or float64.

    `std` is always the standard deviation of the transition itself: no factor sqrt(step length) is left to the
    caller. It is 0 for a deterministic transition, which has no density. Two samples of four numbers each:

        Gaussian(mean=torch.zeros(2, 4), std=torch.tensor([[0.25], [0.3]]))
    """

    mean: Float[Tensor, "B *latent"]
    std: Float[Tensor, "#B *ones"]  # every axis after the first has length 1

    def sample(self, noise: Float[Tensor, "B *latent"]) -> Float[Tensor, "B *latent"]:
        """Where the transition goes, mean + std noise, `[B, *latent]`.

        noise   [B, *latent]   standard normal; passed in, so that whoever samples decides how it is seeded
        """
        return self.mean + self.std * noise

    def log_prob(self, y: Float[Tensor, "B *latent"]) -> Float[Tensor, " B"]:
        """Log-density per dimension, `[B]`: the *mean*, not the sum, over latent axes of log N(y; mean, std^2).

        y       [B, *latent]   the latent that the transition went to

        The whole Flow-GRPO family (arXiv 2505.05470) uses the mean; its clip range of 1e-4 belongs to it. With the sum
        every clip range would change by the number of dimensions. Infinite or NaN where std is 0.
        """
        # std is not clamped: a density that does not exist has to be seen, not to become a very large number.
        squared = ((y - self.mean) / self.std).square() / 2
        return _over_latent(-squared - self.std.log() - 0.5 * math.log(2 * math.pi))

    def error_log_prob(self, y: Float[Tensor, "B *latent"]) -> Float[Tensor, " B"]:
        """-mean (y - mean)^2, `[B]`: what Flow-CPS trains on (arXiv 2509.05952), the density without 1 / (2 std^2) and
        constants. Finite for std = 0; its ratio is 2 std^2 times as flat as that of `log_prob`.

        y       [B, *latent]   the latent that the transition went to
        """
        return _over_latent(-(y - self.mean).square())

    def kl(self, other: "Gaussian") -> Float[Tensor, " B"]:
        """KL(self || other) per dimension for two laws of the same std: mean (mean - other.mean)^2 / (2 std^2), `[B]`.

        other   mean [B, *latent]   another network's law of the same transition; its std is not looked at
        """
        return _over_latent(((self.mean - other.mean) / self.std).square() / 2)


def _over_latent(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; every other dtype stays, float64 among them.

    tensor  any shape      returned with the same shape
    """
    # A ratio within 1e-4 of 1 does not survive bfloat16, which has steps of 8e-3 there.
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
