"""The border between trainer and rule: what no rule could use and what no trainer should take is refused by name."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch

import composing
from stepcredit.errors import CreditError, StepcreditError
from stepcredit.flow import schedules
from stepcredit.flow.transitions import Transitions, read_transitions
from stepcredit.methods.base import Method
from stepcredit.methods.dance_grpo import DanceGRPO, DanceGRPORule
from stepcredit.methods.otca import OTCARule
from stepcredit.parts.rule import Rule
from stepcredit.records import Evidence

P, G, K, N = 2, 4, 3, 5
METHODS = {name: composing.method(name) for name in ("otca", "tcd", "moca", "mgda", "dance_grpo")}
SUMMING = {
    "flow_grpo": composing.method("flow_grpo"),
    "dance_grpo, rewards": composing.method("dance_grpo", mix_of="rewards"),
    "gdpo": composing.method("gdpo"),
}


def evidence(**changed):
    """A rollout in order; the last step is not trained."""
    generator = torch.Generator().manual_seed(0)
    trained = torch.ones(P, G, N, dtype=torch.bool)
    trained[..., -1] = False
    parts = {
        "rewards": torch.randn(P, G, K, generator=generator),
        "weights": torch.ones(K),
        "seen": {
            "similarity": torch.rand(P, G, N + 1, generator=generator).sort(-1).values,
            "clean_similarity": torch.rand(P, G, N, generator=generator).sort(-1).values,
        },
        "trained": trained,
        "transitions": read_transitions("dance_sde", schedules.linear(N), noise_level=0.3),
    }
    return Evidence(**{**parts, **changed})


def with_levels(levels):
    levels = torch.tensor(levels, dtype=torch.float64)
    ones = torch.ones(len(levels) - 1, dtype=torch.float64)
    return evidence(transitions=Transitions(levels, ones, ones))


def refused(given, method=None):
    """The message with which a method refuses evidence."""
    with pytest.raises(CreditError) as caught:
        (method or composing.method("dance_grpo")).credit(given)
    assert isinstance(caught.value, StepcreditError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# What goes in


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_rollout_in_order_passes(method):
    credit = method.credit(evidence())
    assert credit.per_step.shape == (P, G, N)
    assert (credit.per_step != 0).any()
    assert (credit.per_step[..., -1] == 0).all()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_no_objective_at_all_is_refused(method):
    message = refused(evidence(rewards=torch.zeros(P, G, 0), weights=torch.zeros(0)), method)
    assert "rewards have shape (2, 4, 0), wanted [P, G, K] with at least one objective; add a reward" in message


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_group_of_one_is_refused(method):
    whole = evidence()
    alone = {name: tensor[:, :1] for name, tensor in whole.seen.items()}
    message = refused(replace(whole, rewards=whole.rewards[:, :1], trained=whole.trained[:, :1], seen=alone), method)
    assert "a group has 1 sample, wanted at least 2" in message
    assert "raise group_size" in message


@pytest.mark.parametrize(
    "weights", [[1.0, -0.5, 1.0], [0.0, 0.0, 0.0], [1.0, torch.nan, 1.0], [torch.inf, 1.0, 1.0]], ids=str
)
def test_weights_that_weigh_nothing_are_refused_by_methods_that_sum(weights):
    given = evidence(weights=torch.tensor(weights))
    for method in (composing.method("dance_grpo"), *SUMMING.values()):
        message = refused(given, method)
        assert f"weights of the objectives are {weights}" in message
        assert "wanted finite numbers of at least 0, not all 0" in message
    for name in ("otca", "tcd", "moca", "mgda"):  # they find their own mix and look at no weights
        assert torch.equal(METHODS[name].credit(given).per_step, METHODS[name].credit(evidence()).per_step)


def test_some_weights_may_be_zero():
    kept = composing.method("dance_grpo").credit(evidence(weights=torch.tensor([0.0, 2.0, 0.0])))
    assert kept.per_step.isfinite().all()
    assert (kept.per_step != 0).any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_similarities_that_are_all_broken_are_refused(method, value):
    given = evidence()
    given.seen["similarity"][..., 2] = value  # one latent of every sample
    assert "the similarity of every sample is NaN or infinite" in refused(given, method)


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], r"levels rise, wanted falling ones .*schedules\.variance_preserving"),
        ([1.0, 0.8, 0.8, 0.4, 0.2, 0.0], "levels must fall at every step; level 1 is 0.8, the next 0.8"),
        ([1.0, 0.8, 0.9, 0.4, 0.2, 0.0], "levels must fall at every step; level 1 is 0.8, the next 0.9"),
        ([1000.0, 800.0, 600.0, 400.0, 200.0, 0.0], "levels go from 1000 to 0, wanted .* division by 1000"),
        ([0.0, 200.0, 400.0, 600.0, 800.0, 1000.0], "levels go from 0 to 1000, wanted .* division by 1000"),
        ([1.0, 0.8, 0.6, 0.4, 0.2, -0.1], r"levels go from 1 to -0\.1, wanted numbers in \[0, 1\]"),
        ([1.0, 0.8, torch.nan, 0.4, 0.2, 0.0], "levels must be finite"),
        ([1.0, 0.8, 0.6, 0.4, 0.2], r"levels has shape \(5,\), wanted \(6,\)"),
        ([1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0], r"levels has shape \(7,\), wanted \(6,\)"),
    ],
    ids=["rise", "repeat", "zigzag", "timesteps", "rising timesteps", "below 0", "NaN", "short", "long"],
)
def test_levels_that_are_no_path_of_a_sampler_are_refused(levels, why):
    with pytest.raises(CreditError, match=why):
        composing.method("otca").credit(with_levels(levels))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("similarity", (P, G, N)),
        ("similarity", (P, G + 1, N + 1)),
        ("clean_similarity", (P, G, N + 1)),
        ("clean_similarity", (P + 1, G, N)),
        ("trained", (P, G + 1, N)),
        ("trained", (P + 1, G, N)),
        ("weights", (K + 1,)),
        ("weights", (1,)),
    ],
    ids=str,
)
def test_a_wrong_shape_is_refused_by_name(name, shape):
    """The records of this test are unchecked, as they are for everybody who runs without jaxtyping."""
    given = evidence()
    if name in given.seen:
        given = replace(given, seen={**given.seen, name: torch.ones(shape)})
    else:
        object.__setattr__(given, name, torch.ones(shape).to(getattr(given, name).dtype))
    message = refused(given)
    assert f"{name} has shape {shape}, wanted " in message
    assert "for rewards (2, 4, 3)" in message


@pytest.mark.parametrize("shape", [(G, K), (K,), (1, P, G, K)], ids=str)
def test_rewards_without_their_three_axes_are_refused(shape):
    given = evidence()
    object.__setattr__(given, "rewards", torch.ones(shape))
    assert f"rewards have shape {shape}, wanted [P, G, K]" in refused(given)


def test_a_rollout_that_trains_nothing_is_refused():
    message = refused(evidence(trained=torch.zeros(P, G, N, dtype=torch.bool)))
    assert "no transition is trained" in message
    assert "widen the window or raise the number of steps" in message


# Single samples


EVERY = {**METHODS, **SUMMING}


@pytest.mark.parametrize("method", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("missing", [torch.nan, torch.inf])
def test_a_sample_without_any_score_is_no_error_and_gets_nothing(method, missing):
    given = evidence()
    given.rewards[1, 2] = missing
    credit = method.credit(given)
    assert (credit.per_step[1, 2] == 0).all()
    assert credit.per_step.isfinite().all()
    others = (credit.per_step[1] != 0).any(-1)
    assert others.tolist() == [True, True, False, True]
    alone = method.credit(evidence())
    if getattr(method.rule, "scale", None) != "batch" and method.type not in (
        "gdpo",
        "mgda",
    ):  # they scale by the batch
        torch.testing.assert_close(credit.per_step[0], alone.per_step[0])


@pytest.mark.parametrize("name", ["otca", "tcd", "moca"])
def test_a_sample_with_a_broken_similarity_is_no_error_and_gets_nothing(name):
    one = {"rewards": evidence().rewards[..., :1], "weights": torch.ones(1)}  # with several, MOCA has zeros of its own
    given = evidence(**one)
    given.seen["similarity"][0, 1, 3] = torch.nan
    credit = METHODS[name].credit(given)
    assert credit.per_step.isfinite().all()
    assert (credit.per_step != 0).any(-1).tolist()[0] == [True, False, True, True]
    torch.testing.assert_close(credit.per_step[1], METHODS[name].credit(evidence(**one)).per_step[1])


def test_a_score_that_is_missing_for_one_objective_leaves_the_others_their_say():
    given = evidence()
    given.rewards[0, 1, 0] = torch.nan
    credit = composing.method("dance_grpo").credit(given)
    assert (credit.per_step[0, 1, :-1] != 0).all()
    left = evidence()
    left.rewards[0, :, 0] = torch.nan  # without the first objective
    torch.testing.assert_close(credit.mixed[0, 1], composing.method("dance_grpo").credit(left).mixed[0, 1])


# What comes out


def spoilt(change):
    """A rule that is DanceGRPO's but for what `change` does to its credit."""

    class SpoiltRule(DanceGRPORule):
        def assign(self, evidence):
            return change(super().assign(evidence))

    class Spoilt(DanceGRPO):
        paper: ClassVar[str] = "none"
        type: Literal["spoilt"] = "spoilt"
        rule: DanceGRPORule = SpoiltRule()

    return Spoilt()


def put(tensor, at, value):
    changed = tensor.clone()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda credit: credit.per_step[..., :-1], r"credit has shape \(2, 4, 4\), wanted \[P, G, N\] = \(2, 4, 5\)"),
        (lambda credit: credit.per_step.mean(-1), r"credit has shape \(2, 4\), wanted"),
        (lambda credit: credit.per_step.mT, r"credit has shape \(2, 5, 4\), wanted"),
        (lambda credit: put(credit.per_step, (0, 1), torch.nan), r"5 of 40 numbers of credit\.per_step are NaN"),
        (lambda credit: put(credit.per_step, (0, 1, 2), -torch.inf), r"1 of 40 numbers of credit\.per_step are NaN"),
        (lambda credit: put(credit.per_step, (0, 1, -1), 0.1), "credit for transitions that are not trained"),
    ],
    ids=["short", "no steps", "swapped axes", "NaN", "infinite", "untrained"],
)
def test_credit_that_no_trainer_should_take_names_the_file_of_its_rule(change, why):
    def spoil(credit):
        object.__setattr__(credit, "per_step", change(credit))
        return credit

    with pytest.raises(CreditError, match=why) as caught:
        spoilt(spoil).credit(evidence())
    assert str(caught.value).startswith(f"{__file__}: ")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda terms: put(terms, (0, 1, 2, 0), torch.nan), r"1 of 120 numbers of credit\.terms are NaN"),
        (lambda terms: put(terms, (0, 1, -1, 2), 0.5), "credit for transitions that are not trained"),
        (lambda terms: terms[:, :, :-1], r"terms ha.* shape \(2, 4, 4, 3\), wanted"),
        (lambda terms: terms[..., 0], r"terms ha.* shape \(2, 4, 5\), wanted"),
        (lambda terms: terms[..., :0], r"terms ha.* shape \(2, 4, 5, 0\), wanted"),
    ],
    ids=["NaN", "untrained", "short", "one axis too few", "no terms"],
)
def test_loss_terms_are_checked_as_the_credit_is(change, why):
    class Spoilt(DanceGRPORule):
        def assign(self, evidence):
            credit = super().assign(evidence)
            object.__setattr__(credit, "terms", change(credit.terms))
            return credit

    with pytest.raises(CreditError, match=why) as caught:
        Spoilt(mix_of="losses").credit(evidence())
    assert str(caught.value).startswith(f"{__file__}: ")


def test_a_packaged_rule_is_named_by_its_own_file(monkeypatch):
    good = composing.method("otca").credit(evidence())
    monkeypatch.setattr(OTCARule, "assign", lambda self, evidence: replace(good, per_step=good.per_step * torch.nan))
    with pytest.raises(CreditError, match=r"^/.*/methods/otca\.py: 40 of 40 numbers"):
        composing.method("otca").credit(evidence())


@pytest.mark.parametrize("method", [*METHODS.values(), *SUMMING.values()], ids=[*METHODS, *SUMMING])
def test_each_sample_may_train_its_own_steps(method):
    generator = torch.Generator().manual_seed(1)
    trained = torch.rand(P, G, N, generator=generator) < 0.5
    trained[..., 0] |= ~trained.any(-1)
    credit = method.credit(evidence(trained=trained))
    assert (credit.per_step[~trained] == 0).all()
    some = credit.mixed != 0
    assert some.any()
    assert (credit.per_step[trained & some[..., None]] != 0).all()


def test_an_abstract_rule_has_no_credit():
    abstract: Any = Rule
    incomplete: Any = Method
    with pytest.raises(TypeError, match="abstract"):
        abstract()
    with pytest.raises(ValueError, match="rule"):  # and a method is nothing without its parts
        incomplete()


@pytest.mark.parametrize("name", ["flow_grpo", "dpok", "ddpo"])
def test_a_rule_that_sums_raw_scores_still_shows_every_objective(name):
    """What people look at has one column per objective: its own advantage, and its weight times its spread."""
    rewards = evidence().rewards.double() * torch.tensor([1.0, 2.0, 0.5])
    rewards[0, 0, 1] = torch.nan
    weights = torch.tensor([1.0, 3.0, 0.0])
    credit = composing.method(name).credit(evidence(rewards=rewards, weights=weights))
    expected = (rewards[1] - rewards[1].mean(0)) / rewards[1].std(0)
    torch.testing.assert_close(credit.advantages[1], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(credit.coefficients[1, 0], weights * rewards[1].std(0, correction=0))
    assert credit.advantages[0, 0, 1].isnan()
    assert credit.coefficients.isfinite().all()
