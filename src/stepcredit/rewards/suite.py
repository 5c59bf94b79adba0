"""Asks every reward about a batch and returns one table. A reward that fails is NaN with a reason, never a number."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from stepcredit.protocols import Reward
from stepcredit.records import RewardBatch


class RewardSuite:
    """Several rewards, in the recipe's order."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = tuple(rewards)
        self.names = tuple(name for reward in rewards for name in reward.outputs)

    def score(self, batch: RewardBatch) -> tuple[Float[np.ndarray, "B K"], tuple[str, ...]]:
        """Scores in the order of `names`, and the reasons for what could not be scored."""
        columns: list[np.ndarray] = []
        errors: list[str] = []
        for reward in self._rewards:
            got, reasons = _ask(reward, batch)
            columns += [got[name] for name in reward.outputs]
            errors += reasons
        return np.stack(columns, axis=1) if columns else np.empty((len(batch.media), 0)), tuple(errors)

    def joined(self, other: "RewardSuite") -> "RewardSuite":
        """Both, this one first."""
        return RewardSuite([*self._rewards, *other._rewards])

    def fingerprints(self) -> dict[str, Mapping[str, str]]:
        return {"+".join(reward.outputs): reward.fingerprint() for reward in self._rewards}


def _ask(reward: Reward, batch: RewardBatch) -> tuple[dict[str, np.ndarray], list[str]]:
    """One reward's columns; whatever is wrong with them becomes NaN and a sentence."""
    count = len(batch.media)
    nothing = {name: np.full(count, np.nan) for name in reward.outputs}
    label = "+".join(reward.outputs)
    try:
        output = reward.score(batch)
        offered = {name: np.array(output.scores.get(name, []), dtype=float) for name in reward.outputs}
        errors = [f"{label}: {reason}" for reason in output.errors]
    except Exception as error:  # a scorer is foreign code: whatever it raises must not end the run
        return nothing, [f"{label}: raised {type(error).__name__}: {error}"]
    columns = {}
    for name in reward.outputs:
        values = offered[name]
        if values.shape != (count,):
            errors.append(f"{name}: returned shape {values.shape} for {count} pictures")
            values = nothing[name]
        infinite = np.isinf(values)
        if infinite.any():
            errors.append(f"{name}: returned infinity for {infinite.sum()} of {count} pictures")
            values[infinite] = np.nan
        columns[name] = values
        if np.isnan(values).any() and not errors:
            errors.append(f"{name}: returned NaN for {np.isnan(values).sum()} of {count} pictures")
    return columns, errors
