"""What the panels share: a run, read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from stepcredit.evaluation.paired import Difference, compare
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import RunReader, StoredCredit

COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6")
_MOST = 120  # iterations read from credit files: more make a heavy page and cells too narrow to point at
Item = TypeVar("Item")


@dataclass(frozen=True)
class Panel:
    """A titled chart; `note` says how to read it. Such as Panel("Hacking gap", "mean gain of ...", "<svg ...")."""

    title: str
    note: str
    chart: str
    wide: bool = False


@dataclass(frozen=True)
class Story:
    """What the panels share, read once.

    Such as of a run of 40 iterations with 5 looks: 40 lines of `metrics`, the look at 0 as `base`, 4 `looks` after it
    (on the watched pictures; the last may be the whole evaluation), 40 `credits`.
    """

    run: RunReader
    metrics: list[dict[str, Any]]
    base: Look | None
    looks: list[Look]
    credits: list[StoredCredit]

    @classmethod
    def read(cls, run: RunReader) -> "Story":
        numbers = run.looks()
        # Only the ends are shown as pictures; those of the looks between would be decoded for nothing.
        later = [run.look(number, pictures=number == numbers[-1]) for number in numbers if number]
        return cls(
            run=run,
            metrics=run.metrics(),
            base=run.look(0) if 0 in numbers else None,
            looks=later,
            credits=[run.credit(number) for number in spread(run.credits())],
        )

    @property
    def last(self) -> Look | None:
        return self.looks[-1] if self.looks else None

    def colour(self, name: str) -> str:
        """Always the same colour for the same objective."""
        names = [*self.run.trained, *self.run.held_out]
        return COLOURS[names.index(name) % len(COLOURS)] if name in names else "--ink"

    def differences(self) -> list[Difference]:
        """The newest look against the base, on the same pictures."""
        if self.base is None or self.last is None:
            return []
        return compare(self.base.among(self.last.rows), self.last)


def spread(items: Sequence[Item]) -> list[Item]:
    """As many as a chart can show, evenly, with the first and the last."""
    if len(items) <= _MOST:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, _MOST)]


def series(metrics: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Iterations and values of a metric, NaN where it could not be measured; iterations without it are left out."""
    lines = [line for line in metrics if key in line]
    return [line["iteration"] for line in lines], [number_or_nan(line[key]) for line in lines]


def number_or_nan(stored: float | None) -> float:
    """Metrics are stored as JSON, in which null stands for what is not a number."""
    return float("nan") if stored is None else float(stored)


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over a tenth of the run."""
    known = np.array(values, dtype=float)
    half = max(len(known) // 20, 1)
    windows = [known[max(0, i - half) : i + half + 1] for i in range(len(known))]
    # asked before: np.nanmean warns where a window knows nothing
    return [float(np.nanmean(window)) if np.isfinite(window).any() else float("nan") for window in windows]


def known_mean(values: np.ndarray, axes: int | tuple[int, ...] = 0) -> np.ndarray:
    """Mean over what is finite, so a sample that broke is left out; NaN where nothing is known."""
    known = np.isfinite(values)
    counts = known.sum(axes)
    sums = np.where(known, values, 0).sum(axes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
