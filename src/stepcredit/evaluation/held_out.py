"""A policy's pictures of held-out captions, always from the same noise, and their scores."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from stepcredit.protocols import Policy, PromptSource
from stepcredit.records import RewardBatch, fixed_noise
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import decode, sample_ode
from stepcredit.runs.looks import Look, Weights
from stepcredit.scenes.worlds import questions_of

SIBLINGS = 4  # pictures per caption draw, so that diversity can be measured
_SEED = 20_260_419  # captions and noise of every evaluation, whatever the run's seed


def evaluate(
    policy: Policy,
    prompts: PromptSource,
    rewards: RewardSuite,
    *,
    iteration: int,
    weights: Weights,
    count: int,
    steps: int,
    shift: float | None,
    micro_batch: int,
    only: Sequence[int] | None = None,
) -> Look:
    """Draw `count` pictures (rounded up to whole groups of 4) with the deterministic sampler and score them.

    With `only`, just these rows of them, which are the same pictures as in the whole. `iteration` and `weights` are
    what the look says of itself.
    """
    drawn = prompts.draw(-(-count // SIBLINGS), seed=_SEED, iteration=0)
    rows = range(len(drawn) * SIBLINGS) if only is None else only
    images = draw_pictures(
        policy, drawn, members=SIBLINGS, rows=rows, steps=steps, shift=shift, seed=_SEED, micro_batch=micro_batch
    )
    texts = tuple(drawn[row // SIBLINGS] for row in rows)
    scores, errors = rewards.score(RewardBatch(images, texts, tuple(row // SIBLINGS for row in rows), policy.fps))
    return Look(
        iteration=iteration,
        weights=weights,
        names=rewards.names,
        rows=tuple(rows),
        prompts=texts,
        scores=scores,
        pictures=dict(zip(rows, images, strict=True)),
        answers=checked(images, texts),
        errors=errors,
        fps=policy.fps,
    )


def watched(prompts: PromptSource, *, count: int, watch: int) -> list[int]:
    """The rows that are looked at during training: whole groups of siblings, of as many captions as possible."""
    drawn = prompts.draw(-(-count // SIBLINGS), seed=_SEED, iteration=0)
    repeats = [drawn[:group].count(prompt) for group, prompt in enumerate(drawn)]  # 0: first time of this caption
    groups = sorted(range(len(drawn)), key=lambda group: (repeats[group], group))[: -(-watch // SIBLINGS)]
    return [group * SIBLINGS + sibling for group in sorted(groups) for sibling in range(SIBLINGS)]


def checked(media: UInt8[np.ndarray, "B *frames H W 3"], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The exact checkers' answers, 1, 0 or NaN where the caption does not ask; nothing if a caption is foreign."""
    asked = [questions_of(medium, text) for medium, text in zip(media, texts, strict=True)]
    found = [answers for answers in asked if answers]
    if len(found) < len(asked):
        return {}
    names = dict.fromkeys(name for answers in found for name in answers)
    return {name: np.array([answers.get(name, np.nan) for answers in found], dtype=float) for name in names}


@torch.no_grad()
def draw_pictures(
    policy: Policy,
    prompts: Sequence[str],
    *,
    members: int,
    steps: int,
    shift: float | None,
    seed: int,
    micro_batch: int,
    rows: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "B *frames H W 3"]:
    """`members` pictures or videos of each prompt with the ODE, each from noise of its own that the seed decides.

    With `rows`, only these of the P x members pictures.
    """
    rows = range(len(prompts) * members) if rows is None else rows
    noise = torch.stack([fixed_noise(seed, *divmod(row, members)).draw(policy.latent_shape()) for row in rows])
    condition, levels = policy.encode(prompts), policy.levels(steps, shift)
    finished = []
    for part in torch.arange(len(rows)).split(micro_batch):
        told = condition[torch.tensor([rows[index] // members for index in part.tolist()])]
        finished.append(sample_ode(policy, told, levels, noise[part]))
    return decode(policy, torch.cat(finished), micro_batch)
