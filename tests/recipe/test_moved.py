"""Old keys: one error that names all of them with their new names."""

from typing import Any

import pytest
from pydantic import BaseModel

from stepcredit.errors import RecipeError
from stepcredit.methods import names
from stepcredit.recipe.load import load_recipe
from stepcredit.recipe.moved import refuse_moved
from stepcredit.recipe.recipe import method_named
from stepcredit.settings.keys import flatten
from stepcredit.settings.moved import MOVED, new_name


class NewMethod(BaseModel):
    sampler: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    rule: dict[str, Any] = {}


class NewTraining(BaseModel):
    iterations: int = 1


class OwnMethod(BaseModel):
    floor: float = 0.0
    rule: dict[str, Any] = {}


SECTIONS = {"method": NewMethod, "training": NewTraining}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("method.noise_level", "method.sampler.noise_level"),
        ("method.shared_noise", "method.plan.shared_noise"),
        ("method.window.size", "method.plan.window.size"),
        ("method.window", "method.plan.window"),
        ("training.ema", None),
        ("method.windows", None),
        ("method.rule.floor", None),
        ("seed", None),
    ],
)
def test_an_old_key_has_a_new_name(old, new):
    assert new_name(old) == new


def test_all_old_keys_are_named_at_once():
    recipe = {
        "method": {"type": "otca", "noise_level": 0.7, "window": {"size": 2, "end": 5}, "rule": {"floor": 0.5}},
        "training": {"iterations": 3, "ema": 0.9},
    }
    with pytest.raises(RecipeError) as caught:
        refuse_moved(recipe, SECTIONS)
    assert str(caught.value).splitlines() == [
        "method.noise_level is now method.sampler.noise_level",
        "method.window.size is now method.plan.window.size",
        "method.window.end is now method.plan.window.end",
    ]


def test_a_recipe_without_old_keys_passes():
    refuse_moved({"method": {"type": "otca", "rule": {"floor": 0.5}}, "seed": 3}, SECTIONS)


def test_a_method_of_ones_own_may_have_a_key_of_that_name():
    refuse_moved({"method": {"type": "lab.own", "floor": 0.5, "clip": 0.1}}, {**SECTIONS, "method": OwnMethod})


def test_no_new_name_is_an_old_one():
    assert not [new for new in MOVED.values() if new_name(new) is not None]
    assert len(set(MOVED.values())) == len(MOVED)


def test_a_recipe_and_a_flag_with_old_keys_are_refused_with_the_new_ones(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("extends: scenes\nmethod: {type: otca, noise_level: 0.7, kernel: ddim}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["--method.floor", "0"])
    assert str(caught.value).splitlines() == [
        "method.noise_level is now method.sampler.noise_level",
        "method.kernel is now method.sampler.type",
        "method.floor is now method.rule.floor",
    ]


@pytest.mark.parametrize("old", MOVED)
def test_every_new_name_is_a_key_of_some_method(old):
    keys = set()
    for name in names():
        keys |= set(flatten({"method": method_named(name).model_dump()}))
    assert MOVED[old] in keys
