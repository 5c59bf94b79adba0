"""The drawn world: the checker agrees with the renderer, nothing else passes, and the splits never mix."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stepcredit.scenes.captions import (
    COLOURS,
    KINDS,
    NEW_COMBINATIONS,
    RELATIONS,
    SHAPES,
    Caption,
    Thing,
    balanced,
    every_caption,
    parse,
    split,
)
from stepcredit.scenes.checker import Answers, check, find_objects
from stepcredit.scenes.renderer import BACKGROUND, SIZE, Placed, draw, place, relation_holds, render

SPLITS = ("training", "held_out", "new_combinations")
RED_CIRCLE = Thing("red", "circle")
BLUE_SQUARE = Thing("blue", "square")
LEFT_OF = Caption("position", (RED_CIRCLE, BLUE_SQUARE), relation="left of")
PAIR = Caption("pair", (RED_CIRCLE, BLUE_SQUARE))
TWO = Caption("count", (RED_CIRCLE,), count=2)
SCENE = [Placed(RED_CIRCLE, 8.5, 16.0, 5.5), Placed(BLUE_SQUARE, 23.5, 16.0, 5.5)]
ALL_RIGHT = Answers(object=True, colour=True, count=True, position=True)


def recolour(placed, colour):
    return replace(placed, thing=Thing(colour, placed.thing.shape))


def reshape(placed, shape):
    return replace(placed, thing=Thing(placed.thing.colour, shape))


# Captions


def test_the_grammar_says_1584_sentences_and_reads_each_of_them_back():
    captions = every_caption()
    assert len(captions) == len(set(map(str, captions))) == 1584
    assert all(parse(str(caption)) == caption for caption in captions)
    assert Counter(caption.kind for caption in captions) == {"single": 18, "count": 36, "pair": 306, "position": 1224}


def test_reading_forgives_case_spaces_and_a_full_stop():
    assert parse("  A red   CIRCLE left of a blue square. ") == LEFT_OF
    assert parse("Two red circles") == TWO


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red circle and", "a pink circle", "two red circle", "four red circles"]
)
def test_other_sentences_are_not_read(text):
    assert parse(text) is None


def test_the_splits_are_disjoint_and_complete():
    parts = [set(split(name)) for name in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == set(every_caption())


def test_new_combinations_never_occur_in_training_but_their_colours_and_shapes_do():
    for name in ("training", "held_out"):
        assert not any(NEW_COMBINATIONS & set(caption.things) for caption in split(name))
    assert all(NEW_COMBINATIONS & set(caption.things) for caption in split("new_combinations"))
    things = {thing for caption in split("training") for thing in caption.things}
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifth_of_every_kind_is_held_out(kind):
    training = sum(caption.kind == kind for caption in split("training"))
    held_out = sum(caption.kind == kind for caption in split("held_out"))
    assert held_out == round(0.2 * (training + held_out))


def test_a_balanced_draw_has_every_kind_equally_often_and_follows_its_seed():
    drawn = balanced(split("training"), 40, 3)
    assert Counter(caption.kind for caption in drawn) == dict.fromkeys(KINDS, 10)
    assert drawn == balanced(split("training"), 40, 3)
    assert drawn != balanced(split("training"), 40, 4)


# Renderer


def test_the_same_seed_draws_the_same_picture():
    for caption in balanced(every_caption(), 8, 0):
        first, again, another = (draw(caption, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert first.shape == (SIZE, SIZE, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        assert (first != another).any()


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_placement_makes_its_relation_true_and_the_opposite_false(relation):
    opposite = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))[relation]
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = place(replace(LEFT_OF, relation=relation), generator)
        assert relation_holds(relation, first, second)
        assert relation_holds(opposite, second, first)
        false = [name for name in RELATIONS if name != relation]
        assert not any(relation_holds(name, first, second) for name in false)


def test_the_objects_of_a_placement_neither_overlap_nor_leave_the_picture():
    generator = np.random.default_rng(0)
    for caption in balanced(every_caption(), 60, 1):
        placed = place(caption, generator)
        assert [item.thing for item in placed] == list(caption.objects)
        for index, one in enumerate(placed):
            assert one.radius < min(one.x, one.y, SIZE - one.x, SIZE - one.y)
            assert all(np.hypot(one.x - two.x, one.y - two.y) > one.radius + two.radius for two in placed[:index])


def test_above_means_further_up_in_the_picture():
    upper = Placed(RED_CIRCLE, 16.0, 8.0, 5.0)
    lower = Placed(BLUE_SQUARE, 16.0, 24.0, 5.0)
    assert relation_holds("above", upper, lower)
    assert not relation_holds("below", upper, lower)
    picture = render([upper, lower])
    assert tuple(picture[8, 16]) == COLOURS["red"]
    assert tuple(picture[24, 16]) == COLOURS["blue"]


# Checker


@pytest.mark.parametrize("seed", range(4))
def test_drawn_scenes_are_true(seed):
    generator = np.random.default_rng(seed)
    captions = balanced(every_caption(), 200, seed)
    right = sum(check(draw(caption, generator), caption).correct for caption in captions)
    assert right >= 0.97 * len(captions)


@pytest.mark.parametrize("seed", range(3))
def test_drawn_scenes_are_not_true_of_other_captions(seed):
    generator = np.random.default_rng(seed)
    drawn, claimed = (balanced(every_caption(), 200, key) for key in (seed, seed + 100))
    mistakes = [
        check(draw(caption, generator), claim).correct
        for caption, claim in zip(drawn, claimed, strict=True)
        if Counter(caption.objects) != Counter(claim.objects)
    ]
    assert len(mistakes) > 150
    assert np.mean(mistakes) <= 0.15


def test_a_pair_says_nothing_about_places_but_a_position_does():
    swapped = Caption("position", (BLUE_SQUARE, RED_CIRCLE), relation="left of")
    assert check(render(SCENE), PAIR).correct
    assert check(render(SCENE), LEFT_OF).correct
    assert not check(render(SCENE), swapped).correct


@pytest.mark.parametrize("colour", [(0, 0, 0), BACKGROUND, (255, 255, 255), COLOURS["red"], (128, 128, 128)], ids=str)
def test_a_blank_picture_is_true_of_nothing(colour):
    blank = np.full((SIZE, SIZE, 3), colour, dtype=np.uint8)
    assert not any(check(blank, caption).correct for caption in every_caption()[::7])


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "blurred"])
def test_noise_is_true_of_almost_nothing(kind):
    generator = np.random.default_rng(0)
    right = 0
    for caption in balanced(every_caption(), 100, 2):
        if kind == "uniform":
            picture = generator.integers(0, 256, (SIZE, SIZE, 3))
        elif kind == "gaussian":
            picture = np.clip(generator.normal(BACKGROUND, 60, (SIZE, SIZE, 3)), 0, 255)
        else:
            picture = np.kron(generator.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
        right += check(picture.astype(np.uint8), caption).correct
    assert right <= 1


def test_a_little_noise_does_not_hide_a_true_scene():
    generator = np.random.default_rng(0)
    captions = balanced(every_caption(), 80, 5)
    right = 0
    for caption in captions:
        noisy = draw(caption, generator) + generator.normal(0, 6, (SIZE, SIZE, 3))
        right += check(np.clip(noisy, 0, 255).astype(np.uint8), caption).correct
    assert right >= 0.9 * len(captions)


def test_all_answers_are_yes_for_the_true_scene():
    for caption in (LEFT_OF, PAIR):
        assert check(render(SCENE), caption) == ALL_RIGHT


def test_a_wrong_colour_turns_only_the_colour_answer():
    picture = render([SCENE[0], recolour(SCENE[1], "green")])
    assert check(picture, PAIR) == replace(ALL_RIGHT, colour=False)


def test_colours_on_the_wrong_objects_turn_only_the_colour_answer():
    swapped = [recolour(SCENE[0], "blue"), recolour(SCENE[1], "red")]
    assert check(render(swapped), PAIR) == replace(ALL_RIGHT, colour=False)


def test_a_wrong_shape_turns_only_the_object_answer():
    picture = render([SCENE[0], reshape(SCENE[1], "triangle")])
    assert check(picture, PAIR) == replace(ALL_RIGHT, object=False)


def test_a_wrong_place_turns_only_the_position_answer():
    exchanged = [replace(SCENE[0], x=SCENE[1].x), replace(SCENE[1], x=SCENE[0].x)]
    assert check(render(exchanged), LEFT_OF) == replace(ALL_RIGHT, position=False)
    upright = [replace(SCENE[0], x=16.0, y=8.0), replace(SCENE[1], x=16.0, y=24.0)]
    assert check(render(upright), LEFT_OF) == replace(ALL_RIGHT, position=False)


@pytest.mark.parametrize("copies", [1, 3])
def test_a_wrong_number_turns_the_count_answer(copies):
    places = [(8.0, 8.0), (24.0, 8.0), (16.0, 24.0)]
    picture = render([Placed(RED_CIRCLE, x, y, 4.5) for x, y in places[:copies]])
    answers = check(picture, TWO)
    assert not answers.count
    assert not answers.correct
    assert answers.position


def test_an_extra_object_makes_a_picture_false():
    extra = [Placed(RED_CIRCLE, 8.0, 8.0, 4.5), Placed(BLUE_SQUARE, 24.0, 24.0, 4.5)]
    assert not check(render(extra), Caption("single", (RED_CIRCLE,))).correct


def test_scattered_dirt_makes_a_picture_false():
    picture = render([Placed(RED_CIRCLE, 16.0, 16.0, 7.0)])
    caption = Caption("single", (RED_CIRCLE,))
    assert check(picture, caption).correct
    picture[1, 1:28:3] = 255  # nine lonely pixels
    assert not check(picture, caption).correct


def test_objects_are_found_where_they_are():
    objects = sorted(find_objects(render(SCENE)), key=lambda placed: placed.x)
    assert [placed.thing for placed in objects] == [RED_CIRCLE, BLUE_SQUARE]
    for placed, wanted in zip(objects, SCENE, strict=True):
        assert abs(placed.x - wanted.x) <= 0.5
        assert abs(placed.y - wanted.y) <= 0.5
        assert abs(placed.radius - wanted.radius) <= 1
