"""Does a step that gains similarity also gain reward? OTCA's Table 5, each number beside its shuffled null."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from stepcredit.errors import CreditError

Gains = Float[np.ndarray, "B N"]


@dataclass(frozen=True)
class Agreement:
    """Means over trajectories. `recall` is the share of the steps of greatest reward gain that are among those of
    greatest similarity gain; `argmax_distance` how many steps the two greatest lie apart."""

    pearson: float
    spearman: float
    argmax_distance: float
    recall_3: float
    recall_5: float


@dataclass(frozen=True)
class Proxy:
    """`within` belongs to trajectories, `null` to similarity gains of another trajectory; `residual` is the Pearson
    correlation that is left when every step's mean over trajectories has been removed from both."""

    within: Agreement
    null: Agreement
    residual: float
    trajectories: int

    def plain(self) -> dict[str, object]:
        return asdict(self)


def validate(similarity_gain: Gains, reward_gain: Gains, *, seed: int = 0) -> Proxy:
    """Compare per-step gains of the same trajectories; the null pairs each with another at random.

    If the two agree about as well with a stranger's similarity, what they share is the noise schedule, not the picture.
    Trajectories with a gain that is not finite, or without any spread, are left out.
    """
    whole = np.isfinite(similarity_gain).all(1) & np.isfinite(reward_gain).all(1)
    whole &= (np.ptp(similarity_gain, axis=1) > 0) & (np.ptp(reward_gain, axis=1) > 0)
    ours, theirs = similarity_gain[whole], reward_gain[whole]
    if len(ours) < 3:
        raise CreditError(f"got {len(ours)} usable trajectories, wanted at least 3; draw more")
    random = np.random.default_rng(seed)
    shift = random.integers(1, len(ours), size=len(ours))
    stranger = ours[(np.arange(len(ours)) + shift) % len(ours)]
    left, right = (gain - gain.mean(0) for gain in (ours, theirs))
    return Proxy(
        within=agreement(ours, theirs),
        null=agreement(stranger, theirs),
        residual=_mean(_pearson(left, right)),
        trajectories=len(ours),
    )


def agreement(ours: Gains, theirs: Gains) -> Agreement:
    """How far two sets of per-step gains agree, trajectory by trajectory."""
    ranks = [stats.rankdata(gain, axis=1) for gain in (ours, theirs)]
    return Agreement(
        pearson=_mean(_pearson(ours, theirs)),
        spearman=_mean(_pearson(*ranks)),
        argmax_distance=float(np.abs(ours.argmax(1) - theirs.argmax(1)).mean()),
        recall_3=_recall(ours, theirs, 3),
        recall_5=_recall(ours, theirs, 5),
    )


def _pearson(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    left, right = (gain - gain.mean(1, keepdims=True) for gain in (ours, theirs))
    with np.errstate(invalid="ignore"):
        return (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))


def _mean(correlations: Float[np.ndarray, " B"]) -> float:
    """Over the trajectories that have one."""
    known = correlations[np.isfinite(correlations)]
    return float(known.mean()) if len(known) else float("nan")


def _recall(ours: np.ndarray, theirs: np.ndarray, count: int) -> float:
    count = min(count, ours.shape[1])
    top = [np.argsort(-gain, axis=1, kind="stable")[:, :count] for gain in (ours, theirs)]
    found = [len(set(mine) & set(other)) / count for mine, other in zip(*(t.tolist() for t in top), strict=True)]
    return float(np.mean(found))
