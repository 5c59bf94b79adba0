"""The drawn world in motion: its grammar, its videos, and the checker that reads them back."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.records import Problem, Prompt, RewardBatch
from stepcredit.scenes.captions import NEW_COMBINATIONS, balanced
from stepcredit.scenes.exact import motion
from stepcredit.scenes.moving import (
    DIRECTIONS,
    FRAMES,
    MOVING_KINDS,
    draw,
    every_caption,
    film,
    parse,
    paths,
    split,
)
from stepcredit.scenes.moving_checker import check_motion
from stepcredit.scenes.worlds import answers_of, facts_of

CAPTIONS = every_caption()
SOME = st.integers(0, len(CAPTIONS) - 1).map(lambda index: CAPTIONS[index])


def test_every_caption_is_said_in_one_way_and_read_back():
    texts = [str(caption) for caption in CAPTIONS]
    assert len(set(texts)) == len(CAPTIONS) == 5292
    assert all(parse(text) is caption for text, caption in zip(texts[::37], CAPTIONS[::37], strict=True))
    assert parse("  A RED circle   moving right. ") == parse("a red circle moving right")
    assert parse("a red circle flying away") is None


def test_the_splits_are_disjoint_and_whole():
    parts = [split(name) for name in ("training", "held_out", "new_combinations")]
    assert sum(map(len, parts)) == len(CAPTIONS)
    assert set().union(*map(set, parts)) == set(CAPTIONS)
    training = Counter(caption.kind for caption in parts[0])
    held_out = Counter(caption.kind for caption in parts[1])
    for kind in MOVING_KINDS:
        assert held_out[kind] == round(0.2 * (training[kind] + held_out[kind]))
    assert not any(NEW_COMBINATIONS.intersection(caption.things) for part in parts[:2] for caption in part)


@given(caption=SOME, seed=st.integers(0, 10**6))
def test_a_drawn_video_shows_what_its_caption_says(caption, seed):
    video = draw(caption, np.random.default_rng(seed))
    assert video.shape == (FRAMES, 32, 32, 3)
    assert video.dtype == np.uint8
    assert check_motion(video, caption).correct


@given(caption=SOME, seed=st.integers(0, 10**6))
def test_nothing_leaves_the_picture_or_meets_another_thing(caption, seed):
    scene = paths(caption, np.random.default_rng(seed))
    for share in np.linspace(0, 1, FRAMES):
        placed = [path.at(float(share)) for path in scene]
        assert all(p.radius + 1 <= value <= 31 - p.radius for p in placed for value in (p.x, p.y))
        if len(placed) == 2:
            assert np.hypot(placed[0].x - placed[1].x, placed[0].y - placed[1].y) > 2 * placed[0].radius + 2


@given(caption=SOME, other=st.sampled_from(sorted(DIRECTIONS)), seed=st.integers(0, 1000))
def test_another_motion_is_noticed(caption, other, seed):
    false = parse(str(caption).replace(caption.parts[0].motion, other, 1))
    if false is None or false == caption:
        return
    answers = check_motion(draw(caption, np.random.default_rng(seed)), false)
    assert answers.object
    assert answers.colour
    assert not answers.motion


def test_each_question_is_answered_for_itself():
    caption = parse("a red circle moving right and a blue square moving left")
    scene = paths(caption, np.random.default_rng(1))
    video = film(scene)
    assert answers_of(video, Prompt(str(caption), 0)) == dict.fromkeys(("object", "colour", "motion", "steady"), True)
    shapes = check_motion(video, parse("a red square moving right and a blue square moving left"))
    assert (shapes.object, shapes.motion) == (False, False)
    bound = check_motion(video, parse("a blue circle moving right and a red square moving left"))
    assert (bound.object, bound.colour) == (True, False)
    jumpy = video.copy()
    jumpy[4] = np.roll(video[4], 4, axis=0)
    shaken = check_motion(jumpy, caption)
    assert (shaken.object, shaken.motion, shaken.steady) == (True, True, False)
    frozen = np.concatenate([video[:1].repeat(7, 0), video[-2:]])
    assert not check_motion(frozen, caption).steady
    gone = video.copy()
    gone[3:] = 30
    assert not check_motion(gone, caption).object


def test_the_motion_reward_is_nan_with_a_reason_for_foreign_captions():
    caption = CAPTIONS[0]
    videos = np.stack([draw(caption, np.random.default_rng(0)), np.zeros((FRAMES, 32, 32, 3), np.uint8)])
    batch = RewardBatch(videos, Prompt.listed([str(caption), "a dog runs"]), (0, 1), fps=8.0)
    output = motion().score(batch)
    assert output.scores["motion"][0] == 1
    assert np.isnan(output.scores["motion"][1])
    assert output.errors == (Problem("motion", (1,), '"a dog runs" is not a caption of the moving scenes'),)


def test_kinds_and_questions_of_both_worlds():
    assert facts_of("a red circle") == {"kind": "single"}
    assert facts_of("a red circle standing still") == {"kind": "one still"}
    assert facts_of("a dog") == {}
    still, moving, foreign = Prompt.listed(["a red circle", "a red circle standing still", "a dog"])
    picture, video = np.zeros((32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    assert answers_of(picture, still) == {"object": False, "colour": False}
    assert set(answers_of(video, moving)) == {"object", "colour", "motion", "steady"}
    for medium, prompt in [(picture, moving), (video, still), (picture, foreign), (video, foreign)]:
        assert answers_of(medium, prompt) is None
    assert {caption.kind for caption in balanced(CAPTIONS, 6, 0)} == set(MOVING_KINDS)


@pytest.mark.parametrize("media", ["images", "videos"])
def test_a_batch_of_the_other_medium_is_refused_in_words(media):
    from stepcredit.errors import RewardError

    shape = (1, 8, 8, 3) if media == "videos" else (1, 2, 8, 8, 3)
    batch = RewardBatch(np.zeros(shape, np.uint8), Prompt.listed(["a"]), (0,), fps=None if media == "videos" else 4.0)
    with pytest.raises(RewardError, match="take one that scores"):
        getattr(batch, media)


def test_videos_need_their_frames_per_second():
    with pytest.raises(ValueError, match="need their frames per second"):
        RewardBatch(np.zeros((1, 2, 8, 8, 3), np.uint8), Prompt.listed(["a"]), (0,))
