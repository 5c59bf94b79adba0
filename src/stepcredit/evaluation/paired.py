"""Two looks at the same captions and noise, compared picture by picture; intervals over captions. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from stepcredit.errors import RunError
from stepcredit.runs.looks import Look
from stepcredit.scenes.worlds import KINDS, kind_of

_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """One score, tuned minus base, over the same captions and noise. `standard_error` and the 95 % interval treat
    captions, not pictures, as independent."""

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
        return "up" if self.low > 0 else "down" if self.high < 0 else "unclear"


def compare(base: Look, tuned: Look) -> list[Difference]:
    """Paired differences of every score that both could give."""
    _same_pictures(base, tuned)
    columns = zip(base.names, base.scores.T, tuned.scores.T, strict=True)
    found = (difference(name, before, after, base.prompts) for name, before, after in columns)
    return [row for row in found if row is not None]


def by_kind(base: Look, tuned: Look) -> dict[str, list[Difference]]:
    """The same for each kind of caption of a drawn world; nothing for other prompts."""
    _same_pictures(base, tuned)
    kinds = {prompt: kind_of(prompt) for prompt in set(base.prompts)}
    rows = {kind: [r for r, p in zip(base.rows, base.prompts, strict=True) if kinds.get(p) == kind] for kind in KINDS}
    return {kind: compare(base.among(some), tuned.among(some)) for kind, some in rows.items() if some}


def by_question(base: Look, tuned: Look) -> list[Difference]:
    """The exact checker's questions, each over the captions that ask it."""
    _same_pictures(base, tuned)
    found = (difference(name, base.answers[name], tuned.answers[name], base.prompts) for name in base.answers)
    return [row for row in found if row is not None]


def difference(
    name: str, before: Float[np.ndarray, " B"], after: Float[np.ndarray, " B"], captions: Sequence[str]
) -> Difference | None:
    """One row, or None when no picture has both values."""
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
    """95 % interval and standard error of the mean when whole captions are drawn again."""
    chosen, caption = _draws(captions)
    sums = np.bincount(caption, weights=values)
    counts = np.bincount(caption)
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high), float(means.std())


@dataclass(frozen=True)
class HackingGap:
    """How much more the trained rewards rose than the held-out ones, in standard deviations of the base's pictures.

        gap = mean over trained of gain / sd(base)  -  mean over held-out of gain / sd(base)

    Near 0 what was trained and what was not rose together; far above 0 the rewards were won and the pictures not.
    Ours.
    """

    trained: float
    held_out: float
    gap: float
    low: float
    high: float


def hacking_gap(base: Look, tuned: Look, trained: Sequence[str]) -> HackingGap | None:
    """None when nothing was held out, or nothing of it could be scored."""
    _same_pictures(base, tuned)
    known = np.isfinite(base.scores) & np.isfinite(tuned.scores)
    spread = np.array([base.scores[some, k].std() if some.any() else 0.0 for k, some in enumerate(known.T)])
    usable = spread > 1e-9 * np.where(known, np.abs(base.scores), 0.0).max(0)  # equal numbers have 1e-17, not 0
    mine = np.array([name in trained for name in base.names])
    if not (usable & mine).any() or not (usable & ~mine).any():
        return None
    gain = np.where(known, tuned.scores - base.scores, np.nan)[:, usable] / spread[usable]
    mine = mine[usable]

    def parts(chosen: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        means = np.stack([chosen(column) for column in gain.T], axis=-1)
        return np.asarray(means[..., mine].mean(-1)), np.asarray(means[..., ~mine].mean(-1))

    rows, caption = _draws(np.array(base.prompts))

    def resampled(column: np.ndarray) -> np.ndarray:
        some = np.isfinite(column)
        sums = np.bincount(caption, weights=np.where(some, column, 0.0))
        counts = np.bincount(caption, weights=some)
        return sums[rows].sum(1) / np.maximum(counts[rows].sum(1), 1)

    up, other = parts(lambda column: np.asarray(np.nanmean(column)))
    many_up, many_other = parts(resampled)
    low, high = np.quantile(many_up - many_other, [0.025, 0.975])
    return HackingGap(float(up), float(other), float(up - other), float(low), float(high))


def summarise(base: Look, tuned: Look, trained: Sequence[str]) -> dict[str, Any]:
    """Everything above as plain data, for result.json and `stepcredit evaluate`."""
    gap = hacking_gap(base, tuned, trained)
    return {
        "iteration": tuned.iteration,
        "weights": tuned.weights,
        "pictures": len(base.prompts),
        "captions": len(set(base.prompts)),
        "rows": [asdict(row) for row in compare(base, tuned)],
        "kinds": {kind: [asdict(row) for row in rows] for kind, rows in by_kind(base, tuned).items()},
        "questions": [asdict(row) for row in by_question(base, tuned)],
        "hacking_gap": asdict(gap) if gap else None,
    }


def _draws(captions: np.ndarray) -> tuple[Int[np.ndarray, "R C"], Int[np.ndarray, " B"]]:
    """Resampled caption numbers, always the same ones, and each picture's caption number.

    With a single caption its pictures are drawn again instead: the interval then speaks of that caption alone.
    """
    distinct, caption = np.unique(captions, return_inverse=True)
    if len(distinct) == 1:
        distinct = caption = np.arange(len(captions))
    return np.random.default_rng(0).integers(0, len(distinct), size=(_RESAMPLES, len(distinct))), caption


def _same_pictures(base: Look, tuned: Look) -> None:
    if (base.rows, base.prompts, base.names) != (tuned.rows, tuned.prompts, tuned.names):
        raise RunError(
            "the two evaluations differ in captions, pictures or rewards, so they cannot be paired; evaluate again"
        )
