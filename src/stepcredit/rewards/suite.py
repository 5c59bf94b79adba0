"""Asks every reward about a batch and returns one table. A reward that fails is NaN with a reason, never a number."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from stepcredit.protocols import Reward
from stepcredit.records import Problem, RewardBatch


class RewardSuite:
    """Several rewards, in the recipe's order."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = tuple(rewards)
        self.names = tuple(name for reward in rewards for name in reward.outputs)

    @property
    def exact(self) -> tuple[str, ...]:
        """The outputs that are 1 for right and 0 for wrong, of rewards that say `exact = True` of themselves."""
        exact_rewards = [reward for reward in self._rewards if getattr(reward, "exact", False)]
        return tuple(name for reward in exact_rewards for name in reward.outputs)

    def score(self, batch: RewardBatch) -> tuple[Float[np.ndarray, "B K"], tuple[Problem, ...]]:
        """Scores in the order of `names`, and the reasons for what could not be scored."""
        columns: list[np.ndarray] = []
        problems: list[Problem] = []
        for reward in self._rewards:
            scores, reasons = _ask(reward, batch)
            columns += [scores[name] for name in reward.outputs]
            problems += reasons
        table = np.stack(columns, axis=1) if columns else np.empty((len(batch.media), 0))
        return table, tuple(problems)

    def joined(self, other: "RewardSuite") -> "RewardSuite":
        """Both, this one first."""
        return RewardSuite([*self._rewards, *other._rewards])

    def fingerprints(self) -> dict[str, Mapping[str, str]]:
        return {"+".join(reward.outputs): reward.fingerprint() for reward in self._rewards}


def _ask(reward: Reward, batch: RewardBatch) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """One reward's columns; whatever is wrong with them becomes NaN and a problem."""
    count = len(batch.media)
    label = "+".join(reward.outputs)
    try:
        output = reward.score(batch)
        # A copy, since NaN is written into it and the scorer may keep its array.
        offered = {name: np.array(output.scores.get(name, []), dtype=float) for name in reward.outputs}
        problems = [error if isinstance(error, Problem) else Problem(label, (), error) for error in output.errors]
    except Exception as error:  # a scorer is foreign code: whatever it raises must not end the run
        nothing = {name: np.full(count, np.nan) for name in reward.outputs}
        return nothing, [Problem(label, (), f"raised {type(error).__name__}: {error}")]
    columns = {}
    for name in reward.outputs:
        # Problems of one output say nothing of the next: each is told what is wrong with itself.
        columns[name], own_problems = _checked(name, offered[name], count, problems)
        problems += own_problems
    return columns, problems


def _checked(
    name: str, values: np.ndarray, count: int, problems: Sequence[Problem]
) -> tuple[Float[np.ndarray, " B"], list[Problem]]:
    """One output as a column of finite numbers and NaN, with a problem for every NaN that `problems` do not explain."""
    if values.shape != (count,):
        reason = f"returned shape {values.shape} for {count} pictures"
        return np.full(count, np.nan), [Problem(name, (), reason)]
    infinite = np.isinf(values)
    unexplained = np.isnan(values) & ~_explained(name, count, problems)
    reasons = {"infinity": infinite, "NaN": unexplained}
    return np.where(infinite, np.nan, values), [
        Problem(name, tuple(np.flatnonzero(rows).tolist()), f"returned {what} for {rows.sum()} of {count} pictures")
        for what, rows in reasons.items()
        if rows.any()
    ]


def _explained(name: str, count: int, problems: Sequence[Problem]) -> Bool[np.ndarray, " B"]:
    """The rows for which a problem of this output was told already."""
    explained = np.zeros(count, dtype=bool)
    for problem in problems:
        if problem.concerns(name):
            # No rows stand for all. `isin` and not an index: rows come from foreign code and may be out of range.
            explained |= np.isin(np.arange(count), problem.rows) if problem.rows else True
    return explained
