"""Does a step that gains similarity also gain reward? OTCA's Table 5, each number beside its shuffled null."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from stepcredit.errors import CreditError

Gains = Float[np.ndarray, "B N"]


@dataclass(frozen=True)
class Agreement:
    """How far gains of similarity and of reward agree, means over trajectories.

    pearson           correlation over steps
    spearman          the same of ranks
    argmax_distance   how many steps the two greatest gains lie apart
    recall_3          share of the 3 steps of greatest reward gain that are among the 3 of greatest similarity gain
    recall_5          the same of 5

    Example: gains that agree in everything have
    `Agreement(pearson=1.0, spearman=1.0, argmax_distance=0.0, recall_3=1.0, recall_5=1.0)`.
    """

    pearson: float
    spearman: float
    argmax_distance: float
    recall_3: float
    recall_5: float


@dataclass(frozen=True)
class Proxy:
    """Agreement beside what chance and the noise schedule alone would give.

    within         of the gains of the same trajectory
    null           of reward gains with the similarity gains of another trajectory
    residual       the Pearson correlation that is left when every step's mean over trajectories has been removed from
                   both
    trajectories   how many were usable

    Example: a `within` that is no better than the `null`, with a `residual` of 0.0, says that similarity knows the
    schedule and nothing of the picture.
    """

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
    usable = np.isfinite(similarity_gain).all(1) & np.isfinite(reward_gain).all(1)
    usable &= (np.ptp(similarity_gain, axis=1) > 0) & (np.ptp(reward_gain, axis=1) > 0)
    similarity = similarity_gain[usable]
    reward = reward_gain[usable]
    count = len(similarity)
    if count < 3:
        raise CreditError(f"got {count} usable trajectories, wanted at least 3; draw more")
    # A shift of at least 1 and less than all: nobody is paired with itself.
    shift = np.random.default_rng(seed).integers(1, count, size=count)
    of_stranger = similarity[(np.arange(count) + shift) % count]
    return Proxy(
        within=agreement(similarity, reward),
        null=agreement(of_stranger, reward),
        residual=_mean(_pearson(similarity - similarity.mean(0), reward - reward.mean(0))),
        trajectories=count,
    )


def agreement(similarity_gain: Gains, reward_gain: Gains) -> Agreement:
    """How far two sets of per-step gains agree, trajectory by trajectory."""
    ranks = stats.rankdata(similarity_gain, axis=1)
    reward_ranks = stats.rankdata(reward_gain, axis=1)
    return Agreement(
        pearson=_mean(_pearson(similarity_gain, reward_gain)),
        spearman=_mean(_pearson(ranks, reward_ranks)),
        argmax_distance=float(np.abs(similarity_gain.argmax(1) - reward_gain.argmax(1)).mean()),
        recall_3=_recall(similarity_gain, reward_gain, 3),
        recall_5=_recall(similarity_gain, reward_gain, 5),
    )


def _pearson(left: Gains, right: Gains) -> Float[np.ndarray, " B"]:
    """Correlation over steps, of each trajectory; NaN where one of the two has no spread."""
    left = left - left.mean(1, keepdims=True)
    right = right - right.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 / 0 without spread
        return (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))


def _mean(correlations: Float[np.ndarray, " B"]) -> float:
    """Over the trajectories that have one."""
    known = correlations[np.isfinite(correlations)]
    return float(known.mean()) if len(known) else float("nan")


def _recall(similarity_gain: Gains, reward_gain: Gains, count: int) -> float:
    """Share of the steps of greatest reward gain that are among those of greatest similarity gain."""
    count = min(count, similarity_gain.shape[1])  # a shorter path is counted whole
    shared = _greatest(similarity_gain, count) & _greatest(reward_gain, count)
    return float(np.mean(shared.sum(1) / count))


def _greatest(gain: Gains, count: int) -> np.ndarray:
    """Which steps of each trajectory gained most, `[B, N]`."""
    marked = np.zeros(gain.shape, dtype=bool)
    top = np.argsort(-gain, axis=1, kind="stable")[:, :count]  # of equal gains the earlier step, as in any other run
    np.put_along_axis(marked, top, True, axis=1)
    return marked
