"""Runs the sampler: from noise to finished latents, remembering what training needs. No gradient."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stepcredit.credit.temporal import similarity_to_final
from stepcredit.errors import NumericsError
from stepcredit.flow.convert import velocity_to_data
from stepcredit.flow.kernels import KERNELS
from stepcredit.protocols import Policy
from stepcredit.records import Condition, Trajectory
from stepcredit.rollout.noise import NoiseStream, initial_noise
from stepcredit.rollout.plan import Plan

Advance = Callable[[int], None]


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

    parts = [
        _roll_out_rows(policy, condition[rows[at]], plan, levels, start[at], streams[at], noise_level, advance)
        for at in (slice(first, first + micro_batch) for first in range(0, len(start), micro_batch))
    ]
    latents, log_probs, clean = (
        torch.cat(column).unflatten(0, (prompts, group_size)) for column in zip(*parts, strict=True)
    )
    final = latents[:, :, -1] if noisy_end else clean
    flat_latents, flat_final = latents.flatten(0, 1), final.flatten(0, 1)
    similarity = similarity_to_final(flat_latents, flat_final).unflatten(0, (prompts, group_size))
    return Trajectory(latents=latents, log_probs=log_probs, final=final, levels=levels, similarity=similarity)


def _roll_out_rows(
    policy: Policy,
    condition: Condition,
    plan: Plan,
    levels: Tensor,
    start: Tensor,
    streams: list[NoiseStream],
    noise_level: float,
    advance: Advance,
) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows through all steps: latents `[B, L, *latent]`, log-probabilities `[B, N]`, clean prediction."""
    x = start.to(policy.device)
    clean, states, log_probs = x, [x], []
    for step, kernel in enumerate(plan.kernels):
        level, next_level = levels[step].to(x), levels[step + 1].to(x)
        velocity = policy.velocity(x, level.expand(len(x)), condition)
        clean = velocity_to_data(x, velocity, level)
        law = KERNELS[kernel](x, velocity, level, next_level, noise_level=noise_level)
        if kernel == "ode":
            x = law.mean
            log_probs.append(torch.full((len(x),), torch.nan, device=x.device))
        else:
            x = law.sample(torch.stack([stream.draw(tuple(x.shape[1:])) for stream in streams]).to(x))
            log_probs.append(law.log_prob(x))
        states.append(x)
        advance(len(x))
    return torch.stack(states, dim=1), torch.stack(log_probs, dim=1), clean


@torch.no_grad()
def sample_ode(policy: Policy, condition: Condition, levels: Tensor, noise: Tensor) -> Tensor:
    """Finished latents `[B, *latent]` of the deterministic sampler, remembering nothing."""
    x = noise.to(policy.device)
    for level, next_level in zip(levels[:-1].to(x), levels[1:].to(x), strict=True):
        x = KERNELS["ode"](x, policy.velocity(x, level.expand(len(x)), condition), level, next_level).mean
    return x


@torch.no_grad()
def decode(policy: Policy, latents: Tensor, micro_batch: int) -> UInt8[np.ndarray, "B H W 3"]:
    """Pictures of final latents, 0 to 255; latents that are not finite become black."""
    pictures = torch.cat([policy.decode(part) for part in latents.split(micro_batch)])
    return (pictures.nan_to_num(0.0) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def count_unusable(trajectory: Trajectory) -> int:
    """Samples with a latent that is not finite; they get no credit. All of them unusable is an error."""
    broken = ~trajectory.latents.flatten(2).isfinite().all(-1)
    if broken.all():
        raise NumericsError(
            "every sample of the rollout holds NaN or infinity; lower the learning rate or the noise level, "
            "or use policy.dtype float32"
        )
    return int(broken.sum())
