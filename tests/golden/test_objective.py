"""Locks the clipped surrogate, its hinge form, both divergences and the diagnostics.

The surrogate is PPO's (arXiv 1707.06347, eq. 7); its hinge form, the native step length between the two KLs
(arXiv 2505.05470) and every number are derivations.
"""

import math

import pytest
import torch

from stepcredit.flow import Gaussian
from stepcredit.methods.dance_grpo import DanceGRPO
from stepcredit.methods.flow_grpo import FlowGRPO
from stepcredit.objective import diagnostics, surrogate

CLIP = 0.2


def float64(values, *, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def grid():
    """Every sign of credit against ratios well inside, just inside, just outside and well outside the clip."""
    ratio = float64([0.5, 0.8 - 1e-6, 0.8 + 1e-6, 0.95, 1.0, 1.05, 1.2 - 1e-6, 1.2 + 1e-6, 2.0])
    credit = float64([-3.0, -1.0, -0.01, 0.01, 1.0, 3.0])
    pairs = torch.cartesian_prod(ratio, credit)
    return pairs[:, 0].log(), pairs[:, 1]


@pytest.mark.parametrize(
    ("ratio", "credit", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # a good move has been made: worth no more than 1.2 of it
        (0.5, 2.0, -1.0),  # a good move was undone: pays in full
        (1.5, -2.0, 3.0),  # a bad move was strengthened: pays in full
        (0.5, -2.0, 1.6),  # a bad move was weakened: worth no more than 0.8 of it
        (1.5, 0.0, 0.0),
    ],
)
def test_loss_clips_on_the_side_that_was_wanted_and_only_there(ratio, credit, loss):
    value = surrogate.clipped(float64([math.log(ratio)]), float64([credit]), clip=CLIP)
    torch.testing.assert_close(value, float64([loss]))


def test_the_surrogate_is_a_hinge_in_the_ratio():
    """max(-c rho, -c clip(rho)) = max(0, clip |c| - c (rho - 1)) - (c + clip |c|), exactly, for both signs."""
    log_ratio, credit = grid()
    hinge = (CLIP * credit.abs() - credit * (log_ratio.exp() - 1)).clamp(min=0) - (credit + CLIP * credit.abs())
    torch.testing.assert_close(surrogate.clipped(log_ratio, credit, clip=CLIP), hinge, rtol=0, atol=1e-14)


def test_gradient_on_policy_is_minus_the_credit():
    log_ratio, credit = float64([0.0, 0.0, 0.0], grad=True), float64([2.0, -0.5, 0.0])
    surrogate.clipped(log_ratio, credit, clip=1e-4).sum().backward()
    torch.testing.assert_close(log_ratio.grad, -credit, rtol=0, atol=0)


def test_default_clip_is_the_one_that_belongs_to_mean_log_densities():
    moved = surrogate.clipped(float64([1e-3]), float64([1.0]))
    torch.testing.assert_close(moved, float64([-(1 + 1e-4)]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("clip", [CLIP, 1e-4])
def test_clipped_elements_are_exactly_those_without_gradient(clip):
    base, credit = grid()
    log_ratio = (base * clip / CLIP).requires_grad_()
    surrogate.clipped(log_ratio, credit, clip=clip).sum().backward()
    silent = diagnostics.clipped_elements(log_ratio.detach(), credit, clip=clip)
    assert silent.any()
    assert not silent.all()
    assert torch.equal(silent, log_ratio.grad == 0)


def test_clipped_elements_agree_with_autograd_in_float32():
    draw = torch.Generator().manual_seed(0)
    log_ratio = (torch.randn(4096, generator=draw) * 1e-4).requires_grad_()
    credit = torch.randn(4096, generator=draw)
    surrogate.clipped(log_ratio, credit, clip=1e-4).sum().backward()
    silent = diagnostics.clipped_elements(log_ratio.detach(), credit, clip=1e-4)
    assert torch.equal(silent, log_ratio.grad == 0)


def test_exact_divergence_is_the_mean_over_dimensions_whatever_the_step_length():
    """Means 1 and 3 apart at std 2: (1 + 9) / 2 / (2 * 4) = 0.625."""
    std = float64([[2.0]])
    law, reference = Gaussian(float64([[1.0, 3.0]]), std), Gaussian(float64([[0.0, 0.0]]), std)
    for length in (0.01, 1.0):
        value = DanceGRPO(kl_form="exact").divergence(law, reference, float64([length]))
        torch.testing.assert_close(value, float64([0.625]))


def test_flow_grpo_divergence_is_the_exact_one_times_the_step_length():
    """Flow-GRPO divides by 2 g^2 where the transition's variance is g^2 D."""
    g, length = 0.7, float64([0.04, 0.1])
    std = (g * length.sqrt())[:, None]
    law, reference = Gaussian(float64([[1.0], [3.0]]), std), Gaussian(float64([[0.5], [1.0]]), std)
    published = float64([0.25, 4.0]) / (2 * g**2)
    torch.testing.assert_close(FlowGRPO().divergence(law, reference, length), published)
    torch.testing.assert_close(DanceGRPO().divergence(law, reference, length) * length, published)


@pytest.mark.parametrize("method", [DanceGRPO(clip=CLIP), FlowGRPO(clip=CLIP)], ids=lambda method: method.type)
def test_methods_train_on_the_surrogate_with_their_own_clip(method):
    log_ratio, credit = grid()
    expected = surrogate.clipped(log_ratio, credit, clip=CLIP)
    torch.testing.assert_close(method.loss(log_ratio, credit), expected, rtol=0, atol=0)


def test_effective_steps_counts_the_steps_that_matter():
    weights = float64([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(diagnostics.effective_steps(weights), float64([4.0, 1.0, 2.0, 1.6]))


def test_effective_steps_takes_a_whole_rollout_and_survives_no_weight():
    weights = torch.ones(2, 3, 5)
    weights[1, 2] = 0
    counted = diagnostics.effective_steps(weights)
    assert counted.shape == (2, 3)
    assert counted[0, 0] == 5
    assert counted[1, 2] == 0
