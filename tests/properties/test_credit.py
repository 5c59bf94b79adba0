"""What must hold of credit for any rewards and any trajectory: the promises of arXiv 2604.19234 and of our readings.

Rewards, advantages and similarities are drawn from a dyadic grid, so that ties, objectives without spread and flat
trajectories are common, and so that sums and differences of them are exact.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import composing
from stepcredit.credit import advantage, assign, mix, temporal
from stepcredit.flow import schedules
from stepcredit.flow.transitions import read_transitions
from stepcredit.methods import dance_grpo, moca, otca, tcd
from stepcredit.records import Evidence

few = settings(max_examples=40, deadline=None, derandomize=True)
few = settings(max_examples=15, deadline=None, derandomize=True)  # for tests that are repeated per method or reading

METHODS = {
    "otca": composing.method("otca"),
    "otca, centred": composing.method("otca", centred=True),
    "otca, waterfill": composing.method("otca", weights="waterfill"),
    "tcd": composing.method("tcd"),
    "moca": composing.method("moca"),
    "dance_grpo": composing.method("dance_grpo"),
    "dance_grpo, rewards": composing.method("dance_grpo", mix_of="rewards"),
    "flow_grpo": composing.method("flow_grpo"),
    "flow_grpo, group": composing.method("flow_grpo", scale="group"),
}
UNIFORM = [name for name in METHODS if name.startswith(("moca", "dance", "flow"))]
PER_OBJECTIVE = ["otca", "otca, centred", "otca, waterfill", "tcd", "moca", "dance_grpo"]
WEIGHTING = ["otca", "otca, centred", "otca, waterfill", "tcd"]

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_reading = pytest.mark.parametrize("reading", temporal.READINGS)
opinionated = pytest.mark.parametrize("method", [METHODS[name] for name in PER_OBJECTIVE], ids=PER_OBJECTIVE)
weighting = pytest.mark.parametrize("method", [METHODS[name] for name in WEIGHTING], ids=WEIGHTING)

floors = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


def grid(low, high, denominator):
    return st.integers(low * denominator, high * denominator).map(lambda numerator: numerator / denominator)


def table(rows, columns, elements):
    return arrays("float64", (rows, columns), elements=elements).map(torch.from_numpy)


def trajectory(gains):
    """Similarities `[G, N + 1]` that rise by `gains`."""
    return torch.cat([torch.zeros_like(gains[:, :1]), gains.cumsum(-1)], dim=-1)


@st.composite
def groups(draw, objectives=(1, 4), samples=(2, 7), transitions=(1, 6)):
    """Rewards `[G, K]` and similarity gains `[G, N]` of one prompt."""
    g, k, n = (draw(st.integers(*limits)) for limits in (samples, objectives, transitions))
    rewards = draw(table(g, k, grid(-4, 4, 8)))
    return rewards, draw(table(g, n, st.integers(-8, 32).map(lambda numerator: numerator / 128)))


@st.composite
def opinions(draw, with_nan=True):
    """Advantages `[G, K]`, some of them NaN, and strengths `[G]` in [0, 1)."""
    g = draw(st.integers(1, 4))
    k = draw(st.integers(1, 5))
    values = grid(-3, 3, 4)
    advantages = draw(table(g, k, st.one_of(values, st.just(float("nan"))) if with_nan else values))
    strength = draw(table(g, 1, st.integers(0, 15).map(lambda numerator: numerator / 16)))
    return advantages, strength[:, 0]


@st.composite
def shares(draw):
    """Shares `[G, N]` of a trajectory and the transitions that are trained, at least one."""
    _, gains = draw(groups(transitions=(1, 8)))
    trained = draw(st.lists(st.booleans(), min_size=gains.shape[1], max_size=gains.shape[1]).filter(any))
    trained = torch.tensor(trained)
    return temporal.similarity_share(trajectory(gains), trained=trained), trained


def assigned(method, rewards, gains, trained=None):
    """Credit of one prompt, the way a trainer asks for it."""
    everything = torch.ones(gains.shape[1], dtype=torch.bool)
    similarity = trajectory(gains)[None]
    evidence = Evidence(
        rewards=rewards[None],
        weights=torch.ones(rewards.shape[1], dtype=torch.float64),
        trained=(everything if trained is None else trained).expand(1, *gains.shape),
        transitions=method.sampler.at(schedules.linear(gains.shape[1])).transitions,
        seen={"similarity": similarity, "clean_similarity": similarity[..., 1:]},
    )
    return method.credit(evidence)


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, equal_nan=True)


# --- advantages


@few
@given(groups())
def test_advantages_have_mean_zero_and_spread_one_where_they_speak(group):
    advantages = advantage.standardise(group[0])
    speaks = ~advantages.isnan().any(0)
    assert torch.equal(speaks, group[0].std(0) > 1e-6)
    for column in advantages.T[speaks]:
        assert column.mean().item() == pytest.approx(0, abs=1e-9)
        assert column.std().item() == pytest.approx(1, abs=1e-6)


@few
@given(groups(), grid(-100, 100, 4), st.sampled_from([0.5, 2.0, 8.0]))
def test_advantages_ignore_shift_and_scale_of_the_rewards(group, shift, scale):
    close(advantage.standardise(group[0] * scale + shift), advantage.standardise(group[0]), atol=1e-6)


@few
@given(groups(samples=(3, 7)), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_sample_that_could_not_be_scored_stays_out_of_the_statistics(group, missing):
    rewards = group[0].clone()
    rewards[0] = missing
    advantages = advantage.standardise(rewards)
    assert advantages[0].isnan().all()
    close(advantages[1:], advantage.standardise(rewards[1:]), atol=1e-12)


# --- the mix of objectives


@few
@given(opinions())
def test_coefficients_are_on_the_simplex_and_leave_out_who_has_no_opinion(case):
    advantages, strength = case
    coefficients = mix.moca_coefficients(advantages, strength)
    assert (coefficients >= 0).all()
    assert (coefficients[advantages.isnan()] == 0).all()
    assert ((coefficients > 0).sum(-1) <= 2).all()
    somebody = ~advantages.isnan().all(-1)
    close(coefficients.sum(-1), somebody.double(), atol=1e-12)


@few
@given(opinions())
def test_coefficients_attain_the_clipped_optimum(case):
    advantages, strength = case
    effective = mix.moca(advantages, strength)
    attained = (mix.moca_coefficients(advantages, strength) * advantages.nan_to_num(0.0)).sum(-1)
    close(attained, effective, atol=1e-12)
    for row, half, value in zip(advantages, strength / 2, effective, strict=True):
        known = row[~row.isnan()]
        expected = min(max(half.item(), known.min().item()), known.max().item()) if len(known) else 0.0
        assert value.item() == pytest.approx(expected, abs=1e-12)


@few
@given(opinions(with_nan=False), st.integers(0, 2**31 - 1))
def test_no_point_of_the_simplex_beats_the_optimum(case, seed):
    advantages, strength = case
    draw = torch.Generator().manual_seed(seed)
    points = torch.empty(200, advantages.shape[1], dtype=torch.float64).exponential_(generator=draw)
    points = torch.cat([points / points.sum(-1, keepdim=True), torch.eye(advantages.shape[1], dtype=torch.float64)])
    reached = advantages @ points.T  # [G, points]
    objective = reached.square() - strength[:, None] * reached
    best = mix.moca(advantages, strength)
    assert (best.square() - strength * best <= objective.amin(-1) + 1e-12).all()


@few
@given(opinions(), st.randoms(use_true_random=False))
def test_the_effective_advantage_ignores_the_order_of_objectives(case, random):
    advantages, strength = case
    order = list(range(advantages.shape[1]))
    random.shuffle(order)
    close(mix.moca(advantages[:, order], strength), mix.moca(advantages, strength), atol=0)
    close(mix.mean(advantages[:, order]), mix.mean(advantages), atol=1e-12)


@few
@given(groups(), st.booleans())
def test_strength_is_in_the_unit_interval_and_zero_without_a_positive_sum(group, centred):
    rewards, gains = group
    advantages = advantage.standardise(rewards)
    similarity = trajectory(gains)
    share = temporal.similarity_share(similarity)
    strength = mix.exploration(advantages, share, similarity, centred=centred)
    assert (strength >= 0).all()
    assert (strength < 1).all()
    assert (strength[advantages.nansum(-1) <= 0] == 0).all()


@few
@given(opinions())
def test_mean_and_weighted_sum_skip_missing_opinions(case):
    advantages, _ = case
    known = (~advantages.isnan()).sum(-1)
    ones = torch.ones(advantages.shape[1], dtype=torch.float64)
    close(mix.mean(advantages) * known, mix.weighted_sum(advantages, ones), atol=1e-12)
    assert (mix.mean(advantages)[known == 0] == 0).all()


# --- weights over transitions


@few
@given(shares())
def test_shares_are_positive_on_trained_transitions_and_sum_to_one(case):
    share, trained = case
    assert (share[:, trained] > 0).all()
    assert (share[:, ~trained] == 0).all()
    close(share.sum(-1), torch.ones(len(share), dtype=torch.float64), atol=1e-12)


@every_reading
@few
@given(shares(), floors)
def test_every_reading_ignores_untrained_transitions_and_never_reverses_an_order(reading, case, floor):
    share, trained = case
    weights = temporal.READINGS[reading](share, floor=floor, trained=trained)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights[:, ~trained] == 0).all()
    shorter = temporal.READINGS[reading](share[:, trained], floor=floor)
    close(weights[:, trained], shorter, atol=1e-12)
    order = shorter.gather(-1, share[:, trained].argsort(-1))
    assert (order.diff(dim=-1) >= -1e-12).all()


@pytest.mark.parametrize("reading", ["affine", "mean_one", "waterfill", "clamp_renormalise", "minmax"])
@few
@given(shares(), floors)
def test_readings_that_promise_mean_one_have_it(reading, case, floor):
    share, trained = case
    weights = temporal.READINGS[reading](share, floor=floor, trained=trained)
    close(weights.sum(-1) / trained.sum(), torch.ones(len(share), dtype=torch.float64))


@pytest.mark.parametrize("reading", ["affine", "lifted", "waterfill", "minmax", "two_level"])
@few
@given(shares(), floors)
def test_readings_that_promise_the_floor_keep_it(reading, case, floor):
    share, trained = case
    weights = temporal.READINGS[reading](share, floor=floor, trained=trained)
    assert (weights[:, trained] >= floor - 1e-12).all()


@pytest.mark.parametrize("reading", ["affine", "mean_one", "lifted", "waterfill", "clamp_renormalise", "minmax"])
@few
@given(st.integers(1, 8), floors, st.integers(-8, 32))
def test_flat_gains_are_the_weights_of_grpo(reading, transitions, floor, gain):
    share = temporal.similarity_share(trajectory(torch.full((2, transitions), gain / 128, dtype=torch.float64)))
    weights = temporal.READINGS[reading](share, floor=floor)
    close(weights, temporal.uniform(share), atol=1e-12)


@few
@given(shares(), floors)
def test_affine_weights_are_the_share_mixed_with_one(case, floor):
    share, trained = case
    expected = torch.where(trained, floor + (1 - floor) * (trained.sum() * share), 0)
    close(temporal.with_floor(share, floor=floor, trained=trained), expected, atol=1e-12)


@few
@given(shares(), floors)
def test_sum_one_and_mean_one_know_no_floor(case, floor):
    share, trained = case
    close(temporal.sum_one(share, floor=floor, trained=trained), share, atol=0)
    close(temporal.mean_one(share, floor=floor, trained=trained), trained.sum() * share, atol=1e-12)


@few
@given(shares(), floors)
def test_lifted_changes_only_what_is_below_the_floor_and_its_mean_is_at_least_one(case, floor):
    share, trained = case
    plain = trained.sum() * share
    weights = temporal.lifted(share, floor=floor, trained=trained)
    above = trained & (plain >= floor)
    close(weights[above], plain[above], atol=0)
    assert (weights[trained & ~above] == floor).all()
    assert (weights.sum(-1) / trained.sum() >= 1 - 1e-9).all()


@few
@given(shares(), floors)
def test_waterfill_scales_everything_above_the_floor_alike(case, floor):
    share, trained = case
    weights = temporal.waterfill(share, floor=floor, trained=trained)
    for row, part in zip(weights, share, strict=True):
        free = trained & (row > floor + 1e-9)
        scale = row[free] / part[free]
        assert (scale - scale.mean()).abs().le(1e-6 * scale.abs()).all()


@few
@given(shares(), floors)
def test_clamp_renormalise_is_lifted_over_its_mean(case, floor):
    share, trained = case
    lifted = temporal.lifted(share, floor=floor, trained=trained)
    mean = lifted.sum(-1, keepdim=True) / trained.sum()
    close(temporal.clamp_renormalise(share, floor=floor, trained=trained), lifted / mean, atol=1e-12)


@few
@given(shares(), floors)
def test_minmax_gives_the_least_step_exactly_the_floor_unless_all_are_equal(case, floor):
    share, trained = case
    weights = temporal.minmax(share, floor=floor, trained=trained)[:, trained]
    spread = share[:, trained].amax(-1) - share[:, trained].amin(-1)
    for least, differs in zip(weights.amin(-1), spread > 1e-9, strict=True):
        assert least.item() == pytest.approx(floor if differs else 1.0, abs=1e-12)


@few
@given(shares(), floors)
def test_two_level_splits_at_the_median(case, floor):
    share, trained = case
    weights = temporal.two_level(share, floor=floor, trained=trained)[:, trained]
    low = share[:, trained] <= share[:, trained].median(-1, keepdim=True).values
    assert (weights[low] == floor).all()
    assert (weights[~low] == 2 - floor).all()


@every_reading
def test_every_reading_keeps_the_precision_of_the_share(reading):
    """0.9 is not a float32: a reading that falls back to it somewhere is off by 1e-8 in float64."""
    for dtype in (torch.float32, torch.float64):
        share = torch.tensor([[0.7, 0.2, 0.1, 0.0]], dtype=dtype)
        trained = torch.tensor([True, True, True, False])
        assert temporal.READINGS[reading](share, floor=0.9, trained=trained).dtype == dtype


@every_reading
@few
@given(groups(), st.randoms(use_true_random=False))
def test_permuted_gains_permute_the_weights(reading, group, random):
    _, gains = group
    order = list(range(gains.shape[1]))
    random.shuffle(order)
    plain, permuted = (
        temporal.READINGS[reading](temporal.similarity_share(trajectory(g)), floor=0.5)
        for g in (gains, gains[:, order])
    )
    close(permuted, plain[:, order])


# --- similarity


def some_latents(seed, samples=3, levels=5):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(samples, levels, 4, 6, generator=draw)


@few
@given(st.integers(0, 2**31 - 1))
def test_similarity_is_a_cosine_that_ends_at_one(seed):
    similarity = temporal.similarity_to_final(some_latents(seed))
    assert (similarity.abs() <= 1 + 1e-6).all()
    close(similarity[:, -1], torch.ones(3), atol=1e-6)


@few
@given(st.integers(0, 2**31 - 1), st.sampled_from([1 / 1024, 0.3611, 16.0]))
def test_scale_and_arrangement_of_latents_leave_the_similarity(seed, scale):
    latents = some_latents(seed)
    final = latents.mean(1)
    plain = temporal.similarity_to_final(latents, final)
    close(temporal.similarity_to_final(latents * scale, final * scale), plain, atol=1e-5)
    close(temporal.similarity_to_final(latents * scale, final), plain, atol=1e-5)
    close(temporal.similarity_to_final(latents.transpose(2, 3), final.transpose(1, 2)), plain, atol=1e-6)
    close(temporal.similarity_to_final(latents.flatten(2).flip(2), final.flatten(1).flip(1)), plain, atol=1e-6)


@few
@given(st.integers(0, 2**31 - 1))
def test_bfloat16_latents_have_the_similarity_of_float32(seed):
    latents = some_latents(seed)
    half = temporal.similarity_to_final(latents.bfloat16())
    assert half.dtype == torch.float32
    close(half, temporal.similarity_to_final(latents), atol=1e-2)


def test_similarity_of_latents_without_length_is_zero_and_not_nan():
    assert (temporal.similarity_to_final(torch.zeros(2, 3, 4)) == 0).all()


# --- whole methods


@every_method
@few
@given(groups())
def test_credit_is_the_product_of_when_and_how_good(method, group):
    credit = assigned(method, *group)
    assert credit.per_step.isfinite().all()
    close(credit.per_step, credit.weights * credit.mixed[..., None], atol=1e-12)
    close(credit.per_step[0], assign.per_step(credit.weights[0], credit.mixed[0]), atol=0)


@every_method
@few
@given(groups(samples=(2, 6)), st.randoms(use_true_random=False))
def test_permuted_samples_permute_the_credit(method, group, random):
    rewards, gains = group
    order = list(range(len(rewards)))
    random.shuffle(order)
    credit = assigned(method, rewards, gains)
    permuted = assigned(method, rewards[order], gains[order])
    close(permuted.per_step[0], credit.per_step[0][order])


@every_method
@few
@given(groups(), grid(-8, 8, 4))
def test_adding_a_constant_to_an_objective_changes_nothing(method, group, shift):
    rewards, gains = group
    moved = rewards.clone()
    moved[:, 0] += shift
    close(assigned(method, moved, gains).per_step, assigned(method, rewards, gains).per_step)


@every_method
@few
@given(groups(objectives=(2, 4)), st.randoms(use_true_random=False))
def test_permuted_objectives_leave_the_credit(method, group, random):
    rewards, gains = group
    order = list(range(rewards.shape[1]))
    random.shuffle(order)
    close(assigned(method, rewards[:, order], gains).per_step, assigned(method, rewards, gains).per_step)


@every_method
@few
@given(groups(transitions=(2, 6)), st.data())
def test_untrained_transitions_get_nothing_and_do_not_influence_the_others(method, group, data):
    rewards, gains = group
    trained = data.draw(st.lists(st.booleans(), min_size=gains.shape[1], max_size=gains.shape[1]).filter(any))
    trained = torch.tensor(trained)
    rows, columns = gains.shape
    untrained_gains = data.draw(table(rows, columns, st.integers(-8, 32).map(lambda numerator: numerator / 128)))
    credit = assigned(method, rewards, gains, trained)
    changed = assigned(method, rewards, torch.where(trained, gains, untrained_gains), trained)
    assert (credit.per_step[..., ~trained] == 0).all()
    assert (credit.weights[..., ~trained] == 0).all()
    close(changed.per_step, credit.per_step)
    close(credit.per_step[..., trained], assigned(method, rewards, gains[:, trained]).per_step)


@every_method
@few
@given(groups(samples=(3, 7)))
def test_broken_sample_gets_nothing_and_leaves_the_others_alone(method, group):
    """Neither its rewards nor its latents are numbers: the others are as good as they are without it."""
    rewards, gains = group
    broken_rewards = rewards.clone()
    broken_gains = gains.clone()
    broken_rewards[0] = torch.nan
    broken_gains[0] = torch.nan
    credit = assigned(method, broken_rewards, broken_gains)
    assert (credit.per_step[0, 0] == 0).all()
    close(credit.per_step[0, 1:], assigned(method, rewards[1:], gains[1:]).per_step[0])


@every_method
@few
@given(groups(samples=(3, 7)))
def test_sample_without_scores_gets_nothing_and_stays_out_of_the_advantages(method, group):
    rewards, gains = group
    missing = rewards.clone()
    missing[0] = torch.nan
    credit = assigned(method, missing, gains)
    assert (credit.per_step[0, 0] == 0).all()
    close(credit.advantages[0, 1:], assigned(method, rewards[1:], gains[1:]).advantages[0])


@opinionated
@pytest.mark.parametrize("filler", [0.75, float("nan"), float("inf")])
@few
@given(groups(objectives=(1, 3)), st.data())
def test_objective_that_says_nothing_is_as_good_as_dropped(method, filler, group, data):
    rewards, gains = group
    place = data.draw(st.integers(0, rewards.shape[1]))
    silent = torch.full_like(rewards[:, :1], filler)
    filled = torch.cat([rewards[:, :place], silent, rewards[:, place:]], dim=-1)
    close(assigned(method, filled, gains).per_step, assigned(method, rewards, gains).per_step)


@every_method
@few
@given(groups())
def test_group_whose_samples_are_equally_good_gets_no_credit(method, group):
    rewards, gains = group
    credit = assigned(method, rewards[:1].expand_as(rewards), gains)
    assert (credit.per_step == 0).all()


@every_method
def test_credit_carries_no_gradient(method):
    draw = torch.Generator().manual_seed(0)
    rewards = torch.randn(4, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    gains = torch.rand(4, 3, dtype=torch.float64, generator=draw, requires_grad=True)
    credit = assigned(method, rewards, gains)
    assert not any(tensor.requires_grad for tensor in credit.tensors().values())


@pytest.mark.parametrize("method", [METHODS[name] for name in UNIFORM], ids=UNIFORM)
@few
@given(groups())
def test_methods_without_a_when_weigh_every_step_alike(method, group):
    assert (assigned(method, *group).weights == 1).all()


@weighting
@few
@given(groups())
def test_methods_with_a_when_keep_the_floor_and_the_mean(method, group):
    weights = assigned(method, *group).weights
    assert (weights >= 0.5 - 1e-12).all()
    close(weights.mean(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("method", [METHODS[name] for name in PER_OBJECTIVE], ids=PER_OBJECTIVE)
@few
@given(groups(objectives=(1, 1)))
def test_one_objective_is_its_own_mix(method, group):
    rewards, gains = group
    expected = advantage.standardise(rewards)[:, 0].nan_to_num(0.0)
    close(assigned(method, rewards, gains).mixed[0], expected, atol=1e-12)


@few
@given(groups())
def test_effective_advantage_stays_within_the_opinions_of_the_sample(group):
    credit = otca.rule(group[0], trajectory(group[1]))
    heard = ~credit.advantages.isnan().all(-1)
    low = credit.advantages.nan_to_num(torch.inf).amin(-1)
    high = credit.advantages.nan_to_num(-torch.inf).amax(-1)
    assert (credit.mixed[heard] >= low[heard]).all()
    assert (credit.mixed[heard] <= high[heard]).all()
    assert (credit.mixed[~heard] == 0).all()


@every_method
def test_credit_is_clipped(method):
    """24 samples, one of them far away: its standardised score is (G - 1) / sqrt(G) = 4.69."""
    rewards = torch.zeros(24, 1, dtype=torch.float64)
    rewards[0] = 1.0
    tight = method.model_copy(update={"rule": method.rule.model_copy(update={"advantage_clip": 2.0})})
    gains = torch.full((24, 2), 0.25, dtype=torch.float64)
    assert assigned(method, rewards, gains).mixed[0, 0] > 4.6
    assert assigned(tight, rewards, gains).mixed[0, 0] == 2.0


# --- the ablations are what they say


@few
@given(groups(), st.integers(-8, 32))
def test_otca_on_a_flat_trajectory_is_moca(group, gain):
    rewards, gains = group
    similarity = trajectory(torch.full_like(gains, gain / 128))
    close(otca.rule(rewards, similarity).per_step, moca.rule(rewards, similarity).per_step, atol=1e-12)


@few
@given(groups())
def test_otca_with_a_floor_of_one_is_moca(group):
    rewards, gains = group
    similarity = trajectory(gains)
    close(otca.rule(rewards, similarity, floor=1.0).per_step, moca.rule(rewards, similarity).per_step, atol=1e-12)


@few
@given(groups(objectives=(1, 1)))
def test_otca_with_one_objective_is_tcd(group):
    rewards, gains = group
    similarity = trajectory(gains)
    close(otca.rule(rewards, similarity).per_step, tcd.rule(rewards, similarity).per_step, atol=1e-12)


@few
@given(groups())
def test_otca_is_the_weights_of_tcd_times_the_mix_of_moca(group):
    rewards, gains = group
    similarity = trajectory(gains)
    when = tcd.rule(rewards, similarity).weights
    how_good = moca.rule(rewards, similarity).mixed
    close(otca.rule(rewards, similarity).per_step, when * how_good[:, None], atol=1e-12)


@few
@given(groups(), st.integers(-8, 32))
def test_tcd_on_a_flat_trajectory_is_dance_grpo_on_the_mean(group, gain):
    rewards, gains = group
    spoken = (rewards.std(0) > 1e-6).sum().clamp(min=1)  # the mean is over those that have an opinion
    weights = torch.ones(rewards.shape[1], dtype=torch.float64) / spoken
    plain = dance_grpo.rule(rewards, weights, trained=torch.ones(gains.shape[1], dtype=torch.bool))
    similarity = trajectory(torch.full_like(gains, gain / 128))
    close(tcd.rule(rewards, similarity).per_step, plain.per_step, atol=1e-12)


@few
@given(groups(objectives=(1, 1)))
def test_with_one_objective_dance_grpo_may_mix_before_or_after(group):
    before, after = (
        assigned(composing.method("dance_grpo", mix_of=mix_of), *group) for mix_of in ("rewards", "advantages")
    )
    close(before.per_step, after.per_step, atol=1e-12)


@few
@given(groups(objectives=(2, 3)), st.lists(grid(0, 2, 4), min_size=3, max_size=3))
def test_dance_grpo_on_rewards_is_dance_grpo_on_their_weighted_sum(group, weights):
    rewards, gains = group
    weights = torch.tensor(weights, dtype=torch.float64)[: rewards.shape[1]]
    trained = torch.ones(gains.shape[1], dtype=torch.bool)
    one = torch.ones(1, dtype=torch.float64)
    summed = dance_grpo.rule((rewards @ weights)[:, None], one, trained=trained)
    close(dance_grpo.rule(rewards, weights, trained=trained, mix_of="rewards").per_step, summed.per_step)


def flow_evidence(rewards, weights):
    count = 3
    similarity = torch.zeros(*rewards.shape[:2], count + 1, dtype=torch.float64)
    return Evidence(
        rewards=rewards,
        weights=weights,
        trained=torch.ones(*rewards.shape[:2], count, dtype=torch.bool),
        transitions=read_transitions("flow_sde", schedules.linear(count), noise_level=0.7),
        seen={"similarity": similarity, "clean_similarity": similarity[..., 1:]},
    )


@few
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**31 - 1))
def test_flow_grpo_centres_by_group_and_scales_by_the_batch(prompts, samples, objectives, seed):
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.randn(prompts, samples, objectives, dtype=torch.float64, generator=draw)
    weights = torch.rand(objectives, dtype=torch.float64, generator=draw) + 0.5
    scores = (rewards * weights).sum(-1)
    centred = scores - scores.mean(1, keepdim=True)

    batch = composing.method("flow_grpo", scale="batch").credit(flow_evidence(rewards, weights))
    expected = centred / (scores.std(correction=0) + 1e-4)
    close(batch.per_step, expected.clamp(-5, 5)[..., None].expand(-1, -1, 3), atol=1e-10)

    group = composing.method("flow_grpo", scale="group").credit(flow_evidence(rewards, weights))
    expected = centred / (scores.std(1, keepdim=True, correction=0) + 1e-4)
    close(group.per_step, expected.clamp(-5, 5)[..., None].expand(-1, -1, 3), atol=1e-10)


def test_flow_grpo_leaves_missing_scores_out_of_the_scale_of_the_batch():
    rewards = torch.tensor([[[1.0], [2.0], [float("nan")]], [[4.0], [5.0], [9.0]]], dtype=torch.float64)
    credit = composing.method("flow_grpo").credit(flow_evidence(rewards, torch.ones(1, dtype=torch.float64)))
    scale = torch.tensor([1.0, 2.0, 4.0, 5.0, 9.0], dtype=torch.float64).std(correction=0) + 1e-4
    expected = torch.tensor([[-0.5, 0.5, 0.0], [-2.0, -1.0, 3.0]], dtype=torch.float64) / scale
    close(credit.mixed, expected, atol=1e-12)


def test_flow_grpo_survives_a_rollout_without_a_single_score():
    rewards = torch.full((2, 3, 2), torch.nan, dtype=torch.float64)
    for scale in ("batch", "group"):
        credit = composing.method("flow_grpo", scale=scale).credit(
            flow_evidence(rewards, torch.ones(2, dtype=torch.float64))
        )
        assert (credit.per_step == 0).all()
