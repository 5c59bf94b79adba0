"""One training step, top to bottom: draw pictures, score them, assign credit, update. It knows no method."""

from dataclasses import dataclass

import numpy as np
import torch

from stepcredit.credit.diagnostics import conflict, pareto_share
from stepcredit.methods.base import Method
from stepcredit.objective.diagnostics import effective_steps
from stepcredit.protocols import Policy, PromptSource
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import (
    Condition,
    Credit,
    Evidence,
    Plan,
    Prompt,
    RewardBatch,
    RewardTable,
    StepReport,
    Trajectory,
)
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout import plan
from stepcredit.rollout.engine import Advance, count_unusable, decode, roll_out
from stepcredit.training.anchors import Average
from stepcredit.training.update import Recompute


@dataclass(frozen=True)
class Trainer:
    """The objects of a run, as `build.py` wires them."""

    recipe: Recipe
    policy: Policy
    prompts: PromptSource
    rewards: RewardSuite
    method: Method
    levels: torch.Tensor
    update: Recompute
    optimiser: torch.optim.Optimizer
    average: Average | None


@dataclass(frozen=True)
class Step:
    """What a step leaves behind for the run folder."""

    report: StepReport
    credit: Credit
    rewards: RewardTable
    trajectory: Trajectory
    prompts: tuple[Prompt, ...]


def step(trainer: Trainer, iteration: int, advance: Advance = lambda pairs: None) -> Step:
    """Prompts to updated weights; `advance` hears of every (sample, step) pair that was computed."""
    recipe = trainer.recipe
    prompts = trainer.prompts.draw(recipe.rollout.prompts, seed=recipe.seed, iteration=iteration)
    condition = trainer.policy.encode([prompt.text for prompt in prompts])

    instructions = draw_plan(trainer, iteration)
    trajectory = draw_samples(trainer, condition, instructions, iteration, advance)
    unusable = count_unusable(trajectory)
    rewards = score(trainer, trajectory, prompts)

    credit = trainer.method.credit(gather_evidence(trainer, trajectory, instructions, rewards))

    updates = trainer.update.apply(
        trajectory,
        instructions,
        condition,
        credit,
        trainer.optimiser,
        seed=recipe.seed,
        iteration=iteration,
        advance=advance,
    )
    if trainer.average is not None:
        trainer.average.follow()

    metrics = {
        **reward_metrics(rewards),
        **credit_metrics(credit, rewards),
        **updates,
        "rollout/unusable": float(unusable),
        "rollout/cut_prompts": float(trainer.policy.cut_prompts),
    }
    metrics |= cost(trainer, trajectory, updates["update/pairs"])
    return Step(StepReport(iteration, metrics), credit, rewards, trajectory, tuple(prompts))


def draw_plan(trainer: Trainer, iteration: int) -> Plan:
    """Which steps of which samples add noise and are trained, in this iteration."""
    rollout = trainer.recipe.rollout
    return plan.draw(
        trainer.method,
        steps=rollout.steps,
        prompts=rollout.prompts,
        group_size=rollout.group_size,
        seed=trainer.recipe.seed,
        iteration=iteration,
        trainable=trainer.policy.trainable(trainer.levels),
    )


def draw_samples(
    trainer: Trainer, condition: Condition, instructions: Plan, iteration: int, advance: Advance
) -> Trajectory:
    """G trajectories for every prompt, with the method's kernel and the run's own noise."""
    method, rollout = trainer.method, trainer.recipe.rollout
    return roll_out(
        trainer.policy,
        condition,
        instructions,
        trainer.levels,
        group_size=rollout.group_size,
        noise_level=method.noise_level,
        shared_noise=method.shared_noise,
        noisy_end=method.final_state == "x_N",
        seed=trainer.recipe.seed,
        iteration=iteration,
        micro_batch=rollout.micro_batch,
        advance=advance,
    )


def score(trainer: Trainer, trajectory: Trajectory, prompts: list[Prompt]) -> RewardTable:
    """Decode the final latents and ask every reward; samples that are not finite get NaN."""
    members = trajectory.final.shape[1]
    media = decode(trainer.policy, trajectory.final.flatten(0, 1), trainer.recipe.rollout.micro_batch)
    repeated = tuple(prompt for prompt in prompts for _ in range(members))
    groups = tuple(group for group in range(len(prompts)) for _ in range(members))
    scores, problems = trainer.rewards.score(RewardBatch(media, repeated, groups, trainer.policy.fps))
    table = torch.from_numpy(scores).float().unflatten(0, (len(prompts), members))
    broken = ~trajectory.final.flatten(2).isfinite().all(-1).cpu()
    return RewardTable(trainer.rewards.names, table.masked_fill(broken[..., None], torch.nan), problems)


def gather_evidence(trainer: Trainer, trajectory: Trajectory, instructions: Plan, rewards: RewardTable) -> Evidence:
    """What the method may look at, on the CPU."""
    return Evidence(
        rewards=rewards.scores,
        weights=torch.tensor(trainer.recipe.objective_weights),
        similarity=trajectory.similarity.cpu(),
        clean_similarity=trajectory.clean_similarity.cpu(),
        trained=instructions.trained,
        transitions=trainer.update.transitions,
    )


def cost(trainer: Trainer, trajectory: Trajectory, trained_pairs: float) -> dict[str, float]:
    """What the iteration cost: pictures, and network forwards with a gradient counted as three."""
    pictures = trajectory.final.shape[0] * trajectory.final.shape[1]
    each = 4 if trainer.method.kl_weight > 0 else 3
    return {
        "cost/pictures": float(pictures),
        "cost/forwards": pictures * (len(trainer.levels) - 1) + each * trained_pairs,
    }


def reward_metrics(rewards: RewardTable) -> dict[str, float]:
    """Per objective: mean, spread within groups, share that could not be scored, groups without spread."""
    metrics = {}
    for name, scores in zip(rewards.names, rewards.scores.double().numpy().transpose(2, 0, 1), strict=True):
        known = np.where(np.isfinite(scores), scores, np.nan)
        some = np.isfinite(known).sum(1) > 1
        spread = np.nanstd(known[some], axis=1, ddof=1) if some.any() else np.zeros(0)
        metrics |= {
            f"reward/{name}": float(np.nanmean(known)) if np.isfinite(known).any() else float("nan"),
            f"reward/{name}/spread": float(spread.mean()) if len(spread) else float("nan"),
            f"reward/{name}/missing": float(np.isnan(known).mean()),
            f"reward/{name}/flat_groups": float(len(known) - (spread > 1e-6).sum()),
        }
    return metrics


def credit_metrics(credit: Credit, rewards: RewardTable) -> dict[str, float]:
    """How much signal there is, where it went, and how far the objectives disagree."""
    weights = credit.weights.nan_to_num(0.0)  # a sample that broke has none
    trained = weights.abs().amax((0, 1)) > 0
    whole = credit.weights.isfinite().all(-1)
    front = torch.vmap(pareto_share)(credit.per_step, rewards.scores.to(credit.per_step))
    return {
        "credit/mean_size": float(credit.per_step[..., trained].abs().mean()),
        "credit/zero_share": float((credit.mixed == 0).float().mean()),
        "credit/flat_groups": float((credit.mixed == 0).all(-1).sum()),
        "credit/effective_steps": float(effective_steps(weights)[whole].mean()),
        "credit/strength": float(credit.strength.nanmean()),
        "credit/conflict": float(torch.vmap(conflict)(credit.advantages).float().mean()),
        "credit/pareto_share": float(front.nanmean()),
    }
