"""Noise levels `[L]` of a sampler with N = L - 1 transitions, from 1 (noise) down to 0 (data)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def linear(steps: int) -> Float[Tensor, " L"]:
    """Equally spaced levels 1, 1 - 1/N, ..., 0: `[N + 1]`, float64.

    steps   >= 1   N, the transitions of the sampler
    """
    # float64, and cast by whoever uses them: a schedule is made once, and step lengths are differences of levels.
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shifted(steps: int, *, shift: float | int) -> Float[Tensor, " L"]:
    """Levels pushed towards noise: `shift t / (1 + (shift - 1) t)` of the linear t (SD3, arXiv 2403.03206, eq. 23).

    steps   >= 1   N, the transitions of the sampler
    shift   > 0    how far; above 1 more levels lie near the noise, 1 is `linear`

    Returns `[N + 1]`, float64. DanceGRPO uses a shift of 3 for FLUX and of 5 for HunyuanVideo.
    """
    t = linear(steps)
    return shift * t / (1 + (shift - 1) * t)


def resolution_shifted(
    steps: int,
    *,
    tokens: int,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> Float[Tensor, " L"]:
    """FLUX's levels: `shifted` by e^mu, where mu is linear in the number of image tokens (defaults: FLUX.1-dev).

    steps                     >= 1   N, the transitions of the sampler
    tokens                    >= 1   of this picture, after packing
    base_tokens, max_tokens   >= 1   the two sizes at which mu is known ...
    base_shift, max_shift     mu     ... and what it is there; no clamp outside them

    Returns `[N + 1]`, float64. Equal to what diffusers' FlowMatchEulerDiscreteScheduler gives FluxPipeline with
    dynamic shifting.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return shifted(steps, shift=math.exp(base_shift + slope * (tokens - base_tokens)))


def variance_preserving(alphas_cumprod: Float[Tensor, " N"]) -> Float[Tensor, " L"]:
    """Levels of a noise-predicting model (SD 1.5) from its `alphas_cumprod` at the sampler's timesteps, noise to data.

    level = sqrt(1 - abar) / (sqrt(abar) + sqrt(1 - abar)); a latent of that model is the flow latent divided by
    sqrt((1 - level)^2 + level^2). It is the level of the same signal-to-noise ratio, abar / (1 - abar).

    alphas_cumprod   [N]   in (0, 1), rising: abar at each of the sampler's timesteps, from noise to data

    Returns `[N + 1]`, float64; the end, level 0, is appended. ValueError for what does not rise or leaves (0, 1).
    """
    abar = alphas_cumprod.double()
    if abar.ndim != 1 or not ((abar > 0).all() and (abar < 1).all() and (abar.diff() > 0).all()):
        raise ValueError(
            "alphas_cumprod must rise from noise to data, between 0 and 1; these do not. Flow levels need no "
            "conversion; alphas in the order of training timesteps have to be flipped"
        )
    signal = abar.sqrt()
    noise = (1 - abar).sqrt()
    return torch.cat([noise / (signal + noise), abar.new_zeros(1)])


def check_levels(levels: Float[Tensor, " L"]) -> None:
    """Refuse what is not a sampler's path: at least one move, strictly falling, within 1 (noise) and 0 (data).

    levels   [L]   L >= 2; ValueError says what is wrong with them and what the likely mistake was
    """
    if levels.ndim != 1 or len(levels) < 2:
        raise ValueError(f"levels have shape {tuple(levels.shape)}, wanted [L] with at least 2 of them")
    if not levels.isfinite().all():
        raise ValueError(f"levels must be finite, got {levels.tolist()}")
    # From the likeliest mistake to the least: each sentence below is right only if those above did not apply.
    if (levels.diff() > 0).all() and levels.min() >= 0 and levels.max() <= 1:
        raise ValueError(
            "levels rise, wanted falling ones (1 = noise, 0 = data); alphas_cumprod of a noise-predicting model become "
            "levels through schedules.variance_preserving"
        )
    if levels.max() > 1 or levels.min() < 0:
        raise ValueError(
            f"levels go from {float(levels[0]):g} to {float(levels[-1]):g}, wanted numbers in [0, 1]; timesteps "
            "of 1000 are levels after a division by 1000"
        )
    if not (levels.diff() < 0).all():  # strictly: a step of length 0 has std 0, so no density
        at = int((levels.diff() >= 0).nonzero()[0])
        raise ValueError(
            f"levels must fall at every step; level {at} is {float(levels[at]):g}, the next {float(levels[at + 1]):g}"
        )
