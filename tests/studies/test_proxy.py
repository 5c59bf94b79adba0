"""Similarity gain against reward gain: the numbers of a slow statement with scipy, and a null that is one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from stepcredit.studies import proxy
from stepcredit.studies.proxy import validate


def gains(rows=20, steps=9, seed=0, shared=1.0):
    """Two sets of gains with a common shape over steps and something of their own."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(rows, steps))
    shape = np.linspace(-1, 1, steps)
    return tuple(shared * common + shape + 0.5 * random.normal(size=(rows, steps)) for _ in range(2))


def slowly(ours, theirs):
    found = {"pearson": [], "spearman": [], "argmax_distance": [], "recall_3": [], "recall_5": []}
    for left, right in zip(ours, theirs, strict=True):
        found["pearson"].append(stats.pearsonr(left, right)[0])
        found["spearman"].append(stats.spearmanr(left, right)[0])
        found["argmax_distance"].append(abs(int(np.argmax(left)) - int(np.argmax(right))))
        for count in (3, 5):
            most = [set(sorted(range(len(gain)), key=lambda n, gain=gain: -gain[n])[:count]) for gain in (left, right)]
            found[f"recall_{count}"].append(len(most[0] & most[1]) / min(count, len(left)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def as_dict(agreement):
    return proxy.asdict(agreement)


@pytest.mark.parametrize("steps", [3, 4, 9, 15])
def test_the_numbers_are_those_of_scipy_trajectory_by_trajectory(steps):
    ours, theirs = gains(steps=steps)
    assert as_dict(validate(ours, theirs).within) == pytest.approx(slowly(ours, theirs))


def test_ties_are_ranked_as_scipy_does():
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 3, size=(2, 40, 8)).astype(float)
    spread = (np.ptp(ours, axis=1) > 0) & (np.ptp(theirs, axis=1) > 0)
    got = validate(ours, theirs).within
    wanted = slowly(ours[spread], theirs[spread])
    assert (got.pearson, got.spearman) == pytest.approx((wanted["pearson"], wanted["spearman"]))
    assert got.argmax_distance == pytest.approx(wanted["argmax_distance"])


def test_the_residual_is_the_correlation_without_step_means():
    ours, theirs = gains()
    residuals = zip(ours - ours.mean(0), theirs - theirs.mean(0), strict=True)
    wanted = np.mean([float(stats.pearsonr(left, right)[0]) for left, right in residuals])
    assert validate(ours, theirs).residual == pytest.approx(wanted)


@pytest.mark.parametrize("rows", [3, 4, 50])
def test_the_null_pairs_every_trajectory_with_another_one(rows, monkeypatch):
    seen, agreement = [], proxy.agreement
    monkeypatch.setattr(proxy, "agreement", lambda *two: (seen.append(two), agreement(*two))[1])
    mine = np.arange(rows)[:, None] + np.random.default_rng(0).uniform(0, 0.5, (rows, 6))
    for seed in range(5):
        seen.clear()
        validate(mine, mine + 100, seed=seed)
        (within, theirs), (strangers, same) = seen
        assert (within == mine).all()
        assert (theirs == same).all()
        assert (strangers != mine).any(1).all()
        assert set(strangers[:, 0]) <= set(mine[:, 0])


def test_what_only_the_steps_share_is_seen_by_the_null_and_not_by_the_residual():
    schedule = validate(*gains(rows=400, shared=0.0))
    assert schedule.within.pearson == pytest.approx(schedule.null.pearson, abs=0.05)
    assert schedule.null.pearson > 0.4
    assert abs(schedule.residual) < 0.05
    picture = validate(*gains(rows=400, shared=1.0))
    assert picture.within.pearson > picture.null.pearson + 0.2
    assert picture.residual > 0.6


def test_equal_gains_agree_in_everything():
    ours, _ = gains()
    same, opposite = validate(ours, 2 * ours + 1).within, validate(ours, -ours).within
    assert as_dict(same) == pytest.approx(
        {"pearson": 1, "spearman": 1, "argmax_distance": 0, "recall_3": 1, "recall_5": 1}
    )
    assert (opposite.pearson, opposite.spearman) == pytest.approx((-1, -1))


def test_recall_by_hand():
    ours = np.array([[9.0, 8, 7, 6, 5, 0, 1, 2]] * 3)
    theirs = np.array([[9.0, 8, 0, 1, 2, 7, 6, 5]] * 3)  # best three: 0 1 5, best five: 0 1 5 6 7
    found = validate(ours, theirs).within
    assert (found.recall_3, found.recall_5) == pytest.approx((2 / 3, 2 / 5))


def test_a_path_shorter_than_the_recall_is_counted_whole():
    assert validate(*gains(steps=2)).within.recall_5 == 1


def test_trajectories_that_say_nothing_are_left_out():
    ours, theirs = gains(rows=10)
    wanted = validate(ours[3:], theirs[3:])
    ours[0, 2], theirs[1, 0], ours[2] = np.nan, np.inf, 0.25
    got = validate(ours, theirs)
    assert got == wanted
    assert got.trajectories == 7
    assert got.plain()["within"] == as_dict(wanted.within)


@pytest.mark.parametrize("usable", [0, 2])
def test_too_few_trajectories_are_refused(usable):
    ours, theirs = gains(rows=6)
    ours[usable:] = np.nan
    with pytest.raises(ValueError, match=f"got {usable} usable trajectories, wanted at least 3"):
        validate(ours, theirs)


NUMBERS = st.floats(-100, 100, allow_subnormal=False).map(lambda number: round(number, 3))


@given(arrays(float, (2, 5, 7), elements=NUMBERS), st.permutations(range(5)), st.floats(0.1, 10))
def test_order_and_scale_of_trajectories_do_not_matter(values, order, scale):
    values = values + np.random.default_rng(0).normal(size=values.shape)
    ours, theirs = values
    got, again = validate(ours, theirs), validate(scale * ours[order] + 3, theirs[order])
    assert as_dict(again.within) == pytest.approx(as_dict(got.within), abs=1e-6)
    for found in (got.within, got.null):
        assert -1 - 1e-9 <= found.pearson <= 1 + 1e-9
        assert -1 - 1e-9 <= found.spearman <= 1 + 1e-9
        assert 0 <= found.argmax_distance <= 6
        assert 0 <= found.recall_3 <= 1
        assert 3 / 5 <= found.recall_5 <= 1  # of 7 steps two sets of 5 share at least 3
