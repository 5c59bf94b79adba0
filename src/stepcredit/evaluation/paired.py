"""Two looks at the same captions and noise, compared picture by picture; intervals over captions. No torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from stepcredit.errors import RunError
from stepcredit.runs.looks import Look

_RESAMPLES = 2000  # enough for two digits of a 95 % interval; more would change the results that runs have stored
_NUMBERS = ("base", "tuned", "difference", "standard_error", "low", "high")  # of a Difference; NaN without pictures


@dataclass(frozen=True)
class Difference:
    """One score, tuned minus base, over the same captions and noise. `standard_error` and the 95 % interval treat
    captions, not pictures, as independent.

    `pictures` of `total` have the score on both sides, and the numbers are over those; `unscored_base` and
    `unscored_tuned` have none on one side, for the `reason`. With no pictures all numbers are NaN. Results of earlier
    versions do not say: None.

    For example `Difference("hps", 0.21, 0.25, 0.04, 0.01, 0.02, 0.06, 16, 16)`, whose verdict is `up`.
    """

    name: str
    base: float
    tuned: float
    difference: float
    standard_error: float
    low: float
    high: float
    pictures: int | None = None
    total: int | None = None
    unscored_base: int = 0
    unscored_tuned: int = 0
    reason: str = ""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Difference":
        """A row of result.json, in which null stands for NaN."""
        numbers = {name: math.nan if stored[name] is None else float(stored[name]) for name in _NUMBERS}
        fields: dict[str, Any] = {**stored, **numbers}
        return cls(**fields)

    @property
    def coverage(self) -> str:
        """Such as `8 of 16 pictures`, where not all have the score on both sides; empty where all have it."""
        return "" if self.pictures == self.total else f"{self.pictures} of {self.total} pictures"

    @property
    def verdict(self) -> str:
        """`up` or `down` when the interval leaves out 0, else `unclear`; `unscored` where there is no number at all."""
        if math.isnan(self.difference):
            return "unscored"
        if self.low > 0:
            return "up"
        return "down" if self.high < 0 else "unclear"


def compare(base: Look, tuned: Look) -> list[Difference]:
    """Paired differences of every score; one that no picture has on both sides has a row as well, and a reason."""
    _same_pictures(base, tuned)
    rows: list[Difference] = []
    for name, before, after in zip(base.names, base.scores.T, tuned.scores.T, strict=True):
        row = difference(name, before, after, base.prompts)
        reasons = [look.reason(name) for look in (base, tuned)] if row.coverage else []
        rows.append(replace(row, reason="; ".join(dict.fromkeys(filter(None, reasons)))))
    return rows


def by_kind(base: Look, tuned: Look) -> dict[str, list[Difference]]:
    """The same for each kind of caption, in the order in which kinds come first; nothing where captions have none."""
    _same_pictures(base, tuned)
    kinds = base.kinds or tuned.kinds  # a base look of an earlier version knows no kinds
    rows: dict[str, list[int]] = {}
    for row, kind in zip(base.rows, kinds, strict=False):
        if kind is not None:
            rows.setdefault(kind, []).append(row)
    return {kind: compare(base.among(rows[kind]), tuned.among(rows[kind])) for kind in rows}


def by_question(base: Look, tuned: Look) -> list[Difference]:
    """The exact checker's questions, each over the captions that ask it; one that no caption asks has no row."""
    _same_pictures(base, tuned)
    unanswered = np.full(len(base.rows), np.nan)
    rows: list[Difference] = []
    # Either side may lack a question: a smaller look asks fewer, and of a picture that is not usable nothing is asked.
    for name in dict.fromkeys([*base.answers, *tuned.answers]):
        before = base.answers.get(name, unanswered)
        after = tuned.answers.get(name, unanswered)
        has_answer = np.isfinite(before) | np.isfinite(after)
        if has_answer.any():
            captions = np.array(base.prompts)[has_answer]
            rows.append(difference(name, before[has_answer], after[has_answer], captions.tolist()))
    return rows


def difference(
    name: str, before: Float[np.ndarray, " B"], after: Float[np.ndarray, " B"], captions: Sequence[str]
) -> Difference:
    """One row; its numbers are NaN when no picture has both values."""
    # A picture that one side could not score says nothing about the change: it is left out on both sides.
    change = after - before
    known = np.isfinite(change)
    low = high = error = math.nan
    if known.any():
        low, high, error = bootstrap(change[known], np.array(captions)[known])
    return Difference(
        name=name,
        base=_mean(before[known]),
        tuned=_mean(after[known]),
        difference=_mean(change[known]),
        standard_error=error,
        low=low,
        high=high,
        pictures=int(known.sum()),
        total=len(known),
        unscored_base=int((~np.isfinite(before)).sum()),
        unscored_tuned=int((~np.isfinite(after)).sum()),
    )


def _mean(values: np.ndarray) -> float:
    """NaN of nothing, without NumPy's warning."""
    return float(values.mean()) if values.size else math.nan


def bootstrap(values: Float[np.ndarray, " B"], captions: np.ndarray) -> tuple[float, float, float]:
    """95 % interval and standard error of the mean when whole captions are drawn again.

    | argument | shape | meaning |
    |---|---|---|
    | `values` | [B] | a finite number of each picture |
    | `captions` | [B] | its caption; pictures of one caption are drawn together |
    """
    chosen, caption = _draws(captions)
    sums = np.bincount(caption, weights=values)
    counts = np.bincount(caption)
    # A ratio of sums, since captions may have different numbers of pictures: the mean over pictures, not over captions.
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high), float(means.std())


@dataclass(frozen=True)
class HackingGap:
    """How much more the trained rewards rose than the held-out ones, in standard deviations of the base's pictures.

        gap = mean over trained of gain / sd(base)  -  mean over held-out of gain / sd(base)

    Near 0 what was trained and what was not rose together; far above 0 the rewards were won and the pictures not.
    Ours. `pictures` of `total` have the score on both sides that fewest have; `left_out` are the scores that none has.
    For example `HackingGap(0.8, 0.1, 0.7, 0.4, 1.0)`: trained rewards rose by 0.8, the others by 0.1.
    """

    trained: float
    held_out: float
    gap: float
    low: float
    high: float
    pictures: int | None = None
    total: int | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "HackingGap":
        """That of result.json, which may be of a version that did not say how many pictures it is on."""
        fields: dict[str, Any] = {**stored, "left_out": tuple(stored.get("left_out", ()))}
        return cls(**fields)

    @property
    def coverage(self) -> str:
        """What is missing in it, such as `on 8 of 16 pictures, without hps`; empty where nothing is."""
        fewer = [] if self.pictures == self.total else [f"on {self.pictures} of {self.total} pictures"]
        without = [f"without {', '.join(self.left_out)}"] if self.left_out else []
        return ", ".join([*fewer, *without])


def hacking_gap(base: Look, tuned: Look, trained: Sequence[str]) -> HackingGap | None:
    """None when nothing was held out, or nothing of it could be scored."""
    _same_pictures(base, tuned)
    gains, usable = _standardised_gains(base, tuned)
    is_trained = np.array([name in trained for name in base.names])[usable]
    if is_trained.all() or not is_trained.any():
        return None
    chosen, caption = _draws(np.array(base.prompts))

    def resampled(column: np.ndarray) -> np.ndarray:
        known = np.isfinite(column)
        sums = np.bincount(caption, weights=np.where(known, column, 0.0))
        counts = np.bincount(caption, weights=known)
        drawn = counts[chosen].sum(1)
        # A resample may hold no picture of this score at all: it has no mean, and 0 would be a made-up one.
        return np.where(drawn > 0, sums[chosen].sum(1) / np.maximum(drawn, 1), np.nan)

    trained_gain, held_out_gain = _sides(gains, is_trained, lambda column: np.asarray(np.nanmean(column)))
    trained_gains, held_out_gains = _sides(gains, is_trained, resampled)
    resampled_gaps = trained_gains - held_out_gains
    low, high = np.quantile(resampled_gaps[np.isfinite(resampled_gaps)], [0.025, 0.975])
    gap = trained_gain - held_out_gain
    paired = (np.isfinite(base.scores) & np.isfinite(tuned.scores)).sum(0)
    return HackingGap(
        trained=float(trained_gain),
        held_out=float(held_out_gain),
        gap=float(gap),
        low=float(low),
        high=float(high),
        pictures=int(paired[usable].min()),
        total=len(base.rows),
        left_out=tuple(name for name, count in zip(base.names, paired, strict=True) if not count),
    )


def _standardised_gains(base: Look, tuned: Look) -> tuple[Float[np.ndarray, "B U"], Bool[np.ndarray, " K"]]:
    """Gains in standard deviations of the base's pictures, of the scores that have a spread, and which those are."""
    known = np.isfinite(base.scores) & np.isfinite(tuned.scores)
    columns = zip(base.scores.T, known.T, strict=True)
    spread = np.array([scores[rows].std() if rows.any() else 0.0 for scores, rows in columns])
    # Not "above 0": numbers that are all equal may have a standard deviation of 1e-17.
    usable = spread > 1e-9 * np.where(known, np.abs(base.scores), 0.0).max(0)
    gains = np.where(known, tuned.scores - base.scores, np.nan)
    return gains[:, usable] / spread[usable], usable


def _sides(
    gains: Float[np.ndarray, "B U"], is_trained: Bool[np.ndarray, " U"], mean: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean gain of the trained scores and of the others, each score's own by `mean`: one number, or one a resample."""
    means = np.stack([mean(column) for column in gains.T], axis=-1)
    return np.asarray(means[..., is_trained].mean(-1)), np.asarray(means[..., ~is_trained].mean(-1))


def summarise(base: Look, tuned: Look, trained: Sequence[str]) -> dict[str, Any]:
    """Everything above as plain data, for result.json and `stepcredit evaluate`."""
    gap = hacking_gap(base, tuned, trained)
    return {
        "iteration": tuned.iteration,
        "weights": tuned.weights,
        "pictures": len(base.prompts),
        "captions": len(set(base.prompts)),
        "rows": _plain(compare(base, tuned)),
        "kinds": {kind: _plain(rows) for kind, rows in by_kind(base, tuned).items()},
        "questions": _plain(by_question(base, tuned)),
        "hacking_gap": {**asdict(gap), "left_out": list(gap.left_out)} if gap else None,
    }


def _plain(rows: Sequence[Difference]) -> list[dict[str, Any]]:
    """As JSON, which has no NaN."""
    return [_row_without_nan(row) for row in rows]


def _row_without_nan(row: Difference) -> dict[str, Any]:
    return {name: _or_none(value) for name, value in asdict(row).items()}


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _draws(captions: np.ndarray) -> tuple[Int[np.ndarray, "R C"], Int[np.ndarray, " B"]]:
    """Resampled caption numbers, always the same ones, and each picture's caption number.

    With a single caption its pictures are drawn again instead: the interval then speaks of that caption alone.
    """
    distinct, caption = np.unique(captions, return_inverse=True)
    if len(distinct) == 1:
        distinct = np.arange(len(captions))
        caption = distinct
    # Always the same generator: two evaluations of the same pictures must not differ by chance.
    chosen = np.random.default_rng(0).integers(0, len(distinct), size=(_RESAMPLES, len(distinct)))
    return chosen, caption


def _same_pictures(base: Look, tuned: Look) -> None:
    if (base.rows, base.prompts, base.names) != (tuned.rows, tuned.prompts, tuned.names):
        raise RunError(
            "the two evaluations differ in captions, pictures or rewards, so they cannot be paired; evaluate again"
        )
