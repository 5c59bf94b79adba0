"""Training that teaches nothing: objectives that never tell siblings apart, and runs without any credit. No torch.

Read off the metrics, so that a run says it while it goes on and whoever looks at it says the same of it later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 3
"""Iterations in a row that it is said after."""
_FAINT = 1e-4  # of the credit's mean size, in standard deviations of a group
ALL = "+"  # of a silence that is all objectives'; no name of an objective holds a plus


@dataclass(frozen=True)
class Silence:
    """What has taught nothing, and in how many of how many iterations.

    Such as `Silence("hps", "siblings score the same to within rounding (0.5), ...", 12, 40)`.
    """

    objective: str
    """Its name; of a run without any credit, those of all of them."""
    reason: str
    times: int
    iterations: int

    def __str__(self) -> str:
        return f"{self.objective} taught nothing in {self.times} of {self.iterations} iterations: {self.reason}"


def silent_now(line: Mapping[str, Any], objectives: Sequence[str], groups: int) -> dict[str, str]:
    """What teaches nothing in an iteration's metrics, by objective, with the reason; `+` is the run as a whole."""
    reasons: dict[str, str] = {}
    for name in objectives:
        flat = (line.get(f"reward/{name}/flat_groups") or 0) >= groups
        # One that scored nothing has no spread either, and is told of as a reward that fails.
        if flat and line.get(f"reward/{name}") is not None and line.get(f"reward/{name}/missing") != 1:
            reasons[name] = _flat(line[f"reward/{name}"], line.get(f"reward/{name}/spread"))
    size = line.get("credit/mean_size")
    if line.get("credit/zero_share") == 1:
        reasons[ALL] = "no sample had any credit, so there is nothing to learn from"
    elif size is not None and 0 < size < _FAINT:
        reasons[ALL] = (
            f"credit is {size:.0e} of a standard deviation and less: the scores' differences are far below the "
            "method's epsilon, or its unit; multiply them in a reward of your own"
        )
    return reasons


def _flat(mean: float, spread: float | None) -> str:
    if not spread:
        return f"siblings score the same to within rounding ({mean:g}), so there is nothing to compare"
    return (
        f"siblings' scores differ by {spread:.0e} at {mean:g}, which may be rounding, so there is nothing to compare; "
        "if they do differ, take off what they have in common, in float64"
    )


def silences(metrics: Sequence[Mapping[str, Any]], objectives: Sequence[str], groups: int) -> list[Silence]:
    """What has to be said of a run at its end: what was silent all along, or several iterations in a row."""
    streaks = dict.fromkeys([*objectives, ALL], 0)
    times = dict(streaks)
    longest = dict(streaks)
    latest: dict[str, str] = {}
    for line in metrics:
        reasons = silent_now(line, objectives, groups)
        latest |= reasons
        for key in streaks:
            streaks[key] = streaks[key] + 1 if key in reasons else 0
            times[key] += key in reasons
            longest[key] = max(longest[key], streaks[key])
    wanted = min(PATIENCE, len(metrics))
    return [
        Silence(_label(key, objectives), latest[key], times[key], len(metrics))
        for key in latest
        if longest[key] >= wanted
    ]


def _label(key: str, objectives: Sequence[str]) -> str:
    return ALL.join(objectives) if key == ALL else key
