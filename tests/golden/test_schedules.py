"""Locks the noise levels, and the gradient weights |d mean / d velocity| / std that kernels have on them.

The shifted levels are those of DanceGRPO (arXiv 2505.07818) and SD3 (arXiv 2403.03206, eq. 23); FLUX's are compared
with diffusers' scheduler, called as its pipeline calls it. Weights: sqrt(D) / g (1 + (1 - s) g^2 / (2 s)), a
derivation, printed to 4 digits.
"""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from stepcredit.flow import kernels, schedules

# SD3.5 under diffusers, 10 steps: the shift of 3 acts twice at the low end
SD3_LEVELS = [1, 0.960129, 0.913349, 0.857692, 0.790368, 0.707278, 0.602151, 0.464876, 0.278049, 0.008929, 0]
SD3_WEIGHTS = [0.0570, 0.0784, 0.1292, 0.1880, 0.2640, 0.3710, 0.5356, 0.8248, 1.4867, 1.7706]
SD3_STDS = [0.7000, 0.7430, 0.5362, 0.4459, 0.3918, 0.3528, 0.3191, 0.2820, 0.2254, 0.0063]
DANCE_WEIGHTS = [
    *(0.4915, 0.5138, 0.5384, 0.5654, 0.5953, 0.6286, 0.6660, 0.7083),
    *(0.7565, 0.8122, 0.8773, 0.9550, 1.0503, 1.1725, 1.3450, 1.6670),
]


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def native_weights(kernel, levels, noise_level):
    """What one unit of velocity moves the mean by, in standard deviations of the transition."""
    zero = torch.zeros(len(levels) - 1, 1, dtype=torch.float64)
    still, moved = (
        kernel(zero, velocity, levels[:-1], levels[1:], noise_level=noise_level) for velocity in (zero, zero + 1)
    )
    return ((moved.mean - still.mean) / still.std).abs().flatten(), still.std.flatten()


def test_linear_levels_are_equally_spaced_from_noise_to_data():
    torch.testing.assert_close(schedules.linear(4), float64([1, 0.75, 0.5, 0.25, 0]), rtol=0, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 7.0])
def test_shifted_levels_begin_at_one_end_at_zero_and_fall(shift):
    levels = schedules.shifted(16, shift=shift)
    assert levels.shape == (17,)
    assert levels.dtype == torch.float64
    assert levels[0] == 1
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()


def test_shift_of_three_in_four_steps():
    """3 t / (1 + 2 t) at t = 3/4, 1/2, 1/4 is 9/10, 3/4, 1/2."""
    torch.testing.assert_close(schedules.shifted(4, shift=3.0), float64([1, 0.9, 0.75, 0.5, 0]), rtol=0, atol=1e-15)


def test_shift_of_one_is_linear():
    torch.testing.assert_close(schedules.shifted(10, shift=1.0), schedules.linear(10), rtol=0, atol=1e-15)


def test_dance_native_weights_rise_along_the_trajectory():
    weights, _ = native_weights(kernels.dance_sde, schedules.shifted(16, shift=3.0), noise_level=0.3)
    torch.testing.assert_close(weights, float64(DANCE_WEIGHTS), rtol=0, atol=5.1e-5)
    assert (weights.diff() > 0).all()


def test_flow_sde_native_weights_and_stds_on_the_levels_of_sd3():
    weights, stds = native_weights(kernels.flow_sde, float64(SD3_LEVELS), noise_level=0.7)
    torch.testing.assert_close(weights[:-1], float64(SD3_WEIGHTS[:-1]), rtol=0, atol=6e-5)
    torch.testing.assert_close(weights[-1:], float64(SD3_WEIGHTS[-1:]), rtol=1e-4, atol=0)
    torch.testing.assert_close(stds, float64(SD3_STDS), rtol=0, atol=6e-5)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("steps", [1, 4, 16, 28])
def test_resolution_shifted_is_what_diffusers_gives_the_flux_pipeline(steps, tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        base_shift=0.5,
        max_shift=1.15,
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15))
    levels = schedules.resolution_shifted(steps, tokens=tokens)
    sigmas: Any = scheduler.sigmas
    torch.testing.assert_close(levels, sigmas.double(), rtol=0, atol=1e-6)


def test_more_tokens_stay_noisier_for_longer():
    few, many = (schedules.resolution_shifted(8, tokens=tokens) for tokens in (256, 4096))
    assert (many[1:-1] > few[1:-1]).all()
