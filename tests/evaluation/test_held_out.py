"""Looking at held-out captions: the same pictures every time, with what prompts and exact checkers say of them."""

import numpy as np
import pytest

from fakes import Brightness, FakePolicy, NotANumber
from stepcredit.evaluation import held_out
from stepcredit.prompts.sources import Listed
from stepcredit.records.key import Key
from stepcredit.rewards.suite import RewardSuite

TEXTS = ("a red circle", "two blue squares", "a cat", "a red circle")
KINDS = {"a red circle": "single", "two blue squares": "count"}
FACTS = {text: {"kind": kind} for text, kind in KINDS.items()}


def known(text):
    return FACTS.get(text, {})


def look(texts=TEXTS, *, facts=known, reward=Brightness, **settings):
    return held_out.evaluate(
        FakePolicy(),
        Listed(texts, facts=facts),
        RewardSuite([reward("taste")]),
        iteration=3,
        weights="trained",
        count=4 * len(texts),
        steps=3,
        shift=None,
        micro_batch=8,
        **settings,
    )


def asked(medium, prompt):
    """Is the first pixel bright; a caption that counts is also asked for its number."""
    bright = bool(medium[0, 0].mean() > 127)
    if prompt.facts.get("kind") == "count":
        return {"bright": bright, "number": True}
    return {"bright": bright} if prompt.facts else None


def test_each_picture_has_the_kind_of_its_caption():
    whole = look()
    assert len(whole.kinds) == len(whole.rows) == 16
    assert list(whole.kinds) == [KINDS.get(text) for text in whole.prompts]
    assert {*whole.kinds} == {"single", "count", None}


def test_captions_without_kinds_have_none():
    assert look(facts=lambda text: {}).kinds == ()


def test_an_exact_checker_answers_only_what_a_caption_asks():
    whole = look(("a red circle", "two blue squares"), questions=asked)
    bright = [float(whole.pictures[row][0, 0].mean() > 127) for row in whole.rows]
    counts = np.array([kind == "count" for kind in whole.kinds])
    np.testing.assert_array_equal(whole.answers["bright"], bright)
    np.testing.assert_array_equal(whole.answers["number"], np.where(counts, 1.0, np.nan))


def test_one_caption_that_cannot_be_read_leaves_no_answers():
    """Shares of some captions would be read as shares of all."""
    assert look(questions=asked).answers == {}
    assert look().answers == {}


def test_a_look_tells_its_problems_in_sentences():
    assert look(reward=NotANumber).errors == ("taste: returned NaN for 16 of 16 pictures",)


@pytest.mark.parametrize("only", [(0, 1, 2, 3), (5, 9), (15,)])
def test_some_rows_are_the_same_pictures_as_in_the_whole(only):
    whole = look(questions=asked, facts=lambda text: {"kind": "single"})
    part = look(questions=asked, facts=lambda text: {"kind": "single"}, only=only)
    wanted = whole.among(only)
    assert (part.rows, part.prompts, part.kinds) == (wanted.rows, wanted.prompts, wanted.kinds)
    for row in only:
        np.testing.assert_array_equal(part.pictures[row], wanted.pictures[row])
    np.testing.assert_array_equal(part.answers["bright"], wanted.answers["bright"])


def test_the_watched_rows_take_a_caption_again_only_when_there_is_no_other():
    source = Listed(("x", "x", "x", "y"))
    texts = [prompt.text for prompt in source.draw(4, Key(20_260_419, iteration=0))]
    rows = held_out.watched(source, count=16, watch=8)
    groups = [row // 4 for row in rows[::4]]
    assert {texts[group] for group in groups} == {"x", "y"}  # equal texts at other places are the same caption
    assert rows == [4 * group + sibling for group in sorted(groups) for sibling in range(4)]
