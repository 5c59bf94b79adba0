"""`stepcredit bench credit` at tiny size, and the trial of it: a new rule is one file, and every study knows it."""

import importlib
import json
import math
import sys
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

import stepcredit.methods
from stepcredit.cli import app as cli
from stepcredit.errors import CreditError, RecipeError
from stepcredit.methods import names
from stepcredit.recipe.load import load_recipe
from stepcredit.studies import credit, frozen, paper
from stepcredit.studies.oracle import PROBLEMS, SAMPLERS


def run(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def quick(monkeypatch):
    """The two checks beside the rules, with few samples and one kernel."""
    monkeypatch.setattr(credit, "check_kernels", lambda: few_kernels(count=50))
    monkeypatch.setattr(credit, "check_similarity", lambda: few_similarities(groups=2))


few_kernels, few_similarities = credit.check_kernels, credit.check_similarity


def test_every_file_and_table_is_written(tmp_path, quick, capsys):
    out = tmp_path / "deep" / "found"
    assert (
        run("bench", "credit", "--method", "dance_grpo", "tcd", "--groups", "12", "--seeds", "2", "--out", str(out))
        == 0
    )
    shown = capsys.readouterr().out
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert page in shown
    for problem in PROBLEMS:
        assert f"### {problem}" in page
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size[0] > 1000
    found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert (found["groups"], found["seeds"]) == (12, 2)
    wanted = {
        (rule, sampler, problem)
        for sampler in SAMPLERS
        for problem, objectives in PROBLEMS.items()
        for rule in ("dance_grpo", "tcd", *(credit.REFERENCES if len(objectives) == 1 else ()))
    }
    assert {(row["rule"], row["sampler"], row["problem"]) for row in found["rows"]} == wanted
    for row in found["rows"]:
        assert len(row["qualities"]) == 2
        for quality in row["qualities"]:
            assert -1 <= quality["cosine"] <= 1
            assert 0 <= quality["bias"] <= 2
            assert math.isfinite(quality["snr"])
    assert list(found["kernels"]) == ["ode", "flow_sde", "dance_sde", "cps", "ddim", "noise without score"]
    assert list(found["kernels"]["ode"]) == ["16", "200"]
    assert found["similarity"]["dance_sde"]["trajectories"] == 2 * 4


def test_all_methods_and_variants_are_judged_by_default():
    assert set(credit.rules()) == {*names(), *credit.VARIANTS}
    assert list(credit.rules(["otca"])) == ["otca"]


def test_a_misspelt_method_is_refused(tmp_path, capsys):
    with pytest.raises(RecipeError, match=r'did you mean "otca"\?'):
        credit.rules(["otcq"])
    assert run("bench", "credit", "--method", "nowhere.rule", "--out", str(tmp_path / "found")) == 2
    assert 'method "nowhere.rule" cannot be imported' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def judged(*chosen, groups, seeds=1):
    rows = credit.judge_rules(credit.rules(chosen), groups=groups, seeds=seeds, console=Console(quiet=True))
    return {(row.rule, row.sampler, row.problem): row.qualities for row in rows}


def test_too_few_groups_are_refused():
    with pytest.raises(CreditError, match="wanted at least 2; take more"):
        judged("dance_grpo", groups=6)


@pytest.fixture(scope="module")
def some():
    return judged("dance_grpo", "otca", groups=120, seeds=1)


def test_costs_are_forwards_backwards_and_scores(some):
    """A group of 12: 16 forwards a sample, three for each trained move, a score for each objective. CPS and DDIM end
    without noise, so their last move is not trained."""
    assert some["dance_grpo", "dance_sde", "linear"][0].cost == 12 * 16 + 3 * 12 * 16 + 12
    assert some["dance_grpo", "cps", "linear"][0].cost == 12 * 16 + 3 * 12 * 15 + 12
    assert some["dance_grpo", "flow_sde", "three rewards"][0].cost == 12 * 16 + 3 * 12 * 16 + 3 * 12
    # MOCA gives exactly nothing to samples whose objectives disagree to the worse; they are not computed again
    assert some["otca", "flow_sde", "three rewards"][0].cost < some["dance_grpo", "flow_sde", "three rewards"][0].cost
    finishing = sum(range(16))
    assert some["dense gains", "flow_sde", "linear"][0].cost == 12 * (16 + finishing + 3 * 16 + 16)
    assert some["one noisy step", "flow_sde", "linear"][0].cost == 16 + 12 * (finishing + 3 * 16 + 16)


def test_a_seed_gives_the_same_judgement_again(some):
    assert judged("dance_grpo", "otca", groups=120) == some


def test_plain_grpo_is_right_in_direction(some):
    """At 120 groups; the exact statement is in evaluation/test_oracle.py."""
    for sampler in SAMPLERS:
        assert some["dance_grpo", sampler, "linear"][0].bias < 0.05
        assert some["dance_grpo", sampler, "linear"][0].cosine > 0.6


# The trial: a rule of one's own

RULE = '''
"""The sign of the summed advantages, more for later steps."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch

from stepcredit.methods import dance_grpo
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import DanceSDE, Stochastic
from stepcredit.records import over_prompts


@torch.no_grad()
def rule(rewards, weights, *, trained):
    """credit = sign(A) n / N for one group."""
    plain = dance_grpo.rule(rewards, weights, trained=trained)
    steps = trained.shape[-1]
    when = torch.linspace(1, steps, steps).to(rewards) / steps * trained
    return replace(plain, per_step=when * plain.mixed.sign()[:, None], weights=when)


class SignLateRule(Rule):
    def assign(self, evidence):
        weights = evidence.weights.double().expand(len(evidence.rewards), -1)
        return over_prompts(rule)(evidence.rewards.double(), weights, trained=evidence.trained)


class SignLate(Method):
    paper: ClassVar[str] = "ours"
    summary: ClassVar[str] = "the sign of the advantage, more for later steps"
    fills: ClassVar[str] = "when, advantage"
    type: Literal["NAME"] = "NAME"
    sampler: Stochastic = DanceSDE()
    rule: SignLateRule = SignLateRule()
    objective: LikelihoodRatio = LikelihoodRatio()
'''
assert len(RULE.splitlines()) < 60


@pytest.fixture(params=["a package", "the folder"])
def own_rule(request, their_lab, tmp_path, monkeypatch):
    """Its name: once in a package of somebody else, once as a file in the folder of methods."""
    if request.param == "a package":
        yield their_lab("sign_late", RULE.replace("NAME", "their_lab.sign_late"))
        return
    (tmp_path / "sign_late.py").write_text(RULE.replace("NAME", "sign_late"))
    monkeypatch.setattr(stepcredit.methods, "__path__", [*stepcredit.methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield "sign_late"
    sys.modules.pop("stepcredit.methods.sign_late", None)
    stepcredit.methods.__dict__.pop("sign_late", None)


def test_a_new_rule_is_one_file_and_every_study_knows_it(own_rule, quick, tmp_path, capsys):
    in_folder = "." not in own_rule
    chosen = () if in_folder else ("--method", "dance_grpo", own_rule)

    assert run("methods") == 0
    assert (own_rule in capsys.readouterr().out) == in_folder  # `methods` lists the folder
    assert (own_rule in credit.rules()) == in_folder

    out = tmp_path / "judged"
    two = ("--method", "dance_grpo", own_rule)
    assert run("bench", "credit", *two, "--groups", "12", "--seeds", "1", "--out", str(out)) == 0
    assert f"| {own_rule} |" in " ".join(out.with_suffix(".md").read_text(encoding="utf-8").split())
    rows = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    assert len([row for row in rows if row["rule"] == own_rule]) == len(SAMPLERS) * len(PROBLEMS)
    capsys.readouterr()

    dump, out = tmp_path / "rollout.safetensors", tmp_path / "compared"
    small = ("--rollout.prompts=1", "--rollout.group_size=4", "--rollout.steps=3")
    assert run("compare", "--dump", str(dump), *small, *chosen, "--out", str(out)) == 0
    table = " ".join(out.with_suffix(".md").read_text(encoding="utf-8").split())  # columns are padded
    assert f"| {own_rule} | 0% | 0% |" in table
    assert own_rule in frozen.every_rule(frozen.load(dump)[0], None if in_folder else [own_rule]).verdicts

    assert paper.arm(own_rule) == {"type": own_rule, "sampler": {"noise_level": 0.7}}
    [cell] = paper.cells(tmp_path / "study", [own_rule], 1)
    flags = cell.command([])[5:]
    method: Any = load_recipe(cell.command([])[4], flags).method
    assert method.sampler.noise_level == 0.7
    assert cell.folder.name == f"{own_rule}-0"
