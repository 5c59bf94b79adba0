"""Policy-gradient losses of one (sample, transition), to be minimised."""

import torch
from jaxtyping import Float
from torch import Tensor


def clipped(log_ratio: Float[Tensor, " B"], credit: Float[Tensor, " B"], *, clip: float = 1e-4) -> Float[Tensor, " B"]:
    """PPO's clipped surrogate, max(-c rho, -c clip(rho, 1 - clip, 1 + clip)) with rho = e^log_ratio
    (arXiv 1707.06347, eq. 7).

    `log_ratio` is the difference of mean-over-dimensions log-densities, which is why the field's clip is 1e-4.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-credit * ratio, -credit * ratio.clamp(1 - clip, 1 + clip))
