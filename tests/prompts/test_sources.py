"""Prompt sources: readable mistakes, draws that are pure functions of (seed, iteration), and what prompts know."""

from collections import Counter
from pathlib import Path

import pytest

from stepcredit.build import build_prompts
from stepcredit.errors import PromptError
from stepcredit.prompts.sources import Listed
from stepcredit.records import Prompt
from stepcredit.records.key import Key
from stepcredit.scenes.captions import KINDS, split
from stepcredit.scenes.moving import MOVING_KINDS
from stepcredit.settings.prompts import FilePrompts, ListedPrompts, MovingScenesPrompts, ScenesPrompts

SOURCES = {
    "listed": lambda: Listed([f"prompt {index}" for index in range(10)]),
    "scenes": lambda: build_prompts(ScenesPrompts()),
    "moving scenes": lambda: build_prompts(MovingScenesPrompts()),
}


def test_a_file_holds_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("a red circle\r\n\n  ein Käfer  \n\n".encode())
    assert build_prompts(FilePrompts(path=path)).prompts == (
        Prompt("a red circle", 0, {"kind": "single"}),
        Prompt("ein Käfer", 1),
    )


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_ends_end_a_line(tmp_path, separator):
    path = tmp_path / "prompts.txt"
    path.write_bytes(f'a poster that reads{separator}"summer fair"\na bowl of figs\rfigs\n'.encode())
    texts = [prompt.text for prompt in build_prompts(FilePrompts(path=path)).prompts]
    assert texts == [f'a poster that reads{separator}"summer fair"', "a bowl of figs", "figs"]


def test_a_missing_file_is_named():
    with pytest.raises(PromptError, match=r"there is no prompt file .*nowhere\.txt; check `prompts\.path`"):
        build_prompts(FilePrompts(path=Path("nowhere.txt")))


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(PromptError, match="holds no prompts"):
        build_prompts(FilePrompts(path=path))


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("un café\n".encode("latin-1"))
    with pytest.raises(PromptError, match=r"not UTF-8 text \(.*byte 6\); save it as UTF-8"):
        build_prompts(FilePrompts(path=path))


def test_a_folder_is_not_a_prompt_file(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        build_prompts(FilePrompts(path=tmp_path))


def test_no_prompts_are_refused():
    with pytest.raises(PromptError, match="give at least one"):
        Listed([])


def test_settings_choose_the_source():
    assert build_prompts(ListedPrompts(prompts=["x", "y"])).prompts == (Prompt("x", 0), Prompt("y", 1))
    for name in ("training", "held_out", "new_combinations"):
        source = build_prompts(ScenesPrompts(split=name))
        captions = split(name)
        assert [prompt.text for prompt in source.prompts] == list(map(str, captions))
        assert [prompt.facts for prompt in source.prompts] == [{"kind": caption.kind} for caption in captions]
        assert [prompt.id for prompt in source.prompts] == list(range(len(captions)))


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_a_draw_is_a_pure_function_of_seed_and_iteration(make):
    source = make()
    drawn = {(seed, at): source.draw(4, Key(seed, iteration=at)) for seed in (0, 1) for at in (0, 1, 7)}
    for (seed, at), prompts in reversed(drawn.items()):  # another order, and another object
        assert source.draw(4, Key(seed, iteration=at)) == prompts
        assert make().draw(4, Key(seed, iteration=at)) == prompts
    assert len({tuple(prompts) for prompts in drawn.values()}) == len(drawn)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("count", [1, 5, 25])
def test_a_draw_has_the_wanted_size_and_known_prompts(make, count):
    source = make()
    drawn = source.draw(count, Key(3, iteration=2))
    assert len(drawn) == count
    assert set(drawn) <= set(source.prompts)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_an_epoch_visits_every_prompt_once(count):
    source = SOURCES["listed"]()
    walked = [prompt for at in range(30) for prompt in source.draw(count, Key(5, iteration=at))]
    size = len(source.prompts)
    epochs = [tuple(walked[start : start + size]) for start in range(0, len(walked) - size + 1, size)]
    assert len(epochs) >= 3
    assert all({prompt.id for prompt in epoch} == set(range(size)) for epoch in epochs)
    assert len(set(epochs)) > 1  # each in an order of its own


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [(ScenesPrompts(split="held_out"), KINDS), (MovingScenesPrompts(split="held_out"), MOVING_KINDS)],
)
def test_scenes_take_every_kind_equally_often(settings, kinds):
    drawn = build_prompts(settings).draw(10 * len(kinds), Key(0, iteration=0))
    assert Counter(prompt.facts["kind"] for prompt in drawn) == dict.fromkeys(kinds, 10)


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n", encoding="utf-8-sig")
    assert build_prompts(FilePrompts(path=path)).prompts[0].text == "a red circle"


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("listed", ["prompt 0", "prompt 7", "prompt 4"]),
        ("scenes", ["a yellow square", "two green squares", "a yellow triangle and a white square"]),
        (
            "moving scenes",
            [
                "a blue square moving right",
                "a green square standing still",
                "a yellow triangle moving left and a blue circle moving right",
            ],
        ),
    ],
)
def test_a_draw_is_what_it_has_always_been(name, texts):
    """Another draw would be another run: results of a seed could not be repeated with a later version."""
    assert [prompt.text for prompt in SOURCES[name]().draw(5, Key(3, iteration=2))][:3] == texts


def test_captions_of_a_drawn_world_are_known_in_a_list_as_well():
    prompts = build_prompts(ListedPrompts(prompts=["two blue squares", "a cat", "a red circle moving left"])).prompts
    assert [prompt.facts for prompt in prompts] == [{"kind": "count"}, {}, {"kind": "one moving"}]


def test_equal_texts_at_two_places_of_a_list_are_two_prompts():
    first, second = Listed(["x", "x"]).prompts
    assert first != second
    assert len({first, second, Prompt("x", 0)}) == 2


def test_facts_count_in_equality_and_may_hold_what_has_no_hash():
    prompt = Prompt("two cats", 3, {"include": [{"class": "cat", "count": 2}]})
    assert hash(prompt) == hash(Prompt("two cats", 3))
    assert prompt != Prompt("two cats", 3)
