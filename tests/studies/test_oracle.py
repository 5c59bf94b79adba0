"""The oracle's gradient is right, plain GRPO is unbiased on it, the published toy table comes out, broken rules fall.

Everything exact here is stated a second time in NumPy, from the formulas of the papers, without the library's kernels.
"""

import itertools
import math
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch

import composing
from stepcredit.errors import CreditError
from stepcredit.methods.dance_grpo import DanceGRPO, DanceGRPORule
from stepcredit.methods.tcd import TCD, TCDRule
from stepcredit.studies import oracle
from stepcredit.studies.oracle import PROBLEMS, SAMPLERS

GROUPS = 1500
WIDER = math.sqrt(4000 / GROUPS)  # the tolerances below belong to 4,000 groups


def levels(steps=16, shift=3.0):
    t = 1 - np.arange(steps + 1) / steps
    return shift * t / (1 + (shift - 1) * t)


def velocity(x, s):
    """E[noise - data | x] by the rule for two jointly Gaussian numbers."""
    covariance = s - (1 - s) * 0.25
    return -1 + covariance / ((1 - s) ** 2 * 0.25 + s**2) * (x - (1 - s))


def move(kernel, x, v, s, t):
    """Mean and standard deviation of one transition."""
    if kernel in ("dance_sde", "flow_sde"):
        square = 0.3**2 if kernel == "dance_sde" else 0.7**2 * s / (1 - (t if s == 1 else s))
        score = -(x + (1 - s) * v) / s
        return x + (v - square / 2 * score) * (t - s), math.sqrt(square * (s - t))
    data, noise = x - s * v, x + (1 - s) * v
    if kernel == "cps":
        fresh = t * math.sin(0.8 * math.pi / 2)
        return (1 - t) * data + math.sqrt(t**2 - fresh**2) * noise, fresh
    before, after = ((1 - u) ** 2 / ((1 - u) ** 2 + u**2) for u in (s, t))
    fresh = math.sqrt((1 - after) / (1 - before) * (1 - before / after))
    scale = math.hypot(1 - t, t)
    kept = math.sqrt(max(0.0, 1 - after - fresh**2))
    return scale * (math.sqrt(after) * data + kept * noise), scale * fresh


def mean_and_variance(kernel, theta=None):
    """Of the end, by recursion, with a push theta[n] on the velocity of every step."""
    mean, variance = 0.0, 1.0
    path = levels()
    for n, (s, t) in enumerate(itertools.pairwise(path)):
        push = 0.0 if theta is None else theta[n]
        at = [move(kernel, x, velocity(x, s) + push, s, t) for x in (mean, mean + 1)]
        variance = (at[1][0] - at[0][0]) ** 2 * variance + at[0][1] ** 2
        mean = at[0][0]
    return mean, variance


def expected(objective, mean, variance):
    return mean if objective.kind == "linear" else -((mean - objective.target) ** 2) - variance


# The truth


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kernel", SAMPLERS)
def test_the_true_gradient_is_that_of_the_expected_reward(kernel, problem):
    objectives = PROBLEMS[problem]
    spreads = torch.tensor([0.7, 1.3, 0.4], dtype=torch.float64)[: len(objectives)]
    axes = sorted({objective.axis for objective in objectives})
    wanted = np.zeros((16, len(axes)))
    for n in range(16):
        theta = np.zeros(16)
        for sign in (1, -1):
            theta[n] = 1e-3 * sign
            end = mean_and_variance(kernel, theta)
            for objective, spread in zip(objectives, spreads.tolist(), strict=True):
                wanted[n, axes.index(objective.axis)] += sign * expected(objective, *end) / spread / 2e-3
    got = oracle.truth(SAMPLERS[kernel], objectives, spreads).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)
    assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("kernel", SAMPLERS)
def test_samples_end_where_the_recursion_says(kernel):
    sampler = SAMPLERS[kernel]
    mean, variance = mean_and_variance(kernel)
    np.testing.assert_allclose(float(sampler.end), mean, rtol=1e-9)
    noisy_end = kernel in ("dance_sde", "flow_sde")  # noise at the end where the kernel has some
    method = composing.method("flow_grpo", train_last=noisy_end)
    ends = oracle.draw(
        sampler, PROBLEMS["linear"], method, groups=300, group_size=12, seed=3, train_last=noisy_end
    ).path[:, :, -1]
    assert float(ends.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / ends.numel()))
    assert float(ends.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / ends.numel()))


@pytest.mark.parametrize("level", [0.05, 0.4, 0.8, 1.0])
def test_the_velocity_is_the_conditional_expectation(level):
    """Numerical integration over all data that a latent may come from."""
    data = np.linspace(-4, 6, 20_001)
    for x in (-1.0, 0.3, 2.0):
        noise = (x - (1 - level) * data) / level
        weight = np.exp(-((data - 1) ** 2) / (2 * 0.25) - noise**2 / 2)
        wanted = ((noise - data) * weight).sum() / weight.sum()
        got = SAMPLERS["dance_sde"].velocity(torch.tensor(x).double(), torch.tensor(level).double())
        assert float(got) == pytest.approx(wanted, abs=1e-6)


# Estimates


@cache
def drawn(kernel, problem, shared=True, groups=GROUPS):
    method = composing.method("dance_grpo", shared_noise=shared)
    return oracle.draw(
        SAMPLERS[kernel], PROBLEMS[problem], method, groups=groups, group_size=12, seed=0, train_last=True
    )


def true_gradient(kernel, problem, draws):
    true = oracle.truth(SAMPLERS[kernel], PROBLEMS[problem], draws.evidence.rewards.flatten(0, 1).std(0))
    true[~draws.plan.trained[0, 0]] = 0
    return true


def quality(kernel, problem, method, draws=None):
    """Of single groups."""
    draws = draws or drawn(kernel, problem)
    axes = sorted({objective.axis for objective in PROBLEMS[problem]})
    estimate, _ = oracle.estimates(draws, method, axes)
    return oracle.judge(estimate, true_gradient(kernel, problem, draws), cost=1.0, budget=1.0, seed=0)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kernel", SAMPLERS)
def test_plain_grpo_points_along_the_true_gradient(kernel, problem):
    groups = GROUPS if (kernel, problem) in {key[:2] for key in COLUMNS} else 500
    assert quality(kernel, problem, PLAIN, drawn(kernel, problem, groups=groups)).bias < 0.007


def test_plain_grpo_has_the_length_of_the_true_gradient_too():
    """The group's own mean as baseline costs a factor (G - 1) / G."""
    draws = drawn("flow_sde", "linear", shared=False)
    estimate, moves = oracle.estimates(draws, composing.method("flow_grpo"), [0])
    true = true_gradient("flow_sde", "linear", draws)
    along = float((estimate.mean(0) * true).sum() / true.square().sum())
    assert along == pytest.approx(11 / 12, rel=0.06)
    assert moves == 12 * 16


PLAIN = composing.method("dance_grpo")
COLUMNS = (("dance_sde", "quadratic"), ("flow_sde", "quadratic"), ("dance_sde", "linear"))
BROADCAST = {
    "uniform": (PLAIN, (0.6265, 0.6744, 0.7780), (1, 1, 1)),
    "noise": (composing.method("dance_grpo", profile="noise"), (0.6747, 0.6431, 0.8337), (0.9903, 0.9720, 0.9902)),
    "exact dt": (
        composing.method("dance_grpo", profile="step_length"),
        (0.6652, 0.6427, 0.8228),
        (0.9958, 0.9718, 0.9958),
    ),
    "const": (composing.method("dance_grpo", profile="uniform"), (0.4946, 0.4509, 0.6201), (0.9655, 0.7714, 0.9661)),
    "mean_one": (composing.method("tcd", weights="mean_one"), (0.3977, 0.4550, 0.4981), (0.7675, 0.7615, 0.7712)),
    "affine": (composing.method("tcd", floor=0.5), (0.5462, 0.6306, 0.6809), (0.9557, 0.9676, 0.9572)),
}
DENSE = {False: (0.7555, 0.8789, 0.9407), True: (0.7334, 0.7314, 0.9412)}


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("name", BROADCAST)
def test_the_toy_table_comes_out(name, column):
    method, cosines, biases = BROADCAST[name]
    kernel, problem = COLUMNS[column]
    got = quality(kernel, problem, method)
    assert got.cosine == pytest.approx(cosines[column], abs=WIDER * (0.006 if problem == "linear" else 0.025))
    loose = name in ("mean_one", "affine") or (name == "const" and kernel == "flow_sde")
    assert 1 - got.bias == pytest.approx(biases[column], abs=WIDER * (0.012 if loose else 0.007))


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("anchored", DENSE)
def test_the_toy_table_of_rules_that_ask_for_every_value_comes_out(anchored, column):
    kernel, problem = COLUMNS[column]
    sampler, objective = SAMPLERS[kernel], PROBLEMS[problem][0]
    asked = {"anchored": anchored, "normalised": False}
    estimate = oracle.dense(sampler, objective, groups=GROUPS, group_size=12, seed=0, **asked)
    true = oracle.truth(sampler, (objective,), torch.ones(1).double())
    got = oracle.judge(estimate, true, cost=1.0, budget=1.0, seed=0)
    assert got.cosine == pytest.approx(DENSE[anchored][column], abs=WIDER * 0.035)
    assert got.bias < 0.02


def test_one_noisy_step_at_a_time_measures_what_that_step_did():
    """On a linear reward the gain of a step is its noise times its response: dense credit is nearly free of noise."""
    sampler, objective = SAMPLERS["ddim"], PROBLEMS["linear"][0]
    for normalised in (False, True):
        estimate = oracle.dense(
            sampler, objective, groups=200, group_size=12, seed=1, anchored=True, normalised=normalised
        )
        assert estimate.shape == (200, 16, 1)
        assert (estimate[:, -1] == 0).all()  # DDIM ends without noise, so nothing can be learnt there
        assert estimate[:, :-1].abs().min() > 0


class BrokenRule(DanceGRPORule):
    """DanceGRPO with its sign flipped, or with credit handed to a sibling."""

    how: Literal["flipped", "shuffled"]

    def assign(self, evidence):
        credit = super().assign(evidence)
        changed = -credit.per_step if self.how == "flipped" else credit.per_step.roll(1, dims=1)
        return replace(credit, per_step=changed)


@pytest.mark.parametrize(("kernel", "problem"), COLUMNS)
def test_a_rule_with_its_sign_flipped_is_caught(kernel, problem):
    right = quality(kernel, problem, PLAIN)
    wrong = quality(kernel, problem, DanceGRPO(rule=BrokenRule(how="flipped")))
    assert wrong.bias > 1.99
    assert wrong.cosine == pytest.approx(-right.cosine)


@pytest.mark.parametrize(("kernel", "problem"), COLUMNS)
def test_credit_for_a_sibling_is_caught(kernel, problem):
    """The siblings' mean is subtracted, so a sibling's credit points a little the wrong way: by 1 in 11."""
    wrong = quality(kernel, problem, DanceGRPO(rule=BrokenRule(how="shuffled")))
    assert abs(wrong.cosine) < 0.12
    assert wrong.snr < 0.15


class ShiftedRule(TCDRule):
    """TCD with each step's weight handed to the step before: the paper's index."""

    def assign(self, evidence):
        credit = super().assign(evidence)
        return replace(credit, per_step=credit.per_step.roll(-1, dims=-1))


@pytest.mark.parametrize(("weights", "least"), [("mean_one", 0.02), ("affine", 0.004)])
def test_tcd_at_the_papers_index_is_told_apart(weights, least):
    right, wrong = (quality("dance_sde", "linear", TCD(rule=rule(weights=weights))) for rule in (TCDRule, ShiftedRule))
    assert abs(wrong.bias - right.bias) > least


class DenseRule(DanceGRPORule):
    """What every step changed in the value of its latent, handed to the step `late` places on."""

    late: int

    def assign(self, evidence):
        credit = super().assign(evidence)
        draws, sampler = drawn("dance_sde", "linear"), SAMPLERS["dance_sde"]
        objective, path = PROBLEMS["linear"][0], draws.path[..., 0]
        values = torch.stack([oracle._value(sampler, objective, path[..., n], n) for n in range(17)], -1)
        gains = values.diff(dim=-1)
        return replace(credit, per_step=(gains - gains.mean(1, keepdim=True)).roll(self.late, dims=-1))


def test_credit_of_the_next_step_is_caught():
    right, early, late = (quality("dance_sde", "linear", DanceGRPO(rule=DenseRule(late=late))) for late in (0, -1, 1))
    assert right.cosine == pytest.approx(DENSE[False][2], abs=WIDER * 0.006)
    assert abs(early.cosine) < 0.05
    assert abs(late.cosine) < 0.05


# Equal cost


def test_moves_without_credit_cost_nothing():
    for plan, moves in (
        ({"timestep_fraction": 0.5}, 12 * 8),
        ({"window": {"size": 3}}, 12 * 3),
        ({"best_of": 4}, 4 * 16),
    ):
        method = composing.method("dance_grpo", **plan)
        draws = oracle.draw(
            SAMPLERS["dance_sde"], PROBLEMS["linear"], method, groups=30, group_size=12, seed=0, train_last=True
        )
        _, got = oracle.estimates(draws, method, [0])
        assert got == moves


def synthetic(groups=12_000):
    """Estimates whose mean and spread are known: 10 numbers, one of which nobody trains."""
    true = torch.tensor([0.0, *range(1, 10)], dtype=torch.float64)[:, None] / 10
    mean = true + 0.2 * torch.tensor([9.0, *[(-1) ** n for n in range(9)]], dtype=torch.float64)[:, None]
    noise = torch.randn(groups, 10, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return mean + 2.0 * noise, true, mean


@pytest.mark.parametrize("averaged", [1, 4, 8])
def test_bias_and_signal_to_noise_of_a_known_estimator(averaged):
    estimate, true, mean = synthetic()
    got = oracle.judge(estimate, true, cost=3.0, budget=3.0 * averaged, seed=0)
    mean, true = mean[1:], true[1:]  # what nobody trains does not count
    assert got.bias == pytest.approx(1 - float((mean * true).sum() / mean.norm() / true.norm()), abs=0.006)
    assert got.snr == pytest.approx(float(mean.norm()) / (2 * 3) * math.sqrt(averaged), rel=0.04)
    assert got.cost == 3.0


def test_half_the_cost_is_twice_the_groups():
    estimate, true, _ = synthetic()
    whole, half = (oracle.judge(estimate, true, cost=cost, budget=16.0, seed=0) for cost in (4.0, 2.0))
    assert half.snr == pytest.approx(whole.snr * math.sqrt(2), rel=0.05)
    assert half.cosine > whole.cosine + 0.02
    assert half.bias == whole.bias


def test_fractions_of_a_group_are_bought_by_chance():
    estimate, true, _ = synthetic()
    two, between, three = (oracle.judge(estimate, true, cost=2.0, budget=2.0 * n, seed=0).cosine for n in (2, 2.5, 3))
    assert two < between < three
    assert between == pytest.approx((two + three) / 2, abs=0.01)


def test_too_few_groups_are_refused():
    estimate, true, _ = synthetic(groups=5)
    with pytest.raises(CreditError, match=r"5 groups make 1 estimates of 4\.0 groups each, wanted at least 2"):
        oracle.judge(estimate, true, cost=1.0, budget=4.0, seed=0)
