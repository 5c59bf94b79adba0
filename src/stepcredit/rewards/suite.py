"""Asks every reward about a batch and returns one table. A reward that fails is NaN with a reason, never a number."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from stepcredit.protocols import Reward
from stepcredit.records import Problem, RewardBatch
from stepcredit.rewards.asking import Fenced, seed_of


class RewardSuite:
    """Several rewards, in the recipe's order, each behind a fence."""

    def __init__(self, rewards: Sequence[Reward | Fenced]) -> None:
        # One that stands in two suites has one fence: a call that hangs keeps it from both.
        self._rewards = tuple(reward if isinstance(reward, Fenced) else Fenced(reward) for reward in rewards)
        self.names = tuple(name for reward in self._rewards for name in reward.outputs)

    @property
    def exact(self) -> tuple[str, ...]:
        """The outputs that are 1 for right and 0 for wrong, of rewards that say `exact = True` of themselves."""
        return tuple(name for reward in self._rewards if reward.exact for name in reward.outputs)

    def score(
        self, batch: RewardBatch, *, waiting: Callable[[], None] = lambda: None
    ) -> tuple[Float[np.ndarray, "B K"], tuple[Problem, ...]]:
        """Scores in the order of `names`, and the reasons for what could not be scored.

        `waiting` is called several times a second while a reward of somebody else works; what it raises ends the wait.
        """
        columns: list[np.ndarray] = []
        problems: list[Problem] = []
        seed = seed_of(batch)
        for reward in self._rewards:
            scores, reasons = reward.ask(batch, seed=seed, waiting=waiting)
            columns += [scores[name] for name in reward.outputs]
            problems += reasons
        table = np.stack(columns, axis=1) if columns else np.empty((len(batch.media), 0))
        return table, tuple(problems)

    def joined(self, other: "RewardSuite") -> "RewardSuite":
        """Both, this one first."""
        return RewardSuite([*self._rewards, *other._rewards])

    def fingerprints(self) -> dict[str, Mapping[str, str]]:
        """What each reward says of itself, by the names of its outputs."""
        return {"+".join(reward.outputs): reward.fingerprint() for reward in self._rewards}
