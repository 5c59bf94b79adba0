"""What a flow model's velocity says about data, noise and score, at any level.

With x = (1 - level) data + level noise and velocity = noise - data, every function is an exact rearrangement.
Shapes: x and the predictions `[B, *latent]`; `level` a scalar or `[B]`.
"""

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "B *latent"]
Level = Float[Tensor, "#B"] | Float[Tensor, ""]


def per_sample(level: Level, x: Latents) -> Tensor:
    """`level` shaped to multiply `x`: `[]` or `[B]` becomes `[1 or B, 1, ..., 1]`."""
    return level.reshape(-1, *(1,) * (x.ndim - 1))


def velocity_to_data(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The predicted clean latent, data = x - level velocity."""
    return x - per_sample(level, x) * velocity


def velocity_to_noise(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The predicted noise, noise = x + (1 - level) velocity."""
    return x + (1 - per_sample(level, x)) * velocity


def data_to_velocity(x: Latents, data: Latents, level: Level) -> Latents:
    """velocity = (x - data) / level; undefined at level 0."""
    return (x - data) / per_sample(level, x)


def noise_to_velocity(x: Latents, noise: Latents, level: Level) -> Latents:
    """velocity = (noise - x) / (1 - level); undefined at level 1."""
    return (noise - x) / (1 - per_sample(level, x))


def velocity_to_score(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The gradient of the log-density of x, score = -noise / level; undefined at level 0."""
    return -velocity_to_noise(x, velocity, level) / per_sample(level, x)
