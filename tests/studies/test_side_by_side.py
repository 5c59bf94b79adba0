"""All rules on one frozen rollout: by hand on tiny evidence, all methods at once, shares that are shares."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats

import composing
from stepcredit.flow import schedules
from stepcredit.flow.transitions import Transitions, read_transitions
from stepcredit.methods import names
from stepcredit.methods.dance_grpo import DanceGRPO
from stepcredit.parts.rule import Rule
from stepcredit.records import Credit, Evidence
from stepcredit.studies.side_by_side import judge


def evidence(prompts=2, members=6, objectives=3, steps=5, seed=0, train_last=False):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(prompts, members, steps + 1, generator=generator).double().sort(-1).values
    return Evidence(
        rewards=torch.randn(prompts, members, objectives, generator=generator),
        weights=torch.ones(objectives),
        trained=(torch.arange(steps) < steps - (not train_last)).expand(prompts, members, steps),
        transitions=read_transitions("dance_sde", schedules.linear(steps), noise_level=0.3),
        seen={"similarity": similarity, "clean_similarity": similarity[..., 1:]},
    )


class GivenRule(Rule):
    """Hands out the numbers it was given."""

    credits: list[list[list[float]]]

    def assign(self, evidence):
        per_step = torch.tensor(self.credits).double()
        one, objectives = per_step.mean(-1), evidence.rewards.double()
        return Credit(per_step, torch.ones_like(per_step), one, objectives, torch.ones_like(objectives), one * 0)


class Given(DanceGRPO):
    """DanceGRPO's sampler and loss around the numbers that were given."""

    type: Literal["given"] = "given"
    rule: GivenRule = GivenRule(credits=[])


def given_credit(credits, **objective):
    return Given(rule=GivenRule(credits=credits), objective=objective)


def tiny():
    """One group of two samples and two steps; native weights 3 and 1."""
    return Evidence(
        rewards=torch.tensor([[[1.0], [0.0]]]),
        weights=torch.ones(1),
        trained=torch.ones(1, 2, 2, dtype=torch.bool),
        transitions=Transitions(
            torch.tensor([1.0, 0.5, 0.0]), slope=torch.tensor([3.0, 1.0]), std=torch.tensor([1.0, 1.0])
        ),
        seen={
            "similarity": torch.tensor([[[0.0, 0.5, 1.0]] * 2]),
            "clean_similarity": torch.tensor([[[0.5, 1.0]] * 2]),
        },
    )


def test_by_hand():
    """Credit 4, 0 for the better sample and 2, -2 for the other: mean size 2."""
    verdict = judge({"given": given_credit([[[4, 0], [2, -2]]])}, tiny()).verdicts["given"]
    assert verdict.effective.tolist() == [[[2, 0], [1, -1]]]
    assert verdict.zero_share == 0.25
    assert verdict.sign_disagreement == pytest.approx(1 / 3)  # the worse sample's first step is praised
    assert verdict.pareto_share == pytest.approx(2 / 3)  # of 2 + 1 praised, 2 goes to the better one
    assert verdict.early_share == pytest.approx(9 / 10)  # 3 (2 + 1) of 3 (2 + 1) + 1 (0 + 1)
    assert verdict.mean == 0.5


def test_the_profile_counts():
    """Uniform weight on the loss takes the native 3 : 1 back, with the total kept: factors 4 / 6 and 2."""
    found = judge(
        {"given": given_credit([[[1, 1], [-1, -1]]], profile="uniform"), "plain": given_credit([[[1, 1], [-1, -1]]])},
        tiny(),
    )
    even, plain = found.verdicts["given"], found.verdicts["plain"]
    assert even.effective[0, 0].tolist() == pytest.approx([0.5, 1.5])
    assert even.early_share == pytest.approx(0.5)
    assert plain.effective[0, 0].tolist() == [1, 1]
    assert plain.early_share == pytest.approx(0.75)


def test_a_rule_that_gives_nothing():
    verdict = judge({"given": given_credit([[[0, 0], [0, 0]]])}, tiny()).verdicts["given"]
    assert verdict.zero_share == 1
    assert verdict.mean == 0
    assert np.isnan([verdict.sign_disagreement, verdict.pareto_share, verdict.early_share]).all()


def test_a_step_that_is_not_trained_does_not_count():
    some = replace(tiny(), trained=torch.tensor([[[True, False]] * 2]))
    verdict = judge({"given": given_credit([[[1, 0], [-3, 0]]])}, some).verdicts["given"]
    assert verdict.zero_share == 0
    assert verdict.effective[..., 0].tolist() == [[0.5, -1.5]]
    assert verdict.early_share == 1
    assert verdict.mean == -0.5


def test_agreement_is_spearman_over_trained_steps():
    three = {name: composing.method(name) for name in ("otca", "dance_grpo", "coca")}
    given = evidence()
    found = judge(three, given)
    columns = [verdict.effective[given.trained].numpy() for verdict in found.verdicts.values()]
    for i, left in enumerate(columns):
        for j, right in enumerate(columns):
            assert found.agreement[i, j] == pytest.approx(stats.spearmanr(left, right)[0])
    assert found.agreement.shape == (3, 3)


def test_one_rule_alone_and_a_silent_one():
    given = evidence()
    alone = judge({"otca": composing.method("otca")}, given).agreement
    assert alone.shape == (1, 1)
    assert alone[0, 0] == pytest.approx(1)
    silent = given_credit(torch.zeros(2, 6, 5).tolist())
    both = judge({"otca": composing.method("otca"), "silent": silent}, given).agreement
    assert np.isnan(both[1]).all()
    assert both[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_all_methods_at_once(seed):
    given = evidence(seed=seed)
    found = judge({name: composing.method(name) for name in names()}, given)
    assert list(found.verdicts) == names()
    np.testing.assert_allclose(found.agreement, found.agreement.T, equal_nan=True)
    np.testing.assert_allclose(np.diag(found.agreement), 1)
    assert np.nanmax(np.abs(found.agreement)) <= 1 + 1e-12
    for name, verdict in found.verdicts.items():
        assert float(verdict.effective[given.trained].abs().mean()) == pytest.approx(1), name
        assert (verdict.effective[~given.trained] == 0).all(), name
        for share in (verdict.zero_share, verdict.sign_disagreement, verdict.pareto_share, verdict.early_share):
            assert 0 <= share <= 1 + 1e-12 or np.isnan(share), name
    same = [found.verdicts[name] for name in ("dance_grpo", "tcd")]
    assert same[0].sign_disagreement == same[1].sign_disagreement == 0  # both only weigh the sum of the advantages
    assert abs(same[0].mean) < 1e-9


def test_a_broken_score_is_nobodys_opinion():
    given = evidence()
    given.rewards[0, 0] = torch.nan
    found = judge({name: composing.method(name) for name in ("dance_grpo", "otca", "flow_grpo")}, given)
    for verdict in found.verdicts.values():
        assert (verdict.effective[0, 0] == 0).all()
        assert 0 <= verdict.sign_disagreement <= 1
        assert 0 <= verdict.pareto_share <= 1
