"""One training step, top to bottom: draw pictures, score them, assign credit, update. It knows no method."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stepcredit.credit import spread
from stepcredit.methods.base import Method
from stepcredit.protocols import Policy, Progress, PromptSource, Update
from stepcredit.records import Credit, Evidence, Key, Prompt, RewardBatch, RewardTable, Rollout, StepReport
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rewards.usable import score_usable
from stepcredit.rollout.decoding import Decoded, finished
from stepcredit.rollout.engine import RollOut, silent
from stepcredit.training.anchors import Anchors
from stepcredit.training.metrics import cost, credit_metrics, reward_metrics, sample_metrics


@dataclass(frozen=True)
class Parts:
    """The objects of a run, as `build.py` wires them."""

    seed: int
    policy: Policy
    prompts: PromptSource
    prompt_count: int
    roll_out: RollOut
    rewards: RewardSuite
    objective_weights: Sequence[float]
    method: Method
    update: Update
    optimiser: torch.optim.Optimizer
    anchors: Anchors


@dataclass(frozen=True)
class Step:
    """What a step leaves behind for the run folder."""

    report: StepReport
    credit: Credit
    rewards: RewardTable
    rollout: Rollout
    prompts: tuple[Prompt, ...]


def step(parts: Parts, iteration: int, progress: Progress = silent) -> Step:
    """Prompts to updated weights; `progress` hears of every (sample, step) pair that was computed."""
    key = Key(parts.seed, iteration)
    prompts = parts.prompts.draw(parts.prompt_count, key)

    rollout = parts.roll_out(prompts, key, progress)
    decoded = finished(parts.policy, rollout, parts.roll_out.micro_batch)
    rewards = score(parts.rewards, decoded, prompts, progress)

    # Whole groups, never parts of them: an advantage compares a sample with all of its siblings.
    credit = parts.method.credit(evidence_of(rollout, rewards, parts.objective_weights))

    update = parts.update.apply(rollout, credit, key, progress)
    parts.anchors.follow()  # once an iteration, however many optimiser steps it had

    metrics = {
        **reward_metrics(rewards),
        **credit_metrics(credit, rewards),
        **update.metrics,
        **sample_metrics(decoded),
        "rollout/cut_prompts": float(parts.policy.cut_prompts),
        **cost(rollout, update),
    }
    return Step(StepReport(iteration, metrics), credit, rewards, rollout, tuple(prompts))


def score(
    rewards: RewardSuite, decoded: Decoded, prompts: Sequence[Prompt], progress: Progress = silent
) -> RewardTable:
    """Ask every reward about the samples of these prompts; those that are not usable get NaN.

    `progress` hears of no pairs, again and again, while a reward of somebody else works: a hang can be interrupted.
    """
    members = len(decoded.media) // len(prompts)
    repeated = tuple(prompt for prompt in prompts for _ in range(members))
    groups = tuple(group for group in range(len(prompts)) for _ in range(members))
    # One call for all samples: rewards such as diversity look at a group, and networks like full batches.
    batch = RewardBatch(decoded.media, repeated, groups, decoded.fps)
    scores, problems = score_usable(rewards, batch, decoded.unusable, waiting=lambda: progress(0))
    table = torch.from_numpy(scores).unflatten(0, (len(prompts), members))
    return RewardTable(rewards.names, spread.in_float32(table), problems)


def evidence_of(rollout: Rollout, rewards: RewardTable, weights: Sequence[float]) -> Evidence:
    """What the rule may look at, on the CPU."""
    return Evidence(
        rewards=rewards.scores,
        weights=torch.tensor(list(weights)),
        trained=rollout.plan.trained,
        transitions=rollout.sampler.transitions,
        seen=rollout.seen,
    )
