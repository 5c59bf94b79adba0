"""Several runs side by side at equal cost, seeds grouped. Refuses what cannot be compared and says why. No torch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
from scipy import stats

from stepcredit.errors import RunError, nearest
from stepcredit.files.tables import markdown_table, plus_minus
from stepcredit.runs.layout import moved, setting, today
from stepcredit.runs.looks import Look
from stepcredit.runs.notes import missing_iterations, notes_on_scores
from stepcredit.runs.reader import RunReader
from stepcredit.settings.keys import INCIDENTAL, flatten

Cost = Literal["pictures", "forwards", "seconds"]
_METRICS: dict[Cost, str] = {"pictures": "cost/pictures", "forwards": "cost/forwards", "seconds": "time/seconds"}
_UNITS: dict[Cost, str] = {"pictures": "pictures", "forwards": "network forwards", "seconds": "seconds"}
_EQUAL = 1.02  # a run with a budget ends within one iteration of it
_ROUNDING = 1 + 1e-9  # costs are running sums, in which equal budgets may differ in their last digit
_MUST_AGREE = ("policy", "prompts", "rewards", "held_out", "rollout.shift", "evaluation.prompts", "evaluation.count")
"""Recipe keys without which two tables of numbers do not speak of the same thing."""


@dataclass(frozen=True)
class Curve:
    """One run: gains of every score on the watched pictures, and at what cost they were reached.

    Such as Curve(32, [0, 4000, 8000], [0.21, 0.60], [[0, 0], [0.03, 0.03], [0.05, 0.06]], [0.05, 0.06]).
    """

    pictures: int  # watched
    costs: np.ndarray
    base: np.ndarray  # mean of every score before training
    gains: np.ndarray  # [looks, scores], over the pictures that have the score at that look and before training
    whole: np.ndarray | None  # gain of every score on all pictures at the end of the run
    unscored: str = ""  # which scores pictures lack at some look, as a sentence

    def at(self, cost: float) -> np.ndarray:
        """Gains of the latest look that did not cost more."""
        return self.gains[np.searchsorted(self.costs, cost * _ROUNDING, side="right") - 1]


@dataclass(frozen=True)
class Side:
    """All seeds of one value of the compared key: gains over the base with 95 % intervals over seeds.

    Such as Side("otca", [curve of seed 0, curve of seed 1], [[0.05, 0.06], [0.04, 0.07]]).
    """

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
    """What `stepcredit compare` shows.

    Such as Comparison("method", "forwards", 8000.0, ("hps", "composition"), ("hps",), [0.21, 0.60], sides, 48, []).
    """

    key: str
    cost: Cost
    budget: float  # of each run, in the unit of `cost`
    names: tuple[str, ...]
    trained: tuple[str, ...]
    base: np.ndarray  # mean of every score before training
    sides: list[Side]
    pictures: int
    notes: list[str]


def compare(runs: Sequence[RunReader], *, by: str, cost: Cost = "forwards") -> Comparison:
    """Group runs by a recipe key and compare them at the largest cost that all of them reached."""
    if len(runs) < 2:
        raise RunError(f"got {len(runs)} run, wanted at least 2 to compare")
    agree(runs)
    curves: dict[str, list[Curve]] = {}
    for value, seeds in seeds_by(runs, by).items():
        curves[value] = [curve(run, cost) for run in seeds]
    everyone = list(chain(*curves.values()))
    budget = min(float(item.costs[-1]) for item in everyone)
    # Gains on all pictures are known at the end of a run only, so they count only where all runs end at one cost.
    at_end = all(item.costs[-1] <= budget * _EQUAL and item.whole is not None for item in everyone)
    base = runs[0].look(0, pictures=False)
    watched = min(item.pictures for item in everyone)

    def gains(item: Curve) -> np.ndarray:
        return item.whole if at_end and item.whole is not None else item.at(budget)

    return Comparison(
        key=by,
        cost=cost,
        budget=budget,
        names=base.names,
        trained=tuple(runs[0].trained),
        base=np.array(list(base.means().values())) if at_end else everyone[0].base,
        sides=[Side(value, seeds, np.stack(list(map(gains, seeds)))) for value, seeds in curves.items()],
        pictures=len(base.rows) if at_end else watched,
        notes=[
            *_notes(runs, by, sizes=[len(seeds) for seeds in curves.values()], watched=None if at_end else watched),
            *(item.unscored for item in everyone if item.unscored),
        ],
    )


def _notes(runs: Sequence[RunReader], by: str, *, sizes: Sequence[int], watched: int | None) -> list[str]:
    """What to bear in mind; `sizes` are the seeds of each side, `watched` the pictures where costs are unequal."""
    sentences = []
    if watched is not None:
        sentences.append(
            f"runs of unequal cost: each is taken at its latest look within the budget, on {watched} pictures"
        )
    besides = [key for key in differing(runs) if not key.startswith(moved(by))]
    if besides:
        sentences.append(f"besides {by}, the runs differ in {', '.join(besides)}")
    if 1 in sizes:
        sentences.append("a single seed has no interval over seeds")
    return [*sentences, *(f"{run.path}: {note.rstrip('.')}" for run in runs for note in notes_on_scores(run))]


def seeds_by(runs: Sequence[RunReader], by: str) -> dict[str, list[RunReader]]:
    """The runs of each value of a recipe key; refused if they differ among each other in more than their seed."""
    sides: dict[str, list[RunReader]] = {}
    for run in runs:
        sides.setdefault(str(value_at(run, by)), []).append(run)
    for value, seeds in sides.items():
        if len({run.recipe["seed"] for run in seeds}) < len(seeds):
            raise RunError(
                f"{by} = {value} holds the same seed twice ({', '.join(str(run.path) for run in seeds)}); "
                f"compare by the key in which they differ: {', '.join(differing(seeds)) or 'there is none'}"
            )
        besides = differing(seeds)
        if besides:
            raise RunError(
                f"the runs with {by} = {value} differ in more than their seed ({', '.join(besides)}), so their mean "
                "would mean nothing; compare by that key, or leave some out"
            )
    return sides


def agree(runs: Sequence[RunReader]) -> None:
    """Refuse runs whose numbers do not speak of the same thing."""
    first = runs[0]
    reasons = []
    for run in runs[1:]:
        keys = [key for key in _MUST_AGREE if value_at(run, key) != value_at(first, key)]
        if _sampler_steps(run) != _sampler_steps(first):
            keys.append("evaluation.steps")
        # The same recipe may stand on other weights: what lies behind a name may have changed between the runs.
        if run.environment.get("rewards") != first.environment.get("rewards"):
            keys.append("reward fingerprints (environment.json)")
        if keys:
            reasons.append(f"{run.path} and {first.path} differ in {', '.join(keys)}")
    for run in runs:
        if 0 not in run.looks() or len(seen(run)) < 2:
            reasons.append(f"{run.path} has no look at held-out captions after training began; let it run further")
        if missing_iterations(run, run.metrics()):
            reasons.append(f"metrics.jsonl of {run.path} lacks iterations, so that what was spent is not known")
    if reasons:
        raise RunError("these runs cannot be compared: " + "; ".join(reasons))


def _sampler_steps(run: RunReader) -> Any:
    """Of the deterministic sampler that draws held-out pictures."""
    return run.recipe["evaluation"]["steps"] or run.recipe["rollout"]["steps"]


def value_at(run: RunReader, dotted: str) -> Any:
    """A recipe value by its key, as today's recipes or older ones spell it; `method` alone is the method's name."""
    if dotted == "method":
        return run.method
    try:
        return setting(run.recipe, dotted)
    except KeyError:
        raise RunError(f'{run.path} has no recipe key "{dotted}"; {_hint(run.recipe, dotted)}') from None


def _hint(recipe: dict[str, Any], dotted: str) -> str:
    """What may have been meant."""
    section, _, place = dotted.partition(".")
    if section not in recipe:
        return nearest(section, recipe)
    # Last names only: whoever misspells a name may have misplaced it too.
    names = {key.rpartition(".")[2] for key in flatten(recipe) if key.startswith(f"{section}.")}
    return nearest(place.rpartition(".")[2], names)


def differing(runs: Sequence[RunReader]) -> list[str]:
    """Recipe keys in which these runs differ, besides the seed and what changes no result."""
    recipes = [flatten(today(run.recipe)) for run in runs]
    keys = [key for key in dict.fromkeys(chain(*recipes)) if key != "seed" and not key.startswith(INCIDENTAL)]

    def differs(key: str) -> bool:
        # as text, since a set cannot hold a list; sorted, since versions may write the keys of a reward in any order
        return len({json.dumps(recipe.get(key), sort_keys=True, default=str) for recipe in recipes}) > 1

    return list(filter(differs, keys))


def seen(run: RunReader) -> list[int]:
    """The looks whose cost is known: a run that is killed may leave one before the line that goes with it."""
    finished = len(run.metrics())
    return [number for number in run.looks() if number <= finished]


def curve(run: RunReader, cost: Cost) -> Curve:
    """A run's looks over what they cost."""
    spent = np.concatenate([[0.0], np.cumsum([line[_METRICS[cost]] for line in run.metrics()])])
    iterations = seen(run)
    snapshots = [run.look(number, pictures=False) for number in iterations]
    # The first and the last look are at all pictures, those between at the watched ones, which all of them have.
    rows = min((snapshot.rows for snapshot in snapshots), key=len)
    base = snapshots[0].among(rows)
    return Curve(
        pictures=len(rows),
        costs=spent[iterations],
        base=np.array(list(base.means().values())),
        gains=np.stack([_paired_gains(base, snapshot.among(rows)) for snapshot in snapshots]),
        whole=_whole_gains(run, snapshots[0].names),
        unscored=_unscored(run, snapshots),
    )


def _paired_gains(base: Look, look: Look) -> np.ndarray:
    """Gain of every score, over the pictures that have it in both: means of others would not speak of the same."""
    both = np.isfinite(base.scores) & np.isfinite(look.scores)
    before = replace(base, scores=np.where(both, base.scores, np.nan))
    after = replace(look, scores=np.where(both, look.scores, np.nan))
    return np.array(list(after.means().values())) - np.array(list(before.means().values()))


def _unscored(run: RunReader, snapshots: Sequence[Look]) -> str:
    """Which scores pictures lack, and how many at the look that lacks most; empty where none is missing."""
    missing: list[str] = []
    for name in snapshots[0].names:
        worst = max(snapshots, key=lambda look: look.unscored()[name])
        if worst.unscored()[name]:
            missing.append(f"{name} on {worst.unscored()[name]} of {len(worst.rows)} pictures")
    return f"{run.path} could not score {', '.join(missing)}; gains are over the others" if missing else ""


def _whole_gains(run: RunReader, names: Sequence[str]) -> np.ndarray | None:
    """Gains on all pictures, NaN for a score that has none; None before the run is finished."""
    result = run.result()
    if result is None:
        return None
    gains = {row["name"]: row["difference"] for row in result["rows"]}
    # As floats: null stands for a score that no picture has, and becomes NaN.
    return np.array([gains.get(name) for name in names], dtype=float)


def half_width(gains: np.ndarray) -> np.ndarray:
    """Half a 95 % interval of the mean over the first axis, by Student's t; NaN for a single one."""
    n = len(gains)
    if n < 2:
        return np.full(gains.shape[1:], np.nan)
    return np.asarray(stats.t.ppf(0.975, n - 1) * gains.std(0, ddof=1) / np.sqrt(n))


def markdown(comparison: Comparison) -> str:
    """A table ready to paste: gain over the base, mean of the seeds, 95 % interval over them."""
    sides = comparison.sides
    head = ["score", "", "base", *(f"{comparison.key} = {side.name} ({len(side.curves)} seeds)" for side in sides)]
    rows = []
    for k, name in enumerate(comparison.names):
        kind = "trained" if name in comparison.trained else "held out"
        rows.append([name, kind, f"{comparison.base[k]:.4f}", *_gains(sides, k)])
    about = (
        f"Gains over the base on {comparison.pictures} held-out pictures at equal cost ({comparison.budget:,.0f} "
        f"{_UNITS[comparison.cost]} of training each), mean of the seeds ± half a 95 % interval over seeds (Student's "
        "t); bold is the largest mean."
    )
    sentences = " ".join([about, *(f"Note: {note}." for note in comparison.notes)])
    return f"{markdown_table(head, rows, left=3)}\n\n{sentences}\n"


def _gains(sides: Sequence[Side], k: int) -> list[str]:
    """The gain in one score of every side, the largest bold."""
    cells = [plus_minus(side.mean[k], side.half_width[k]) for side in sides]
    means = np.array([side.mean[k] for side in sides])
    if np.isfinite(means).any():
        best = int(np.nanargmax(means))  # the first of equal ones
        cells[best] = f"**{cells[best]}**"
    return [cell.replace("+nan", "could not be scored") for cell in cells]
