"""What must hold of every credit rule, of step profiles, log-ratios and loss heads, whatever the rollout.

Rewards are drawn from a dyadic grid, so that ties and objectives without spread are common and shifts are exact.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import composing
from stepcredit import methods
from stepcredit.credit import advantage, mix, temporal
from stepcredit.flow import schedules
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.transitions import read_transitions
from stepcredit.methods import otca, tcd
from stepcredit.objective import profile, surrogate
from stepcredit.records import Evidence

few = settings(max_examples=4, deadline=None, derandomize=True)  # for tests that are repeated per rule
some = settings(max_examples=20, deadline=None, derandomize=True)


RULES = {name: composing.method(name) for name in methods.names()} | {
    "dance_grpo, rewards": composing.method("dance_grpo", mix_of="rewards"),
    "dance_grpo, losses": composing.method("dance_grpo", mix_of="losses"),
    "mgda, group": composing.method("mgda", over="group"),
    "otca, recentred": composing.method("otca", recentred=True, centred=True),
    "otca, objective floor": composing.method("otca", objective_floor=0.5),
    "otca, step mix": composing.method("otca", step_mix=True, centred=True),
    "dpok, no baseline": composing.method("dpok", baseline="none"),
}
STANDARDISED = [
    "coca",
    "dance_grpo",
    "dance_grpo, losses",
    "gdpo",
    "mgda",
    "mgda, group",
    "moca",
    "otca",
    "pcpo",
    "tcd",
]
SUMMED = [name for name in RULES if name not in STANDARDISED and not name.startswith("otca")]
every_rule = pytest.mark.parametrize("method", RULES.values(), ids=RULES)
seeds = st.integers(0, 2**31 - 1)


def named(names):
    return pytest.mark.parametrize("method", [RULES[name] for name in names], ids=names)


with_baseline = named([name for name in RULES if name != "dpok, no baseline"])


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, equal_nan=True)


def uniform(seed, *shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def rollouts(draw, prompts=(1, 2), samples=(3, 5), objectives=(1, 3), steps=(2, 5)):
    """Evidence of a rollout. Scores are multiples of 1/8 in [-2, 2], weights of 1/4."""
    P, G, K, N = (draw(st.integers(*limits)) for limits in (prompts, samples, objectives, steps))
    eighths = arrays("int64", (P, G, K), elements=st.integers(-16, 16))
    quarters = draw(st.lists(st.integers(1, 8), min_size=K, max_size=K))
    course = uniform(draw(seeds), 2, P, G, N + 1)
    return Evidence(
        rewards=torch.from_numpy(draw(eighths)).double() / 8,
        weights=torch.tensor(quarters, dtype=torch.float64) / 4,
        trained=torch.ones(P, G, N, dtype=torch.bool),
        transitions=read_transitions("dance_sde", schedules.linear(N), noise_level=0.3),
        seen={"similarity": course[0].sort(-1).values, "clean_similarity": course[1, ..., :N]},
    )


def of_samples(evidence, change):
    """What is known of each sample, changed in one way: scores, trained steps, and what observers saw."""
    return replace(
        evidence,
        rewards=change(evidence.rewards),
        trained=change(evidence.trained),
        seen={name: change(tensor) for name, tensor in evidence.seen.items()},
    )


def rows(evidence, order):
    """Only these samples, in this order."""
    return of_samples(evidence, lambda tensor: tensor[:, order])


def with_part(method, part, **settings):
    """The method with other settings of its plan or its rule."""
    return method.model_copy(update={part: getattr(method, part).model_copy(update=settings)})


def columns(evidence, order):
    """Only these objectives, in this order, each with its weight."""
    return replace(evidence, rewards=evidence.rewards[..., order], weights=evidence.weights[order])


# --- promises of every rule


@every_rule
@few
@given(rollouts(), st.randoms(use_true_random=False))
def test_permuted_samples_permute_the_credit(method, evidence, random):
    order = list(range(evidence.rewards.shape[1]))
    random.shuffle(order)
    close(method.credit(rows(evidence, order)).per_step, method.credit(evidence).per_step[:, order])


@every_rule
@few
@given(rollouts(prompts=(2, 3)))
def test_permuted_prompts_permute_the_credit(method, evidence):
    turned = of_samples(evidence, lambda tensor: tensor.flip(0))
    close(method.credit(turned).per_step, method.credit(evidence).per_step.flip(0))


@every_rule
@few
@given(rollouts(objectives=(2, 3)), st.randoms(use_true_random=False))
def test_objectives_in_another_order_with_their_weights_leave_the_credit(method, evidence, random):
    """1e-5, because MGDA's solver knows the shortest vector to the root of its ridge of 1e-12."""
    order = list(range(evidence.rewards.shape[2]))
    random.shuffle(order)
    close(method.credit(columns(evidence, order)).per_step, method.credit(evidence).per_step, atol=1e-5)


@with_baseline
@few
@given(rollouts(), st.integers(-32, 32))
def test_a_constant_added_to_an_objective_changes_nothing(method, evidence, eighths):
    moved = evidence.rewards.clone()
    moved[..., 0] += eighths / 8
    close(method.credit(replace(evidence, rewards=moved)).per_step, method.credit(evidence).per_step)


@with_baseline
@few
@given(rollouts())
def test_an_objective_that_is_constant_is_as_good_as_absent(method, evidence):
    silent = torch.full_like(evidence.rewards[..., :1], 0.75)
    more = replace(
        evidence,
        rewards=torch.cat([evidence.rewards, silent], dim=-1),
        weights=torch.cat([evidence.weights, evidence.weights.new_ones(1)]),
    )
    close(method.credit(more).per_step, method.credit(evidence).per_step)


@named(STANDARDISED)
@few
@given(rollouts(), st.sampled_from([0.25, 8.0, 1024.0]))
def test_rules_that_standardise_each_objective_ignore_its_scale(method, evidence, scale):
    """Up to the eps beside the standard deviation, of which GDPO's 1e-4 is the largest; scores differ by 1/8."""
    scaled = evidence.rewards.clone()
    scaled[..., 0] *= scale
    close(method.credit(replace(evidence, rewards=scaled)).per_step, method.credit(evidence).per_step, atol=2e-2)


@named(SUMMED)
def test_rules_that_sum_scores_follow_the_larger_scale(method):
    """Two objectives that disagree: the sample that the enlarged one prefers becomes the best."""
    N, rewards = 3, torch.tensor([[[1.0, 0.0], [0.0, 1.5], [0.2, 0.3]]], dtype=torch.float64)
    evidence = Evidence(
        rewards=rewards,
        weights=torch.ones(2, dtype=torch.float64),
        trained=torch.ones(1, 3, N, dtype=torch.bool),
        transitions=read_transitions("dance_sde", schedules.linear(N), noise_level=0.3),
        seen={
            "similarity": torch.linspace(0, 1, N + 1, dtype=torch.float64).expand(1, 3, -1),
            "clean_similarity": torch.linspace(0, 0.9, N, dtype=torch.float64).expand(1, 3, -1),
        },
    )
    scaled = rewards * torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert method.credit(evidence).per_step[0, :, 0].argmax() == 1
    assert method.credit(replace(evidence, rewards=scaled)).per_step[0, :, 0].argmax() == 0


@every_rule
@few
@given(rollouts(), seeds)
def test_untrained_transitions_get_exactly_nothing(method, evidence, seed):
    trained = uniform(seed, *evidence.trained.shape) < 0.6
    trained[..., 0] = True
    credit = method.credit(replace(evidence, trained=trained))
    assert (credit.per_step[~trained] == 0).all()
    assert (credit.weights[~trained] == 0).all()
    assert credit.terms is None or (credit.terms[~trained] == 0).all()


@every_rule
@few
@given(rollouts())
def test_credit_is_finite_and_carries_no_gradient(method, evidence):
    wanting = replace(evidence, rewards=evidence.rewards.clone().requires_grad_())
    credit = method.credit(wanting)
    assert not any(tensor.requires_grad for tensor in credit.tensors().values())
    assert credit.per_step.isfinite().all()


@every_rule
@pytest.mark.parametrize("broken", ["scores", "everything"])
@few
@given(rollouts(prompts=(1, 1), samples=(4, 5)), st.integers(0, 3))
def test_a_sample_that_is_not_a_number_loses_only_itself(method, broken, evidence, place):
    """Without scores or without anything finite: the others are as good as without it. OTCA's strength looks at the
    trajectories of those without scores too, so there only the sample itself is asked."""
    spoilt = of_samples(evidence, torch.clone)
    spoilt.rewards[:, place] = torch.nan
    if broken == "everything":
        for tensor in spoilt.seen.values():
            tensor[:, place] = torch.nan
    others = [row for row in range(evidence.rewards.shape[1]) if row != place]
    credit = method.credit(spoilt)
    assert (credit.per_step[:, place] == 0).all()
    if broken == "everything" or method.type not in ("otca", "moca"):
        close(credit.per_step[:, others], method.credit(rows(evidence, others)).per_step)


@with_baseline
@few
@given(rollouts())
def test_samples_that_are_equally_good_get_nothing(method, evidence):
    alike = replace(evidence, rewards=evidence.rewards[:, :1].expand_as(evidence.rewards).contiguous())
    assert (method.credit(alike).per_step == 0).all()


@every_rule
@few
@given(rollouts(samples=(4, 5)), st.integers(2, 4))
def test_best_of_keeps_so_many_samples_of_each_group_and_enlarges_them(method, evidence, count):
    every = method.credit(evidence)
    best = with_part(method, "plan", best_of=count).credit(evidence)
    kept = (best.per_step != 0).any(-1)
    assert (kept.sum(-1) <= count).all()
    G = evidence.rewards.shape[1]
    close(best.per_step[kept], every.per_step[kept] * G / count, atol=1e-12)


# --- promises of single rules


@named(
    ["flow_grpo", "ddpo", "tempflow_grpo", "flash_grpo", "grpo_guard", "flow_cps", "flow_dppo", "dance_grpo", "pcpo"]
)
@few
@given(rollouts())
def test_every_group_has_mean_zero(method, evidence):
    per_step = with_part(method, "rule", advantage_clip=100.0).credit(evidence).per_step
    close(per_step.mean(1), torch.zeros_like(per_step[:, 0]))


@some
@given(rollouts())
def test_dpok_with_a_baseline_has_mean_zero_in_the_units_of_the_reward(evidence):
    credit = composing.method("dpok", advantage_clip=100.0).credit(evidence)
    summed = (evidence.rewards * evidence.weights).sum(-1)
    close(credit.mixed, summed - summed.mean(1, keepdim=True))


@some
@given(rollouts())
def test_terms_of_dance_grpo_add_up_to_its_credit(evidence):
    close(
        composing.method("dance_grpo", mix_of="losses", advantage_clip=100.0).credit(evidence).terms.sum(-1),
        composing.method("dance_grpo", advantage_clip=100.0).credit(evidence).per_step,
        atol=1e-12,
    )


@some
@given(rollouts(prompts=(1, 3)))
def test_gdpo_is_white_over_the_batch(evidence):
    """Mean 0 and standard deviation 1, but for the eps of 1e-4, over the groups that have an opinion."""
    credit = composing.method("gdpo").credit(evidence)
    heard = ~credit.advantages.isnan().all(-1)
    assume(credit.mixed[heard].unique().numel() > 1)
    assert (credit.mixed[~heard] == 0).all()
    assert abs(credit.mixed[heard].mean()) < 1e-9
    assert credit.mixed[heard].std().item() == pytest.approx(1, abs=2e-3)


# --- the shortest vector


@st.composite
def opinions(draw):
    rows, K = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    return torch.from_numpy(draw(arrays("int64", (rows, K), elements=st.integers(-12, 12)))).double() / 4


@some
@given(opinions())
def test_weights_of_the_shortest_vector_are_on_the_simplex_and_satisfy_kkt(advantages):
    """a_k . z >= |z|^2 for every objective, with equality for those that count."""
    weights = mix.min_norm(advantages)
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-8)
    shortest = advantages @ weights
    slack = advantages.T @ shortest - shortest.square().sum()
    scale = advantages.square().sum(0).max().item() + 1e-12
    assert (slack >= -1e-5 * scale).all()
    assert (slack[weights > 1e-4].abs() <= 1e-5 * scale).all()


@some
@given(opinions(), seeds)
def test_no_mix_is_shorter(advantages, seed):
    K = advantages.shape[1]
    points = -uniform(seed, 200, K).log()
    points = torch.cat([points / points.sum(-1, keepdim=True), torch.eye(K, dtype=torch.float64)])
    reached = (points @ advantages.T).square().sum(-1)
    shortest = (advantages @ mix.min_norm(advantages)).square().sum()
    assert shortest <= reached.min() + 1e-9 * (1 + advantages.square().sum())


@some
@given(rollouts(objectives=(2, 3)))
def test_mgda_is_no_longer_than_any_objective(evidence):
    credit = composing.method("mgda").credit(evidence)
    heard = ~credit.advantages.isnan().flatten(0, 1).all(0)
    assume(heard.any())
    lengths = credit.advantages.nan_to_num(0.0).square().sum((0, 1))[heard]
    assert credit.mixed.square().sum() <= lengths.min() + 1e-9
    assert (credit.coefficients[..., ~heard] == 0).all()


@some
@given(rollouts(prompts=(1, 1), objectives=(2, 2)))
def test_mgda_of_two_objectives_in_one_group_is_their_mean(evidence):
    """Standardised columns are equally long, so the shortest mix of two is half and half."""
    credit = composing.method("mgda").credit(evidence)
    assume(not credit.advantages.isnan().any())
    close(credit.mixed, credit.advantages.mean(-1), atol=1e-5)


# --- CoCA


@some
@given(seeds, st.integers(1, 8), st.integers(1, 9))
def test_reward_to_go_starts_at_one_and_falls_alike_within_a_window(seed, steps, window):
    clean = uniform(seed, 3, steps)
    rest = temporal.reward_to_go(clean, window=window)
    close(rest[:, 0], torch.ones(3, dtype=torch.float64))
    share = torch.cat([rest, torch.zeros(3, 1, dtype=torch.float64)], dim=-1).diff(dim=-1)
    for part in share.split(window, dim=-1):
        close(part, part[:, :1].expand_as(part))


@some
@given(seeds, st.integers(1, 8))
def test_reward_to_go_of_single_steps_telescopes(seed, steps):
    """C_n = (1 - S_n) / (1 - S_0): the similarity that is missing, over what was missing at first."""
    clean = uniform(seed, 3, steps)
    close(temporal.reward_to_go(clean, window=1), (1 - clean) / (1 - clean[:, :1]))


# --- OTCA's variants


@some
@given(rollouts(prompts=(1, 1)), st.booleans(), st.booleans())
def test_recentred_otca_has_mean_zero_at_every_step(evidence, step_mix, centred):
    rewards, similarity = evidence.rewards[0], evidence.seen["similarity"][0]
    assume(not advantage.standardise(rewards).isnan().all())
    credit = otca.rule(rewards, similarity, floor=1.0, recentred=True, step_mix=step_mix, centred=centred)
    close(credit.per_step.mean(0), torch.zeros_like(credit.per_step[0]))


@some
@given(rollouts(prompts=(1, 1)), st.booleans())
def test_objective_floor_leads_from_the_paper_to_tcd(evidence, step_mix):
    rewards, similarity = evidence.rewards[0], evidence.seen["similarity"][0]
    low, half, high = (
        otca.rule(rewards, similarity, objective_floor=floor, step_mix=step_mix).per_step for floor in (0.0, 0.5, 1.0)
    )
    close(low, otca.rule(rewards, similarity, step_mix=step_mix).per_step, atol=0)
    close(high, tcd.rule(rewards, similarity).per_step)
    close(half, (low + high) / 2)


@some
@given(rollouts(prompts=(1, 1)), st.booleans())
def test_mix_of_every_step_is_between_the_objectives(evidence, centred):
    credit = otca.rule(evidence.rewards[0], evidence.seen["similarity"][0], step_mix=True, centred=centred)
    low, high = credit.advantages.nan_to_num(torch.inf).amin(-1), credit.advantages.nan_to_num(-torch.inf).amax(-1)
    assume(low.isfinite().all())
    good = credit.per_step / credit.weights
    assert (good >= low[:, None] - 1e-9).all()
    assert (good <= high[:, None] + 1e-9).all()


@some
@given(rollouts(prompts=(1, 1), objectives=(1, 1)), st.booleans(), st.booleans())
def test_otca_of_one_objective_is_tcd(evidence, step_mix, centred):
    rewards, similarity = evidence.rewards[0], evidence.seen["similarity"][0]
    several = otca.rule(rewards, similarity, step_mix=step_mix, centred=centred)
    close(several.per_step, tcd.rule(rewards, similarity).per_step)


@some
@given(rollouts(prompts=(1, 1), steps=(1, 1)), st.booleans())
def test_step_mix_of_a_single_step_is_no_step_mix(evidence, centred):
    rewards, similarity = evidence.rewards[0], evidence.seen["similarity"][0]
    one, other = (otca.rule(rewards, similarity, step_mix=mixed, centred=centred) for mixed in (False, True))
    close(one.per_step, other.per_step)


# --- which steps count


@st.composite
def samplers(draw):
    """Constants of a sampler of any kernel, and how many samples train each step (the last one: none)."""
    kernel = draw(st.sampled_from(["flow_sde", "dance_sde", "cps", "ddim"]))
    N = draw(st.integers(2, 9))
    levels = schedules.shifted(N, shift=draw(st.sampled_from([1.0, 3.0, 5.0])))
    constants = read_transitions(kernel, levels, noise_level=draw(st.sampled_from([0.3, 0.7, 0.9])))
    counts = draw(st.lists(st.integers(0, 4), min_size=N - 1, max_size=N - 1).filter(any))
    return constants, torch.tensor([*counts, 0], dtype=torch.float64)


def factors(case, which, preserve):
    constants, counts = case
    return profile.factors(constants.slope, constants.std, constants.length, counts, profile=which, preserve=preserve)


PROFILES = ["native", "noise", "step_length", "uniform", "per_length", "error"]
every_profile = pytest.mark.parametrize("which", PROFILES)
every_preserve = pytest.mark.parametrize("preserve", ["gradient", "factor", "nothing"])


@every_profile
@every_preserve
@few
@given(samplers())
def test_weighted_steps_are_proportional_to_the_profile(which, preserve, case):
    constants, counts = case
    on = counts > 0
    wanted = {
        "native": constants.native,
        "noise": constants.slope,
        "step_length": constants.length,
        "uniform": torch.ones_like(constants.length),
        "per_length": constants.slope / constants.length,
        "error": 2 * constants.slope * constants.std,
    }[which]
    ratio = (constants.native * factors(case, which, preserve))[on] / wanted[on]
    assert (ratio / ratio[0] - 1).abs().max() < 1e-6
    if preserve == "nothing":
        assert (ratio - 1).abs().max() < 1e-9


@every_profile
@few
@given(samplers())
def test_profiles_keep_what_they_say(which, case):
    constants, counts = case
    on = counts > 0
    native = torch.where(on, constants.native, 0)
    total = (counts * native).sum()
    assert ((counts * native * factors(case, which, "gradient")).sum() / total).item() == pytest.approx(1, abs=1e-9)
    mean = (counts * factors(case, which, "factor")).sum() / counts.sum()
    assert mean.item() == pytest.approx(1, abs=1e-9)


@every_profile
@every_preserve
@few
@given(samplers())
def test_factors_are_finite_positive_and_one_where_nothing_is_trained(which, preserve, case):
    factor = factors(case, which, preserve)
    assert factor.isfinite().all()
    assert (factor > 0).all()
    assert (factor[case[1] == 0] == 1).all()
    if which == "native":
        close(factor, torch.ones_like(factor))


@pytest.mark.parametrize("place", ["loss", "ratio", "split"])
@few
@given(samplers())
def test_the_parts_of_a_factor_multiply_to_it(place, case):
    on = case[1] > 0
    factor, std = factors(case, "step_length", "gradient")[on], case[0].std[on]
    on_ratio, on_loss = profile.placed(factor, std, place=place)
    close(on_ratio * on_loss, factor)


@some
@given(samplers())
def test_methods_make_of_the_steps_what_they_promise(case):
    """PCPO: credit by step length, the total kept. TempFlow: by noise. Flash: all alike. Flow-CPS: by slope x std.
    GRPO-Guard: by slope over length, with the noise on the ratio."""
    constants, counts = case
    on = counts > 0
    most = int(counts.max())
    trained = torch.arange(most)[:, None] < counts  # [G, N] with `counts` samples at each step
    wanted = {
        "pcpo": constants.length,
        "tempflow_grpo": constants.slope,
        "flash_grpo": torch.ones_like(constants.length),
        "flow_cps": constants.slope * constants.std,
        "grpo_guard": constants.slope / constants.length,
    }
    for name, weight in wanted.items():
        on_ratio, on_loss = composing.method(name).objective.step_factors(constants, trained[None])
        ratio = (constants.native * on_ratio * on_loss / weight)[on]
        assert (ratio / ratio[0] - 1).abs().max() < 1e-6
        if name == "grpo_guard":
            close(on_ratio[on], constants.std[on])
        elif name in ("pcpo", "flow_cps"):
            assert (on_loss == 1).all()
        else:
            assert (on_ratio == 1).all()


# --- log-ratios


def normal(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps", "ddim"])
@few
@given(seeds)
def test_log_ratio_of_factor_one_is_that_of_the_densities(kernel, seed):
    x, before, now, e = normal(seed, 4, 3, 2, 5).unbind()
    level, nxt = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    old, new = (KERNELS[kernel](x, v, level, nxt, noise_level=0.5) for v in (before, before + 0.1 * now))
    y = old.sample(e)
    drift, one = (new.mean - old.mean) / old.std, torch.ones(3, dtype=torch.float64)
    expected = new.log_prob(y) - old.log_prob(y)
    for form in ("power", "matching"):
        close(profile.log_ratio(drift, e, one, form=form), expected)
    close(profile.log_ratio(drift, e, one, form="linear"), expected + old.kl(new))


@some
@given(seeds, st.floats(0.05, 4))
def test_forms_of_the_log_ratio(seed, factor):
    """`matching` is the plain one of a drift that is f times as large; `power` is f times the plain one; the two
    differ by f (f - 1) mean(d^2) / 2; `linear` is odd in the drift."""
    drift, e = normal(seed, 2, 4, 3, 2).unbind()
    f, one = torch.full((4,), factor, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    matching, power, linear = (profile.log_ratio(drift, e, f, form=form) for form in ("matching", "power", "linear"))
    close(matching, profile.log_ratio(factor * drift, e, one, form="power"))
    close(power, factor * profile.log_ratio(drift, e, one, form="power"))
    close(power - matching, factor * (factor - 1) * drift.square().flatten(1).mean(1) / 2)
    close(linear, -profile.log_ratio(-drift, e, f, form="linear"))


@some
@given(seeds)
def test_centred_ratio_of_grpo_guard_has_mean_zero_over_the_noise(seed):
    """e and -e are equally likely: `linear` averages to 0 over them, `power` to -mean(d^2) / 2."""
    drift, e = normal(seed, 2, 4, 3, 2).unbind()
    one = torch.ones(4, dtype=torch.float64)
    mean = {
        form: sum(profile.log_ratio(drift, s * e, one, form=form) for s in (1, -1)) / 2 for form in ("linear", "power")
    }
    close(mean["linear"], torch.zeros_like(one))
    close(mean["power"], -drift.square().flatten(1).mean(1) / 2)


# --- loss heads


@st.composite
def moved(draw):
    """Log-ratios and credit `[B]`, and a clip; most ratios are near the clip."""
    seed, clip = draw(seeds), draw(st.sampled_from([1e-4, 1e-2, 0.2]))
    log_ratio, credit = normal(seed, 2, 12).unbind()
    return log_ratio * clip * draw(st.sampled_from([0.3, 1.0, 3.0])), credit, clip


HEADS = {
    "clipped": lambda log_ratio, credit, clip: surrogate.clipped(log_ratio, credit, clip=clip),
    "hinge": lambda log_ratio, credit, clip: surrogate.hinge(log_ratio, credit, clip=clip),
    "trust_region": lambda log_ratio, credit, clip: surrogate.trust_region(
        log_ratio, credit, log_ratio.detach().abs(), limit=clip
    ),
    "unclipped": lambda log_ratio, credit, clip: surrogate.unclipped(log_ratio, credit),
}
every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


@every_head
@few
@given(moved())
def test_gradient_of_an_unmoved_policy_is_minus_the_credit(head, case):
    _, credit, clip = case
    still = torch.zeros_like(credit, requires_grad=True)
    (slope,) = torch.autograd.grad(head(still, credit, clip).sum(), still)
    close(slope, -credit, atol=0)


@every_head
@few
@given(moved(), st.sampled_from([0.25, 2.0, 64.0]))
def test_loss_is_homogeneous_in_the_credit(head, case, scale):
    log_ratio, credit, clip = case
    close(head(log_ratio, scale * credit, clip), scale * head(log_ratio, credit, clip), atol=1e-12)


@every_head
@few
@given(moved())
def test_no_credit_is_no_loss(head, case):
    log_ratio, credit, clip = case
    assert (head(log_ratio, torch.zeros_like(credit), clip) == 0).all()


@some
@given(moved())
def test_ppo_is_the_hinge_in_the_ratio_minus_one(case):
    """max(-c rho, -c clip(rho)) = max(0, clip |c| - c (rho - 1)) - c - clip |c|, exactly."""
    log_ratio, credit, clip = case
    excess = log_ratio.exp() - 1
    expected = surrogate.hinge(excess, credit, clip=clip) - credit - clip * credit.abs()
    close(surrogate.clipped(log_ratio, credit, clip=clip), expected, atol=1e-12)


@some
@given(moved())
def test_the_hinge_in_the_log_ratio_is_ppo_to_first_order(case):
    """They differ by |c| (rho - 1 - log rho) at most, which is |c| (log rho)^2 for |log rho| < 1."""
    log_ratio, credit, clip = case
    constant = credit + clip * credit.abs()
    apart = surrogate.hinge(log_ratio, credit, clip=clip) - surrogate.clipped(log_ratio, credit, clip=clip) - constant
    assert (apart.abs() <= credit.abs() * log_ratio.square() + 1e-12).all()


@some
@given(moved(), seeds)
def test_trust_region_is_plain_inside_and_masks_outside_only_what_moves_away(case, seed):
    log_ratio, credit, clip = case
    divergence = uniform(seed, 12) * 2 * clip
    loss = surrogate.trust_region(log_ratio, credit, divergence, limit=clip)
    masked = (divergence >= clip) & (credit * log_ratio > 0)
    close(loss[~masked], (-credit * log_ratio.exp())[~masked], atol=0)
    assert (loss[masked] == 0).all()
