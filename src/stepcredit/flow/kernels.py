"""Transition kernels: where a sampler goes from `level` to `next_level`, given the velocity.

Every kernel has one signature, `(x, velocity, level, next_level, *, noise_level) -> Gaussian`, with x and velocity
`[B, *latent]`, levels scalar or `[B]`, 1 = noise, 0 = data, `next_level < level`. `noise_level` is the paper's eta.
The ODE and the SDE kernels keep the same marginals to first order in the step; they differ in how much noise they
add. CPS keeps the coefficients of data and noise, which is exact for a single datum at any step length. DDIM is the
variance-preserving sampler of the noise-predicting models, written in flow coordinates.
Every mean is linear in (x, velocity): what a change of velocity does is the kernel at x = 0.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stepcredit.flow.convert import Latents, Level, per_sample, velocity_to_data, velocity_to_noise
from stepcredit.flow.gaussian import Gaussian, at_least_float32

Kernel = Callable[..., Gaussian]


def ode(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.0) -> Gaussian:
    """Euler's step of the probability-flow ODE, x + velocity (next_level - level); std 0, whatever `noise_level`."""
    del noise_level
    x, velocity = at_least_float32(x), at_least_float32(velocity)
    start, end = per_sample(level, x).to(x), per_sample(next_level, x).to(x)
    return Gaussian(x + velocity * (end - start), torch.zeros_like(start))


def flow_sde(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.7) -> Gaussian:
    """Flow-GRPO's SDE step (arXiv 2505.05470, eq. 9): diffusion g = noise_level sqrt(level / (1 - level)).

    At level 1, where g would be infinite, 1 - next_level stands in for 1 - level; only exactly 1 is caught.
    """
    x = at_least_float32(x)
    start, end = per_sample(level, x).to(x), per_sample(next_level, x).to(x)
    room = 1 - torch.where(start == 1, end, start)
    return _sde(x, velocity, start, end, diffusion=noise_level * (start / room).sqrt())


def dance_sde(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.3) -> Gaussian:
    """DanceGRPO's SDE step (arXiv 2505.07818, eq. 8): constant diffusion g = noise_level."""
    x = at_least_float32(x)
    start, end = per_sample(level, x).to(x), per_sample(next_level, x).to(x)
    return _sde(x, velocity, start, end, diffusion=torch.full_like(start, noise_level))


def cps(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.8) -> Gaussian:
    """Flow-CPS's step (arXiv 2509.05952): predicted data and noise keep the coefficients 1 - next_level and
    next_level; of the noise, the part g = next_level sin(noise_level pi / 2) is drawn anew. std = g; 0 at the end."""
    x, velocity = at_least_float32(x), at_least_float32(velocity)
    end = per_sample(next_level, x).to(x)
    fresh = end * math.sin(noise_level * math.pi / 2)
    kept = (end.square() - fresh.square()).clamp(min=0).sqrt()
    mean = velocity_to_data(x, velocity, level.to(x)) * (1 - end) + velocity_to_noise(x, velocity, level.to(x)) * kept
    return Gaussian(mean, fresh)


def ddim(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 1.0) -> Gaussian:
    """DDIM's step (arXiv 2010.02502, eq. 12 and 16) in flow coordinates; `noise_level` 1 is DDPM's posterior noise.

    A variance-preserving latent is x / c with c^2 = (1 - level)^2 + level^2, and abar = (1 - level)^2 / c^2; so a
    noise-predicting model runs here after `schedules.variance_preserving` and `convert.noise_to_velocity`.

        mean = c' (sqrt(abar') data + sqrt(1 - abar' - s^2) noise)        std = c' s
        s = noise_level sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar')

    Deterministic at the end, where abar' = 1.
    """
    x, velocity = at_least_float32(x), at_least_float32(velocity)
    start, end = per_sample(level, x).to(x), per_sample(next_level, x).to(x)
    before, after = _signal(start), _signal(end)
    fresh = noise_level * ((1 - after) / (1 - before) * (1 - before / after)).clamp(min=0).sqrt()
    kept = (1 - after - fresh.square()).clamp(min=0).sqrt()
    scale = ((1 - end).square() + end.square()).sqrt()
    data, noise = velocity_to_data(x, velocity, level.to(x)), velocity_to_noise(x, velocity, level.to(x))
    return Gaussian(scale * (after.sqrt() * data + kept * noise), scale * fresh)


def _signal(level: Tensor) -> Tensor:
    """abar: the share of a latent's variance that is data, for data of unit variance."""
    return (1 - level).square() / ((1 - level).square() + level.square())


def _sde(x: Tensor, velocity: Tensor, start: Tensor, end: Tensor, *, diffusion: Tensor) -> Gaussian:
    """Euler-Maruyama for any diffusion g(level): the drift gains g^2/2 times the score, so marginals stay.

    mean = x (1 + g^2/(2 s) dt) + v (1 + g^2 (1 - s)/(2 s)) dt,  std = g sqrt(-dt),  dt = end - start, s = start.
    """
    dt = end - start
    pull = diffusion.square() / (2 * start)
    mean = x * (1 + pull * dt) + at_least_float32(velocity) * (1 + pull * (1 - start)) * dt
    return Gaussian(mean, diffusion * (-dt).sqrt())


KERNELS: dict[str, Kernel] = {"ode": ode, "flow_sde": flow_sde, "dance_sde": dance_sde, "cps": cps, "ddim": ddim}
