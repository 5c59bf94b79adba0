"""Rollouts: a sample depends on its own key and on nothing else; deterministic and noisy ends; broken samples."""

import math

import numpy as np
import pytest
import torch

from composing import method
from fakes import PROMPTS, SHAPE, BreakingPolicy, Brightness, Contrast, FakePolicy, make_parts
from stepcredit.credit.temporal import similarity_to_final
from stepcredit.errors import NumericsError
from stepcredit.parts.observers import CleanSimilarity, Similarity
from stepcredit.parts.planning import Window
from stepcredit.records import Key, NoiseStream, Plan, Prompt, Rollout
from stepcredit.rollout.decoding import SAMPLER, decode, finished
from stepcredit.rollout.engine import RollOut, sample_ode
from stepcredit.training.step import step

STEPS = 5


def drawn(group_size=3, prompts=2, iteration=0, **flat):
    chosen = method("dance_grpo", **flat)
    return chosen.plan.draw(chosen.sampler, steps=STEPS, prompts=prompts, group_size=group_size, key=Key(0, iteration))


def first_noise(prompt, members, *, shared):
    """The starts of one group."""
    key = Key(seed=0, iteration=0)
    if shared:
        return [key.shared_start(prompt).draw(SHAPE)] * members
    return [key.start(prompt, member).draw(SHAPE) for member in range(members)]


def rolled(
    policy=None,
    *,
    plan=None,
    noisy_end=False,
    prompts=PROMPTS[:2],
    flat=None,
    group_size=3,
    shared_noise=True,
    seed=0,
    iteration=0,
    micro_batch=100,
    share_states=True,
    progress=lambda pairs: None,
):
    policy = policy or FakePolicy()
    settings = {"noise_level": 0.5, "shared_noise": shared_noise, **(flat or {})}
    if noisy_end:
        settings["final_state"] = "x_N"
    chosen = method("dance_grpo", **settings)
    roll_out = RollOut(
        policy=policy,
        sampling=chosen.sampler,
        planning=chosen.plan,
        levels=policy.levels(STEPS, None),
        group_size=group_size,
        micro_batch=micro_batch,
        observers=[Similarity(), CleanSimilarity()],
        share_states=share_states,
    )
    return roll_out(Prompt.listed(prompts), Key(seed, iteration), progress, plan=plan)


def tensors(rollout):
    return [rollout.latents, rollout.velocities, rollout.final, *rollout.seen.values()]


def same(one: Rollout, two: Rollout, tolerance: float = 0.0) -> bool:
    pairs = zip(tensors(one), tensors(two), strict=True)
    return all(torch.allclose(left, right, rtol=0, atol=tolerance, equal_nan=True) for left, right in pairs)


# What a rollout depends on


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 6])
def test_the_micro_batch_changes_nothing(micro_batch):
    whole = rolled(shared_noise=False)
    parts = rolled(shared_noise=False, micro_batch=micro_batch)
    assert same(whole, parts, 1e-6)  # matrix products of other sizes may round differently


def test_the_same_seed_gives_the_same_rollout():
    torch.manual_seed(1)
    first = rolled()
    torch.manual_seed(2)  # the global generator is not asked
    assert same(first, rolled())


@pytest.mark.parametrize("changed", [{"seed": 1}, {"iteration": 1}])
def test_another_seed_or_iteration_has_other_noise_everywhere(changed):
    first, other = rolled(shared_noise=False), rolled(shared_noise=False, **changed)
    assert not torch.isclose(first.latents, other.latents).flatten(2).all(-1).any()


def test_a_seed_and_an_iteration_are_not_interchangeable():
    assert not same(rolled(seed=1, iteration=0), rolled(seed=0, iteration=1))


def test_shared_noise_is_one_start_for_a_group_and_another_for_the_next_group():
    start = rolled(shared_noise=True).latents[:, :, 0]
    assert (start == start[:, :1]).all()
    assert not torch.isclose(start[0, 0], start[1, 0]).any()
    later = rolled(shared_noise=True).latents[:, :, 1]
    assert not torch.isclose(later[:, 0], later[:, 1]).any()  # the noise of the steps is each sample's own


def test_independent_noise_is_a_start_of_its_own_for_every_sample():
    start = rolled(shared_noise=False).latents[:, :, 0].flatten(0, 1)
    for index, one in enumerate(start):
        assert not any(torch.isclose(one, other).any() for other in start[:index])


@pytest.mark.parametrize("shared_noise", [True, False])
def test_the_noise_of_a_member_does_not_depend_on_the_size_of_its_group(shared_noise):
    small, large = (rolled(shared_noise=shared_noise, group_size=size) for size in (2, 5))
    torch.testing.assert_close(large.latents[:, :2], small.latents, rtol=0, atol=1e-6)


def test_the_noise_of_a_group_does_not_depend_on_the_number_of_prompts():
    few, many = rolled(prompts=PROMPTS[:1]), rolled(prompts=PROMPTS)
    torch.testing.assert_close(many.latents[:1], few.latents, rtol=0, atol=1e-6)


def test_initial_noise_and_step_noise_come_from_different_streams():
    first = first_noise(0, 1, shared=False)[0]
    shared = first_noise(0, 1, shared=True)[0]
    moved = NoiseStream(0, 0, 0, 0).draw(SHAPE)
    assert not torch.isclose(first, moved).any()
    assert not torch.isclose(shared, moved).any()


def test_noise_is_standard_normal_and_goes_on():
    stream = NoiseStream(1, 2, 3, 4)
    first, second = stream.draw((20_000,)), stream.draw((20_000,))
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1) < 0.03
    assert abs((first * second).mean()) < 0.03


# What the steps do


def test_a_trajectory_has_the_documented_shapes_and_starts_at_the_noise():
    got = rolled(prompts=PROMPTS, group_size=2)
    assert got.latents.shape == (4, 2, STEPS + 1, *SHAPE)
    assert got.velocities.shape == (4, 2, STEPS, *SHAPE)
    assert got.seen["clean_similarity"].shape == (4, 2, STEPS)
    assert got.final.shape == (4, 2, *SHAPE)
    assert got.seen["similarity"].shape == (4, 2, STEPS + 1)
    noise = first_noise(3, 2, shared=True)
    assert torch.equal(got.latents[3, :, 0], torch.stack(noise))


def test_the_similarity_is_the_cosine_with_the_final_latent():
    got = rolled()
    wanted = similarity_to_final(got.latents.flatten(0, 1), got.final.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(got.seen["similarity"], wanted)


def test_velocities_are_what_the_network_says_about_the_latents_that_were_kept():
    policy = FakePolicy()
    got = rolled(policy, flat={"timestep_fraction": 0.5}, shared_noise=False)
    rows = torch.arange(2).repeat_interleave(3)
    for at in range(STEPS):
        x = got.latents[:, :, at].flatten(0, 1)
        with torch.no_grad():
            said = policy.velocity(x, got.sampler.levels[at].to(x).expand(6), policy.encode(PROMPTS[:2])[rows])
        assert torch.equal(got.velocities[:, :, at].flatten(0, 1), said)


@pytest.mark.parametrize("noisy_end", [False, True])
def test_the_clean_similarity_is_the_cosine_of_every_clean_prediction_with_what_is_decoded(noisy_end):
    got = rolled(noisy_end=noisy_end)
    for prompt, member, at in np.ndindex(2, 3, STEPS):
        clean = got.latents[prompt, member, at] - float(got.sampler.levels[at]) * got.velocities[prompt, member, at]
        cosine = torch.cosine_similarity(clean.flatten(), got.final[prompt, member].flatten(), dim=0)
        torch.testing.assert_close(got.seen["clean_similarity"][prompt, member, at], cosine, rtol=0, atol=1e-6)
    if not noisy_end:  # the last prediction is what is decoded
        torch.testing.assert_close(got.seen["clean_similarity"][..., -1], torch.ones(2, 3), rtol=0, atol=1e-6)


def test_an_untrained_last_step_is_deterministic_and_ends_at_the_clean_prediction():
    got = rolled()
    torch.testing.assert_close(got.final, got.latents[:, :, -1], rtol=0, atol=1e-5)
    assert torch.equal(got.latents[:, :, -1], straight(got, STEPS - 1))
    for at in range(STEPS - 1):
        assert not torch.isclose(got.latents[:, :, at + 1], straight(got, at), atol=1e-4).all(-1).all(-1).any()


def test_a_trained_last_step_adds_noise_and_still_decodes_the_clean_prediction():
    got = rolled(flat={"train_last": True})
    assert not torch.isclose(got.final, got.latents[:, :, -1], atol=1e-4).all(-1).all(-1).any()
    before = rolled()
    torch.testing.assert_close(got.final, before.final, rtol=0, atol=1e-6)


def test_a_noisy_end_decodes_the_last_latent():
    got = rolled(noisy_end=True)
    assert torch.equal(got.final, got.latents[:, :, -1])
    clean = rolled(flat={"train_last": True})  # the same moves, another final
    assert torch.equal(got.latents, clean.latents)
    assert not torch.isclose(got.final, clean.final, atol=1e-4).all()


@pytest.mark.parametrize("kernel", ["dance_sde", "flow_sde", "cps", "ddim"])
def test_the_first_move_is_that_of_its_kernel_with_the_sample_s_own_noise(kernel):
    policy = FakePolicy()
    got = rolled(policy, flat={"kernel": kernel})
    x = got.latents[1, 2, 0]
    with torch.no_grad():
        velocity = policy.velocity(x[None], torch.ones(1), policy.encode(PROMPTS[1:2]))[0]
    start, end, eta = 1.0, 1 - 1 / STEPS, 0.5
    if kernel == "cps":
        std = end * math.sin(eta * math.pi / 2)
        mean = (x - velocity) * (1 - end) + x * math.sqrt(end**2 - std**2)  # at level 1 the noise is x itself
    elif kernel == "ddim":  # abar' is the signal's share of the variance at the end; at the start it is 0
        after = (1 - end) ** 2 / ((1 - end) ** 2 + end**2)
        scale, fresh = math.sqrt((1 - end) ** 2 + end**2), eta * math.sqrt(1 - after)
        mean = scale * (math.sqrt(after) * (x - velocity) + math.sqrt(1 - after - fresh**2) * x)
        std = scale * fresh
    else:
        g = eta if kernel == "dance_sde" else eta * math.sqrt(start / (1 - end))
        score = -x  # minus noise over level, at level 1
        mean = x + (velocity - g**2 / 2 * score) * (end - start)
        std = g * math.sqrt(start - end)
    noise = NoiseStream(0, 0, 1, 2).draw(SHAPE)
    torch.testing.assert_close(got.latents[1, 2, 1], mean + std * noise, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.velocities[1, 2, 0], velocity, rtol=0, atol=1e-6)


def test_the_deterministic_sampler_is_euler():
    policy = FakePolicy()
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    condition, levels = policy.encode(PROMPTS[:3]), policy.levels(STEPS, None)
    x = noise.clone()
    with torch.no_grad():
        for index in range(STEPS):
            level = torch.full((3,), 1 - index / STEPS)
            x = x - policy.velocity(x, level, condition) / STEPS
    torch.testing.assert_close(sample_ode(policy, condition, levels, noise), x, rtol=0, atol=1e-5)


def test_a_rollout_builds_no_graph():
    got = rolled()
    assert not any(tensor.requires_grad for tensor in tensors(got))


def test_progress_counts_every_sample_and_step_once():
    heard = []
    rolled(micro_batch=4, progress=heard.append)
    assert sum(heard) == 2 * 3 * STEPS


# Where the plan is deterministic


def straight(got, at):
    """Euler's step from the latents kept before transition `at`, with the velocity kept beside them."""
    start, end = got.sampler.levels[at].to(got.latents), got.sampler.levels[at + 1].to(got.latents)
    return got.latents[:, :, at] + got.velocities[:, :, at] * (end - start)


@pytest.mark.parametrize("kernel", ["dance_sde", "flow_sde", "cps", "ddim"])
@pytest.mark.parametrize("micro_batch", [4, 100])
def test_outside_its_window_a_sample_follows_the_ode_bit_for_bit(kernel, micro_batch):
    """Windows of each prompt differ, so that a batch holds samples with and samples without noise."""
    method = {"kernel": kernel, "window": Window(size=2, per="prompt")}
    plan = next(
        plan
        for plan in (drawn(prompts=4, iteration=iteration, **method) for iteration in range(50))
        if len(set(map(tuple, plan.stochastic[:, 0].tolist()))) == 3
    )
    got = rolled(plan=plan, prompts=PROMPTS, micro_batch=micro_batch)
    for at in range(STEPS):
        noisy, ode = plan.stochastic[..., at], straight(got, at)
        assert torch.equal(got.latents[:, :, at + 1][~noisy], ode[~noisy])
        assert not torch.isclose(got.latents[:, :, at + 1][noisy], ode[noisy], atol=1e-4).flatten(1).all(-1).any()


def test_a_plan_without_any_noise_is_the_deterministic_sampler():
    policy, plan = FakePolicy(), drawn()
    silent = Plan(torch.zeros_like(plan.stochastic), plan.trained, plan.author)
    got = rolled(policy, plan=silent, share_states=False)
    rows = torch.arange(2).repeat_interleave(3)
    start = got.latents[:, :, 0].flatten(0, 1)
    wanted = sample_ode(policy, policy.encode(PROMPTS[:2])[rows], got.sampler.levels, start)
    assert torch.equal(got.latents[:, :, -1].flatten(0, 1), wanted)


def test_a_sample_s_noise_is_drawn_where_it_is_used_and_nowhere_else():
    """Its first noisy move has the first draw of its stream, whenever that comes and whatever its neighbours do."""
    plan = drawn(prompts=4, iteration=1, kernel="dance_sde", window=Window(size=2, per="prompt"))
    assert len({row.index(True) for row in plan.stochastic[:, 0].tolist()}) > 1
    got = rolled(plan=plan, prompts=PROMPTS)
    for prompt, member in np.ndindex(4, 3):
        stream = NoiseStream(0, 0, prompt, member)
        for at in plan.stochastic[prompt, member].nonzero()[:, 0].tolist():
            x, velocity = got.latents[prompt, member, at], got.velocities[prompt, member, at]
            start, end = float(got.sampler.levels[at]), float(got.sampler.levels[at + 1])
            mean = x + (velocity + 0.5**2 / 2 * (x + (1 - start) * velocity) / start) * (end - start)
            noise = (got.latents[prompt, member, at + 1] - mean) / (0.5 * math.sqrt(start - end))
            torch.testing.assert_close(noise, stream.draw(SHAPE), rtol=0, atol=1e-5)


def test_what_is_trained_does_not_change_the_rollout():
    assert same(rolled(flat={"timestep_fraction": 0.5}), rolled())


# Pictures and broken samples


def test_pictures_are_bytes_and_latents_that_are_not_finite_become_black():
    policy = FakePolicy()
    latents = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    latents[1] = torch.nan
    decoded = decode(policy, latents, micro_batch=2)
    images = decoded.media
    assert decoded.unusable == {1: SAMPLER}
    assert images.dtype == np.uint8
    assert images.shape == (3, 8, 8, 3)
    assert (images[1] == 0).all()
    wanted = policy.decode(latents[:1])[0].permute(1, 2, 0) * 255
    assert np.abs(images[0] - wanted.numpy()).max() <= 0.5 + 1e-4


def test_broken_samples_are_counted():
    policy = BreakingPolicy([1, 5], samples=6)
    got = rolled(policy, share_states=False)
    assert finished(policy, got, 6).unusable == {1: SAMPLER, 5: SAMPLER}
    assert finished(policy, rolled(), 6).unusable == {}
    assert got.final.flatten(2).isfinite().all(-1).flatten().tolist() == [True, False, True, True, True, False]


def test_a_rollout_of_broken_samples_only_is_an_error():
    policy = BreakingPolicy(range(6), samples=6)
    with pytest.raises(NumericsError, match="every sample of the rollout holds NaN or infinity"):
        finished(policy, rolled(policy, share_states=False), 6)
    with pytest.raises(NumericsError):
        step(make_parts(policy=BreakingPolicy(range(8), samples=8)), 0)


@pytest.mark.parametrize("name", ["otca", "moca", "tcd", "dance_grpo"])
def test_a_broken_sample_has_nan_rewards_and_no_credit(name):
    parts = make_parts(
        [Brightness(), Contrast("contrast")],
        policy=BreakingPolicy([2], samples=8),
        method={"type": name, "shared_noise": False},
    )
    done = step(parts, 0)
    broken = torch.zeros(2, 4, dtype=torch.bool)
    broken[0, 2] = True
    assert (done.rewards.scores.isnan().all(-1) == broken).all()
    assert done.rewards.scores[~broken].isfinite().all()
    assert (done.credit.per_step[broken] == 0).all()
    assert done.credit.per_step.isfinite().all()
    assert (done.credit.per_step[1].abs().sum(-1) > 0).all()  # the other group is not concerned
    assert done.report.metrics["rollout/unusable"] == 1
    assert all(parameter.isfinite().all() for parameter in parts.policy.parameters())


@pytest.mark.parametrize("name", ["otca", "moca", "tcd", "dance_grpo"])
def test_the_siblings_of_a_broken_sample_keep_their_credit(name):
    policy = BreakingPolicy([2], samples=8)
    settings = {"type": name, "shared_noise": False}
    credit = step(make_parts([Brightness()], policy=policy, method=settings), 0).credit
    assert (credit.per_step[0].abs().sum(-1) > 0).tolist() == [True, True, False, True]


# Known defects


def test_a_broken_sample_does_not_stop_a_method_with_kl():
    policy = BreakingPolicy([2], samples=8)
    done = step(make_parts(policy=policy, method={"type": "flow_grpo"}), 0)
    assert done.report.metrics["rollout/unusable"] == 1
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


@pytest.mark.parametrize("name", ["otca", "tcd"])
def test_a_broken_sample_does_not_blank_the_credit_metrics(name):
    policy = BreakingPolicy([2], samples=8)
    metrics = step(make_parts(policy=policy, method={"type": name, "shared_noise": False}), 0).report.metrics
    assert all(math.isfinite(value) for name, value in metrics.items() if name.startswith("credit/"))


# Shared states


def test_a_common_first_noise_is_computed_once_for_the_group():
    shared, alone = rolled(), rolled(share_states=False)
    assert (shared.forwards, alone.forwards) == (2 * 3 * STEPS - 2 * 2, 2 * 3 * STEPS)
    assert same(shared, alone, 1e-6)
    assert (shared.plan.node[:, :, 0] == torch.tensor([[0] * 3, [3] * 3])).all()
    assert (shared.plan.node[:, :, 1:] == torch.arange(6).view(2, 3, 1)).all()
    assert rolled(shared_noise=False).forwards == 2 * 3 * STEPS


def forked(at, members=3, prompts=2):
    """One path for each group until the state `at`, then every sample on its own."""
    plan = drawn(members, prompts)
    author = plan.author.clone()
    author[:, :, 1 : at + 1] = 0
    return Plan(plan.stochastic, plan.trained, author)


@pytest.mark.parametrize("micro_batch", [2, 100])
@pytest.mark.parametrize("at", [1, 3])
def test_a_fork_is_one_path_until_it_parts_and_is_computed_once(at, micro_batch):
    got = rolled(plan=forked(at), micro_batch=micro_batch)
    shared = got.latents[:, :, : at + 1]
    assert torch.allclose(shared, shared[:, :1], rtol=0, atol=0 if micro_batch == 100 else 1e-6)
    assert not torch.isclose(got.latents[:, 0, at + 1], got.latents[:, 1, at + 1]).any()
    if micro_batch == 100:
        assert got.forwards == 2 * 3 * STEPS - 2 * 2 * (at + 1)
    assert same(got, rolled(plan=forked(at), share_states=False), 1e-6)
    own = rolled()  # the first sample is its own author: the fork of its siblings does not change its path
    torch.testing.assert_close(got.latents[:, 0], own.latents[:, 0], rtol=0, atol=1e-6)


def test_samples_that_follow_the_ode_from_one_state_stay_together():
    plan = drawn(window=Window(size=2, first=2, end=4))
    assert (plan.node[:, :, :3] == plan.node[:, :1, :3]).all()  # until the first noisy move has been made
    assert (plan.node[:, 0, 3:] != plan.node[:, 1, 3:]).all()
    got = rolled(plan=plan)
    assert got.forwards == 2 * 3 * STEPS - 2 * 2 * 3


def test_a_sample_has_the_same_noise_whatever_its_place_in_the_batch():
    whole = rolled(prompts=PROMPTS)
    policy = FakePolicy()
    chosen = method("dance_grpo", noise_level=0.5)
    roll_out = RollOut(policy, chosen.sampler, chosen.plan, policy.levels(STEPS, None), group_size=3, micro_batch=100)
    apart = roll_out(Prompt.listed(PROMPTS[2:]), Key(0, 0), places=[2, 3])
    torch.testing.assert_close(apart.latents, whole.latents[2:], rtol=0, atol=1e-6)
    assert apart.ids.tolist() == [[6, 7, 8], [9, 10, 11]]
