"""Several runs side by side at equal cost, seeds grouped. Refuses what cannot be compared and says why. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from scipy import stats

from stepcredit.errors import RunError, nearest
from stepcredit.runs.reader import RunReader
from stepcredit.settings.keys import INCIDENTAL, flatten

Cost = Literal["pictures", "forwards", "seconds"]
_KEYS: dict[str, str] = {"pictures": "cost/pictures", "forwards": "cost/forwards", "seconds": "time/seconds"}
_EQUAL = 1.02  # a run with a budget ends within one iteration of it
_MUST_AGREE = ("policy", "prompts", "rewards", "held_out", "rollout.shift", "evaluation.prompts", "evaluation.count")
"""Recipe keys without which two tables of numbers do not speak of the same thing."""


@dataclass(frozen=True)
class Curve:
    """One run: means of every score on the watched pictures, and at what cost they were reached."""

    pictures: int  # watched
    costs: np.ndarray
    means: np.ndarray  # [looks, scores]
    whole: np.ndarray | None  # gain of every score on all pictures at the end of the run

    def at(self, cost: float) -> np.ndarray:
        """Gains of the latest look that did not cost more."""
        return self.means[np.searchsorted(self.costs, cost * (1 + 1e-9), side="right") - 1] - self.means[0]


@dataclass(frozen=True)
class Side:
    """All seeds of one value of the compared key: gains over the base with 95 % intervals over seeds."""

    name: str
    curves: list[Curve]
    gains: np.ndarray  # [seeds, scores]

    @property
    def mean(self) -> np.ndarray:
        return self.gains.mean(0)

    @property
    def half_width(self) -> np.ndarray:
        """Student's t over seeds; NaN for a single one."""
        return half_width(self.gains)


@dataclass(frozen=True)
class Comparison:
    """What `stepcredit compare` shows."""

    key: str
    cost: Cost
    budget: float
    names: tuple[str, ...]
    trained: tuple[str, ...]
    base: np.ndarray
    sides: list[Side]
    pictures: int
    notes: list[str]


def compare(runs: Sequence[RunReader], *, by: str, cost: Cost = "forwards") -> Comparison:
    """Group runs by a recipe key and compare them at the largest cost that all of them reached."""
    if len(runs) < 2:
        raise RunError(f"got {len(runs)} run, wanted at least 2 to compare")
    agree(runs)
    curves = {value: [curve(run, cost) for run in some] for value, some in seeds_by(runs, by).items()}
    everyone = list(chain(*curves.values()))
    budget = min(float(item.costs[-1]) for item in everyone)
    at_end = all(item.costs[-1] <= budget * _EQUAL and item.whole is not None for item in everyone)
    base, watched = runs[0].look(0, pictures=False), min(item.pictures for item in everyone)

    def gain(item: Curve) -> np.ndarray:
        return item.whole if at_end and item.whole is not None else item.at(budget)

    notes = []
    if not at_end:
        notes.append(f"runs of unequal cost: each is taken at its latest look within the budget, on {watched} pictures")
    besides = [key for key in differing(runs) if not key.startswith(by)]
    if besides:
        notes.append(f"besides {by}, the runs differ in {', '.join(besides)}")
    if any(len(some) == 1 for some in curves.values()):
        notes.append("a single seed has no interval over seeds")
    return Comparison(
        key=by,
        cost=cost,
        budget=budget,
        names=base.names,
        trained=tuple(runs[0].trained),
        base=np.array(list(base.means().values())) if at_end else everyone[0].means[0],
        sides=[Side(value, some, np.stack([gain(item) for item in some])) for value, some in curves.items()],
        pictures=len(base.rows) if at_end else watched,
        notes=notes,
    )


def seeds_by(runs: Sequence[RunReader], by: str) -> dict[str, list[RunReader]]:
    """The runs of each value of a recipe key; refused if they differ among each other in more than their seed."""
    sides: dict[str, list[RunReader]] = {}
    for run in runs:
        sides.setdefault(str(value_at(run, by)), []).append(run)
    for value, some in sides.items():
        if len({run.recipe["seed"] for run in some}) < len(some):
            raise RunError(
                f"{by} = {value} holds the same seed twice ({', '.join(str(run.path) for run in some)}); "
                f"compare by the key in which they differ: {', '.join(differing(some)) or 'there is none'}"
            )
        other = [key for key in differing(some) if key != by]
        if other:
            raise RunError(
                f"the runs with {by} = {value} differ in more than their seed ({', '.join(other)}), so their mean "
                "would mean nothing; compare by that key, or leave some out"
            )
    return sides


def agree(runs: Sequence[RunReader]) -> None:
    """Refuse runs whose numbers do not speak of the same thing."""
    first = runs[0]
    wrong = []
    for run in runs[1:]:
        keys = [key for key in _MUST_AGREE if value_at(run, key) != value_at(first, key)]
        if _sampler_steps(run) != _sampler_steps(first):
            keys.append("evaluation.steps")
        if run.environment.get("rewards") != first.environment.get("rewards"):
            keys.append("reward fingerprints (environment.json)")
        if keys:
            wrong.append(f"{run.path} and {first.path} differ in {', '.join(keys)}")
    for run in runs:
        if 0 not in run.looks() or len(seen(run)) < 2:
            wrong.append(f"{run.path} has no look at held-out captions after training began; let it run further")
    if wrong:
        raise RunError("these runs cannot be compared: " + "; ".join(wrong))


def _sampler_steps(run: RunReader) -> Any:
    """Of the deterministic sampler that draws held-out pictures."""
    return run.recipe["evaluation"]["steps"] or run.recipe["rollout"]["steps"]


def value_at(run: RunReader, dotted: str) -> Any:
    """A recipe value by its key; `method` alone is the method's name."""
    if dotted == "method":
        return run.method
    at: Any = run.recipe
    for part in dotted.split("."):
        if not isinstance(at, dict) or part not in at:
            known = at if isinstance(at, dict) else ()
            raise RunError(f'{run.path} has no recipe key "{dotted}"; {nearest(part, known)}')
        at = at[part]
    return at


def differing(runs: Sequence[RunReader]) -> list[str]:
    """Recipe keys in which these runs differ, besides the seed and what changes no result."""
    flat = [flatten(run.recipe) for run in runs]
    keys = [key for key in dict.fromkeys(chain(*flat)) if key != "seed" and not key.startswith(INCIDENTAL)]
    return [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]


def seen(run: RunReader) -> list[int]:
    """The looks whose cost is known: a run that is killed may leave one before the line that goes with it."""
    finished = len(run.metrics())
    return [number for number in run.looks() if number <= finished]


def curve(run: RunReader, cost: Cost) -> Curve:
    """A run's looks over what they cost."""
    lines = run.metrics()
    spent = np.concatenate([[0.0], np.cumsum([line[_KEYS[cost]] for line in lines])])
    iterations = seen(run)
    found = [run.look(number, pictures=False) for number in iterations]
    rows = min((look.rows for look in found), key=len)
    result = run.result()
    whole = None
    if result is not None:
        gains = {row["name"]: row["difference"] for row in result["rows"]}
        whole = np.array([gains.get(name, np.nan) for name in found[0].names])
    return Curve(
        pictures=len(rows),
        costs=spent[iterations],
        means=np.array([list(look.among(rows).means().values()) for look in found]),
        whole=whole,
    )


def half_width(gains: np.ndarray) -> np.ndarray:
    """Half a 95 % interval of the mean over the first axis, by Student's t."""
    n = len(gains)
    if n < 2:
        return np.full(gains.shape[1:], np.nan)
    return np.asarray(stats.t.ppf(0.975, n - 1) * gains.std(0, ddof=1) / np.sqrt(n))


def markdown(found: Comparison) -> str:
    """A table ready to paste: gain over the base, mean of the seeds, 95 % interval over them."""
    head = ["score", "", "base", *(f"{found.key} = {side.name} ({len(side.curves)} seeds)" for side in found.sides)]
    lines = [_row(head), _row(["---"] * 3 + ["---:"] * len(found.sides))]
    for k, name in enumerate(found.names):
        best = max(range(len(found.sides)), key=lambda i: np.nan_to_num(found.sides[i].mean[k], nan=-np.inf))
        cells = []
        for i, side in enumerate(found.sides):
            width = side.half_width[k]
            text = f"{side.mean[k]:+.4f}" + (f" ± {width:.4f}" if np.isfinite(width) else "")
            cells.append(f"**{text}**" if i == best else text)
        lines.append(_row([name, "trained" if name in found.trained else "held out", f"{found.base[k]:.4f}", *cells]))
    what = {"pictures": "pictures", "forwards": "network forwards", "seconds": "seconds"}[found.cost]
    about = (
        f"Gains over the base on {found.pictures} held-out pictures at equal cost ({found.budget:,.0f} {what} of "
        "training each), mean of the seeds ± half a 95 % interval over seeds (Student's t); bold is the largest mean."
    )
    return "\n".join([*lines, "", " ".join([about, *(f"Note: {note}." for note in found.notes)]), ""])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
