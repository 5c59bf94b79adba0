"""Kernels that keep the marginals sample the mixture; one without the score term is caught, CPS is told apart."""

import numpy as np
import pytest
import torch
from scipy import stats

from stepcredit.flow.kernels import KERNELS
from stepcredit.studies import exact_law

COUNT, STEPS = 8_000, 40
"""With so few samples the distance of exact samples is .01 to .035, their variance within .007 of the truth."""


def measure(kernel, noise_level):
    torch.set_num_threads(1)
    return exact_law.measure(kernel, noise_level=noise_level, steps=STEPS, count=COUNT)


@pytest.mark.parametrize(("kernel", "noise_level"), [("ode", 0.0), ("flow_sde", 0.7), ("dance_sde", 0.3)])
def test_a_kernel_that_keeps_the_marginals_passes(kernel, noise_level):
    found = measure(KERNELS[kernel], noise_level)
    assert found.distance < 0.04
    assert abs(found.variance - 0.15) < 0.012


def test_noise_without_the_pull_of_the_score_fails():
    weak, strong = (measure(exact_law.without_score, level) for level in (0.3, 0.7))
    assert weak.variance > 0.18
    assert strong.variance > 0.35
    assert strong.distance > 0.15


def test_cps_keeps_the_noise_and_not_the_law():
    found = measure(KERNELS["cps"], 0.7)
    assert found.distance > 0.075
    assert found.variance < 0.12


def test_the_distance_is_that_of_scipy_to_a_large_exact_sample():
    random = np.random.default_rng(0)
    mode = random.choice(3, size=(2, 200_000), p=exact_law.WEIGHTS.numpy())
    drawn = exact_law.MEANS.numpy()[mode] + 0.15**0.5 * random.standard_normal((2, 200_000, 2))
    exact, other = drawn[0], drawn[1][:5_000] + np.array([0.1, -0.3])
    wanted = np.mean([stats.wasserstein_distance(exact[:, axis], other[:, axis]) for axis in range(2)])
    assert exact_law.distance(torch.from_numpy(other)) == pytest.approx(wanted, abs=0.01)
    assert exact_law.distance(torch.from_numpy(exact)) < 0.01


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_the_velocity_is_the_conditional_expectation(level):
    """Numerical integration over all data that a latent may come from."""
    grid = np.linspace(-5, 6, 1101)
    data = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    squares = ((data[:, None] - exact_law.MEANS.numpy()) ** 2).sum(-1)
    density = (exact_law.WEIGHTS.numpy() * np.exp(-squares / 2 / 0.15)).sum(1)
    for x in ([0.4, 0.7], [-1.0, 0.2]):
        noise = (np.array(x) - (1 - level) * data) / level
        weight = density * np.exp(-(noise**2).sum(1) / 2)
        wanted = ((noise - data) * weight[:, None]).sum(0) / weight.sum()
        got = exact_law.velocity(torch.tensor([x]).double(), torch.tensor(level).double())[0].numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_seed_gives_the_same_measurement_again():
    few = {"noise_level": 0.3, "steps": 4, "count": 50}
    first, again, other = (exact_law.measure(KERNELS["dance_sde"], seed=seed, **few) for seed in (0, 0, 1))
    assert first == again != other
