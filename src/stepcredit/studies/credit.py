"""`stepcredit bench credit`: every rule on flows whose gradient is known, at equal cost; and what else can be known."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stepcredit.flow.kernels import KERNELS
from stepcredit.methods import names
from stepcredit.methods.base import Method
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


@dataclass(frozen=True)
class Row:
    """One rule on one sampler and problem, a value per seed."""

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
        for sampler_name, sampler in SAMPLERS.items():
            for problem, objectives in PROBLEMS.items():
                found: dict[str, list[Quality]] = {name: [] for name in methods}
                axes = sorted({objective.axis for objective in objectives})
                for seed in range(seeds):
                    draw = _drawer(sampler, objectives, groups, seed)
                    plain = draw(method_named("dance_grpo"))
                    spreads = plain.evidence.rewards.flatten(0, 1).std(0)
                    true = oracle.truth(sampler, objectives, spreads)
                    true[~plain.plan.trained[0, 0]] = 0  # a step that nobody trains is nobody's fault
                    calls = GROUP * len(objectives)
                    budget = 4.0 * (GROUP * sampler.steps + 3 * GROUP * int(plain.plan.trained[0, 0].sum()) + calls)
                    for name, chosen in methods.items():
                        method = _on(chosen, sampler.kernel)
                        draws = draw(method)
                        estimate, moves = oracle.estimates(draws, method, axes)
                        cost = GROUP * sampler.steps + 3 * moves + calls
                        found[name].append(oracle.judge(estimate, true, cost=cost, budget=budget, seed=seed))
                        progress.advance(bar)
                    if len(objectives) == 1:
                        for name, settings in REFERENCES.items():
                            estimate = oracle.dense(
                                sampler, objectives[0], groups=groups, group_size=GROUP, seed=seed, **settings
                            )
                            cost = _dense_cost(sampler.steps, anchored=settings["anchored"])
                            quality = oracle.judge(estimate, true, cost=cost, budget=budget, seed=seed)
                            found.setdefault(name, []).append(quality)
                rows += [Row(name, sampler_name, problem, qualities) for name, qualities in found.items()]
    return rows


def _on(method: Method, kernel: str) -> Method:
    """The method as it would be set up on this kernel; PCPO's profile, for one, depends on it."""
    if method.sampler.kernel == kernel:
        return method
    own = {name: getattr(method, name) for name in method.model_fields_set}
    return type(method).model_validate({**own, "sampler": {"type": kernel}})


def _drawer(
    sampler: oracle.Sampler, objectives: tuple[oracle.Objective, ...], groups: int, seed: int
) -> Callable[[Method], Draws]:
    """Draws, made once for all methods with the same plan and noise."""

    @cache
    def cached(key: str) -> Draws:
        return oracle.draw(sampler, objectives, kept[key], groups=groups, group_size=GROUP, seed=seed, train_last=True)

    kept: dict[str, Method] = {}

    def draw(method: Method) -> Draws:
        key = repr((method.plan.shared_noise, method.plan.window, method.plan.timestep_fraction))
        kept.setdefault(key, method)
        return cached(key)

    return draw


def _dense_cost(steps: int, *, anchored: bool) -> float:
    """Of a group whose every latent is finished and scored: the path, finishing, the trained moves, the scores."""
    finishing = steps * (steps - 1) / 2
    path = steps / GROUP if anchored else steps  # one path for the group, or one for every sample
    return GROUP * (path + finishing + 3 * steps + steps)


def check_kernels(*, count: int = 50_000) -> dict[str, dict[int, exact_law.LawError]]:
    """Distance to the true law at 16 and 200 steps: it must fall to the noise floor for kernels that keep marginals."""
    settings = {"ode": 0.0, "flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7, "ddim": 1.0}
    kernels = {name: (KERNELS[name], level) for name, level in settings.items()}
    kernels["noise without score"] = (exact_law.without_score, 0.3)
    return {
        name: {steps: exact_law.measure(kernel, noise_level=level, steps=steps, count=count) for steps in (16, 200)}
        for name, (kernel, level) in kernels.items()
    }


def check_similarity(*, groups: int = 64) -> dict[str, proxy.Proxy]:
    """Similarity gain against reward gain on the exact flow, each with its shuffled null."""
    found = {}
    for name in ("dance_sde", "flow_sde"):
        sampler, objectives = SAMPLERS[name], PROBLEMS["quadratic"]
        method = method_named("flow_grpo")
        draws = oracle.draw(sampler, objectives, method, groups=groups, group_size=4, seed=0)
        gains = draws.evidence.seen["similarity"].flatten(0, 1).diff(dim=-1).numpy()
        values = objectives[0].score(draws.path[..., 0]).flatten(0, 1).diff(dim=-1).numpy()
        found[name] = proxy.validate(gains, values)
    return found


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
        "kernels": {name: {str(n): asdict(error) for n, error in errors.items()} for name, errors in laws.items()},
        "similarity": {name: found.plain() for name, found in similarity.items()},
    }
