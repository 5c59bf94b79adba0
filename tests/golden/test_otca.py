"""Locks OTCA end to end on one group of 4 samples, 3 objectives and 4 transitions (arXiv 2604.19234).

The numbers come from a derivation in float64 that shares nothing with the package: group statistics with Bessel's
correction, shares of similarity gain with eps 1e-6, affine weights with floor 0.5, strength and closed-form mix.
They are printed to 8 digits, hence the tolerance.
"""

import math

import pytest
import torch

from stepcredit.credit import advantage, mix, temporal
from stepcredit.methods import moca, otca, tcd

PRINTED = {"rtol": 0, "atol": 1e-8}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


REWARDS = float64([[0.30, 0.32, 0.28, 0.35], [5.0, 6.0, 5.5, 5.2], [0.20, 0.21, 0.25, 0.18]]).T.contiguous()
SIMILARITY = float64(
    [
        [0.10, 0.10, 0.10, 0.10],
        [0.20, 0.15, 0.30, 0.05],
        [0.45, 0.40, 0.50, 0.40],
        [0.80, 0.85, 0.75, 0.90],
        [0.98, 0.97, 0.99, 0.96],
    ]
).T.contiguous()

ADVANTAGES = float64(
    [
        [-0.41860904, 0.25116542, -1.0883835, 1.25582712],
        [-0.9771621, 1.32204284, 0.17244037, -0.51732111],
        [-0.33968299, 0.0, 1.35873198, -1.01904898],
    ]
).T
SHARES = float64(
    [
        [0.11363698, 0.28409075, 0.3977266, 0.20454566],
        [0.05747215, 0.28735615, 0.51724015, 0.13793155],
        [0.22471921, 0.22471921, 0.28089874, 0.26966283],
        [0.0000011, 0.38461479, 0.54944923, 0.06593488],
    ]
)
WEIGHTS = float64(
    [
        [0.72727397, 1.06818151, 1.2954532, 0.90909132],
        [0.6149443, 1.0747123, 1.5344803, 0.7758631],
        [0.94943843, 0.94943843, 1.06179748, 1.03932567],
        [0.5000022, 1.26922959, 1.59889847, 0.63186975],
    ]
)
GAINED = float64([0.25840892, 0.3240225, 0.22483145, 0.41329583])
STRENGTH = float64([0.0, 0.99918334, 0.99113741, 0.0])
EFFECTIVE = float64([-0.33968299, 0.49959167, 0.49556871, 0.0])


def test_advantages_are_standardised_with_bessels_correction():
    torch.testing.assert_close(advantage.standardise(REWARDS), ADVANTAGES, **PRINTED)


def test_shares_of_the_similarity_gained():
    torch.testing.assert_close(temporal.similarity_share(SIMILARITY), SHARES, **PRINTED)


def test_affine_weights():
    share = temporal.similarity_share(SIMILARITY)
    torch.testing.assert_close(temporal.with_floor(share, floor=0.5), WEIGHTS, **PRINTED)


def test_strength_comes_from_the_expected_gain_and_the_sign_of_the_summed_advantage():
    share = temporal.similarity_share(SIMILARITY)
    torch.testing.assert_close((share * SIMILARITY.diff(dim=-1)).sum(-1), GAINED, **PRINTED)
    strength = mix.exploration(advantage.standardise(REWARDS), share, SIMILARITY)
    torch.testing.assert_close(strength, STRENGTH, **PRINTED)


def test_credit_of_the_group_and_all_its_parts():
    credit = otca.rule(REWARDS, SIMILARITY)
    torch.testing.assert_close(credit.advantages, ADVANTAGES, **PRINTED)
    torch.testing.assert_close(credit.weights, WEIGHTS, **PRINTED)
    torch.testing.assert_close(credit.strength, STRENGTH, **PRINTED)
    torch.testing.assert_close(credit.mixed, EFFECTIVE, **PRINTED)
    torch.testing.assert_close(credit.per_step, WEIGHTS * EFFECTIVE[:, None], rtol=0, atol=2e-8)


def test_sample_with_one_excellent_score_and_a_negative_sum_ends_without_signal():
    """What the published equations imply: +1.26 under one objective, and yet exactly nothing."""
    credit = otca.rule(REWARDS, SIMILARITY)
    assert credit.advantages[3, 0] > 1.25
    assert credit.mixed[3] == 0
    assert (credit.per_step[3] == 0).all()


def test_coefficients_attain_the_effective_advantage():
    credit = otca.rule(REWARDS, SIMILARITY)
    torch.testing.assert_close((credit.coefficients * credit.advantages).sum(-1), EFFECTIVE, **PRINTED)
    torch.testing.assert_close(credit.coefficients[0], float64([0.0, 0.0, 1.0]))


def test_centred_strength_is_informative():
    """The derivation has e = |q - mean q| / std with the population's std; Bessel's is sqrt(4/3) times as large."""
    e = [math.sqrt(3 / 4) * value for value in (0.64978979, 0.26256511, 1.11668344, 1.50390812)]
    credit = otca.rule(REWARDS, SIMILARITY, centred=True)
    strength = float64([0.0, math.tanh(e[1]), math.tanh(e[2]), 0.0])
    torch.testing.assert_close(credit.strength, strength, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        credit.mixed, float64([-0.33968299, strength[1] / 2, strength[2] / 2, 0.0]), rtol=0, atol=1e-5
    )


def test_the_ablations_are_the_two_factors():
    when = tcd.rule(REWARDS, SIMILARITY)
    torch.testing.assert_close(when.per_step, WEIGHTS * ADVANTAGES.mean(-1, keepdim=True), rtol=0, atol=3e-8)
    how_good = moca.rule(REWARDS, SIMILARITY)
    torch.testing.assert_close(how_good.per_step, EFFECTIVE[:, None].expand(4, 4), **PRINTED)


@pytest.mark.parametrize("last", [0.0, 0.5, 0.99])
def test_untrained_last_transition_gets_nothing_and_the_rest_is_a_shorter_trajectory(last):
    similarity = SIMILARITY.clone()
    similarity[:, -1] = last
    credit = otca.rule(REWARDS, similarity, trained=torch.tensor([True, True, True, False]))
    shorter = otca.rule(REWARDS, SIMILARITY[:, :-1])
    assert (credit.per_step[:, -1] == 0).all()
    torch.testing.assert_close(credit.per_step[:, :-1], shorter.per_step, rtol=0, atol=1e-12)
