"""Two looks at the same captions and noise, compared picture by picture; intervals over captions. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from stepcredit.errors import RunError
from stepcredit.runs.looks import Look

_RESAMPLES = 2000  # enough for two digits of a 95 % interval; more would change the results that runs have stored


@dataclass(frozen=True)
class Difference:
    """One score, tuned minus base, over the same captions and noise. `standard_error` and the 95 % interval treat
    captions, not pictures, as independent.

    For example `Difference("hps", 0.21, 0.25, 0.04, 0.01, 0.02, 0.06)`, whose verdict is `up`.
    """

    name: str
    base: float
    tuned: float
    difference: float
    standard_error: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`up` or `down` when the interval leaves out 0, else `unclear`."""
        if self.low > 0:
            return "up"
        return "down" if self.high < 0 else "unclear"


def compare(base: Look, tuned: Look) -> list[Difference]:
    """Paired differences of every score that both could give."""
    _same_pictures(base, tuned)
    columns = zip(base.names, base.scores.T, tuned.scores.T, strict=True)
    rows = (difference(name, before, after, base.prompts) for name, before, after in columns)
    return [row for row in rows if row is not None]


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
    """The exact checker's questions, each over the captions that ask it."""
    _same_pictures(base, tuned)
    rows = (difference(name, base.answers[name], tuned.answers[name], base.prompts) for name in base.answers)
    return [row for row in rows if row is not None]


def difference(
    name: str, before: Float[np.ndarray, " B"], after: Float[np.ndarray, " B"], captions: Sequence[str]
) -> Difference | None:
    """One row, or None when no picture has both values."""
    # A picture that one side could not score says nothing about the change: it is left out on both sides.
    change = after - before
    known = np.isfinite(change)
    if not known.any():
        return None
    low, high, error = bootstrap(change[known], np.array(captions)[known])
    return Difference(
        name=name,
        base=float(before[known].mean()),
        tuned=float(after[known].mean()),
        difference=float(change[known].mean()),
        standard_error=error,
        low=low,
        high=high,
    )


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
    Ours. For example `HackingGap(0.8, 0.1, 0.7, 0.4, 1.0)`: trained rewards rose by 0.8, the others by 0.1.
    """

    trained: float
    held_out: float
    gap: float
    low: float
    high: float


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
        # A resample may hold no picture of this score at all; its mean is then 0 and not 0 / 0.
        return sums[chosen].sum(1) / np.maximum(counts[chosen].sum(1), 1)

    trained_gain, held_out_gain = _sides(gains, is_trained, lambda column: np.asarray(np.nanmean(column)))
    trained_gains, held_out_gains = _sides(gains, is_trained, resampled)
    low, high = np.quantile(trained_gains - held_out_gains, [0.025, 0.975])
    gap = trained_gain - held_out_gain
    return HackingGap(float(trained_gain), float(held_out_gain), float(gap), float(low), float(high))


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
        "hacking_gap": asdict(gap) if gap else None,
    }


def _plain(rows: Sequence[Difference]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


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
