"""Noise levels `[L]` of a sampler with N = L - 1 transitions, from 1 (noise) down to 0 (data)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def linear(steps: int) -> Float[Tensor, " L"]:
    """Equally spaced levels 1, 1 - 1/N, ..., 0, float64."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shifted(steps: int, *, shift: float | int) -> Float[Tensor, " L"]:
    """Levels pushed towards noise: `shift t / (1 + (shift - 1) t)` of the linear t (SD3, arXiv 2403.03206, eq. 23).

    DanceGRPO uses 3 for FLUX and 5 for HunyuanVideo; `shift=1` is `linear`.
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

    Equal to what diffusers' FlowMatchEulerDiscreteScheduler gives FluxPipeline with dynamic shifting.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return shifted(steps, shift=math.exp(base_shift + slope * (tokens - base_tokens)))
