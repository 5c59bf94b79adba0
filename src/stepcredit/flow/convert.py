"""What a flow model's velocity says about data, noise and score, at any level.

With x = (1 - level) data + level noise and velocity = noise - data (rectified flow, arXiv 2209.03003) every function
here is an exact rearrangement. All of them take and return

    x           [B, *latent]   the latent at `level`
    velocity    [B, *latent]   noise - data, what the network predicts
    data        [B, *latent]   the clean latent, where level is 0
    noise       [B, *latent]   standard normal noise, where level is 1
    level       [] or [B]      in [0, 1], one for all samples or one each

Nothing is checked: where a division is undefined the result is infinite or NaN, and the docstring says where.
"""

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "B *latent"]
Level = Float[Tensor, "#B"] | Float[Tensor, ""]


def per_sample(level: Level, x: Latents) -> Tensor:
    """`level` shaped to multiply `x`: `[]` or `[B]` becomes `[1 or B, 1, ..., 1]`; dtype and device stay.

    level       [] or [B]      one number for all samples, or one each
    x           [B, *latent]   only its number of axes is read
    """
    # -1 stands for B, and for 1 when the level is a scalar: reshape makes [1] of [], which broadcasts.
    return level.reshape(-1, *(1,) * (x.ndim - 1))


def velocity_to_data(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The predicted clean latent, data = x - level velocity, `[B, *latent]`; defined at every level."""
    return x - per_sample(level, x) * velocity


def velocity_to_noise(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The predicted noise, noise = x + (1 - level) velocity, `[B, *latent]`; defined at every level."""
    return x + (1 - per_sample(level, x)) * velocity


def data_to_velocity(x: Latents, data: Latents, level: Level) -> Latents:
    """The velocity of a data-predicting model, (x - data) / level, `[B, *latent]`; undefined at level 0."""
    return (x - data) / per_sample(level, x)


def noise_to_velocity(x: Latents, noise: Latents, level: Level) -> Latents:
    """The velocity of a noise-predicting model, (noise - x) / (1 - level), `[B, *latent]`; undefined at level 1."""
    return (noise - x) / (1 - per_sample(level, x))


def velocity_to_score(x: Latents, velocity: Latents, level: Level) -> Latents:
    """The gradient of the log-density of x, score = -noise / level, `[B, *latent]`; undefined at level 0.

    Tweedie's formula for x = (1 - level) data + level noise: the expected noise, given x, is -level times the score.
    """
    return -velocity_to_noise(x, velocity, level) / per_sample(level, x)
