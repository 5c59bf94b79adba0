"""Looks at held-out captions while a run goes on, and the picture of what has become of them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from stepcredit.evaluation import held_out
from stepcredit.evaluation.grid import before_after
from stepcredit.files import media
from stepcredit.protocols import Policy, Progress, PromptSource, Questions
from stepcredit.recipe.recipe import Recipe
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.engine import silent
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look, Weights

GRID = 18  # captions in before_after.png


@dataclass(frozen=True)
class Evaluator:
    """What evaluation asks: all rewards, trained on or held out, over held-out prompts, and an exact checker.

    Example: `Evaluator(Listed(["a red cube"]), RewardSuite([clip_t, hps]))`.
    """

    prompts: PromptSource
    rewards: RewardSuite
    questions: Questions | None = None


def look(
    policy: Policy,
    recipe: Recipe,
    evaluator: Evaluator,
    *,
    iteration: int,
    weights: Weights,
    only: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Look:
    """Held-out captions with a policy, as the recipe's evaluation asks."""
    return held_out.evaluate(
        policy,
        evaluator.prompts,
        evaluator.rewards,
        questions=evaluator.questions,
        iteration=iteration,
        weights=weights,
        count=recipe.evaluation.count,
        steps=recipe.evaluation.steps or recipe.rollout.steps,
        shift=recipe.rollout.shift,
        micro_batch=recipe.rollout.micro_batch,
        only=only,
        progress=progress,
    )


def draw_before_after(
    folder: RunFolder, base: Look, tuned: Look, rows: Collection[int], exact: Sequence[str] = ()
) -> None:
    """The first picture of the first few captions, before and after, framed right or wrong by the first exact score."""
    first: dict[str, int] = {}
    for row, prompt in zip(base.rows, base.prompts, strict=True):
        if row in rows:
            first.setdefault(prompt, row)
    captions = list(first)[:GRID]
    chosen = [first[caption] for caption in captions]
    marks = _marks(base, tuned, chosen, exact[0]) if exact else None
    before = np.stack([base.pictures[row] for row in chosen])
    after = np.stack([tuned.pictures[row] for row in chosen])
    path = folder.path / f"before_after{media.suffix(base.fps)}"
    before_after(path, captions, before, after, marks=marks, fps=base.fps)


def _marks(base: Look, tuned: Look, rows: Sequence[int], exact: str) -> list[tuple[bool, bool]]:
    """Whether each picture is right, before and after, by an exact score: 1 is right, 0 and NaN are not."""
    column = base.names.index(exact)
    index = {row: index for index, row in enumerate(base.rows)}
    marks: list[tuple[bool, bool]] = []
    for row in rows:
        before = bool(base.scores[index[row], column] == 1)
        after = bool(tuned.scores[index[row], column] == 1)
        marks.append((before, after))
    return marks
