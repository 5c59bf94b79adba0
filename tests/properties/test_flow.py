"""What must hold of conversions, kernels and transition laws at any level: derivations, checked with random inputs.

The strongest check needs no reference at all: for Gaussian data every marginal on the path and the velocity are known
in closed form, so one short step must carry the marginal at `level` to the marginal at `next_level`.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.flow import Gaussian, convert, kernels

few = settings(max_examples=50, deadline=None, derandomize=True)

seeds = st.integers(0, 2**31 - 1)
levels = st.floats(0.05, 0.95)
inner = st.floats(0.2, 0.8)
noise_levels = st.floats(0.3, 1.0)
STOCHASTIC = ["flow_sde", "dance_sde", "cps"]


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, atol=1e-10):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# --- conversions


@few
@given(seeds, levels)
def test_data_and_noise_rebuild_the_latent_and_the_velocity(seed, level):
    x, velocity = normal(seed, 2, 3, 4, 5)
    s = scalar(level)
    clean = convert.velocity_to_data(x, velocity, s)
    noise = convert.velocity_to_noise(x, velocity, s)
    close((1 - level) * clean + level * noise, x)
    close(noise - clean, velocity)


@few
@given(seeds, st.lists(levels, min_size=3, max_size=3))
def test_conversions_round_trip_with_a_level_per_sample(seed, level):
    x, velocity = normal(seed, 2, 3, 4, 5)
    s = scalar(level)
    close(convert.data_to_velocity(x, convert.velocity_to_data(x, velocity, s), s), velocity)
    close(convert.noise_to_velocity(x, convert.velocity_to_noise(x, velocity, s), s), velocity)


@few
@given(seeds, inner, st.floats(-2, 2), st.floats(0.1, 2))
def test_score_of_gaussian_data_is_the_gradient_of_its_log_density(seed, level, centre, spread):
    x = normal(seed, 6, 1)
    velocity = gaussian_velocity(x, level, centre, spread)
    mean, variance = marginal(level, centre, spread)
    close(convert.velocity_to_score(x, velocity, scalar(level)), -(x - mean) / variance)


# --- the law of a transition


def laws(seed, rows=3):
    means = normal(seed, 2, rows, 4, 5)
    std = normal(seed + 1, rows, 1, 1).exp()
    return Gaussian(means[0], std), Gaussian(means[1], std)


@few
@given(seeds)
def test_log_prob_is_the_mean_over_dimensions_of_the_normal_density(seed):
    law, _ = laws(seed)
    y = normal(seed + 2, 3, 4, 5)
    reference = torch.distributions.Normal(law.mean, law.std.expand_as(law.mean))
    close(law.log_prob(y), reference.log_prob(y).mean(dim=(1, 2)), atol=1e-8)


@few
@given(st.floats(-3, 3), st.floats(0.01, 5))
def test_density_integrates_to_one(mean, std):
    y = torch.linspace(mean - 12 * std, mean + 12 * std, 2001, dtype=torch.float64)[:, None]
    law = Gaussian(torch.full_like(y, mean), scalar([[std]]))
    assert torch.trapezoid(law.log_prob(y).exp(), y[:, 0]).item() == pytest.approx(1, abs=1e-9)


@few
@given(seeds)
def test_kl_is_that_of_normals_never_negative_and_zero_on_itself(seed):
    law, reference = laws(seed)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(law.mean, law.std.expand_as(law.mean)),
        torch.distributions.Normal(reference.mean, law.std.expand_as(law.mean)),
    ).mean(dim=(1, 2))
    close(law.kl(reference), expected, atol=1e-8)
    assert (law.kl(reference) >= 0).all()
    assert (law.kl(law) == 0).all()


@few
@given(seeds)
def test_error_log_prob_has_the_ratio_of_the_density_times_twice_the_variance(seed):
    law, reference = laws(seed)
    y = normal(seed + 2, 3, 4, 5)
    full, raw = (one(y) for one in (law.log_prob, law.error_log_prob))
    full_reference, raw_reference = (one(y) for one in (reference.log_prob, reference.error_log_prob))
    close(raw - raw_reference, 2 * law.std.flatten().square() * (full - full_reference), atol=1e-6)


@few
@given(seeds)
def test_sample_is_the_mean_plus_std_times_the_noise_that_was_passed_in(seed):
    law, _ = laws(seed)
    noise = normal(seed + 2, 3, 4, 5)
    close((law.sample(noise) - law.mean) / law.std, noise, atol=1e-9)


# --- kernels


def inputs(seed):
    x, velocity = normal(seed, 2, 3, 4, 5)
    return x, velocity


@few
@given(seeds, levels, noise_levels, st.floats(0.1, 0.9))
def test_flow_sde_is_dance_sde_with_the_same_diffusion(seed, level, noise_level, part):
    x, velocity = inputs(seed)
    s = scalar(level)
    end = scalar(level * part)
    flow = kernels.flow_sde(x, velocity, s, end, noise_level=noise_level)
    dance = kernels.dance_sde(x, velocity, s, end, noise_level=noise_level * math.sqrt(level / (1 - level)))
    close(flow.mean, dance.mean, atol=1e-9)
    close(flow.std, dance.std)


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("noise_level", [0.0, 1e-4, 1e-2])
@few
@given(seeds, st.floats(0.1, 0.9), st.floats(0.0, 0.9))
def test_without_noise_every_kernel_is_the_ode(name, noise_level, seed, level, part):
    x, velocity = inputs(seed)
    s = scalar(level)
    end = scalar(level * part)
    plain = kernels.ode(x, velocity, s, end)
    law = kernels.KERNELS[name](x, velocity, s, end, noise_level=noise_level)
    close(law.mean, plain.mean, atol=1e-10 + 100 * noise_level**2)  # the drift's correction is of second order
    assert (law.std <= 4 * noise_level).all()


@few
@given(seeds, levels)
def test_the_ode_step_to_level_zero_is_the_predicted_data(seed, level):
    x, velocity = inputs(seed)
    law = kernels.ode(x, velocity, scalar(level), scalar(0.0))
    close(law.mean, convert.velocity_to_data(x, velocity, scalar(level)))


# --- the exact law: data ~ N(centre, spread^2)


def marginal(level, centre, spread):
    """Mean and variance of (1 - level) data + level noise."""
    return (1 - level) * centre, (1 - level) ** 2 * spread**2 + level**2


def gaussian_velocity(x, level, centre, spread):
    """E[noise - data | x]; both expectations are linear regressions on x."""
    mean, variance = marginal(level, centre, spread)
    clean = centre + (1 - level) * spread**2 / variance * (x - mean)
    return level / variance * (x - mean) - clean


def carried(kernel, level, next_level, centre, spread, noise_level):
    """Mean and variance after one step from the exact marginal. The step's mean is affine in x: two points tell it."""
    x = scalar([[0.0], [1.0]])
    velocity = gaussian_velocity(x, level, centre, spread)
    law = kernel(x, velocity, scalar(level), scalar(next_level), noise_level=noise_level)
    offset = law.mean[0].item()
    slope = (law.mean[1] - law.mean[0]).item()
    mean, variance = marginal(level, centre, spread)
    return slope * mean + offset, slope**2 * variance + law.std.square().flatten()[0].item()


def drift(kernel, level, centre, spread, noise_level, length=1e-6):
    """Error in mean and variance of one short step, per unit of level: 0 if the marginals are kept."""
    reached = carried(kernel, level, level - length, centre, spread, noise_level)
    wanted = marginal(level - length, centre, spread)
    return tuple((g - w) / length for g, w in zip(reached, wanted, strict=True))


def without_score(x, velocity, level, next_level, *, noise_level):
    """A wrong kernel: the ODE's step with noise on top and no correction of the drift."""
    step = next_level - level
    return Gaussian(x + velocity * step, (noise_level * (-step).sqrt()).reshape(1, 1))


def with_half_the_score(x, velocity, level, next_level, *, noise_level):
    """A subtler mistake: the right kernel's mean is half way to the ODE's."""
    right = kernels.dance_sde(x, velocity, level, next_level, noise_level=noise_level)
    return Gaussian((right.mean + kernels.ode(x, velocity, level, next_level).mean) / 2, right.std)


gaussian_paths = given(inner, st.floats(-2, 2), st.floats(0.1, 2), noise_levels)
LITTLE = 2e-3  # the step's second order; the mutants below are off by 0.04 and more


@pytest.mark.parametrize("kernel", [kernels.ode, kernels.flow_sde, kernels.dance_sde], ids=lambda k: k.__name__)
@few
@gaussian_paths
def test_one_short_step_carries_one_exact_marginal_to_the_next(kernel, level, centre, spread, noise_level):
    mean_error, variance_error = drift(kernel, level, centre, spread, noise_level)
    assert abs(mean_error) < LITTLE
    assert abs(variance_error) < LITTLE


@pytest.mark.parametrize(("mutant", "part"), [(without_score, 1.0), (with_half_the_score, 0.5)])
@few
@gaussian_paths
def test_a_kernel_without_the_score_term_is_caught(mutant, part, level, centre, spread, noise_level):
    """Its variance grows by all the noise that the missing drift should have taken back."""
    _, variance_error = drift(mutant, level, centre, spread, noise_level)
    assert variance_error == pytest.approx(part * noise_level**2, abs=LITTLE)
    assert abs(variance_error) > LITTLE


@few
@given(levels, st.floats(0.0, 0.99), st.floats(-2, 2), noise_levels)
def test_cps_is_exact_for_a_single_datum_however_long_the_step(level, part, centre, noise_level):
    """Noise of two parts, next_level^2 = kept^2 + fresh^2: hence its name."""
    reached = carried(kernels.cps, level, level * part, centre, 0.0, noise_level)
    assert reached == pytest.approx(marginal(level * part, centre, 0.0), abs=1e-10)


@few
@gaussian_paths
def test_cps_keeps_the_mean_of_spread_data_and_a_known_part_of_the_variance(level, centre, spread, noise_level):
    """It redraws a fixed part of the noise however short the step, so predicted data and predicted noise, which are
    correlated for spread data, lose a b (1 - c)^2 / (a + b) of variance; a, b those of data and noise, c = cos."""
    length = 1e-9
    mean, variance = carried(kernels.cps, level, level - length, centre, spread, noise_level)
    a = (1 - level) ** 2 * spread**2
    b = level**2
    loss = a * b / (a + b) * (1 - math.cos(noise_level * math.pi / 2)) ** 2
    assert mean == pytest.approx((1 - level) * centre, abs=1e-6)
    assert variance == pytest.approx(a + b - loss, abs=1e-6)


@few
@given(inner, st.floats(-2, 2), noise_levels)
def test_a_cps_that_does_not_take_back_what_it_draws_is_caught(level, centre, noise_level):
    def greedy(x, velocity, level, next_level, *, noise_level):
        return Gaussian(
            kernels.ode(x, velocity, level, next_level).mean,
            kernels.cps(x, velocity, level, next_level, noise_level=noise_level).std,
        )

    _, variance = carried(greedy, level, level / 2, centre, 0.0, noise_level)
    excess = (level / 2 * math.sin(noise_level * math.pi / 2)) ** 2
    assert variance == pytest.approx(marginal(level / 2, centre, 0.0)[1] + excess, abs=1e-10)
    assert excess > 1e-3


@pytest.mark.parametrize(("kernel", "noise_level"), [(kernels.flow_sde, 0.7), (kernels.dance_sde, 0.3)])
def test_a_whole_fine_trajectory_from_pure_noise_ends_in_the_data(kernel, noise_level):
    """Moments go through 800 steps, the guarded first one at level 1 included; more steps bring them closer."""
    centre = 1.0
    spread = 0.5

    def error(steps):
        mean, variance = marginal(1.0, centre, spread)
        path = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[: -steps // 20].tolist()
        x = scalar([[0.0], [1.0]])
        for level, next_level in itertools.pairwise(path):
            velocity = gaussian_velocity(x, level, centre, spread)
            law = kernel(x, velocity, scalar(level), scalar(next_level), noise_level=noise_level)
            offset = law.mean[0].item()
            slope = (law.mean[1] - law.mean[0]).item()
            mean = slope * mean + offset
            variance = slope**2 * variance + law.std.square().flatten()[0].item()
        exact = marginal(path[-1], centre, spread)
        return max(abs(mean - exact[0]), abs(variance - exact[1]))

    coarse = error(800)
    fine = error(1600)
    assert coarse < 2e-3
    assert fine < 0.9 * coarse
