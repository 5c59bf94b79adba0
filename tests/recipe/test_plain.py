"""The reader of recipes: what is the same to every reader of YAML is read, and the rest is refused with its place."""

import math
import os
import stat
from pathlib import Path

import pytest

from stepcredit.errors import RecipeError
from stepcredit.recipe.compose import compose
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.plain import plain_value, read_plain, write_plain
from stepcredit.recipe.read import find_recipe, read_yaml


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read_plain(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *[("1e-4", 1e-4), ("1.0e-5", 1e-5), ("-3", -3), ("+7", 7), ("0", 0), (".5", 0.5), ("5.", 5.0), ("1E3", 1000.0)],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", math.inf)],
        *[("text", "text"), ("1.5.2", "1.5.2"), ("a#b", "a#b"), ("yesterday", "yesterday"), ("12:ab", "12:ab")],
    ],
)
def test_a_word_without_quotes_is_what_it_looks_like(word, value):
    assert plain_value(word) == value
    assert type(plain_value(word)) is type(value)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        *[
            ("010", "base 8"),
            ("-07", "base 8"),
            ("0x1F", "another base"),
            ("0b11", "another base"),
            ("0o17", "another base"),
        ],
        *[("1:30", "base 60"), ("190:20:30.5", "base 60"), ("1_000", "leave out the _"), ("1_0.5", "leave out the _")],
        *[("yes", "write true or false"), ("No", "write true or false"), ("off", "write true or false")],
        *[("2024-01-01", "a day or a time"), ("2024-1-1 10:00:00", "a day or a time"), ("9" * 4301, "4,301 digits")],
    ],
)
def test_a_word_with_two_readings_is_refused_with_what_to_write(word, advice):
    message = refused(f"rollout:\n  steps: {word}\n")
    assert message.startswith("line 2, rollout.steps: got ")
    assert advice in message
    assert read_plain(f"a: '{word[:100]}'") == {"a": word[:100]}  # in quotes it is text to everybody


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: !!int x", "line 1, a: got the tag"),
        ("a: !!python/object:os.system {}", "got the tag"),
        ("a: !!binary aGk=", "got the tag"),
        ("a: !!set {b}", "got the tag"),
        ("a:\n  b: 1\n  b: 2", "line 3, a.b: occurs twice"),
        ("a: 1\n1: 2", "line 2, 1: this key is not a word"),
        ("no: 2", "this key is not a word"),
        ("? [1]\n: 2", "this key is a list"),
        ("a: 1\n<<: {b: 2}", "mappings are not merged by <<"),
        ("a: [*x]", "line 1, a.0: *x stands for nothing"),
        ("a: &a [*a]", "stands for nothing"),
        ("a: 1\n---\nb: 1", "line 2"),
        ('a: "\\ud800"', "control character 0xd800"),
        ('a: "\\0"', "control character 0x00"),
        ("a: 1\nb: [1\nc: 2", "not valid YAML"),
        ("\ta: 1", "not valid YAML"),
        ('a: "\\UFFFFFFFF"', "not valid YAML"),
        ("%YAML 9.9\n---\na: 1", "not valid YAML"),
        ("a: " + "[" * 330, "more than 20 mappings or lists"),
        ("a: " + "{b: " * 330, "more than 20 mappings or lists"),
        ("a: " + "x" * 20_001, "text of 20,001 characters"),
    ],
)
def test_what_a_recipe_has_no_use_for_is_refused_with_its_place(text, wanted):
    assert wanted in refused(text)


def test_aliases_are_written_out_but_not_without_end():
    value = read_plain("a: &a {b: [1]}\nc: *a")
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}}
    value["a"]["b"].append(2)
    assert value["c"] == {"b": [1]}  # a flag that reaches into one is not meant for the other
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "more than 100,000 values" in refused("\n".join(["a0: &a0 [x]", *levels]))


def test_what_is_written_is_read_back():
    value = {"a": ["1e5", "08", "no", "1:30", "a # b", "", "x\ny", "\u2028"], "b": {"c": None, "d": 1e-5, "e": True}}
    assert read_plain(write_plain(value)) == value


@pytest.mark.timeout(10)
def test_only_files_of_a_sensible_size_are_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    large = tmp_path / "large.yaml"
    large.write_text(f"a: {'x' * 2**20}")
    for path, wanted in {pipe: "a pipe", tmp_path: "a folder", Path("/dev/zero"): "a device", large: "at most"}.items():
        with pytest.raises(RecipeError, match=wanted):
            read_yaml(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "."])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(RecipeError, match="there is no recipe"):
        find_recipe(name)


def test_a_byte_order_mark_and_windows_lines_are_no_matter(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("\ufeffseed: 1\r\nthreads: 2\r\n".encode())
    assert read_yaml(path) == {"seed": 1, "threads": 2}


def test_a_long_chain_of_recipes_is_refused(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"extends: '{number + 1}.yaml'\n")
    with pytest.raises(RecipeError, match="21 recipes that extend each other"):
        compose(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("rollout.steps", "true", "got true, wanted a whole number"),
        ("optimiser.learning_rate", "true", "got true, wanted a number"),
        ("output.report", "1", "got 1, wanted true or false"),
        ("rollout.share_states", "'true'", 'got "true", wanted true or false'),
        ("rollout.steps", "'5'", 'got "5", wanted a whole number; write it without quotes'),
        ("optimiser.betas", "[true, 0.9]", "got true, wanted a number"),
        ("policy.resolution", "['32', 32]", 'got "32", wanted a whole number; write it without quotes'),
    ],
)
def test_one_kind_is_not_taken_for_another(key, value, wanted):
    with pytest.raises(RecipeError) as caught:
        load_recipe(overrides=[f"--{key}", value])
    assert str(caught.value) == f"{key}: {wanted}"


def test_a_number_in_a_file_where_text_is_wanted_is_to_be_put_in_quotes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: scenes\npolicy: {revision: 1234}\n")
    with pytest.raises(RecipeError, match=r"policy\.revision: got 1234, wanted text or null; put it in quotes"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        *[
            ("scenes", "rollout.steps=100000000"),
            ("scenes", "rollout.prompts=1e9"),
            ("scenes", "evaluation.count=10000000"),
        ],
        *[("scenes_video", "policy.fps=1e12"), ("scenes_video", "policy.frames=100000"), ("scenes", "seed=-1")],
        *[
            ("scenes", "policy.resolution=1000000"),
            ("scenes", "policy.surface.rank=100000"),
            ("scenes", "threads=100000"),
        ],
        *[("scenes", "training.iterations=1e12"), ("scenes", "optimiser.learning_rate=1e30")],
    ],
)
def test_sizes_have_bounds(model, flag):
    with pytest.raises(RecipeError) as caught:
        load_recipe(model, [f"--{flag}"])
    key = flag.partition("=")[0]
    assert str(caught.value).startswith(f"{key}: ")


def test_sizes_that_are_large_together_are_refused():
    flags = ["--rollout.prompts=1000", "--rollout.group_size=1000", "--rollout.steps=100"]
    with pytest.raises(RecipeError, match=r"rollout\.steps is 100,000,000, wanted at most 4,000,000"):
        load_recipe(overrides=flags)


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        (
            [1, -1, 1],
            r"rewards\.1\.weight: got -1.0, wanted at least 0; to have less of it, write a reward",
        ),
        ([0, 0, 0], r"rewards\.0\.weight: every reward has weight 0"),
    ],
)
def test_weights_that_no_method_can_sum_are_refused_with_the_recipe(weights, wanted):
    flags = [f"--rewards.{index}.weight={weight}" for index, weight in enumerate(weights)]
    with pytest.raises(RecipeError, match=wanted):
        load_recipe(overrides=["--method", "dance_grpo", *flags])
    assert load_recipe(overrides=["--method", "dance_grpo", "--rewards.0.weight=0"]).objective_weights == [0, 1, 1]
