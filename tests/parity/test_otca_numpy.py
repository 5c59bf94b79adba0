"""OTCA against an independent statement of the same equations, scalar by scalar in NumPy (arXiv 2604.19234).

The twin uses loops where the package uses masks, and hat functions where the package searches for neighbours; the
random groups cover every size that a recipe may ask for.
"""

import math

import numpy as np
import pytest
import torch

from stepcredit.methods import dance_grpo, moca, otca, tcd
from stepcredit.records import over_prompts

NO_SPREAD = 1e-6


def twin_advantages(rewards, limit=5.0):
    """Group-relative z-scores, one objective at a time; NaN where there is nothing to say."""
    out = np.full(rewards.shape, np.nan)
    for k, column in enumerate(rewards.T):
        rows = [i for i, value in enumerate(column) if math.isfinite(value)]
        known = column[rows]
        if len(rows) < 2 or known.std(ddof=1) <= NO_SPREAD:
            continue
        for i in rows:
            z = (column[i] - sum(known) / len(known)) / (known.std(ddof=1) + 1e-8)
            out[i, k] = max(-limit, min(limit, z))
    return out


def twin_share(similarities, steps):
    """One sample's share of the similarity gained over `steps`, and its expected gain under that share."""
    gains = {n: similarities[n + 1] - similarities[n] for n in steps}
    total = sum(max(gain, 0.0) + 1e-6 for gain in gains.values())
    share = {n: (max(gain, 0.0) + 1e-6) / total for n, gain in gains.items()}
    return share, sum(share[n] * gains[n] for n in steps)


def twin_coefficients(opinions, target):
    """How much each of several different opinions counts: hat functions on the sorted opinions."""
    order = np.argsort(opinions)
    hats = np.eye(len(opinions))
    weights = np.empty(len(opinions))
    for place, k in enumerate(order):
        weights[k] = np.interp(target, opinions[order], hats[place])
    return weights


def twin(rewards, similarity, *, trained, floor, centred):
    """per_step, weights, effective advantage, strength and coefficients of one group."""
    samples = len(rewards)
    transitions = similarity.shape[1] - 1
    steps = [n for n in range(transitions) if trained[n]]
    advantages = twin_advantages(rewards)
    shared = [twin_share(row, steps) for row in similarity]
    expected = np.array([gain for _, gain in shared])
    unit = expected.std(ddof=1) + 1e-6
    if centred:
        expected = expected - expected.mean()

    weights = np.zeros((samples, transitions))
    coefficients = np.zeros_like(rewards)
    strength = np.zeros(samples)
    effective = np.zeros(samples)
    for i in range(samples):
        for n in steps:
            weights[i, n] = floor + (1 - floor) * len(steps) * shared[i][0][n]
        heard = [k for k in range(rewards.shape[1]) if not math.isnan(advantages[i, k])]
        opinions = advantages[i, heard]
        total = sum(opinions)
        strength[i] = max(0.0, total) / (abs(total) + 1e-6) * math.tanh(abs(expected[i]) / unit)
        if heard:
            effective[i] = sorted([min(opinions), strength[i] / 2, max(opinions)])[1]
            coefficients[i, heard] = twin_coefficients(opinions, effective[i])
    return {
        "per_step": weights * effective[:, None],
        "weights": weights,
        "mixed": effective,
        "advantages": advantages,
        "coefficients": coefficients,
        "strength": strength,
    }


def random_group(draw, samples=None, objectives=None, transitions=None):
    g = samples or draw.integers(2, 17)
    k = objectives or draw.integers(1, 6)
    n = transitions or draw.integers(2, 21)
    rewards = draw.normal(draw.normal(0, 5, k), draw.lognormal(0, 1, k), (g, k))
    similarity = np.cumsum(draw.normal(0.05, 0.05, (g, n + 1)), axis=1)
    return rewards, similarity


def compare(rewards, similarity, trained, **options):
    credit = otca.rule(
        torch.from_numpy(rewards), torch.from_numpy(similarity), trained=torch.from_numpy(trained), **options
    )
    expected = twin(rewards, similarity, trained=trained, **options)
    coefficients = expected.pop("coefficients")
    actual_coefficients = credit.coefficients.numpy()
    for name, value in expected.items():
        actual = getattr(credit, name).numpy()
        np.testing.assert_allclose(actual, value, rtol=0, atol=1e-8, equal_nan=True, err_msg=name)
    known = np.nan_to_num(expected["advantages"])
    np.testing.assert_allclose((actual_coefficients * known).sum(1), expected["mixed"], rtol=0, atol=1e-8)
    # Of equals, anyone may count; NaN sorts last.
    apart: np.ndarray = np.diff(np.sort(expected["advantages"], axis=1), axis=1)
    unique = ~(apart < 1e-6).any(1)
    np.testing.assert_allclose(actual_coefficients[unique], coefficients[unique], rtol=0, atol=1e-8)


def random_mask(draw, transitions):
    trained = draw.random(transitions) < 0.7
    trained[draw.integers(transitions)] = True
    return trained


def test_two_thousand_random_groups_agree():
    draw = np.random.default_rng(0)
    for index in range(2000):
        rewards, similarity = random_group(draw)
        trained = (
            np.ones(similarity.shape[1] - 1, dtype=bool) if index % 2 else random_mask(draw, similarity.shape[1] - 1)
        )
        compare(rewards, similarity, trained, floor=draw.uniform(0, 1), centred=index % 3 == 0)


def test_random_groups_with_missing_scores_and_silent_objectives_agree():
    draw = np.random.default_rng(1)
    for index in range(300):
        rewards, similarity = random_group(draw)
        rewards[draw.random(rewards.shape) < 0.25] = np.nan
        if index % 3 == 0:
            rewards[:, 0] = 0.5
        compare(rewards, similarity, random_mask(draw, similarity.shape[1] - 1), floor=0.5, centred=bool(index % 2))


@pytest.mark.parametrize("centred", [False, True])
def test_prompts_of_a_rollout_are_mapped_as_in_a_loop(centred):
    draw = np.random.default_rng(2)
    groups = [random_group(draw, samples=6, objectives=3, transitions=5) for _ in range(40)]
    groups[0][0][2, 1] = np.nan
    groups[1][0][:, 2] = 1.0
    rewards, similarity = (torch.from_numpy(np.stack(part)) for part in zip(*groups, strict=True))
    trained = torch.rand(40, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    trained[..., 1] = True  # every sample has its own steps
    shared = {"trained": trained}
    cases = [
        (otca.rule, (rewards, similarity), {"floor": 0.3, "centred": centred, **shared}),
        (otca.rule, (rewards, similarity), {"weights": "waterfill", **shared}),
        (otca.rule, (rewards, similarity), {"weights": "two_level", **shared}),
        (tcd.rule, (rewards, similarity), {"weights": "minmax", **shared}),
        (moca.rule, (rewards, similarity), {"centred": centred, **shared}),
        (dance_grpo.rule, (rewards, torch.rand(40, 3, dtype=torch.float64)), shared),
    ]
    for rule, batched, options in cases:
        mapped = over_prompts(rule)(*batched, **options).tensors()
        looped = []
        for prompt in range(40):
            group = [part[prompt] for part in batched]
            looped.append(rule(*group, **{**options, "trained": trained[prompt]}).tensors())
        for name, tensor in mapped.items():
            expected = torch.stack([one[name] for one in looped])
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-12, equal_nan=True)
