"""Scores of what can be scored: samples that are not usable are shown to no reward, nor to their siblings'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from stepcredit.records import Problem, RewardBatch
from stepcredit.rewards.suite import RewardSuite

LARGEST = float(np.finfo(np.float32).max)
"""Scores beyond it, either way, are no scores: their spread overflows, and float32 knows them as infinity."""


def score_usable(
    rewards: RewardSuite,
    batch: RewardBatch,
    unusable: Mapping[int, str],
    *,
    waiting: Callable[[], None] = lambda: None,
) -> tuple[Float[np.ndarray, "B K"], tuple[Problem, ...]]:
    """Scores `[B, K]` in the order of the suite's names, and a reason for every NaN.

    `unusable` has the reason of each row that may not be scored; such a row is left out of the batch, because rewards
    that compare siblings would compare them with it. `waiting` is called again and again while a reward works.
    """
    count = len(batch.media)
    usable = [row for row in range(count) if row not in unusable]
    scores = np.full((count, len(rewards.names)), np.nan)
    problems = list(Problem.by_reason("+".join(rewards.names), unusable))
    if usable:
        known, reasons = rewards.score(_rows(batch, usable) if unusable else batch, waiting=waiting)
        scores[usable] = known
        problems += [_placed(problem, usable) for problem in reasons] if unusable else reasons
    return _within_float32(scores, rewards.names, problems)


def _rows(batch: RewardBatch, rows: Sequence[int]) -> RewardBatch:
    """Some samples of a batch; they stay in their groups."""
    return replace(
        batch,
        media=batch.media[list(rows)],
        prompts=tuple(batch.prompts[row] for row in rows),
        groups=tuple(batch.groups[row] for row in rows),
    )


def _placed(problem: Problem, rows: Sequence[int]) -> Problem:
    """A problem of some rows of a batch as one of the whole batch."""
    # Rows come from foreign code and may be out of range.
    places = tuple(rows[row] for row in problem.rows if 0 <= row < len(rows))
    # No rows stand for all rows, and here all of them are the usable ones.
    return replace(problem, rows=places or tuple(rows))


def _within_float32(
    scores: Float[np.ndarray, "B K"], names: Sequence[str], problems: list[Problem]
) -> tuple[Float[np.ndarray, "B K"], tuple[Problem, ...]]:
    """NaN and a reason in place of numbers that are too large to be compared."""
    too_large = np.abs(scores) > LARGEST
    for name, rows in zip(names, too_large.T, strict=True):
        if rows.any():
            reason = f"returned numbers beyond {LARGEST:.1e} for {rows.sum()} of {len(scores)} pictures; scale it down"
            problems.append(Problem(name, tuple(np.flatnonzero(rows).tolist()), reason))
    return np.where(too_large, np.nan, scores), tuple(problems)
