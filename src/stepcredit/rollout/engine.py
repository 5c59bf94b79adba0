"""Runs the sampler: from noise to finished latents, remembering what training needs. No gradient."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from stepcredit.credit.temporal import similarity_to_final
from stepcredit.errors import NumericsError, during
from stepcredit.flow.convert import velocity_to_data
from stepcredit.flow.kernels import KERNELS
from stepcredit.protocols import Policy
from stepcredit.records import Condition, Plan, Trajectory
from stepcredit.rollout.noise import NoiseStream, initial_noise

Advance = Callable[[int], None]


@during("rollout")
@torch.no_grad()
def roll_out(
    policy: Policy,
    condition: Condition,
    plan: Plan,
    levels: Float[Tensor, " L"],
    *,
    group_size: int,
    noise_level: float,
    shared_noise: bool,
    noisy_end: bool,
    seed: int,
    iteration: int,
    micro_batch: int,
    advance: Advance = lambda samples: None,
) -> Trajectory:
    """Draw `group_size` samples for each row of `condition`.

    `advance` is told how many (sample, step) pairs were computed, for progress bars. The last latent's clean
    prediction is `final`, or the last latent itself with `noisy_end`.
    """
    prompts = next(iter(condition.tensors.values())).shape[0]
    shape = policy.latent_shape()
    start = torch.stack(
        [
            torch.stack(
                initial_noise(
                    shape, seed=seed, iteration=iteration, prompt=prompt, members=group_size, shared=shared_noise
                )
            )
            for prompt in range(prompts)
        ]
    ).flatten(0, 1)
    streams = [NoiseStream(seed, iteration, p, member) for p in range(prompts) for member in range(group_size)]
    rows = torch.arange(prompts).repeat_interleave(group_size)

    start = policy.start(start, levels[0].to(start))
    stochastic = plan.stochastic.flatten(0, 1)
    parts = [
        _roll_out_rows(
            policy,
            condition[rows[at]],
            plan.kernel,
            stochastic[at],
            levels,
            start[at],
            streams[at],
            noise_level=noise_level,
            noisy_end=noisy_end,
            advance=advance,
        )
        for at in (slice(first, first + micro_batch) for first in range(0, len(start), micro_batch))
    ]
    latents, velocities, final, similarity, clean_similarity = (
        torch.cat(column).unflatten(0, (prompts, group_size)) for column in zip(*parts, strict=True)
    )
    return Trajectory(latents, velocities, final, levels, similarity, clean_similarity)


def _roll_out_rows(
    policy: Policy,
    condition: Condition,
    kernel: str,
    stochastic: Bool[Tensor, "B N"],
    levels: Tensor,
    start: Tensor,
    streams: list[NoiseStream],
    *,
    noise_level: float,
    noisy_end: bool,
    advance: Advance,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Some rows through all steps: latents `[B, L, *latent]`, velocities and the final latent, similarities."""
    x = start.to(policy.device)
    states, velocities, cleans = [x], [], []
    for step in range(stochastic.shape[1]):
        level, next_level = levels[step].to(x), levels[step + 1].to(x)
        velocity = policy.velocity(x, level.expand(len(x)), condition)
        velocities.append(velocity)
        cleans.append(velocity_to_data(x, velocity, level))
        x = _move(x, velocity, level, next_level, stochastic[:, step], kernel, noise_level, streams)
        states.append(x)
        advance(len(x))
    latents, clean = torch.stack(states, dim=1), torch.stack(cleans, dim=1)
    final = x if noisy_end else clean[:, -1]
    similarity, clean_similarity = similarity_to_final(latents, final), similarity_to_final(clean, final)
    return latents, torch.stack(velocities, dim=1), final, similarity, clean_similarity


def _move(
    x: Tensor,
    velocity: Tensor,
    level: Tensor,
    next_level: Tensor,
    stochastic: Bool[Tensor, " B"],
    kernel: str,
    noise_level: float,
    streams: list[NoiseStream],
) -> Tensor:
    """The next latents: by the kernel where stochastic, along the ODE elsewhere; noise is drawn where it is used."""
    straight = KERNELS["ode"](x, velocity, level, next_level).mean
    if not stochastic.any():
        return straight
    law = KERNELS[kernel](x, velocity, level, next_level, noise_level=noise_level)
    silent = torch.zeros(x.shape[1:])
    noise = [
        stream.draw(tuple(x.shape[1:])) if noisy else silent
        for stream, noisy in zip(streams, stochastic.tolist(), strict=True)
    ]
    moved = law.sample(torch.stack(noise).to(x))
    return torch.where(stochastic.to(x.device).view(-1, *(1,) * (x.ndim - 1)), moved, straight)


@during("rollout")
@torch.no_grad()
def sample_ode(policy: Policy, condition: Condition, levels: Tensor, noise: Tensor) -> Tensor:
    """Finished latents `[B, *latent]` of the deterministic sampler, remembering nothing."""
    x = policy.start(noise, levels[0].to(noise)).to(policy.device)
    for level, next_level in zip(levels[:-1].to(x), levels[1:].to(x), strict=True):
        x = KERNELS["ode"](x, policy.velocity(x, level.expand(len(x)), condition), level, next_level).mean
    return x


@during("decode")
@torch.no_grad()
def decode(policy: Policy, latents: Tensor, micro_batch: int) -> UInt8[np.ndarray, "B *frames H W 3"]:
    """Pictures or videos of final latents, 0 to 255; latents that are not finite become black."""
    parts = [_bytes(policy.decode(part)) for part in latents.split(micro_batch)]
    return torch.cat(parts).movedim(-3, -1).numpy()


def _bytes(media: Tensor) -> Tensor:
    """Pictures in [0, 1] as 0 to 255, in main memory."""
    return (media.nan_to_num(0.0) * 255).round().byte().cpu()


def count_unusable(trajectory: Trajectory) -> int:
    """Samples with a latent that is not finite; they get no credit. All of them unusable is an error."""
    broken = ~trajectory.latents.flatten(2).isfinite().all(-1)
    if broken.all():
        raise NumericsError(
            "every sample of the rollout holds NaN or infinity; lower the learning rate or the noise level, "
            "or use policy.dtype float32"
        )
    return int(broken.sum())
