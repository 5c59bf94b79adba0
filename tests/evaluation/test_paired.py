"""Paired comparison: small cases by hand, captions as the unit of chance, NaN never counted as a number."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.errors import RunError
from stepcredit.evaluation.paired import (
    Difference,
    HackingGap,
    bootstrap,
    by_kind,
    by_question,
    compare,
    difference,
    hacking_gap,
    summarise,
)
from stepcredit.runs.looks import Look

RESAMPLES = 2000


def made_look(scores, prompts=None, names=None, weights="base", **changed):
    scores = np.array(scores, dtype=float)
    prompts = prompts or [f"caption {row}" for row in range(len(scores))]
    look = Look(
        iteration=0 if weights == "base" else 9,
        weights=weights,
        names=tuple(names or "abcdef"[: scores.shape[1]]),
        rows=tuple(range(len(scores))),
        prompts=tuple(prompts),
        scores=scores,
        pictures={},
    )
    return replace(look, **changed)


def by_loop(values, captions):
    """The bootstrap written down as a story: draw captions, take all pictures of each, average."""
    distinct = sorted(set(captions))
    generator = np.random.default_rng(0)
    means = []
    for chosen in generator.integers(0, len(distinct), size=(RESAMPLES, len(distinct))):
        drawn = [value for at in chosen for value, c in zip(values, captions, strict=True) if c == distinct[at]]
        means.append(sum(drawn) / len(drawn))
    return *np.quantile(means, [0.025, 0.975]), np.std(means)


# The bootstrap


@pytest.mark.parametrize("captions", ["abcdefghij", "aabbccddee", "aaaabbbccd", "jihgaabbcd"])
def test_the_bootstrap_draws_whole_captions(captions):
    values = np.random.default_rng(1).normal(size=10)
    found = bootstrap(values, np.array(list(captions)))
    np.testing.assert_allclose(found, by_loop(values, list(captions)), rtol=1e-12)


def test_pictures_of_one_caption_are_not_independent():
    """100 pictures that agree within a caption say as much as there are captions."""
    values = np.random.default_rng(2).normal(size=20).repeat(5)
    many = bootstrap(values, np.arange(100).astype(str))
    few = bootstrap(values, np.arange(20).repeat(5).astype(str))
    assert few[2] / many[2] == pytest.approx(math.sqrt(5), rel=0.1)
    assert few[1] - few[0] > 1.8 * (many[1] - many[0])


def test_the_standard_error_is_the_textbooks_when_captions_are_many():
    values = np.random.default_rng(3).normal(size=400)
    low, high, error = bootstrap(values, np.arange(400).astype(str))
    textbook = values.std() / 20
    assert error == pytest.approx(textbook, rel=0.06)
    assert (high - low) / 2 == pytest.approx(1.96 * textbook, rel=0.08)


# Differences


def test_a_small_case_by_hand():
    base = made_look([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    tuned = made_look([[2.0, 0.0], [3.0, 1.0], [4.0, 0.0], [5.0, 1.0]], weights="trained")
    first, second = compare(base, tuned)
    assert first == Difference("a", 2.5, 3.5, 1.0, 0.0, 1.0, 1.0, pictures=4, total=4)
    assert (second.base, second.tuned, second.difference) == (0.0, 0.5, 0.5)
    assert second.low < 0.5 < second.high
    assert second.standard_error == pytest.approx(0.25, rel=0.1)  # sd 0.5 over 4 captions
    assert (first.verdict, second.verdict) == ("up", "unclear")
    assert [row.verdict for row in compare(tuned, base)] == ["down", "unclear"]


def test_only_pictures_with_both_numbers_count():
    base = made_look([[1.0], [np.nan], [3.0], [5.0]])
    tuned = made_look([[2.0], [9.0], [np.nan], [9.0]], weights="trained")
    (row,) = compare(base, tuned)
    assert (row.base, row.tuned, row.difference) == (3.0, 5.5, 2.5)
    only = compare(
        made_look([[1.0], [5.0]], ["caption 0", "caption 3"]), made_look([[2.0], [9.0]], ["caption 0", "caption 3"])
    )
    assert (row.pictures, row.total, row.unscored_base, row.unscored_tuned) == (2, 4, 1, 1)
    assert row.coverage == "2 of 4 pictures"
    assert replace(row, total=2, unscored_base=0, unscored_tuned=0) == only[0]


def test_a_score_that_no_picture_has_is_a_row_with_the_reason():
    base = made_look([[1.0, np.nan], [2.0, 1.0]])
    tuned = replace(
        made_look([[1.0, 2.0], [2.0, np.nan]]),
        errors=("a+b: the judge is asleep", "b: returned NaN", "ab: no"),
    )
    whole, missing = compare(base, tuned)
    assert (whole.reason, whole.coverage, whole.verdict) == ("", "", "unclear")
    assert missing.reason == "the judge is asleep; returned NaN"
    assert (missing.pictures, missing.total, missing.verdict) == (0, 2, "unscored")
    (stored,) = [row for row in summarise(base, tuned, ["a"])["rows"] if row["name"] == "b"]
    assert stored["base"] is stored["difference"] is stored["low"] is None
    np.testing.assert_equal(asdict(Difference.read(json.loads(json.dumps(stored)))), asdict(missing))


def test_a_row_of_an_earlier_version_says_nothing_of_pictures():
    numbers = dict(zip(("base", "tuned", "difference", "standard_error", "low", "high"), range(6), strict=True))
    row = Difference.read({"name": "a", **numbers})
    assert (row.pictures, row.coverage, row.verdict) == (None, "", "up")


def test_a_look_at_fewer_captions_asks_fewer_questions():
    """The base was asked both, the smaller look one: what it does not know of is compared where anybody was asked."""
    base = made_look(np.zeros((4, 1)))
    base = replace(base, answers={"colour": np.array([1.0, 0, 1, 0]), "count": np.array([np.nan, np.nan, 1, 0])})
    small = replace(made_look(np.zeros((2, 1))), answers={"colour": np.array([1.0, 1.0])})
    (row,) = by_question(base.among(small.rows), small)
    assert (row.name, row.base, row.tuned, row.pictures) == ("colour", 0.5, 1.0, 2)
    lost = replace(small, answers={})  # none of its pictures is usable
    (row,) = by_question(base.among(small.rows), lost)
    assert (row.name, row.pictures, row.total, row.verdict) == ("colour", 0, 2, "unscored")


def test_the_gap_says_what_it_does_not_stand_on():
    base = made_look([[0.0, 0.0, np.nan], [2.0, 4.0, 1.0], [7.0, np.nan, np.nan], [np.nan, 9.0, 2.0]])
    tuned = made_look([[3.0, 1.0, 1.0], [5.0, 5.0, np.nan], [np.nan, 1.0, 2.0], [1.0, np.nan, np.nan]])
    gap = hacking_gap(base, tuned, ["a"])
    assert (gap.trained, gap.held_out) == (3.0, 0.5)
    assert gap.coverage == "on 2 of 4 pictures, without c"
    assert HackingGap.read(json.loads(json.dumps(summarise(base, tuned, ["a"])))["hacking_gap"]) == gap
    assert HackingGap.read({"trained": 1.0, "held_out": 0.0, "gap": 1.0, "low": 0.5, "high": 2.0}).coverage == ""


def test_a_resample_without_any_picture_of_a_score_has_no_mean():
    """Counted as 0 it would draw the interval towards 0: every picture that has both scores gained exactly as much."""
    base = made_look([[0.0, 0.0], [2.0, 4.0], *[[1.0, np.nan]] * 6])
    tuned = made_look([[3.0, 1.0], [5.0, 5.0], *[[4.0, np.nan]] * 6])
    gap = hacking_gap(base, tuned, ["a"])
    assert (gap.low, gap.high) == pytest.approx((gap.gap, gap.gap))


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=6),
    st.floats(-99, 99),
)
def test_a_constant_on_both_sides_changes_nothing(pairs, constant):
    before, after = np.array(pairs).T
    captions = [f"caption {row // 2}" for row in range(len(pairs))]
    plain = difference("a", before, after, captions)
    moved = difference("a", before + constant, after + constant, captions)
    for name in ("difference", "standard_error", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), abs=1e-10)
    assert moved.base == pytest.approx(plain.base + constant, abs=1e-10)


@pytest.mark.parametrize(
    "other", [{"prompts": ("x", "y")}, {"rows": (0, 2)}, {"names": ("b",)}, {"rows": (1, 0)}], ids=str
)
def test_looks_at_something_else_cannot_be_paired(other):
    base = made_look([[1.0], [2.0]], answers={"number": np.ones(2)})
    tuned = replace(base, **other)
    for pairing in (compare, by_kind, by_question, lambda one, two: hacking_gap(one, two, ["a"])):
        with pytest.raises(RunError, match="cannot be paired"):
            pairing(base, tuned)


# Kinds and questions


def test_kinds_of_captions_are_compared_on_their_own():
    prompts = ["a red circle", "two red circles", "a red circle", "no caption of the world"]
    kinds = ("single", "count", "single", None)
    base = made_look([[0.0], [0.0], [1.0], [5.0]], prompts, kinds=kinds)
    tuned = made_look([[1.0], [4.0], [4.0], [9.0]], prompts, kinds=kinds)
    found = by_kind(base, tuned)
    assert list(found) == ["single", "count"]  # as they come first
    assert {kind: rows[0].difference for kind, rows in found.items()} == {"single": 2.0, "count": 4.0}
    assert found["single"] == compare(base.among([0, 2]), tuned.among([0, 2]))
    assert by_kind(replace(base, kinds=()), tuned) == found  # a look that was written before looks knew kinds
    assert by_kind(made_look([[1.0]], ["ein Käfer"]), made_look([[1.0]], ["ein Käfer"])) == {}


def test_questions_are_compared_over_the_captions_that_ask_them():
    base = made_look(np.zeros((4, 1)))
    before = {"objects": [0, 0, 1, 1], "place": [np.nan, 0, np.nan, 1], "number": [np.nan] * 4}
    after = {"objects": [1, 0, 1, 1], "place": [np.nan, 1, np.nan, 1], "number": [np.nan] * 4}
    base, tuned = (
        replace(base, answers={name: np.array(values, dtype=float) for name, values in answers.items()})
        for answers in (before, after)
    )
    objects, place = by_question(base, tuned)
    assert (objects.name, objects.base, objects.tuned) == ("objects", 0.5, 0.75)
    assert (place.name, place.base, place.tuned) == ("place", 0.5, 1.0)
    assert by_question(made_look([[0.0]]), made_look([[0.0]])) == []


# The hacking gap


def test_the_gap_of_a_small_case_by_hand():
    base = made_look([[0.0, 0.0, 10.0], [2.0, 4.0, 30.0]])  # sd 1, 2, 10
    tuned = made_look([[3.0, 1.0, 10.0], [5.0, 5.0, 30.0]])  # gains 3, 1, 0
    gap = hacking_gap(base, tuned, ["a"])
    assert (gap.trained, gap.held_out) == (3.0, 0.25)  # (1/2 + 0/10) / 2
    assert (gap.gap, gap.low, gap.high) == (2.75, 2.75, 2.75)  # every picture gained the same
    other = hacking_gap(base, tuned, ["a", "b"])
    assert (other.trained, other.held_out) == (1.75, 0.0)


def test_the_interval_of_the_gap_draws_whole_captions():
    generator = np.random.default_rng(5)
    captions = ["p", "p", "q", "r", "r", "r", "s", "t"]
    before, gain = generator.normal(size=(8, 2)), generator.normal(size=(8, 2))
    gap = hacking_gap(made_look(before, captions), made_look(before + gain, captions), ["a"])
    scaled = gain / before.std(0)
    low, high, _ = by_loop(scaled[:, 0] - scaled[:, 1], captions)
    assert (gap.low, gap.high) == pytest.approx((low, high))
    assert gap.gap == pytest.approx((scaled[:, 0] - scaled[:, 1]).mean())


def test_pictures_without_a_score_do_not_count_in_the_gap():
    base = made_look([[0.0, 0.0], [2.0, 4.0], [7.0, np.nan], [np.nan, 9.0]])
    tuned = made_look([[3.0, 1.0], [5.0, 5.0], [np.nan, 1.0], [1.0, np.nan]])
    gap = hacking_gap(base, tuned, ["a"])
    assert (gap.trained, gap.held_out, gap.gap) == (3.0, 0.5, 2.5)
    assert math.isfinite(gap.low)
    assert math.isfinite(gap.high)


def test_without_anything_held_out_or_trained_there_is_no_gap():
    base, tuned = made_look([[0.0, 0.0], [2.0, 4.0]]), made_look([[1.0, 1.0], [3.0, 4.0]])
    assert hacking_gap(base, tuned, ["a", "b"]) is None
    assert hacking_gap(base, tuned, []) is None
    assert hacking_gap(made_look([[0.0, 0.0], [2.0, np.nan]]), tuned, ["a"]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1e6 + 0.1])
def test_a_score_that_never_differs_has_no_scale_and_is_left_out(value):
    """Numbers that are all the same may have a standard deviation of 1e-17."""
    scores = np.random.default_rng(0).normal(size=(7, 3))
    scores[:, 2] = value
    base, tuned = made_look(scores), made_look(scores + 1)
    kept = hacking_gap(made_look(scores[:, :2]), made_look(scores[:, :2] + 1), ["a"])
    assert hacking_gap(base, tuned, ["a"]) == kept
    assert hacking_gap(made_look(scores[:, ::2]), made_look(scores[:, ::2] + 1), ["a"]) is None


@given(
    st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=2, max_size=7),
    st.floats(-4, 4),
)
def test_the_gap_is_zero_when_everything_rose_by_as_many_standard_deviations(rows, rise):
    base = np.array(rows, dtype=float)
    captions = [f"caption {row // 2}" for row in range(len(rows))]
    tuned = base + rise * base.std(0)
    gap = hacking_gap(made_look(base, captions), made_look(tuned, captions), ["a", "b"])
    if (base[:, :2].std(0) > 0).any() and base[:, 2].std() > 0:
        assert (gap.gap, gap.low, gap.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
        assert gap.trained == pytest.approx(rise, abs=1e-9)
    else:
        assert gap is None


# The summary


def test_the_summary_is_plain_json_and_says_what_was_compared():
    prompts = ["a red circle", "a red circle", "two red circles"]
    asked = {"number": np.array([np.nan, np.nan, 1.0])}
    kinds = ("single", "single", "count")
    base = made_look([[0.0, 1.0], [2.0, 3.0], [4.0, 3.0]], prompts, answers=asked, kinds=kinds)
    tuned = replace(base, iteration=9, weights="average", scores=base.scores + 1)
    found = summarise(base, tuned, ["a"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["iteration"], found["weights"], found["pictures"], found["captions"]) == (9, "average", 3, 2)
    assert [row["difference"] for row in found["rows"]] == [1.0, 1.0]
    assert set(found["kinds"]) == {"single", "count"}
    assert [row["name"] for row in found["questions"]] == ["number"]
    assert found["hacking_gap"]["gap"] == pytest.approx(1 / np.std([0, 2, 4]) - 1 / np.std([1, 3, 3]))
