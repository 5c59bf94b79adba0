"""Locks the transition kernels: mean, std and log-density of one scalar step, float64.

The numbers were worked out by hand from the formulas of arXiv 2505.05470 (Flow-GRPO), 2505.07818 (DanceGRPO) and
2509.05952 (Flow-CPS), for x = 1, velocity = 0.5 and the next latent y = 0.9.
"""

import math

import pytest
import torch

from stepcredit.flow import kernels

EXACT = {"rtol": 0, "atol": 1e-12}

# kernel, level, next level, noise level -> mean, std, log-density
STEPS = [
    ("flow_sde", 0.6, 0.5, 0.7, 0.8765, 0.2711088342345191, 0.3825396004559123),
    ("flow_sde", 1.0, 0.96, 0.7, 0.735, 0.7, -0.5900442015108384),
    ("dance_sde", 0.6, 0.5, 0.3, 0.941, 0.09486832980505136, 1.3429379287293974),
    ("cps", 0.6, 0.5, 0.8, 0.5354101966249685, 0.47552825814757677, -0.4695276964683868),
]


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def latents(value, rows=1):
    return torch.full((rows, 1), value, dtype=torch.float64)


def close(actual, expected):
    torch.testing.assert_close(actual, torch.full_like(actual, expected), **EXACT)


@pytest.mark.parametrize(("name", "level", "next_level", "noise_level", "mean", "std", "log_prob"), STEPS)
def test_one_scalar_step_has_the_derived_law(name, level, next_level, noise_level, mean, std, log_prob):
    law = kernels.KERNELS[name](latents(1.0), latents(0.5), scalar(level), scalar(next_level), noise_level=noise_level)
    close(law.mean, mean)
    close(law.std, std)
    close(law.log_prob(latents(0.9)), log_prob)


def test_cps_error_log_prob_is_the_density_without_its_constants():
    law = kernels.cps(latents(1.0), latents(0.5), scalar(0.6), scalar(0.5), noise_level=0.8)
    close(law.error_log_prob(latents(0.9)), -0.13292572472504416)


def test_flow_sde_diffusion_at_level_one_uses_the_next_level():
    """eta sqrt(1 / (1 - 0.96)) = 5 eta = 3.5; the std is that times sqrt(0.04)."""
    law = kernels.flow_sde(latents(1.0), latents(0.5), scalar(1.0), scalar(0.96), noise_level=0.7)
    close(law.std / math.sqrt(0.04), 3.5)


def test_flow_sde_guards_only_a_level_of_exactly_one():
    law = kernels.flow_sde(latents(1.0), latents(0.5), scalar(0.99999), scalar(0.96), noise_level=0.7)
    close(law.std, 0.7 * math.sqrt(0.99999 / (1 - 0.99999)) * math.sqrt(0.99999 - 0.96))
    assert law.std.item() > 40


def test_ode_is_euler_without_noise_and_ignores_the_noise_level():
    law = kernels.ode(latents(1.0), latents(0.5), scalar(0.6), scalar(0.5), noise_level=0.7)
    close(law.mean, 0.95)
    assert law.std.item() == 0


def test_the_last_step_of_cps_is_deterministic_and_lands_on_the_prediction():
    law = kernels.cps(latents(1.0), latents(0.5), scalar(0.25), scalar(0.0), noise_level=0.8)
    close(law.mean, 1.0 - 0.25 * 0.5)
    assert law.std.item() == 0
    assert law.error_log_prob(latents(0.9)).isfinite().all()


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_levels_per_sample_equal_scalar_levels_row_by_row(name):
    draw = torch.Generator().manual_seed(0)
    x, velocity, y = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=draw) for _ in range(3))
    level = scalar([1.0, 0.6, 0.3])
    next_level = scalar([0.96, 0.5, 0.1])
    together = kernels.KERNELS[name](x, velocity, level, next_level, noise_level=0.5)
    assert together.std.shape == (3, 1, 1, 1)
    for row in range(3):
        one = slice(row, row + 1)
        alone = kernels.KERNELS[name](x[one], velocity[one], level[row], next_level[row], noise_level=0.5)
        torch.testing.assert_close(together.mean[one], alone.mean, **EXACT)
        torch.testing.assert_close(together.std[one], alone.std, **EXACT)
        if name != "ode":
            torch.testing.assert_close(together.log_prob(y)[one], alone.log_prob(y[one]), **EXACT)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_scalar_levels_broadcast_over_the_batch(name):
    law = kernels.KERNELS[name](latents(1.0, rows=3), latents(0.5, rows=3), scalar(0.6), scalar(0.5), noise_level=0.5)
    row = kernels.KERNELS[name](latents(1.0), latents(0.5), scalar(0.6), scalar(0.5), noise_level=0.5)
    torch.testing.assert_close(law.mean, row.mean.expand(3, 1), **EXACT)
    torch.testing.assert_close(law.std, row.std, **EXACT)


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_half_precision_inputs_are_stepped_in_float32(name):
    x = torch.full((2, 3), 1.0)  # exact in bfloat16
    velocity = torch.full((2, 3), 0.5)
    full = kernels.KERNELS[name](x, velocity, scalar(0.6), scalar(0.5), noise_level=0.5)
    half = kernels.KERNELS[name](x.bfloat16(), velocity.bfloat16(), scalar(0.6), scalar(0.5), noise_level=0.5)
    assert half.mean.dtype == half.std.dtype == torch.float32
    torch.testing.assert_close(half.mean, full.mean, rtol=0, atol=0)
    torch.testing.assert_close(half.std, full.std, rtol=0, atol=0)
