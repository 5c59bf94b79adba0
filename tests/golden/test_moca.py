"""Locks MOCA's closed form and its certificate, case by case (arXiv 2604.19234, Algorithm 1).

Every row was solved by hand: A_eff = clip(lambda / 2, min A, max A), and the coefficients are those of Algorithm 1,
with the first index where it leaves a choice.
"""

import pytest
import torch

from stepcredit.credit import mix

CASES = {
    "disagreement and no strength: nothing": ([0.5, -0.5], 0.0, [0.5, 0.5], 0.0),
    "all above the target: the least one": ([1.0, 2.0, 3.0], 1.0, [1.0, 0.0, 0.0], 1.0),
    "all below the target: the greatest one": ([-1.0, -2.0, -3.0], 1.0, [1.0, 0.0, 0.0], -1.0),
    "the target lies between two": ([-1.0, 2.0], 1.0, [0.5, 0.5], 0.5),
    "all equal to zero: the first": ([0.0, 0.0], 0.7, [1.0, 0.0], 0.0),
    "two on the target: the first": ([0.5, 0.5, -1.0], 1.0, [1.0, 0.0, 0.0], 0.5),
    "all equal: the first": ([0.2, 0.2, 0.2], 1.0, [1.0, 0.0, 0.0], 0.2),
    "four: only the two neighbours of the target": ([-1.0, 0.1, 0.4, 2.0], 1.0, [0.0, 0.0, 0.9375, 0.0625], 0.5),
    "within the tolerance of the target": ([0.5 - 1e-9, -1.0], 1.0, [1.0, 0.0], 0.499999999),
}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("advantages", "strength", "coefficients", "effective"), CASES.values(), ids=CASES)
def test_case_of_algorithm_1(advantages, strength, coefficients, effective):
    a = float64([advantages])
    lam = float64([strength])
    torch.testing.assert_close(mix.moca(a, lam), float64([effective]), rtol=0, atol=1e-15)
    torch.testing.assert_close(mix.moca_coefficients(a, lam), float64([coefficients]), rtol=0, atol=1e-12)


def test_rows_of_one_batch_are_independent():
    pairs = [case for case in CASES.values() if len(case[0]) == 3]
    a = float64([case[0] for case in pairs])
    lam = float64([case[1] for case in pairs])
    torch.testing.assert_close(mix.moca(a, lam), float64([case[3] for case in pairs]), rtol=0, atol=1e-15)
    torch.testing.assert_close(mix.moca_coefficients(a, lam), float64([case[2] for case in pairs]), rtol=0, atol=1e-12)


def test_objective_without_opinion_is_left_out_and_gets_no_coefficient():
    a = float64([[float("nan"), -1.0, 2.0], [1.0, float("nan"), 3.0]])
    lam = float64([1.0, 1.0])
    torch.testing.assert_close(mix.moca(a, lam), float64([0.5, 1.0]), rtol=0, atol=1e-15)
    torch.testing.assert_close(mix.moca_coefficients(a, lam), float64([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]))


def test_sample_without_any_opinion_gets_zero():
    a = torch.full((1, 3), torch.nan, dtype=torch.float64)
    lam = float64([1.0])
    assert mix.moca(a, lam).item() == 0
    assert mix.moca_coefficients(a, lam).abs().sum().item() == 0


def test_two_objectives_of_equal_size_below_the_target_share_as_the_last_of_them():
    """A stable ascending order puts the second -1 next to the target."""
    c = mix.moca_coefficients(float64([[-1.0, -1.0, 2.0]]), float64([1.0]))
    torch.testing.assert_close(c, float64([[0.0, 0.5, 0.5]]))
