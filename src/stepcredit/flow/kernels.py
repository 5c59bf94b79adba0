"""Transition kernels: where a sampler goes from `level` to `next_level`, given the velocity.

Every kernel has one signature and returns a `Gaussian`, mean `[B, *latent]` and std `[B or 1, 1, ..., 1]`, in float32
or in float64 where x has it:

    x             [B, *latent]   the latent at `level`
    velocity      [B, *latent]   noise - data at (x, level), what the network predicts
    level         [] or [B]      in (0, 1]: 1 = noise, 0 = data
    next_level    [] or [B]      in [0, level), where the transition ends
    noise_level   number         >= 0, the papers' eta; what it multiplies differs from kernel to kernel

Levels are checked once, by `schedules.check_levels`, and not here. The ODE and the SDE kernels keep the same marginals
to first order in the step; they differ in how much noise they add. CPS keeps the coefficients of data and noise, which
is exact for a single datum at any step length. DDIM is the variance-preserving sampler of the noise-predicting models,
written in flow coordinates.
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
    """Euler's step of the probability-flow ODE, mean = x + velocity (next_level - level) and std = 0.

    noise_level   ignored   here so that all kernels are called alike

    The law has no density, so such a step can be sampled and not trained.
    """
    del noise_level
    x = at_least_float32(x)
    velocity = at_least_float32(velocity)
    start = per_sample(level, x).to(x)
    end = per_sample(next_level, x).to(x)
    return Gaussian(x + velocity * (end - start), torch.zeros_like(start))


def flow_sde(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.7) -> Gaussian:
    """Flow-GRPO's SDE step (arXiv 2505.05470, eq. 9): diffusion g = noise_level sqrt(level / (1 - level)).

    noise_level   >= 0   the paper's a; .7 there

    At level 1, where g would be infinite, 1 - next_level stands in for 1 - level.
    """
    x = at_least_float32(x)
    start = per_sample(level, x).to(x)
    end = per_sample(next_level, x).to(x)
    # Exactly 1, without a tolerance: every level below has a finite g, and a schedule that starts there means it.
    room = 1 - torch.where(start == 1, end, start)
    return _sde(x, velocity, start, end, diffusion=noise_level * (start / room).sqrt())


def dance_sde(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.3) -> Gaussian:
    """DanceGRPO's SDE step (arXiv 2505.07818, eq. 8): constant diffusion g = noise_level.

    noise_level   >= 0   the paper's eta; .3 there
    """
    x = at_least_float32(x)
    start = per_sample(level, x).to(x)
    end = per_sample(next_level, x).to(x)
    return _sde(x, velocity, start, end, diffusion=torch.full_like(start, noise_level))


def cps(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 0.8) -> Gaussian:
    """Flow-CPS's step (arXiv 2509.05952): predicted data and noise keep the coefficients 1 - next_level and next_level.

        mean = (1 - next_level) data + sqrt(next_level^2 - g^2) noise
        std = g = next_level sin(noise_level pi / 2)

    noise_level   in [0, 1]   0 draws no noise (the ODE's step), 1 draws all of it anew

    Deterministic at the end, where next_level is 0.
    """
    x = at_least_float32(x)
    velocity = at_least_float32(velocity)
    end = per_sample(next_level, x).to(x)
    drawn = end * math.sin(noise_level * math.pi / 2)
    # g never exceeds next_level, but a difference of squares may round below 0, and its root would be NaN.
    carried = (end.square() - drawn.square()).clamp(min=0).sqrt()
    clean = velocity_to_data(x, velocity, level.to(x))
    noise = velocity_to_noise(x, velocity, level.to(x))
    return Gaussian(clean * (1 - end) + noise * carried, drawn)


def ddim(x: Latents, velocity: Latents, level: Level, next_level: Level, *, noise_level: float = 1.0) -> Gaussian:
    """DDIM's step (arXiv 2010.02502, eq. 12 and 16) in flow coordinates; `noise_level` 1 is DDPM's posterior noise.

    A variance-preserving latent is x / c with c^2 = (1 - level)^2 + level^2, and abar = (1 - level)^2 / c^2; so a
    noise-predicting model runs here after `schedules.variance_preserving` and `convert.noise_to_velocity`.

        mean = c' (sqrt(abar') data + sqrt(1 - abar' - s^2) noise)        std = c' s
        s = noise_level sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar')

    noise_level   in [0, 1]   the paper's eta: 0 is DDIM proper, 1 is DDPM

    Deterministic at the end, where abar' = 1.
    """
    x = at_least_float32(x)
    velocity = at_least_float32(velocity)
    start = per_sample(level, x).to(x)
    end = per_sample(next_level, x).to(x)
    signal = _signal(start)
    next_signal = _signal(end)
    # Both radicands are >= 0 on paper; levels that lie close together make differences that round below 0.
    drawn = noise_level * ((1 - next_signal) / (1 - signal) * (1 - signal / next_signal)).clamp(min=0).sqrt()
    carried = (1 - next_signal - drawn.square()).clamp(min=0).sqrt()
    scale = ((1 - end).square() + end.square()).sqrt()
    clean = velocity_to_data(x, velocity, level.to(x))
    noise = velocity_to_noise(x, velocity, level.to(x))
    return Gaussian(scale * (next_signal.sqrt() * clean + carried * noise), scale * drawn)


def _signal(level: Tensor) -> Tensor:
    """abar: the share of a latent's variance that is data, for data of unit variance."""
    return (1 - level).square() / ((1 - level).square() + level.square())


def _sde(x: Tensor, velocity: Tensor, start: Tensor, end: Tensor, *, diffusion: Tensor) -> Gaussian:
    """Euler-Maruyama for any diffusion g(level): the drift gains g^2/2 times the score, so marginals stay.

    mean = x (1 + g^2/(2 s) dt) + v (1 + g^2 (1 - s)/(2 s)) dt,  std = g sqrt(-dt),  dt = end - start, s = start.
    """
    dt = end - start
    # The score is -noise / s. No guard is needed: a transition starts above its end, so s > 0 and -dt > 0.
    pull = diffusion.square() / (2 * start)
    mean = x * (1 + pull * dt) + at_least_float32(velocity) * (1 + pull * (1 - start)) * dt
    return Gaussian(mean, diffusion * (-dt).sqrt())


KERNELS: dict[str, Kernel] = {"ode": ode, "flow_sde": flow_sde, "dance_sde": dance_sde, "cps": cps, "ddim": ddim}
