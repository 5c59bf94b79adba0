"""The update: its gradient is that of the loss written down by hand, whatever the micro-batch; anchors follow.

The hand-written loss walks over every prompt, member and trained step, one pair at a time, with the formulas of the
papers and `torch.distributions`; it shares no code with the package.
"""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from fakes import Brightness, Constant, Contrast, FakePolicy, RecordingSGD, make_parts
from stepcredit.errors import NumericsError
from stepcredit.flow.kernels import KERNELS
from stepcredit.flow.transitions import read_transitions
from stepcredit.objective import profile
from stepcredit.records import Condition, Credit, Evidence, Key
from stepcredit.rollout.decoding import finished
from stepcredit.training.anchors import Average
from stepcredit.training.step import evidence_of, score, step

TOLERANCE = 1e-6  # absolute, float32; the largest entries of the gradients here are about 0.1
HUGE = {"max_gradient_norm": 1e9}


class Case:
    """One rollout with credit, ready to be updated on."""

    def __init__(self, *, lr=0.0, drift=0.0, rewards=None, policy=None, **sections):
        sections.setdefault("optimiser", HUGE)
        self.policy = policy or FakePolicy()
        if drift:
            generator = torch.Generator().manual_seed(3)
            for parameter in self.policy.parameters():
                parameter.data += drift * torch.randn(parameter.shape, generator=generator)
        self.optimiser = RecordingSGD(self.policy.parameters(), lr=lr)
        self.parts = make_parts(rewards, policy=self.policy, descent=self.optimiser, **sections)
        self.method: Any = self.parts.method  # tests look into parts that only a subclass has
        prompts = self.parts.prompts.draw(self.parts.prompt_count, Key(0, iteration=0))
        self.rollout = self.parts.roll_out(prompts, Key(seed=sections.get("seed", 0), iteration=0))
        self.plan, self.condition = self.rollout.plan, self.rollout.condition
        self.levels = self.rollout.sampler.levels
        self.table = score(self.parts.rewards, finished(self.policy, self.rollout, 100), prompts)
        generator = torch.Generator().manual_seed(1)
        self.credit = self.made_credit(torch.randn(self.plan.trained.shape, generator=generator))

    def made_credit(self, per_step, terms=None):
        groups = torch.zeros(per_step.shape[:2])
        parts = (torch.ones_like(per_step), groups, groups[..., None], groups[..., None], groups)
        return Credit(per_step, *parts, terms=terms)

    def assigned_credit(self):
        """What the method makes of the rollout's own scores."""
        return self.method.credit(evidence_of(self.rollout, self.table, self.parts.objective_weights))

    def apply(self, credit=None, progress=lambda pairs: None, seed=0, **changed):
        update = replace(self.parts.update, **changed)
        rollout = replace(self.rollout, plan=self.plan)
        return update.apply(rollout, credit or self.credit, Key(seed, iteration=0), progress).metrics

    def by_hand(self, credit=None, weights=None):
        """The gradient of the mean loss over all pairs, at the given weights (default: those of the rollout), and
        computed in float64."""
        policy = FakePolicy()
        for parameter, weight in zip(policy.parameters(), weights or self.policy.parameters(), strict=True):
            parameter.data = weight.detach().clone()
        policy.network.double()
        policy.frozen.double()
        credit = credit or self.credit
        terms = (credit.per_step[..., None] if credit.terms is None else credit.terms).double()
        factors = by_hand_factors(self.method, self.levels.tolist(), self.plan.trained)
        pairs = self.plan.trained.nonzero().tolist()
        losses = [
            self._pair(policy, prompt, member, at, terms[prompt, member, at], *factors[at])
            for prompt, member, at in pairs
        ]
        policy.network.zero_grad()
        (sum(losses, torch.zeros(())) / len(pairs)).backward()
        return [parameter.grad.float() for parameter in policy.parameters()]

    def law(self, policy, prompt, member, at):
        """The law of a move under a policy; None is the one that sampled."""
        x = self.rollout.latents[prompt, member, at].double()
        start, end = self.levels[at].item(), self.levels[at + 1].item()
        if policy is None:
            velocity = self.rollout.velocities[prompt, member, at].double()
        else:
            words = Condition({"words": self.condition.tensors["words"][prompt : prompt + 1].to(x)})
            velocity = policy.velocity(x[None], torch.tensor([start], dtype=torch.float64), words)[0]
        return Normal(*by_hand_move(self.method, x, velocity, start, end))

    def _pair(self, policy, prompt, member, at, credit, on_ratio, on_loss):
        method, y = self.method, self.rollout.latents[prompt, member, at + 1].double()
        now, then = self.law(policy, prompt, member, at), self.law(None, prompt, member, at)
        apart = kl_divergence(now, then).mean()
        log_ratio = now.log_prob(y).mean() - then.log_prob(y).mean()
        if method.objective.form == "power":
            weighted = on_ratio * log_ratio
        elif method.objective.form == "linear":
            weighted = on_ratio * (log_ratio + apart)
        else:
            further = Normal(then.mean + on_ratio * (now.mean - then.mean), then.stddev)
            weighted = further.log_prob(y).mean() - then.log_prob(y).mean()
        ratio = weighted.exp()
        loss = torch.zeros(())
        clip: Any = getattr(method.objective.loss, "clip", None)
        for one in credit:
            if method.objective.loss.type == "clipped":
                loss = loss - torch.minimum(ratio * one, ratio.clamp(1 - clip, 1 + clip) * one)
            elif method.objective.loss.type == "hinge":
                loss = loss + torch.relu(clip * one.abs() - one * weighted)
            elif method.objective.loss.type == "unclipped":
                loss = loss - one * weighted
            elif apart < clip or one * (ratio - 1) <= 0:
                loss = loss - ratio * one
        loss = on_loss * loss
        if method.objective.kl_weight:
            with torch.no_grad(), policy.reference():
                base = self.law(policy, prompt, member, at)
            length = float(self.levels[at] - self.levels[at + 1])
            distance = kl_divergence(now, base).mean() * (length if method.objective.kl_form == "flow_grpo" else 1)
            loss = loss + method.objective.kl_weight * distance
        return loss

    def log_ratios(self):
        """Of the policy as it is now, for every move; NaN where the move was deterministic."""
        policy = FakePolicy()
        policy.network = copy.deepcopy(self.policy.network).double()
        policy._active = policy.network
        found = torch.full(self.plan.trained.shape, torch.nan)
        for prompt, member, at in self.plan.stochastic.nonzero().tolist():
            y = self.rollout.latents[prompt, member, at + 1].double()
            with torch.no_grad():
                now, then = self.law(policy, prompt, member, at), self.law(None, prompt, member, at)
            found[prompt, member, at] = now.log_prob(y).mean() - then.log_prob(y).mean()
        return found


def by_hand_move(method, x, velocity, start, end):
    """Mean and standard deviation of a transition, from the papers."""
    data, noise = x - start * velocity, x + (1 - start) * velocity
    eta = method.sampler.noise_level
    if method.sampler.kernel == "cps":
        std = end * math.sin(eta * math.pi / 2)
        return (1 - end) * data + math.sqrt(end**2 - std**2) * noise, std
    if method.sampler.kernel == "ddim":
        abar, after = ((1 - level) ** 2 / ((1 - level) ** 2 + level**2) for level in (start, end))
        sigma = eta * math.sqrt((1 - after) / (1 - abar) * (1 - abar / after))
        scale = math.hypot(1 - end, end)
        return scale * (math.sqrt(after) * data + math.sqrt(1 - after - sigma**2) * noise), scale * sigma
    g = eta if method.sampler.kernel == "dance_sde" else eta * math.sqrt(start / (1 - (end if start == 1 else start)))
    return x + (velocity + g**2 / 2 * noise / start) * (end - start), g * math.sqrt(start - end)


def by_hand_factors(method, levels, trained):
    """For each step what multiplies the log-ratio and what the loss; (1, 1) where nobody trains it."""
    counts, zero, one = trained.sum((0, 1)).tolist(), torch.zeros(()), torch.ones(())
    used = [at for at, count in enumerate(counts) if count]
    native, wanted, stds = {}, {}, {}
    for at in used:
        start, end = levels[at], levels[at + 1]
        mean, std = by_hand_move(method, zero, one, start, end)
        slope, stds[at] = abs(float(mean)), std
        native[at] = slope / std
        wanted[at] = {
            "native": slope / std,
            "noise": slope,
            "step_length": start - end,
            "uniform": 1.0,
            "per_length": slope / (start - end),
            "error": 2 * slope * std,
        }[method.objective.profile]
    scale = 1.0
    if method.objective.preserve == "gradient":
        scale = sum(counts[at] * native[at] for at in used) / sum(counts[at] * wanted[at] for at in used)
    elif method.objective.preserve == "factor":
        scale = sum(counts[at] for at in used) / sum(counts[at] * wanted[at] / native[at] for at in used)
    found = [(1.0, 1.0)] * len(counts)
    for at in used:
        factor = scale * wanted[at] / native[at]
        found[at] = {"loss": (1.0, factor), "ratio": (factor, 1.0), "split": (stds[at], factor / stds[at])}[
            method.objective.place
        ]
    return found


def assert_close(got, wanted, tolerance=TOLERANCE):
    assert max(float(gradient.abs().max()) for gradient in wanted) > 0.01
    for one, two in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


# The gradient of one update


@pytest.mark.parametrize(
    "method",
    [
        {"type": "dance_grpo", "noise_level": 0.5},
        {"type": "dance_grpo", "noise_level": 0.5, "train_last": True},
        {"type": "flow_grpo", "kl_weight": 0.0},
        {"type": "dance_grpo", "kernel": "cps"},
        {"type": "dance_grpo", "kernel": "ddim"},
    ],
    ids=["dance", "dance, last step too", "flow", "cps", "ddim"],
)
def test_the_gradient_is_that_of_the_mean_loss_over_all_pairs(method):
    case = Case(method=method)
    case.apply()
    assert_close(case.optimiser.gradients[0], case.by_hand())


@pytest.mark.parametrize("micro_batch", [1, 7, 10_000])
def test_the_gradient_does_not_depend_on_the_micro_batch(micro_batch):
    case = Case()
    case.apply(micro_batch=5)
    case.apply(micro_batch=micro_batch)
    assert_close(case.optimiser.gradients[1], case.optimiser.gradients[0])


def test_the_gradient_is_a_mean_and_not_a_sum():
    """Twice the credit is twice the gradient; the same rollout twice over would be the same gradient."""
    case = Case()
    case.apply()
    case.apply(case.made_credit(2 * case.credit.per_step))
    assert_close(case.optimiser.gradients[1], [2 * gradient for gradient in case.optimiser.gradients[0]])


@pytest.mark.parametrize("updates", [2, 3])
def test_the_parts_of_several_updates_add_up_to_the_whole(updates):
    case = Case()  # lr 0: every update sees the same weights; 24 pairs are dealt out evenly
    case.apply(updates=updates)
    assert len(case.optimiser.gradients) == updates
    mean = [torch.stack(parts).mean(0) for parts in zip(*case.optimiser.gradients, strict=True)]
    assert_close(mean, case.by_hand())


def test_the_dealing_of_pairs_depends_on_seed_and_iteration_only():
    case = Case()
    case.apply(updates=2)
    torch.manual_seed(5)
    case.apply(updates=2)
    assert_close(case.optimiser.gradients[2], case.optimiser.gradients[0], 0)
    case.apply(updates=2, seed=1)
    assert not torch.allclose(case.optimiser.gradients[4][0], case.optimiser.gradients[0][0], atol=1e-4)


def test_credit_of_untrained_steps_is_ignored():
    case = Case()
    other = case.credit.per_step.clone()
    other[..., -1] = 100.0
    case.apply()
    case.apply(case.made_credit(other))
    assert_close(case.optimiser.gradients[1], case.optimiser.gradients[0], 0)


# Half precision


class Float16Policy(FakePolicy):
    """What it says is rounded to float16, and so is the gradient on its way back."""

    def __init__(self):
        super().__init__()
        self.dtype = torch.float16

    def velocity(self, latents, level, condition):
        return super().velocity(latents, level, condition).half().float()


class StraightPolicy(FakePolicy):
    """Says the same as `Float16Policy`; the gradient is not rounded."""

    def velocity(self, latents, level, condition):
        exact = super().velocity(latents, level, condition)
        return exact + (exact.half().float() - exact).detach()


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_a_gradient_that_goes_through_float16_neither_vanishes_nor_overflows(size):
    half, straight = Case(policy=Float16Policy()), Case(policy=StraightPolicy())
    credit = half.made_credit(size * half.credit.per_step)
    heard = []
    seen = half.apply(credit, progress=heard.append)
    straight.apply(credit)
    for mine, wanted in zip(half.optimiser.gradients[0], straight.optimiser.gradients[0], strict=True):
        assert torch.allclose(mine, wanted, rtol=0.01, atol=2e-3 * float(wanted.abs().max()))
    assert seen["update/pairs"] == sum(heard) == 24  # whatever was tried again


# Pairs without credit


def test_pairs_without_credit_are_not_computed_and_do_not_change_the_gradient():
    case, heard = Case(), []
    sparse = case.credit.per_step.clone()
    sparse[0, 1:] = 0
    sparse[1, :, 1] = 0
    credit = case.made_credit(sparse)
    seen = case.apply(credit, progress=heard.append)
    assert_close(case.optimiser.gradients[0], case.by_hand(credit))
    left = int((sparse[..., :-1] != 0).sum())
    assert left == 3 + 8
    assert sum(heard) == left
    assert seen["update/skipped_pairs"] == pytest.approx(1 - left / 24)


def test_pairs_without_credit_still_feel_the_kl():
    case = Case(drift=0.1, method={"type": "flow_grpo", "kl_weight": 2.0})
    sparse = case.credit.per_step.clone()
    sparse[0] = 0
    credit, heard = case.made_credit(sparse), []
    seen = case.apply(credit, progress=heard.append)
    assert sum(heard) == 24
    assert seen["update/skipped_pairs"] == 0
    assert_close(case.optimiser.gradients[0], case.by_hand(credit))


def test_a_group_without_spread_is_skipped_and_counted():
    class OnlyTheSecondGroup(Brightness):
        def numbers(self, batch):
            return super().numbers(batch) * (torch.tensor(batch.groups).numpy() == 1)

    done = step(make_parts([OnlyTheSecondGroup()]), 0)
    assert (done.credit.per_step[0] == 0).all()
    assert done.report.metrics["reward/brightness/flat_groups"] == 1
    assert done.report.metrics["credit/flat_groups"] == 1
    assert done.report.metrics["credit/zero_share"] == 0.5
    assert done.report.metrics["update/skipped_pairs"] == 0.5
    assert done.report.metrics["update/steps"] == 1


# The ratio


def test_before_the_first_update_the_ratio_is_one():
    seen = Case().apply()
    assert seen["update/ratio_deviation"] < 1e-5
    assert seen["update/clip_fraction"] == 0


def test_a_policy_that_was_altered_between_rollout_and_update_is_refused():
    case = Case()
    before = [parameter.detach().clone() for parameter in case.policy.parameters()]
    with torch.no_grad():
        case.policy.parameters()[1][0] += 0.05
    with pytest.raises(NumericsError, match=r"before the first update the log-ratio is .*wanted 0 within 1e-05"):
        case.apply()
    assert not case.optimiser.gradients
    assert torch.equal(case.policy.parameters()[0], before[0])


def test_dropout_left_on_is_refused():
    case = Case()
    case.policy.network.insert(1, torch.nn.Dropout(0.5))
    with pytest.raises(NumericsError, match="sampling and training disagree"):
        case.apply()


@pytest.mark.parametrize(("updates", "passes"), [(4, 1), (1, 3), (2, 2)])
def test_later_updates_move_the_ratio_away_from_one(updates, passes):
    case = Case(lr=0.05)
    seen = case.apply(updates=updates, passes=passes)
    assert seen["update/steps"] == updates * passes
    assert seen["update/ratio_deviation"] > 1e-4
    assert seen["update/clip_fraction"] > 0


def test_the_second_pass_has_the_clipped_gradient_of_the_weights_it_finds():
    case = Case(lr=0.05, method={"noise_level": 0.5, "clip": 1e-3})
    seen = case.apply(passes=2)
    first, second = case.optimiser.weights
    assert_close(case.optimiser.gradients[0], case.by_hand(weights=first))
    wanted = case.by_hand(weights=second)
    assert 0 < seen["update/clip_fraction"] < 0.5
    for got, one in zip(case.optimiser.gradients[1], wanted, strict=True):
        torch.testing.assert_close(got, one, rtol=0, atol=TOLERANCE)


def test_an_update_makes_good_moves_likelier_and_bad_moves_less_likely():
    case = Case(lr=0.01)
    case.apply()
    assert (case.log_ratios() * case.credit.per_step)[..., :-1].sum() > 0


# Step by step


def test_deviation_and_clipping_are_told_step_by_step_and_their_mean_over_pairs_is_the_total():
    case = Case(lr=0.05, method={"noise_level": 0.5, "clip": 1e-3})
    sparse = case.credit.per_step.clone()
    sparse[0, :3, 1] = 0
    seen = case.apply(case.made_credit(sparse), updates=3, passes=2)
    counts = [2 * 8, 2 * 5, 2 * 8]  # 2 prompts x 4 members, twice; three of them have no credit at step 1
    assert seen["update/pairs"] == sum(counts)
    for name in ("update/ratio_deviation", "update/clip_fraction"):
        steps = [seen[f"{name}/{step:02d}"] for step in range(3)]
        assert len(set(steps)) > 1
        assert sum(n * value for n, value in zip(counts, steps, strict=True)) / sum(counts) == pytest.approx(seen[name])
    assert "update/ratio_deviation/03" not in seen  # the last step is not trained


def test_the_deviation_of_a_step_is_that_of_its_own_moves():
    """One pass moves the weights, the second sees every pair once; the log-ratio is worked out by hand."""
    case = Case(lr=0.05, method={"type": "dance_grpo", "noise_level": 0.5, "clip": 1e-3})
    first = case.apply()
    second = Case(lr=0.05, method={"type": "dance_grpo", "noise_level": 0.5, "clip": 1e-3})
    both = second.apply(passes=2)
    ratio = case.log_ratios().exp()  # after the first pass
    past = ((case.credit.per_step > 0) & (ratio > 1.001)) | ((case.credit.per_step < 0) & (ratio < 0.999))
    for at in range(3):
        assert first[f"update/ratio_deviation/{at:02d}"] < 1e-5
        moved = float((ratio[..., at] - 1).abs().mean()) / 2  # the mean over both passes, the first one 0
        assert both[f"update/ratio_deviation/{at:02d}"] == pytest.approx(moved, abs=1e-5)
        assert both[f"update/clip_fraction/{at:02d}"] == float(past[..., at].float().mean()) / 2
    assert past.any()


def test_steps_without_any_credit_have_no_numbers_of_their_own():
    case = Case()
    sparse = torch.zeros_like(case.credit.per_step)
    sparse[..., 1] = 1.0
    seen = case.apply(case.made_credit(sparse))
    assert [key for key in seen if key.startswith("update/ratio_deviation/")] == ["update/ratio_deviation/01"]
    assert seen["update/pairs"] == 8
    assert Case().apply(case.made_credit(0 * sparse))["update/pairs"] == 0


def test_a_rollouts_cost_counts_a_gradient_as_two_forwards_more_and_the_reference_as_one():
    plain = step(make_parts(rollout={"share_states": False}), 0).report.metrics
    assert plain["cost/pictures"] == 8
    assert plain["cost/forwards"] == 8 * 4 + 3 * plain["update/pairs"] == 8 * 4 + 3 * 24
    with_kl = step(make_parts(method={"type": "flow_grpo", "kl_weight": 1.0}), 0).report.metrics
    assert with_kl["cost/forwards"] == 8 * 4 + 4 * 24
    twice = step(make_parts(rollout={"share_states": False}, training={"passes": 2, "updates": 2}), 0).report.metrics
    assert twice["cost/forwards"] == 8 * 4 + 3 * 48


def test_a_state_that_samples_share_costs_one_forward():
    """Two groups of four start from two noises: of 8 rows at the first step 2 are asked, in rollout and update."""
    metrics = step(make_parts(training={"micro_batch": 24}), 0).report.metrics
    assert metrics["update/pairs"] == 24
    assert metrics["cost/forwards"] == (8 * 4 - 6) + 3 * (24 - 6)


def test_a_shared_state_is_trained_once_with_the_gradient_of_all_that_share_it():
    sections = {"method": {"type": "dance_grpo", "noise_level": 0.5}, "training": {"micro_batch": 24}}
    shared, alone = Case(**sections), Case(**sections, rollout={"share_states": False})
    for case in (shared, alone):
        case.apply()
    assert_close(shared.optimiser.gradients[0], alone.optimiser.gradients[0])
    assert_close(shared.optimiser.gradients[0], shared.by_hand())


def test_without_credit_an_iteration_costs_its_rollout():
    nothing = step(make_parts([Constant()]), 0).report.metrics
    assert nothing["cost/forwards"] == 8 * 4 - 6


# KL


@pytest.mark.parametrize("kl_form", ["exact", "flow_grpo"])
@pytest.mark.parametrize("method", ["dance_grpo", "flow_grpo"])
def test_the_gradient_with_kl_is_that_of_the_hand_written_loss(method, kl_form):
    case = Case(drift=0.1, method={"type": method, "kl_weight": 2.0, "kl_form": kl_form})
    seen = case.apply()
    with_kl = case.optimiser.gradients[0]
    assert_close(with_kl, case.by_hand(), 5e-6)
    assert seen["update/kl"] > 0
    without = Case(drift=0.1, method={"type": method, "kl_weight": 0.0})
    without.apply()
    assert (with_kl[0] - without.optimiser.gradients[0][0]).abs().max() > 1e-3


def test_the_published_kl_is_the_exact_one_times_the_step_length():
    exact, published = (
        Case(drift=0.1, method={"type": "dance_grpo", "kl_weight": 2.0, "kl_form": form}).apply()["update/kl"]
        for form in ("exact", "flow_grpo")
    )
    assert published == pytest.approx(exact / 4)  # four equal steps


def test_there_is_no_kl_to_oneself():
    case = Case(method={"type": "flow_grpo", "kl_weight": 2.0})
    assert case.apply()["update/kl"] == 0
    without = Case(method={"type": "flow_grpo", "kl_weight": 0.0})
    without.apply()
    assert_close(case.optimiser.gradients[0], without.optimiser.gradients[0])


# Heads, profiles, places and forms


OFF_POLICY = {"type": "dance_grpo", "kernel": "flow_sde", "noise_level": 0.5}
PLACES = [
    ("native", "loss", "gradient", "power"),
    ("native", "loss", "gradient", "linear"),
    ("noise", "loss", "factor", "power"),
    ("step_length", "loss", "gradient", "matching"),
    ("step_length", "ratio", "gradient", "matching"),
    ("uniform", "ratio", "gradient", "power"),
    ("error", "ratio", "nothing", "power"),
    ("per_length", "ratio", "factor", "linear"),
    ("per_length", "split", "nothing", "linear"),
    ("uniform", "split", "nothing", "power"),
    ("noise", "split", "factor", "matching"),
]


@pytest.mark.parametrize(("profile", "place", "preserve", "form"), PLACES, ids=lambda value: str(value))
@pytest.mark.parametrize(
    ("head", "clip"), [("clipped", 2e-4), ("hinge", 2e-4), ("trust_region", 1e-6), ("unclipped", None)]
)
def test_heads_and_factors_have_the_gradient_of_the_hand_written_loss(head, clip, profile, place, preserve, form):
    """The first pass is on policy; the second sees weights that have moved, so that bounds are reached."""
    given = {"head": head, "profile": profile, "place": place, "preserve": preserve, "form": form}
    given |= {} if clip is None else {"clip": clip}
    case = Case(lr=0.05, rollout={"shift": 3.0}, method={**OFF_POLICY, **given})
    seen = case.apply(passes=2)
    for weights, gradients in zip(case.optimiser.weights, case.optimiser.gradients, strict=True):
        wanted = case.by_hand(weights=weights)
        size = max(float(gradient.abs().max()) for gradient in wanted)
        assert size > 1e-3
        for got, one in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(got, one, rtol=0, atol=max(TOLERANCE, 2e-5 * size))
    if head == "unclipped":
        assert seen["update/clip_fraction"] == 0
    if head != "unclipped" and place == "loss":
        assert 0 < seen["update/clip_fraction"] < 0.5


@pytest.mark.parametrize(("profile", "place", "preserve", "form"), PLACES, ids=lambda value: str(value))
def test_on_policy_a_factor_scales_the_gradient_of_its_step_wherever_it_is_put(profile, place, preserve, form):
    given = {"profile": profile, "place": place, "preserve": preserve, "form": form}
    case = Case(rollout={"shift": 3.0}, method={**OFF_POLICY, **given})
    plain = Case(rollout={"shift": 3.0}, method=OFF_POLICY)
    factors = by_hand_factors(case.method, case.levels.tolist(), case.plan.trained)
    case.apply()
    scaled = plain.credit.per_step * torch.tensor([on_ratio * on_loss for on_ratio, on_loss in factors])
    plain.apply(plain.made_credit(scaled))
    size = max(float(gradient.abs().max()) for gradient in plain.optimiser.gradients[0])
    for got, wanted in zip(case.optimiser.gradients[0], plain.optimiser.gradients[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5 * size)


def test_factors_differ_from_step_to_step_where_a_profile_is_not_native():
    for name in ("noise", "step_length", "uniform", "per_length", "error"):
        method = Case(rollout={"shift": 3.0}, method={**OFF_POLICY, "profile": name}).parts.method
        levels = FakePolicy().levels(4, 3.0).tolist()
        trained = torch.tensor([True, True, True, False]).expand(2, 4, 4)
        found = [on_loss for _, on_loss in by_hand_factors(method, levels, trained)]
        assert len(set(found)) == 4
        assert found[-1] == 1


# Several loss terms


def two_rewards(**more):
    return {"rewards": [Brightness(), Contrast("contrast")], **more}


def test_one_loss_per_objective_is_the_mix_of_advantages_as_long_as_nothing_is_clipped():
    losses, advantages = (
        Case(**two_rewards(method={"type": "dance_grpo", "mix_of": mix_of})) for mix_of in ("losses", "advantages")
    )
    several, one = losses.assigned_credit(), advantages.assigned_credit()
    assert several.terms.shape == (2, 4, 4, 2)
    assert one.terms is None
    torch.testing.assert_close(several.terms.sum(-1), one.per_step)
    assert (several.terms.prod(-1) < 0).any()  # the objectives disagree somewhere
    assert losses.apply(several)["update/clip_fraction"] == 0
    advantages.apply(one)
    assert_close(losses.optimiser.gradients[0], advantages.optimiser.gradients[0])


def test_each_loss_term_is_clipped_for_itself():
    settings = two_rewards(lr=0.05, method={"type": "dance_grpo", "mix_of": "losses", "noise_level": 0.5, "clip": 1e-3})
    case = Case(**settings)
    credit = case.assigned_credit()
    case.apply(credit, passes=2)
    for weights, gradients in zip(case.optimiser.weights, case.optimiser.gradients, strict=True):
        assert_close(gradients, case.by_hand(credit, weights=weights))
    summed = case.by_hand(case.made_credit(credit.per_step.float()), weights=case.optimiser.weights[1])
    assert max(float((a - b).abs().max()) for a, b in zip(summed, case.optimiser.gradients[1], strict=True)) > 1e-3


def test_terms_that_cancel_are_still_computed():
    """Their sum has no gradient on policy, and one of them is clipped as soon as the ratio has moved."""
    case = Case()
    terms = torch.zeros(2, 4, 4, 2)
    terms[0, 0, 0] = torch.tensor([1.0, -1.0])
    seen = case.apply(case.made_credit(torch.zeros(2, 4, 4), terms=terms))
    assert seen["update/pairs"] == 1
    assert max(float(gradient.abs().max()) for gradient in case.optimiser.gradients[0]) < 1e-6


# Fewer samples, fewer steps


@given(st.integers(2, 9), st.data())
def test_the_best_and_the_worst_of_a_group_are_kept_and_nobody_else(members, data):
    count = data.draw(st.integers(2, members))
    scores = data.draw(st.permutations(range(members)))
    wrapped = make_parts(rollout={"group_size": members}, method={"best_of": count}).method
    plain = make_parts(rollout={"group_size": members}).method
    rewards = torch.tensor(scores, dtype=torch.float64)[None, :, None] / 8
    trained = torch.tensor([True, True, False]).expand(1, members, 3)
    rising = torch.linspace(0, 1, 4).expand(1, members, 4)
    levels = FakePolicy().levels(3, None)
    constants = read_transitions("dance_sde", levels, noise_level=0.3)
    evidence = Evidence(rewards, torch.ones(1), trained, constants, {"similarity": rising})
    kept, whole = wrapped.credit(evidence).per_step[0], plain.credit(evidence).per_step[0]
    best, worst = sorted(scores)[members - count // 2 :], sorted(scores)[: count - count // 2]
    for row, score_of in enumerate(scores):
        scale = members / count if score_of in (*best, *worst) else 0
        torch.testing.assert_close(kept[row], scale * whole[row])


@pytest.mark.parametrize("best_of", [2, 3])
@pytest.mark.parametrize("mix_of", ["advantages", "losses"])
def test_best_of_has_the_gradient_of_the_mean_over_the_kept_pairs(best_of, mix_of):
    settings = two_rewards(rollout={"group_size": 5, "micro_batch": 10})
    case = Case(**settings, method={"type": "dance_grpo", "mix_of": mix_of, "best_of": best_of})
    whole = Case(**settings, method={"type": "dance_grpo", "mix_of": mix_of})
    heard = []
    seen = case.apply(case.assigned_credit(), progress=heard.append)
    credit = whole.assigned_credit()
    order = credit.mixed.argsort(-1)
    kept = torch.zeros(2, 5, dtype=torch.bool)
    for group, row in enumerate(order.tolist()):
        kept[group, row[: best_of - best_of // 2] + row[5 - best_of // 2 :]] = True
    whole.plan = replace(whole.plan, trained=whole.plan.trained & kept[..., None])  # the others are not there at all
    assert_close(case.optimiser.gradients[0], whole.by_hand(credit))
    assert sum(heard) == seen["update/pairs"] == 2 * best_of * 3
    assert seen["update/skipped_pairs"] == pytest.approx(1 - best_of / 5)


@pytest.mark.parametrize(
    "method",
    [
        {"timestep_fraction": 0.7},
        {"timestep_fraction": 0.4, "profile": "uniform"},
        {"window": {"size": 2, "per": "prompt"}},
        {"window": {"size": 2, "per": "prompt"}, "timestep_fraction": 0.5, "profile": "noise", "preserve": "factor"},
    ],
    ids=str,
)
def test_the_loss_is_a_mean_over_the_pairs_that_are_trained(method):
    case = Case(seed=2, rollout={"steps": 6}, method={"type": "dance_grpo", "noise_level": 0.5, **method})
    pairs = int(case.plan.trained.sum())
    assert 0 < pairs < 2 * 4 * 5
    assert not (case.plan.trained == case.plan.trained[:1, :1]).all()
    heard = []
    seen = case.apply(progress=heard.append)
    assert sum(heard) == seen["update/pairs"] == pairs
    assert_close(case.optimiser.gradients[0], case.by_hand())


# Everything at once


EVERYTHING = {
    "type": "dance_grpo",
    "mix_of": "losses",
    "window": {"size": 3, "per": "prompt"},
    "timestep_fraction": 0.7,
    "best_of": 3,
    "head": "hinge",
    "clip": 1e-3,
    "profile": "step_length",
    "place": "ratio",
    "form": "matching",
    "kl_weight": 0.5,
}


@pytest.mark.parametrize("kl_form", ["exact", "flow_grpo"])
def test_everything_at_once_is_still_the_hand_written_loss_whatever_the_micro_batch(kl_form):
    settings = {"drift": 0.1, "lr": 0.05, "rollout": {"steps": 6}, "method": {**EVERYTHING, "kl_form": kl_form}}
    cases = [Case(**two_rewards(**settings)) for _ in range(3)]
    for case, micro_batch in zip(cases, (1, 5, 1000), strict=True):
        case.apply(case.assigned_credit(), passes=2, micro_batch=micro_batch)
    first = cases[0]
    for weights, gradients in zip(first.optimiser.weights, first.optimiser.gradients, strict=True):
        assert_close(gradients, first.by_hand(first.assigned_credit(), weights=weights), 5e-6)
    for other in cases[1:]:
        for at in range(2):
            assert_close(other.optimiser.gradients[at], first.optimiser.gradients[at], 5e-6)


# A network in bfloat16


class HalfPolicy(FakePolicy):
    """The network computes in bfloat16 and says so."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.dtype = torch.bfloat16
        self.network.bfloat16()
        self.frozen.bfloat16()

    def velocity(self, latents, level, condition):
        told = torch.cat([latents.flatten(1), level[:, None], condition.tensors["words"]], dim=1)
        return self._active(told.bfloat16()).view_as(latents) + latents.bfloat16()


def test_in_bfloat16_the_drift_keeps_the_ratio_and_the_difference_of_two_densities_loses_it():
    """One weight moves a little, one step of a 512-pixel FLUX latent (1024 x 64): log-ratios of about 1e-7.

    The truth is the law of what the network said, in float64. A density is a number of size 1; in float32 the
    difference of two has an error of 1e-8 to 1e-7, in bfloat16 nothing is left of it.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 1024, 64, generator=generator)
    network = torch.nn.Linear(64, 64, bias=False).bfloat16()
    network.weight.data = (torch.randn(64, 64, generator=generator) / 8).bfloat16()
    start, end, g = 0.95, 0.94, 0.7
    std = g * math.sqrt(start - end)

    def mean_of(velocity, latents):
        return latents + (velocity + g**2 / 2 * (latents + (1 - start) * velocity) / start) * (end - start)

    with torch.no_grad():
        before = network(x.bfloat16())
        network.weight.data[3, 5] += 0.001
        after = network(x.bfloat16())
    y = mean_of(before.float(), x) + std * torch.randn(x.shape, generator=generator)

    def difference(dtype):
        densities = [
            Normal(mean_of(velocity.to(dtype), x.to(dtype)), torch.tensor(std, dtype=dtype)).log_prob(y.to(dtype))
            for velocity in (after, before)
        ]
        return (densities[0].flatten(1).mean(1) - densities[1].flatten(1).mean(1)).double()

    truth = difference(torch.float64)
    levels = torch.full((8,), start), torch.full((8,), end)
    law = KERNELS["dance_sde"](x, before.float(), *levels, noise_level=g)
    change = KERNELS["dance_sde"](torch.zeros_like(x), after.float() - before.float(), *levels, noise_level=g)
    ours = profile.log_ratio(change.mean / change.std, (y - law.mean) / law.std, torch.ones(8), form="power").double()

    def error(found):
        return float((found - truth).norm() / truth.norm())

    assert 1e-8 < truth.abs().median() < 1e-6
    assert error(ours) < 0.01
    assert (ours - truth).abs().le(0.01 * truth.abs()).all()
    assert error(difference(torch.float32)) > 0.2
    assert error(difference(torch.bfloat16)) > 0.9


def test_in_bfloat16_an_update_sees_the_ratio_of_what_its_network_said():
    policy = HalfPolicy()
    descent = RecordingSGD(policy.parameters(), lr=0.05)
    parts = make_parts(policy=policy, descent=descent, method={"type": "dance_grpo", "noise_level": 0.5})
    prompts = parts.prompts.draw(2, Key(0, iteration=0))
    rollout = parts.roll_out(prompts, Key(0, 0))
    assert rollout.velocities.dtype == torch.bfloat16
    assert rollout.latents.dtype == torch.float32
    rewards = score(parts.rewards, finished(policy, rollout, 8), prompts)
    credit = parts.method.credit(evidence_of(rollout, rewards, [1.0]))
    seen = parts.update.apply(rollout, credit, Key(0, 0), lambda pairs: None).metrics
    assert seen["update/ratio_deviation"] == 0  # the same network says the same bits
    assert all(gradient.isfinite().all() for gradient in descent.gradients[0])
    assert max(float(gradient.abs().max()) for gradient in descent.gradients[0]) > 1e-3


# Gradient norm


def test_gradients_are_scaled_down_to_the_largest_norm():
    free, bound = Case(), Case()
    norm = free.apply()["update/gradient_norm"]
    measured = torch.stack([gradient.norm() for gradient in free.optimiser.gradients[0]]).norm()
    assert norm == pytest.approx(float(measured), rel=1e-5)
    assert bound.apply(max_gradient_norm=norm / 10)["update/gradient_norm"] == pytest.approx(norm)  # before scaling
    assert_scaled = [gradient / 10 for gradient in free.optimiser.gradients[0]]
    for one, two in zip(bound.optimiser.gradients[0], assert_scaled, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(monkeypatch):
    case = Case(lr=0.1)
    before = [parameter.detach().clone() for parameter in case.policy.parameters()]
    case.policy.parameters()[0].register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NumericsError, match="gradient of iteration 0 is not finite"):
        case.apply()
    assert all(torch.equal(p, old) for p, old in zip(case.policy.parameters(), before, strict=True))


# Anchors


def test_an_average_swaps_in_and_back_even_after_an_error():
    policy = FakePolicy()
    raw = [parameter.detach().clone() for parameter in policy.parameters()]
    average = Average(policy.parameters(), 0.5)
    for parameter in policy.parameters():
        parameter.data += 1
    with average.in_place():
        assert all(torch.equal(p.data, old) for p, old in zip(policy.parameters(), raw, strict=True))
    assert all(torch.equal(p.data, old + 1) for p, old in zip(policy.parameters(), raw, strict=True))
    with pytest.raises(RuntimeError, match="inside"), average.in_place():
        raise RuntimeError("inside")
    assert all(torch.equal(p.data, old + 1) for p, old in zip(policy.parameters(), raw, strict=True))
    assert all(torch.equal(kept, old) for kept, old in zip(average.tensors, raw, strict=True))


def test_an_average_is_the_plain_mean_at_first_and_then_follows_by_its_decay():
    parameter = torch.nn.Parameter(torch.zeros(()))
    average = Average([parameter], 0.75)
    seen, expected = [0.0], 0.0
    for index, value in enumerate([4.0, -2.0, 6.0, 10.0, 1.0], start=1):
        parameter.data.fill_(value)
        average.follow()
        seen.append(value)
        if index <= 3:  # 1 / (index + 1) >= 1 - 0.75
            expected = sum(seen) / len(seen)
        else:
            expected = 0.75 * expected + 0.25 * value
        assert float(average.tensors[0]) == pytest.approx(expected)
    assert float(parameter.detach()) == 1.0


def test_a_step_moves_the_average_once_and_less_than_the_weights():
    parts = make_parts(training={"ema": 0.9, "updates": 2})
    start = [parameter.detach().clone() for parameter in parts.policy.parameters()]
    step(parts, 0)
    for parameter, kept, old in zip(parts.policy.parameters(), parts.anchors.average.tensors, start, strict=True):
        torch.testing.assert_close(kept, (parameter.detach() + old) / 2)
        assert not torch.equal(parameter, old)


# The whole step


def test_a_step_is_reproducible_and_does_not_depend_on_either_micro_batch():
    def weights(rollout_batch, update_batch):
        parts = make_parts(
            [Brightness(), Contrast("contrast")],
            method={"type": "otca"},
            rollout={"micro_batch": rollout_batch},
            training={"updates": 2, "micro_batch": update_batch},
        )
        step(parts, 0)
        return torch.cat([parameter.detach().flatten() for parameter in parts.policy.parameters()])

    first = weights(8, 8)
    assert torch.equal(weights(8, 8), first)
    torch.testing.assert_close(weights(3, 5), first, rtol=0, atol=1e-6)


def test_training_makes_pictures_brighter_when_brightness_is_rewarded():
    parts = make_parts(
        method={"type": "dance_grpo", "noise_level": 0.7},
        rollout={"prompts": 4, "group_size": 12, "micro_batch": 48},
        training={"micro_batch": 144},
    )
    for group in parts.optimiser.param_groups:
        group["lr"] = 0.02
    seen = [step(parts, iteration).report.metrics["reward/brightness"] for iteration in range(25)]
    assert sum(seen[-5:]) / 5 > sum(seen[:5]) / 5 + 0.02


# Known defects


def test_a_rollout_without_any_credit_is_skipped():
    parts = make_parts([Constant()])
    before = [parameter.detach().clone() for parameter in parts.policy.parameters()]
    metrics = step(parts, 0).report.metrics
    assert metrics["update/steps"] == 0
    assert metrics["update/skipped_pairs"] == 1
    assert all(torch.equal(p, old) for p, old in zip(parts.policy.parameters(), before, strict=True))


def test_an_update_without_any_credit_is_skipped_and_the_others_are_not():
    case = Case()
    sparse = torch.zeros_like(case.credit.per_step)
    sparse[0, 0, 0] = 1.0
    seen = case.apply(case.made_credit(sparse), updates=4)
    assert seen["update/steps"] == 1


def test_more_updates_than_pairs_leave_some_updates_empty():
    assert Case().apply(updates=30)["update/steps"] == 24
