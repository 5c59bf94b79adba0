"""Locks the clipped surrogate, its hinge form, the other heads, both divergences and the diagnostics.

The surrogate is PPO's (arXiv 1707.06347, eq. 7); its hinge form, the native step length between the two KLs
(arXiv 2505.05470) and every number are derivations.
"""

import math
from functools import partial

import pytest
import torch

import composing
from moves import Moves, outcome
from stepcredit.flow import Gaussian
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
    log_ratio = float64([0.0, 0.0, 0.0], grad=True)
    credit = float64([2.0, -0.5, 0.0])
    surrogate.clipped(log_ratio, credit, clip=1e-4).sum().backward()
    torch.testing.assert_close(log_ratio.grad, -credit, rtol=0, atol=0)


def test_default_clip_is_the_one_that_belongs_to_mean_log_densities():
    moved = surrogate.clipped(float64([1e-3]), float64([1.0]))
    torch.testing.assert_close(moved, float64([-(1 + 1e-4)]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("clip", [CLIP, 1e-4])
def test_silent_elements_are_exactly_those_without_gradient(clip):
    base, credit = grid()
    log_ratio = (base * clip / CLIP).requires_grad_()
    surrogate.clipped(log_ratio, credit, clip=clip).sum().backward()
    ratio = log_ratio.detach().exp()
    silent = diagnostics.silent_elements(
        partial(surrogate.clipped, credit=credit, clip=clip), log_ratio.detach(), credit
    )
    assert silent.any()
    assert not silent.all()
    assert torch.equal(silent, log_ratio.grad == 0)
    assert torch.equal(silent, ((credit > 0) & (ratio > 1 + clip)) | ((credit < 0) & (ratio < 1 - clip)))


def test_silent_elements_agree_with_autograd_in_float32():
    draw = torch.Generator().manual_seed(0)
    log_ratio = (torch.randn(4096, generator=draw) * 1e-4).requires_grad_()
    credit = torch.randn(4096, generator=draw)
    surrogate.clipped(log_ratio, credit, clip=1e-4).sum().backward()
    silent = diagnostics.silent_elements(
        partial(surrogate.clipped, credit=credit, clip=1e-4), log_ratio.detach(), credit
    )
    assert torch.equal(silent, log_ratio.grad == 0)


def test_silent_elements_leave_out_what_has_no_credit_and_work_without_grad_mode():
    log_ratio = float64([1.0, 1.0, -1.0, -1.0, 0.0])
    credit = float64([1.0, 0.0, -2.0, 0.5, 1.0])
    with torch.no_grad():
        silent = diagnostics.silent_elements(partial(surrogate.clipped, credit=credit), log_ratio, credit)
    assert silent.tolist() == [True, False, True, False, False]


# The other heads


@pytest.mark.parametrize(
    ("log_ratio", "credit", "loss", "slope"),
    [
        (0.0, 2.0, 0.4, -2.0),  # on policy: the margin, and the gradient of -c log rho
        (0.1, 2.0, 0.2, -2.0),
        (0.3, 2.0, 0.0, 0.0),  # past the margin in the wanted direction
        (-0.3, 2.0, 1.0, -2.0),  # a good move was undone
        (0.3, -2.0, 1.0, 2.0),
        (-0.3, -2.0, 0.0, 0.0),
        (0.3, 0.0, 0.0, 0.0),
    ],
)
def test_the_hinge_is_in_the_log_ratio(log_ratio, credit, loss, slope):
    moved = float64([log_ratio], grad=True)
    value = surrogate.hinge(moved, float64([credit]), clip=CLIP)
    value.sum().backward()
    torch.testing.assert_close(value, float64([loss]))
    torch.testing.assert_close(moved.grad, float64([slope]))


@pytest.mark.parametrize(
    ("ratio", "credit", "divergence", "loss"),
    [
        (1.5, 2.0, 0.09, -3.0),  # inside the ball nothing is cut, however far the ratio
        (1.5, 2.0, 0.11, 0.0),  # outside and going on outwards
        (1.5, 2.0, 0.1, 0.0),  # on its surface
        (0.5, 2.0, 0.11, -1.0),  # outside, on the way back
        (1.5, -2.0, 0.11, 3.0),
        (0.5, -2.0, 0.11, 0.0),
        (1.0, 2.0, 0.11, -2.0),  # neither way
    ],
)
def test_the_trust_region_cuts_what_left_the_ball_and_goes_on(ratio, credit, divergence, loss):
    moved = float64([math.log(ratio)], grad=True)
    value = surrogate.trust_region(moved, float64([credit]), float64([divergence]), limit=0.1)
    value.sum().backward()
    torch.testing.assert_close(value, float64([loss]))
    torch.testing.assert_close(moved.grad, float64([loss]))  # d(-c rho) / d log rho = -c rho


def test_the_unclipped_head_has_minus_the_credit_as_gradient_everywhere():
    log_ratio, credit = grid()
    log_ratio = log_ratio.requires_grad_()
    loss = surrogate.unclipped(log_ratio, credit)
    loss.sum().backward()
    torch.testing.assert_close(loss, -credit * log_ratio)
    assert torch.equal(log_ratio.grad, -credit)


# What methods make of it


def moves(log_ratio, **factors):
    """Moves of one latent dimension with this log-ratio d e - d^2 / 2: a drift of 1 and the noise that it takes."""
    one = torch.ones_like(log_ratio)
    return Moves(one[:, None], (log_ratio + 0.5)[:, None], **{"ratio_factor": one, "loss_factor": one, **factors})


def test_exact_divergence_is_the_mean_over_dimensions_whatever_the_step_length():
    """Means 1 and 3 apart at std 2: (1 + 9) / 2 / (2 * 4) = 0.625."""
    std = float64([[2.0]])
    law = Gaussian(float64([[1.0, 3.0]]), std)
    reference = Gaussian(float64([[0.0, 0.0]]), std)
    for length in (0.01, 1.0):
        drift = (law.mean - reference.mean) / std
        value = composing.method("dance_grpo", kl_form="exact").objective.divergence(drift, float64([length]))
        torch.testing.assert_close(value, float64([0.625]))
        torch.testing.assert_close(value, law.kl(reference))


def test_flow_grpo_divergence_is_the_exact_one_times_the_step_length():
    """Flow-GRPO divides by 2 g^2 where the transition's variance is g^2 D."""
    g = 0.7
    length = float64([0.04, 0.1])
    std = (g * length.sqrt())[:, None]
    drift = (float64([[1.0], [3.0]]) - float64([[0.5], [1.0]])) / std
    published = float64([0.25, 4.0]) / (2 * g**2)
    torch.testing.assert_close(composing.method("flow_grpo").objective.divergence(drift, length), published)
    torch.testing.assert_close(composing.method("dance_grpo").objective.divergence(drift, length) * length, published)


@pytest.mark.parametrize("name", ["dance_grpo", "flow_grpo"])
def test_methods_train_on_the_surrogate_with_their_own_clip(name):
    log_ratio, credit = grid()
    expected = surrogate.clipped(log_ratio, credit, clip=CLIP)
    each = outcome(composing.method(name, clip=CLIP), moves(log_ratio), credit[:, None])
    torch.testing.assert_close(each.loss, expected)
    silent = diagnostics.silent_elements(partial(surrogate.clipped, credit=credit, clip=CLIP), log_ratio, credit)
    assert torch.equal(each.clipped, silent)


@pytest.mark.parametrize("head", ["clipped", "hinge", "trust_region", "unclipped"])
def test_a_factor_on_the_loss_multiplies_it_and_nothing_else(head):
    clip = {} if head == "unclipped" else {"clip": CLIP}
    method = composing.method("dance_grpo", head=head, **clip)
    log_ratio, credit = grid()
    factor = torch.linspace(0.1, 3, len(credit), dtype=torch.float64)
    plain = outcome(method, moves(log_ratio), credit[:, None])
    weighted = outcome(method, moves(log_ratio, loss_factor=factor), credit[:, None])
    torch.testing.assert_close(weighted.loss, factor * plain.loss)
    assert torch.equal(weighted.clipped, plain.clipped)


def test_terms_are_clipped_one_by_one_and_a_move_is_cut_when_all_of_its_terms_are():
    log_ratio = float64([math.log(1.5)]).expand(5)
    credit = float64([[2.0, -1.0], [2.0, 1.0], [2.0, 0.0], [0.0, 0.0], [-2.0, -1.0]])
    each = outcome(composing.method("dance_grpo", clip=CLIP), moves(log_ratio), credit)
    torch.testing.assert_close(each.loss, float64([-2.4 + 1.5, -2.4 - 1.2, -2.4, 0.0, 3.0 + 1.5]))
    assert each.clipped.tolist() == [False, True, True, False, False]


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
