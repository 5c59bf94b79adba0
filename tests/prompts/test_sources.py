"""Prompt sources: readable mistakes, and draws that are pure functions of (seed, iteration)."""

from collections import Counter
from pathlib import Path

import pytest

from stepcredit.errors import PromptError
from stepcredit.prompts.sources import Listed, from_settings
from stepcredit.scenes.captions import KINDS, split
from stepcredit.scenes.moving import MOVING_KINDS
from stepcredit.scenes.worlds import kind_of
from stepcredit.settings.prompts import FilePrompts, ListedPrompts, MovingScenesPrompts, ScenesPrompts

SOURCES = {
    "listed": lambda: Listed([f"prompt {index}" for index in range(10)]),
    "scenes": lambda: from_settings(ScenesPrompts()),
    "moving scenes": lambda: from_settings(MovingScenesPrompts()),
}


def test_a_file_holds_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("a red circle\r\n\n  ein Käfer  \n\n".encode())
    assert from_settings(FilePrompts(path=path)).prompts == ("a red circle", "ein Käfer")


def test_a_missing_file_is_named():
    with pytest.raises(PromptError, match=r"there is no prompt file nowhere\.txt; check `prompts\.path`"):
        from_settings(FilePrompts(path=Path("nowhere.txt")))


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(PromptError, match="holds no prompts"):
        from_settings(FilePrompts(path=path))


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("un café\n".encode("latin-1"))
    with pytest.raises(PromptError, match=r"not UTF-8 text \(.*byte 6\); save it as UTF-8"):
        from_settings(FilePrompts(path=path))


def test_a_folder_is_not_a_prompt_file(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        from_settings(FilePrompts(path=tmp_path))


def test_no_prompts_are_refused():
    with pytest.raises(PromptError, match="give at least one"):
        Listed([])


def test_settings_choose_the_source():
    assert from_settings(ListedPrompts(prompts=["x", "y"])).prompts == ("x", "y")
    for name in ("training", "held_out", "new_combinations"):
        source = from_settings(ScenesPrompts(split=name))
        assert source.prompts == tuple(map(str, split(name)))


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_a_draw_is_a_pure_function_of_seed_and_iteration(make):
    source = make()
    drawn = {(seed, at): source.draw(4, seed=seed, iteration=at) for seed in (0, 1) for at in (0, 1, 7)}
    for (seed, at), prompts in reversed(drawn.items()):  # another order, and another object
        assert source.draw(4, seed=seed, iteration=at) == prompts
        assert make().draw(4, seed=seed, iteration=at) == prompts
    assert len({tuple(prompts) for prompts in drawn.values()}) == len(drawn)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("count", [1, 5, 25])
def test_a_draw_has_the_wanted_size_and_known_prompts(make, count):
    source = make()
    drawn = source.draw(count, seed=3, iteration=2)
    assert len(drawn) == count
    assert set(drawn) <= set(source.prompts)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_an_epoch_visits_every_prompt_once(count):
    source = SOURCES["listed"]()
    walked = [prompt for at in range(30) for prompt in source.draw(count, seed=5, iteration=at)]
    size = len(source.prompts)
    epochs = [tuple(walked[start : start + size]) for start in range(0, len(walked) - size + 1, size)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == sorted(source.prompts) for epoch in epochs)
    assert len(set(epochs)) > 1  # each in an order of its own


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [(ScenesPrompts(split="held_out"), KINDS), (MovingScenesPrompts(split="held_out"), MOVING_KINDS)],
)
def test_scenes_take_every_kind_equally_often(settings, kinds):
    drawn = from_settings(settings).draw(10 * len(kinds), seed=0, iteration=0)
    assert Counter(map(kind_of, drawn)) == dict.fromkeys(kinds, 10)


def test_a_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n", encoding="utf-8-sig")
    assert from_settings(FilePrompts(path=path)).prompts == ("a red circle",)
