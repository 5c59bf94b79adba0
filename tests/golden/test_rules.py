"""Locks every credit rule to numbers that were derived by hand, or printed by those who published it.

Each derivation stands in the test's docstring or beside its numbers. Numbers that are printed to four digits are
compared to four digits; what is computed here from the formula is compared to 1e-12 in float64.
"""

import math
import statistics

import pytest
import torch

import composing
from moves import Moves, outcome
from stepcredit.credit import mix, temporal
from stepcredit.flow import Transitions, schedules
from stepcredit.flow.convert import noise_to_velocity
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.transitions import read_transitions
from stepcredit.methods import coca, dance_grpo, dpok, otca, tcd
from stepcredit.objective.profile import factors, placed
from stepcredit.records import Evidence

FOUR_DIGITS = {"rtol": 0, "atol": 6e-5}
EXACT = {"rtol": 0, "atol": 1e-12}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def numbers(text):
    return float64([float(word) for word in text.split()])


def evidence(rewards, *, weights=None, similarity=None, clean_similarity=None, trained=None, steps=2):
    """Evidence of a rollout from rewards `[P, G, K]`; what is not given is featureless."""
    rewards = float64(rewards) if isinstance(rewards, list) else rewards
    samples, objectives = rewards.shape[:2], rewards.shape[2]
    if clean_similarity is not None:
        steps = clean_similarity.shape[-1]
    rising = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return Evidence(
        rewards=rewards,
        weights=float64([1.0] * objectives if weights is None else weights),
        trained=torch.ones(*samples, steps, dtype=torch.bool) if trained is None else trained,
        transitions=read_transitions("dance_sde", schedules.linear(steps), noise_level=0.3),
        seen={
            "similarity": rising.expand(*samples, -1) if similarity is None else similarity,
            "clean_similarity": rising[:-1].expand(*samples, -1) if clean_similarity is None else clean_similarity,
        },
    )


def all_but_last(constants: Transitions, samples=(2, 3)):
    trained = torch.ones(*samples, len(constants.std), dtype=torch.bool)
    trained[..., -1] = False
    return trained


# --- which steps count: constants of the samplers

DANCE = read_transitions("dance_sde", schedules.shifted(16, shift=3), noise_level=0.3)
SD3_LEVELS = float64([1, 0.960129, 0.913349, 0.857692, 0.790368, 0.707278, 0.602151, 0.464876, 0.278049, 0.008929, 0])
SD3 = read_transitions("flow_sde", SD3_LEVELS, noise_level=0.7)  # diffusers' ten steps of SD3, shift 3 applied twice


def test_native_weights_of_dance_grpo_rise_along_the_path():
    """w_n = sqrt(D)/eta (1 + (1 - s) eta^2 / (2 s)), N = 16, shift 3, eta .3."""
    printed = ".4915 .5138 .5384 .5654 .5953 .6286 .6660 .7083 .7565 .8122 .8773 .9550 1.0503 1.1725 1.3450 1.6670"
    torch.testing.assert_close(DANCE.native, numbers(printed), **FOUR_DIGITS)
    assert DANCE.native[:-1].sum().item() == pytest.approx(11.6762, abs=6e-5)


def test_native_weights_of_flow_grpo_rise_much_faster():
    """w_n = sqrt(D)/g (1 + (1 - s) g^2 / (2 s)) and std = g sqrt(D), g = .7 sqrt(s / (1 - s)); at 1 over 1 - s_1."""
    native = float64([0.0570, 0.0784, 0.1292, 0.1880, 0.2640, 0.3710, 0.5356, 0.8248, 1.4867, 1.7706])
    std = float64([0.7000, 0.7430, 0.5362, 0.4459, 0.3918, 0.3528, 0.3191, 0.2820, 0.2254, 0.0063])
    torch.testing.assert_close(SD3.native, native, **FOUR_DIGITS)
    torch.testing.assert_close(SD3.std, std, **FOUR_DIGITS)


def test_pcpo_makes_credit_proportional_to_step_length_on_dance_grpos_sampler():
    """Targets zeta D_n with zeta = sum w / sum D over the 15 trained steps = 11.6762 / (1 - 1/6) = 14.0114."""
    on_ratio, on_loss = composing.method("pcpo").objective.step_factors(DANCE, all_but_last(DANCE))
    targets = ".3046 .3323 .3639 .4003 .4425 .4916 .5495 .6182 .7006 .8007 .9238 1.0778 1.2738 1.5285 1.8682"
    torch.testing.assert_close((on_ratio * DANCE.native)[:-1], numbers(targets), **FOUR_DIGITS)
    zeta = (on_ratio * DANCE.native / DANCE.length)[:-1]
    torch.testing.assert_close(zeta, torch.full_like(zeta, 14.0114), **FOUR_DIGITS)
    assert on_ratio[0].item() == pytest.approx(0.620, abs=6e-4)
    assert on_ratio[14].item() == pytest.approx(1.389, abs=6e-4)
    assert (on_loss == 1).all()


def test_pcpo_constant_of_the_sd3_schedule():
    """Ten trained steps: zeta = sum w = 5.7054, as sum D = 1. Nine: sum w = 3.9348, and the nine cover 1 - .008929 of
    the path, so that the total weight is kept by zeta = 3.9348 / .991071 = 3.9702."""
    method = composing.method("pcpo", kernel="flow_sde", noise_level=0.7, train_last=True)
    ten = method.objective.step_factors(SD3, torch.ones(2, 3, 10, dtype=torch.bool))[0] * SD3.native / SD3.length
    torch.testing.assert_close(ten, torch.full_like(ten, 5.7054), **FOUR_DIGITS)
    nine = (method.objective.step_factors(SD3, all_but_last(SD3))[0] * SD3.native / SD3.length)[:-1]
    assert SD3.native[:-1].sum().item() == pytest.approx(3.9348, abs=6e-5)
    torch.testing.assert_close(nine, torch.full_like(nine, 3.9348 / 0.991071), rtol=0, atol=1e-4)


def test_tempflow_weights_are_the_noise_with_mean_one():
    """std_n over its mean over the nine trained steps; 1 / mean = 2.252, which others round to 2.25."""
    on_ratio, on_loss = composing.method("tempflow_grpo").objective.step_factors(SD3, all_but_last(SD3))
    printed = float64([1.5766, 1.6733, 1.2075, 1.0043, 0.8824, 0.7946, 0.7186, 0.6351, 0.5076])
    torch.testing.assert_close(on_loss[:-1], printed, **FOUR_DIGITS)
    assert (on_ratio == 1).all()
    assert 1 / SD3.std[:-1].mean().item() == pytest.approx(2.252, abs=6e-4)


# --- DDIM on SD 1.5, and what a weight is a weight of


def stable_diffusion():
    """abar at the 50 steps of SD 1.5 (scaled-linear betas .00085 to .012, steps_offset 1), noise to data, and after
    each step; the last step ends at abar_0, not at 1 (set_alpha_to_one is false)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(0)
    return abar[1 + torch.arange(980, -1, -20)], torch.cat([abar[1 + torch.arange(960, -1, -20)], abar[:1]])


def noise_weights(before, after):
    """PCPO Prop. 1: w = (sqrt((1 - abar) / alpha) - sqrt(1 - abar' - sig^2)) / sig, alpha = abar / abar', eta 1."""
    alpha = before / after
    sig = ((1 - after) / (1 - before) * (1 - alpha)).sqrt()
    return (((1 - before) / alpha).sqrt() - (1 - after - sig**2).sqrt()) / sig


def test_weights_of_the_noise_prediction_on_ddim():
    """Over 50 steps from .374 to 3.27, mean .51690 (the published 4.5 / 8.70575076181), std over mean .80."""
    weights = noise_weights(*stable_diffusion())
    assert weights.min().item() == pytest.approx(0.374, abs=6e-4)
    assert weights.max().item() == pytest.approx(3.27, abs=6e-3)
    assert weights.mean().item() == pytest.approx(4.5 / 8.70575076181, abs=6e-6)
    assert weights.std(correction=0).item() / weights.mean().item() == pytest.approx(0.80, abs=6e-3)


def test_native_weight_belongs_to_the_prediction():
    """d noise = (1 - level) d velocity, so w(noise) = w(velocity) / (1 - level): exactly PCPO's on the first 49 steps.
    The 50th ends at level 0 in flow coordinates, without noise, and is not trained. The two differ much: the velocity's
    run from .036 to 2.87."""
    before, after = stable_diffusion()
    levels = schedules.variance_preserving(before)
    of_noise = read_transitions("ddim", levels, noise_level=1.0, prediction="noise")
    torch.testing.assert_close(of_noise.native[:-1], noise_weights(before, after)[:-1], rtol=1e-9, atol=0)
    of_velocity = read_transitions("ddim", levels, noise_level=1.0)
    assert of_velocity.native[:-1].min().item() == pytest.approx(0.0363, abs=6e-5)
    assert of_velocity.native[:-1].max().item() == pytest.approx(2.8689, abs=6e-5)
    assert of_velocity.native[-1].isinf()
    with pytest.raises(ValueError, match="levels of a noise-predicting model start lower"):
        read_transitions("flow_sde", torch.tensor([1.0, 0.5, 0.0]), noise_level=0.7, prediction="noise")


def test_ddim_ratio_is_the_closed_form_in_the_noise_prediction():
    """log rho = -[w mean(d e) + w^2/2 mean(d^2)], d the change of the noise prediction, for the densities of our kernel
    in flow coordinates, at step 20 of SD 1.5."""
    before, after = stable_diffusion()
    levels = schedules.variance_preserving(before)
    level, nxt = levels[20], levels[21]
    draw = torch.Generator().manual_seed(0)
    x, old, change, e = torch.randn(4, 3, 8, dtype=torch.float64, generator=draw).unbind()
    law, now = (
        KERNELS["ddim"](x, noise_to_velocity(x, noise, level), level, nxt, noise_level=1.0)
        for noise in (old, old + 0.1 * change)
    )
    y = law.sample(e)
    w, d = noise_weights(before, after)[20], 0.1 * change
    expected = -(w * (d * e).mean(1) + w**2 / 2 * d.square().mean(1))
    torch.testing.assert_close(now.log_prob(y) - law.log_prob(y), expected, rtol=0, atol=1e-12)


def test_pcpo_on_ddim_replaces_the_native_weight_by_its_mean():
    """Uniform in what the network predicts: for the noise, .5070 over the 49 trained steps (.51690 over all 50)."""
    levels = schedules.variance_preserving(stable_diffusion()[0])
    for prediction, mean in (("noise", 0.5070), ("velocity", None)):
        constants = read_transitions("ddim", levels, noise_level=1.0, prediction=prediction)
        method = composing.method("pcpo", kernel="ddim", noise_level=1.0)
        on_ratio, _ = method.objective.step_factors(constants, all_but_last(constants))
        weights = (on_ratio * constants.native)[:-1]
        torch.testing.assert_close(weights, constants.native[:-1].mean().expand(49), rtol=1e-12, atol=0)
        if mean is not None:
            assert weights[0].item() == pytest.approx(mean, abs=6e-5)


# --- Flash-GRPO


def test_flash_coefficients_are_the_reciprocal_of_the_native_weight():
    """The published table for the first ten of 20 steps of Wan 2.1: shift 3 of linspace(.999, 0, 21), diffusion
    g = s_min + (s_max - s_min) s between the last and the second level. That g is not one of our kernels, so slope and
    std are made by hand: slope = D (1 + (1 - s) g^2 / (2 s)), std = g sqrt(D)."""
    t = torch.linspace(0.999, 0, 21, dtype=torch.float64)
    levels = 3 * t / (1 + 2 * t)
    s, length = levels[:-1], -levels.diff()
    g = levels[-1] + (levels[1] - levels[-1]) * s
    slope, std = length * (1 + (1 - s) * g**2 / (2 * s)), g * length.sqrt()
    factor = factors(slope, std, length, torch.ones_like(s), profile="uniform", preserve="nothing")
    printed = float64([7.4770, 7.0414, 6.6112, 6.1867, 5.7682, 5.3559, 4.9502, 4.5513, 4.1596, 3.7754])
    torch.testing.assert_close(factor[:10], printed, **FOUR_DIGITS)
    assert [int(1000 * level) for level in s[:10]] == [999, 982, 963, 944, 922, 899, 874, 847, 817, 785]


def test_flash_divides_the_native_weight_out_and_keeps_the_mean_over_the_rollout():
    """Prompt 0 trains step 1, prompt 1 step 4: coefficients (1 / w) over their mean."""
    trained = torch.zeros(2, 3, 10, dtype=torch.bool)
    trained[0, :, 1], trained[1, :, 4] = True, True
    _, on_loss = composing.method("flash_grpo").objective.step_factors(SD3, trained)
    first, second = 1 / SD3.native[1].item(), 1 / SD3.native[4].item()
    assert on_loss[1].item() == pytest.approx(first / ((first + second) / 2), abs=1e-12)
    assert on_loss[4].item() == pytest.approx(second / ((first + second) / 2), abs=1e-12)
    assert (on_loss[[0, 2, 3, 5, 6, 7, 8, 9]] == 1).all()


# --- losses

OLD, NEW, DRAWN = float64([[1.0, 2.0]]), float64([[1.2, 1.9]]), float64([[1.5, 1.0]])  # two means and a sample


def move(method, constants):
    """The move above as the first step of a sampler."""
    on_ratio, on_loss = method.objective.step_factors(constants, all_but_last(constants))
    std = constants.std[0]
    return Moves((NEW - OLD) / std, (DRAWN - OLD) / std, ratio_factor=on_ratio[:1], loss_factor=on_loss[:1])


def made(std=0.5, length=0.04, slope=0.02):
    """Two equal transitions; only the first is trained."""
    return Transitions(float64([2 * length, length, 0.0]), float64([slope, slope]), float64([std, std]))


def of_move(method, credit, constants=None):
    """What the method's objective says of the move with this credit, one number for each of its terms."""
    return outcome(method, move(method, constants or made()), float64([credit]))


def test_plain_log_ratio():
    """(|y - old|^2 - |y - new|^2) / (2 std^2 dims) = ((.25 + 1) - (.09 + .81)) / (4 x .25) = .35."""
    log_ratio = of_move(composing.method("flow_grpo"), [1.0]).log_ratio
    torch.testing.assert_close(log_ratio, float64([0.35]), **EXACT)


def test_grpo_guard_ratio_has_no_mean_shift_and_the_loss_is_over_the_step_length():
    """log rho = mean((y - old) / std (new - old)) = (.2 x 1 + .1 x 2) / 2 = .2, loss = -A e^.2 / .04 for A < 0."""
    bad = of_move(composing.method("grpo_guard"), [-2.0])
    torch.testing.assert_close(bad.log_ratio, float64([0.2]), **EXACT)
    torch.testing.assert_close(bad.loss, float64([2 * math.exp(0.2) / 0.04]), **EXACT)
    assert not bad.clipped
    good = of_move(composing.method("grpo_guard"), [2.0])
    torch.testing.assert_close(good.loss, float64([-2 * 1.0001 / 0.04]), **EXACT)
    assert good.clipped


def test_flow_cps_ratio_is_the_difference_of_squared_errors():
    """mean |y - old|^2 - mean |y - new|^2 = .625 - .45 = .175, whatever the std."""
    for std in (0.5, 0.1):
        log_ratio = of_move(composing.method("flow_cps"), [1.0], made(std)).log_ratio
        torch.testing.assert_close(log_ratio, float64([0.175]), **EXACT)


@pytest.mark.parametrize(("credit", "loss"), [(2.0, 0.0), (-2.0, 2 * math.exp(0.35))])
def test_flow_dppo_masks_what_left_the_ball_and_goes_on_outwards(credit, loss):
    """KL = mean(d^2) / (2 std^2) = .025 / .5 = .05; rho = e^.35 > 1, so A > 0 goes outwards and A < 0 comes back."""
    outside = of_move(composing.method("flow_dppo", clip=0.0499), [credit])
    torch.testing.assert_close(outside.loss, float64([loss]), **EXACT)
    assert outside.clipped.item() == (credit > 0)


def test_flow_dppo_trusts_inside_the_ball():
    """At a limit above .05 nothing is masked: -A e^.35."""
    inside = of_move(composing.method("flow_dppo", clip=0.051), [2.0])
    torch.testing.assert_close(inside.loss, float64([-2 * math.exp(0.35)]), **EXACT)
    assert not inside.clipped


def test_pcpo_hinge_with_the_drift_weighted():
    """f = 2: 2 mean(d e) - 4 mean(d^2) / 2 in stds = 2 x .4 - 2 x .1 = .6; hinge = max(0, clip |A| - A .6)."""
    plain = move(composing.method("pcpo"), made())
    twice = Moves(plain.drift, plain.noise, float64([2.0]), float64([1.0]))
    good, bad = float64([[2.0]]), float64([[-2.0]])
    pcpo = composing.method("pcpo", clip=0.1)
    torch.testing.assert_close(outcome(pcpo, twice, good).log_ratio, float64([0.6]), **EXACT)
    power = composing.method("pcpo", form="power")
    torch.testing.assert_close(outcome(power, twice, good).log_ratio, float64([0.7]), **EXACT)
    torch.testing.assert_close(outcome(pcpo, twice, bad).loss, float64([0.2 + 1.2]), **EXACT)
    torch.testing.assert_close(outcome(pcpo, twice, good).loss, float64([0.0]), **EXACT)


def test_dpok_loss_has_no_clip():
    """-A log rho = -3 x .35, and never cut off."""
    outside = of_move(composing.method("dpok"), [3.0])
    torch.testing.assert_close(outside.loss, float64([-1.05]), **EXACT)
    assert not outside.clipped


def test_losses_of_several_objectives_are_clipped_one_by_one():
    """rho = e^.35, clip .1: A = 2 is cut at -2 x 1.1, A = -1 pays e^.35. Their sum A = 1 would be cut at -1.1."""
    method = composing.method("dance_grpo", mix_of="losses", clip=0.1)
    apart = of_move(method, [2.0, -1.0])
    torch.testing.assert_close(apart.loss, float64([-2.2 + math.exp(0.35)]), **EXACT)
    assert not apart.clipped
    summed = of_move(method, [1.0])
    torch.testing.assert_close(summed.loss, float64([-1.1]), **EXACT)
    assert summed.clipped


def test_split_puts_the_noise_on_the_ratio_and_the_rest_on_the_loss():
    on_ratio, on_loss = placed(float64([3.0]), float64([0.5]), place="split")
    assert (on_ratio.item(), on_loss.item()) == (0.5, 6.0)


# --- advantages of summed scores


def test_flow_grpo_divides_by_the_spread_of_the_whole_batch():
    """Scores (0, 2) and (4, 10): group means 1 and 7; batch variance (16 + 4 + 0 + 36) / 4 = 14."""
    credit = composing.method("flow_grpo").credit(evidence([[[0.0], [2.0]], [[4.0], [10.0]]]))
    unit = math.sqrt(14) + 1e-4
    torch.testing.assert_close(credit.mixed, float64([[-1.0, 1.0], [-3.0, 3.0]]) / unit, **EXACT)
    torch.testing.assert_close(credit.per_step, credit.mixed[..., None].expand(2, 2, 2), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ddpo", "tempflow_grpo", "flash_grpo"])
def test_per_prompt_statistics_are_of_the_population(name):
    """Summed scores 1 + 0, 0 + 2, 1 + 2, 4 + 2 x 1 have mean 3 and variance (4 + 1 + 0 + 9) / 4 = 3.5."""
    rewards = [[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [4.0, 1.0]]]
    eps = 1e-6 if name == "ddpo" else 1e-4
    credit = composing.method(name).credit(evidence(rewards, weights=[1.0, 2.0]))
    expected = float64([[-2.0, -1.0, 0.0, 3.0]]) / (math.sqrt(3.5) + eps)
    torch.testing.assert_close(credit.mixed, expected, **EXACT)


def test_dpok_credits_raw_scores_above_the_group():
    """1 r_1 + 2 r_2 = 1, 2, 3, 6 minus their mean 3, or as they are, clamped to 5."""
    rewards, weights = float64([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [4.0, 1.0]]), float64([1.0, 2.0])
    trained = torch.tensor([True, False])
    credit = dpok.rule(rewards, weights, trained=trained)
    torch.testing.assert_close(credit.per_step, float64([[-2, 0], [-1, 0], [0, 0], [3, 0]]), **EXACT)
    plain = dpok.rule(rewards, weights, trained=trained, baseline="none")
    torch.testing.assert_close(plain.per_step, float64([[1, 0], [2, 0], [3, 0], [5, 0]]), **EXACT)


# --- mixes of objectives

SQUARE = 1 / math.sqrt(3)  # z-score of (1, -2, 1): std sqrt(6 / 2), so (1, -2, 1) / sqrt(3)


def test_dance_grpo_mixes_advantages_rewards_or_losses():
    """r_1 = (1, 0, -1) has z (1, 0, -1); r_2 = (1, -2, 1) has z (1, -2, 1) / sqrt(3); weights 1 and 3.
    Raw sums 4, -6, 2 have mean 0 and std sqrt((16 + 36 + 4) / 2) = sqrt(28)."""
    rewards, weights = float64([[1.0, 1.0], [0.0, -2.0], [-1.0, 1.0]]), float64([1.0, 3.0])
    trained = torch.tensor([True])
    after = dance_grpo.rule(rewards, weights, trained=trained)
    summed = [1 + 3 * SQUARE, -6 * SQUARE, -1 + 3 * SQUARE]
    torch.testing.assert_close(after.mixed, float64(summed), rtol=0, atol=1e-7)
    before = dance_grpo.rule(rewards, weights, trained=trained, mix_of="rewards")
    torch.testing.assert_close(before.mixed, float64([4.0, -6.0, 2.0]) / math.sqrt(28), rtol=0, atol=1e-7)
    apart = dance_grpo.rule(rewards, weights, trained=trained, mix_of="losses")
    assert after.terms is None
    terms = float64([[[1.0, 3 * SQUARE]], [[0.0, -6 * SQUARE]], [[-1.0, 3 * SQUARE]]])
    torch.testing.assert_close(apart.terms, terms, rtol=0, atol=1e-7)
    torch.testing.assert_close(apart.terms.sum(-1), after.per_step, **EXACT)


@pytest.mark.parametrize(("count", "kept"), [(2, [0, 5]), (3, [0, 1, 5]), (4, [0, 1, 4, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_best_of_keeps_both_ends_and_their_mean(count, kept):
    """Of six samples, the lower half of those kept is the larger one if they are odd; credit grows by 6 / count."""
    rewards = float64([[[0.0], [1.0], [2.0], [4.0], [5.0], [9.0]]])
    every = composing.method("dance_grpo").credit(evidence(rewards))
    some = composing.method("dance_grpo", best_of=count).credit(evidence(rewards))
    expected = torch.zeros_like(every.per_step)
    expected[:, kept] = every.per_step[:, kept] * 6 / count
    torch.testing.assert_close(some.per_step, expected, **EXACT)


def test_a_sample_with_broken_latents_is_not_the_best_of_its_group():
    similarity = torch.linspace(0, 1, 3, dtype=torch.float64).expand(1, 4, 3).clone()
    similarity[0, 1] = torch.nan
    rewards = [[[3.0], [2.0], [0.0], [1.0]]]
    credit = composing.method("otca", best_of=2).credit(evidence(rewards, similarity=similarity))
    assert (credit.per_step != 0).any(-1)[0].tolist() == [True, False, True, False]


def test_gdpo_standardises_each_reward_and_whitens_the_sum_over_the_batch():
    """Group 0: z (1, 0, -1) and (1, -2, 1) / sqrt(3). Group 1: the second reward is constant, z (1, 0, -1) alone.
    Sums with weights 1: S; then (S - mean) / (std + 1e-4), Bessel, over all six."""
    rewards = [[[1.0, 1.0], [0.0, -2.0], [-1.0, 1.0]], [[20.0, 5.0], [10.0, 5.0], [0.0, 5.0]]]
    one, third, ten = 1 / (1 + 1e-4), 1 / (math.sqrt(3) + 1e-4), 10 / (10 + 1e-4)
    sums = [one + third, -2 * third, -one + third, ten, 0.0, -ten]
    unit = statistics.stdev(sums) + 1e-4
    expected = float64([(value - statistics.fmean(sums)) / unit for value in sums]).view(2, 3)
    torch.testing.assert_close(composing.method("gdpo").credit(evidence(rewards)).mixed, expected, **EXACT)


@pytest.mark.parametrize(
    ("columns", "weights"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0.2, 0.8]),  # (v.v - u.v) / |u - v|^2 = 1 / 5
        ([[1.0, 0.0], [2.0, 0.5]], [1.0, 0.0]),  # u.v > u.u: the shorter one alone
        ([[1.0, 1.0], [-1.0, -1.0]], [0.5, 0.5]),  # opposed: nothing is left
        ([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]], [36 / 49, 9 / 49, 4 / 49]),  # orthogonal: 1 / |.|^2
        ([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]], [0.5, 0.5, 0.0]),  # the third is no help
        ([[3.0, 4.0]], [1.0]),
    ],
)
def test_shortest_vector_of_a_convex_hull(columns, weights):
    torch.testing.assert_close(mix.min_norm(float64(columns).T.contiguous()), float64(weights), rtol=0, atol=1e-9)


def test_mgda_over_the_batch_and_over_each_group():
    """z_1 = (1, 0, -1) in both groups, z_2 = (1, -2, 1) / sqrt(3) in the first and silent in the second; orthogonal.
    Batch: |z_1|^2 = 4, |z_2|^2 = 2, weights (2, 4) / 6. Groups: both 2, weights 1/2; then z_1 alone."""
    rewards = [[[1.0, 1.0], [0.0, -2.0], [-1.0, 1.0]], [[1.0, 5.0], [0.0, 5.0], [-1.0, 5.0]]]
    first, second = float64([1.0, 0.0, -1.0]), float64([SQUARE, -2 * SQUARE, SQUARE])
    batch = composing.method("mgda").credit(evidence(rewards)).mixed
    torch.testing.assert_close(batch, torch.stack([first / 3 + 2 * second / 3, first / 3]), rtol=0, atol=1e-7)
    group = composing.method("mgda", over="group").credit(evidence(rewards)).mixed
    torch.testing.assert_close(group, torch.stack([(first + second) / 2, first]), rtol=0, atol=1e-7)


# --- CoCA

CLEAN = float64([[0.2, 0.4, 0.6, 0.8], [0.5, 0.3, 0.5, 0.8]])
TO_GO = float64([[1, 11 / 14, 4 / 7, 2 / 7], [1, 9 / 8, 5 / 4, 5 / 8]])
"""Windows of two after the first value, 1 appended. Sample 0: means .5, .9 after .2, gains .3, .4, shares (3, 3, 4, 4)
over 14. Sample 1: means .4, .9 after .5, gains -.1, .5, shares (-1, -1, 5, 5) over 8: a loss comes back later."""


def test_coca_share_that_is_still_to_come():
    torch.testing.assert_close(temporal.reward_to_go(CLEAN, window=2), TO_GO, **EXACT)


def test_coca_last_window_holds_what_is_left():
    """Windows of three over four steps: means .6, 1 after .2, gains .4, .4, shares (1, 1, 1, 3) over 6."""
    rest = temporal.reward_to_go(CLEAN[:1], window=3)
    torch.testing.assert_close(rest, float64([[1, 5 / 6, 4 / 6, 3 / 6]]), **EXACT)


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_coca_standardises_all_steps_of_a_group_together(floor):
    """A = (-1, 1) / sqrt(2) times floor + (1 - floor) C: eight numbers, standardised once (their scale drops out)."""
    shaped = (float64([[-1.0], [1.0]]) * (floor + (1 - floor) * TO_GO)).flatten().tolist()
    unit, mean = statistics.stdev(shaped), statistics.fmean(shaped)
    expected = float64([(value - mean) / unit for value in shaped]).view(2, 4)
    credit = coca.rule(float64([[0.0], [1.0]]), CLEAN, float64([1.0]), window=2, floor=floor)
    torch.testing.assert_close(credit.per_step, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(credit.weights, floor + (1 - floor) * TO_GO, **EXACT)


def test_coca_keeps_a_course_that_all_samples_share():
    """The same C for everybody: the mean is 0, and credit falls from step to step as C does."""
    shared = TO_GO[:1].expand(3, 4)
    rewards = float64([[[1.0], [0.0], [-1.0]]])
    credit = composing.method("coca", span=2).credit(evidence(rewards, clean_similarity=CLEAN[:1].expand(1, 3, 4)))
    torch.testing.assert_close(credit.per_step[0, 0] / credit.per_step[0, 0, 0], shared[0], rtol=0, atol=1e-12)


def test_coca_leaves_out_who_has_no_opinion():
    rewards = float64([[0.0], [1.0], [torch.nan]])
    credit = coca.rule(rewards, torch.cat([CLEAN, CLEAN[:1]]), float64([1.0]), window=2)
    pair = coca.rule(rewards[:2], CLEAN, float64([1.0]), window=2)
    torch.testing.assert_close(credit.per_step[:2], pair.per_step, **EXACT)
    assert (credit.per_step[2] == 0).all()


# --- variants of OTCA, on the group of tests/golden/test_otca.py

REWARDS = float64([[0.30, 0.32, 0.28, 0.35], [5.0, 6.0, 5.5, 5.2], [0.20, 0.21, 0.25, 0.18]]).T.contiguous()
SIMILARITY = float64(
    [
        [0.10, 0.20, 0.45, 0.80, 0.98],
        [0.10, 0.15, 0.40, 0.85, 0.97],
        [0.10, 0.30, 0.50, 0.75, 0.99],
        [0.10, 0.05, 0.40, 0.90, 0.96],
    ]
)
EFFECTIVE = [-0.33968299, 0.49959167, 0.49556871, 0.0]
MEANS = [-0.57848471, 0.52440275, 0.14759628, -0.09351432]  # of the three z-scores of each sample


def test_otca_recentred_subtracts_the_groups_mean():
    """(-.33968299 + .49959167 + .49556871 + 0) / 4 = .16386935."""
    mixed = otca.rule(REWARDS, SIMILARITY, recentred=True).mixed
    torch.testing.assert_close(mixed, float64(EFFECTIVE) - 0.16386935, rtol=0, atol=2e-8)


def test_otca_recentred_gives_nothing_to_who_has_no_opinion():
    rewards = torch.cat([REWARDS, torch.full((1, 3), torch.nan, dtype=torch.float64)])
    credit = otca.rule(rewards, torch.cat([SIMILARITY, SIMILARITY[:1]]), recentred=True)
    assert (credit.per_step[4] == 0).all()
    assert credit.mixed[:4].mean().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0])
def test_otca_objective_floor_goes_from_moca_to_the_mean(floor):
    mixed = otca.rule(REWARDS, SIMILARITY, objective_floor=floor).mixed
    expected = (1 - floor) * float64(EFFECTIVE) + floor * float64(MEANS)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=2e-8)
    torch.testing.assert_close(tcd.rule(REWARDS, SIMILARITY).mixed, float64(MEANS), rtol=0, atol=2e-8)


def test_otca_step_mix_by_hand():
    """z_1 = (2, -1, -1) / sqrt(3), z_2 = (-1, 2, -1) / sqrt(3). Samples 0 and 1 disagree with a positive sum: they get
    half the strength; sample 2 is unanimous at -1 / sqrt(3). Gains (.2, .2), (.1, .3), (.3, .1): shares are the gains
    over .4, q_n = gain^2 / .4 = .1 .1, .025 .225, .225 .025, and at both steps std is sqrt(.020416667 / 2) = .10103630.
    """
    rewards = float64([[2.0, -1.0], [-1.0, 2.0], [-1.0, -1.0]])
    similarity = float64([[0.0, 0.2, 0.4], [0.0, 0.1, 0.4], [0.0, 0.3, 0.4]])
    unit = math.sqrt(0.0204166666667 / 2)
    halves = [[math.tanh(q / unit) / 2 for q in row] for row in ([0.1, 0.1], [0.025, 0.225])]
    credit = otca.rule(rewards, similarity, step_mix=True, floor=1.0)  # floor 1: every step weighs 1
    torch.testing.assert_close(credit.per_step, float64([*halves, [-SQUARE, -SQUARE]]), rtol=0, atol=2e-5)

    mean = 0.35 / 3
    halves = [[math.tanh(abs(q - mean) / unit) / 2 for q in row] for row in ([0.1, 0.1], [0.025, 0.225])]
    credit = otca.rule(rewards, similarity, step_mix=True, floor=1.0, centred=True)
    torch.testing.assert_close(credit.per_step, float64([*halves, [-SQUARE, -SQUARE]]), rtol=0, atol=2e-5)


def test_tcd_and_otca_agree_where_there_is_one_objective():
    one = REWARDS[:, :1]
    torch.testing.assert_close(
        composing.method("otca").credit(evidence(one[None], similarity=SIMILARITY[None], steps=4)).per_step,
        composing.method("tcd").credit(evidence(one[None], similarity=SIMILARITY[None], steps=4)).per_step,
        **EXACT,
    )
