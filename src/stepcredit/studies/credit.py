"""`stepcredit bench credit`: every rule on flows whose gradient is known, at equal cost; and what else can be known."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from stepcredit.flow.kernels import KERNELS
from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.parts.planning import Planning
from stepcredit.recipe.recipe import method_named
from stepcredit.studies import exact_law, oracle, proxy
from stepcredit.studies.oracle import PROBLEMS, SAMPLERS, Draws, Quality

GROUP = 12
REFERENCES = {
    "dense gains": {"anchored": False, "normalised": False},
    "one noisy step": {"anchored": True, "normalised": False},
}
"""Rules that buy more information: the value of every latent, by finishing it deterministically."""
VARIANTS: dict[str, dict[str, Any]] = {
    "otca, balanced": {"type": "otca", "rule": {"recentred": True, "objective_floor": 0.5}},
    "otca, ours": {
        "type": "otca",
        "rule": {"compared": "predictions", "recentred": True, "objective_floor": 0.5},
    },
    "otca, one mix per step": {"type": "otca", "rule": {"step_mix": True, "centred": True}},
    "dance_grpo, random 60 % of the steps": {"type": "dance_grpo", "plan": {"timestep_fraction": 0.6}},
    "dance_grpo, best and worst 4": {"type": "dance_grpo", "plan": {"best_of": 8}},
    "flow_grpo, shared noise": {"type": "flow_grpo", "plan": {"shared_noise": True}},
    "mgda, per group": {"type": "mgda", "rule": {"over": "group"}},
}
"""Settings of a method that are shown beside its defaults."""

_BUDGET = 4.0  # plain groups that one estimate may cost
_BACKWARD = 3  # forwards that a forward with its backward costs


@dataclass(frozen=True)
class Row:
    """One rule on one sampler and problem, a value per seed.

    Example: `Row("otca", "dance_sde", "quadratic", [Quality(bias=0.04, cosine=0.55, snr=0.7, cost=780.0)])`.
    """

    rule: str
    sampler: str
    problem: str
    qualities: list[Quality]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def rules(chosen: Sequence[str] | None = None) -> dict[str, Method]:
    """All methods of the folder with the variants, or the chosen ones (`package.module` works too)."""
    methods = {name: method_named(name) for name in chosen or names()}
    if not chosen:
        methods |= {name: method_named(settings["type"], settings) for name, settings in VARIANTS.items()}
    return methods


def judge_rules(methods: dict[str, Method], *, groups: int, seeds: int, console: Console) -> list[Row]:
    """Every rule on every sampler and problem; a single estimate costs as much as four plain groups.

    A group costs a forward for each step, three for each trained move with credit (forward and backward), one for each
    score. A rule that leaves moves out averages over more groups instead.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rows = []
    with Progress(*columns, console=console) as progress, torch.no_grad():
        bar = progress.add_task("oracle", total=len(SAMPLERS) * len(PROBLEMS) * seeds * len(methods))
        for sampler in SAMPLERS:
            for problem in PROBLEMS:
                qualities: dict[str, list[Quality]] = {}
                for seed in range(seeds):
                    for name, quality in _trial(methods, sampler, problem, groups=groups, seed=seed).items():
                        qualities.setdefault(name, []).append(quality)
                    progress.advance(bar, len(methods))
                rows += [Row(name, sampler, problem, of_seeds) for name, of_seeds in qualities.items()]
    return rows


def _trial(methods: dict[str, Method], sampler: str, problem: str, *, groups: int, seed: int) -> dict[str, Quality]:
    """Every rule, and the references where there is one reward, on the groups of one seed."""
    bench = _Bench(SAMPLERS[sampler], PROBLEMS[problem], groups, seed)
    qualities = {name: bench.judge(_on(method, bench.sampler.kernel)) for name, method in methods.items()}
    if len(bench.objectives) == 1:
        qualities |= {name: bench.judge_reference(**settings) for name, settings in REFERENCES.items()}
    return qualities


class _Bench:
    """One sampler, one problem and one seed: what is drawn there, what is true there, what an estimate may cost."""

    def __init__(
        self, sampler: oracle.Sampler, objectives: tuple[oracle.Objective, ...], groups: int, seed: int
    ) -> None:
        self.sampler = sampler
        self.objectives = objectives
        self._groups = groups
        self._seed = seed
        self._draws: dict[Planning, Draws] = {}
        plain = self._drawn(method_named("dance_grpo"))
        trained = plain.plan.trained[0, 0]
        self._true = _truth(sampler, objectives, plain)
        self._budget = _BUDGET * self._cost(moves=float(GROUP * trained.sum()))

    def judge(self, method: Method) -> Quality:
        """A rule on the groups that its plan draws."""
        axes = sorted({objective.axis for objective in self.objectives})
        estimate, moves = oracle.estimates(self._drawn(method), method, axes)
        return self._judged(estimate, self._cost(moves=moves))

    def judge_reference(self, *, anchored: bool, normalised: bool) -> Quality:
        """A rule that asks for the value of every latent."""
        estimate = oracle.dense(
            self.sampler,
            self.objectives[0],
            groups=self._groups,
            group_size=GROUP,
            seed=self._seed,
            anchored=anchored,
            normalised=normalised,
        )
        return self._judged(estimate, _dense_cost(self.sampler.steps, anchored=anchored))

    def _drawn(self, method: Method) -> Draws:
        """Draws, made once for all methods with the same plan and noise."""
        # Whose credit counts is decided after the samples are drawn, so `best_of` draws nothing else.
        plan = method.plan.model_copy(update={"best_of": None})
        if plan not in self._draws:
            self._draws[plan] = oracle.draw(
                self.sampler,
                self.objectives,
                method,
                groups=self._groups,
                group_size=GROUP,
                seed=self._seed,
                train_last=True,
            )
        return self._draws[plan]

    def _cost(self, *, moves: float) -> float:
        """Network forwards of a group of which so many moves are computed again."""
        scores = GROUP * len(self.objectives)
        return GROUP * self.sampler.steps + _BACKWARD * moves + scores

    def _judged(self, estimate: Float[Tensor, "P N A"], cost: float) -> Quality:
        return oracle.judge(estimate, self._true, cost=cost, budget=self._budget, seed=self._seed)


def _truth(sampler: oracle.Sampler, objectives: tuple[oracle.Objective, ...], plain: Draws) -> Float[Tensor, "N A"]:
    """The gradient that a rule should estimate, each objective in units of its spread in plain groups."""
    spreads = plain.evidence.rewards.flatten(0, 1).std(0)
    true = oracle.truth(sampler, objectives, spreads)
    true[~plain.plan.trained[0, 0]] = 0  # a step that nobody trains is nobody's fault
    return true


def _on(method: Method, kernel: str) -> Method:
    """The method as it would be set up on this kernel; PCPO's profile, for one, depends on it."""
    if method.sampler.kernel == kernel:
        return method
    # Only what was said of the method is said again: its class decides anew what goes with the other kernel.
    own = {name: getattr(method, name) for name in method.model_fields_set}
    return type(method).model_validate({**own, "sampler": {"type": kernel}})


def _dense_cost(steps: int, *, anchored: bool) -> float:
    """Of a group whose every latent is finished and scored: the path, finishing, the trained moves, the scores."""
    finishing = steps * (steps - 1) / 2
    path = steps / GROUP if anchored else steps  # one path for the group, or one for every sample
    return GROUP * (path + finishing + _BACKWARD * steps + steps)


def check_kernels(*, count: int = 50_000) -> dict[str, dict[int, exact_law.LawError]]:
    """Distance to the true law at 16 and 200 steps: it must fall to the noise floor for kernels that keep marginals."""
    settings = {"ode": 0.0, "flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7, "ddim": 1.0}
    kernels = {name: (KERNELS[name], level) for name, level in settings.items()}
    # The check itself is on trial, too: a kernel that is known to be wrong has to stand out in the table.
    kernels["noise without score"] = (exact_law.without_score, 0.3)
    errors: dict[str, dict[int, exact_law.LawError]] = {}
    for name, (kernel, noise_level) in kernels.items():
        errors[name] = {
            steps: exact_law.measure(kernel, noise_level=noise_level, steps=steps, count=count) for steps in (16, 200)
        }
    return errors


def check_similarity(*, groups: int = 64) -> dict[str, proxy.Proxy]:
    """Similarity gain against reward gain on the exact flow, each with its shuffled null."""
    (objective,) = PROBLEMS["quadratic"]
    method = method_named("flow_grpo")  # samples that start apart, so that their paths have little in common
    proxies = {}
    for name in ("dance_sde", "flow_sde"):
        draws = oracle.draw(SAMPLERS[name], (objective,), method, groups=groups, group_size=4, seed=0)
        similarity_gain = draws.evidence.seen["similarity"].flatten(0, 1).diff(dim=-1).numpy()
        reward_gain = objective.score(draws.path[..., objective.axis]).flatten(0, 1).diff(dim=-1).numpy()
        proxies[name] = proxy.validate(similarity_gain, reward_gain)
    return proxies


def study(chosen: Sequence[str] | None, *, groups: int, seeds: int, console: Console) -> dict[str, Any]:
    """All of the above as plain data."""
    rows = judge_rules(rules(chosen), groups=groups, seeds=seeds, console=console)
    with console.status("exact law of every kernel; similarity against reward"):
        laws = check_kernels()
        similarity = check_similarity()
    return {
        "groups": groups,
        "seeds": seeds,
        "rows": [row.plain() for row in rows],
        "kernels": {name: _plain(errors) for name, errors in laws.items()},
        "similarity": {name: of_kernel.plain() for name, of_kernel in similarity.items()},
    }


def _plain(errors: dict[int, exact_law.LawError]) -> dict[str, dict[str, float]]:
    return {str(steps): asdict(error) for steps, error in errors.items()}  # keys of JSON are strings
