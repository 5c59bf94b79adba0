"""What is watched while a run trains: rewards that score nothing, and training that teaches nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepcredit.errors import RewardError
from stepcredit.records import Problem, RewardTable
from stepcredit.runs.silence import ALL, PATIENCE, silent_now

_PATIENCE = 3  # iterations in a row in which a reward may score nothing at all


def watch_rewards(silent: dict[str, int], rewards: RewardTable) -> None:
    """Stop a run in which a reward has scored nothing for several iterations; checkpoints so far stay."""
    scored = rewards.scores.isfinite().flatten(0, 1).any(0)
    for name, has_score in zip(rewards.names, scored.tolist(), strict=True):
        silent[name] = 0 if has_score else silent[name] + 1
        if silent[name] >= _PATIENCE:
            own = [str(problem) for problem in rewards.problems if problem.concerns(name)]
            reasons = "; ".join(own) or "it returned NaN only"
            raise RewardError(f"reward {name} could not score anything in {_PATIENCE} iterations in a row: {reasons}")


@dataclass
class Teaching:
    """Says once a streak that an objective, or the whole run, has taught nothing for several iterations in a row.

    It never stops the run, which was asked for.
    """

    objectives: Sequence[str]
    groups: int
    _streaks: dict[str, int] = field(default_factory=dict)

    def resume(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Take in the iterations so far of a run that goes on, which were told of already."""
        for line in metrics:
            self.see(line)

    def see(self, line: Mapping[str, Any]) -> tuple[Problem, ...]:
        """One iteration's metrics; returns what has to be told now."""
        # As they are stored: null stands for what is not a number.
        known = {name: value if value is not None and math.isfinite(value) else None for name, value in line.items()}
        reasons = silent_now(known, self.objectives, self.groups)
        self._streaks = {key: self._streaks.get(key, 0) + 1 for key in reasons}
        return tuple(
            Problem(
                ALL.join(self.objectives) if key == ALL else key,
                (),
                f"taught nothing in {PATIENCE} iterations in a row: {reason}",
            )
            for key, reason in reasons.items()
            if self._streaks[key] == PATIENCE
        )
