"""Settings of stored recipes: the same value by its old and its new key, whichever of the two formats stores it."""

import pytest

from stepcredit.runs.layout import moved, setting, today

OLD = {
    "seed": 1,
    "method": {
        "type": "otca",
        "kernel": "cps",
        "noise_level": 0.7,
        "window": {"size": 2, "first": 1},
        "best_of": None,
        "head": "clipped",
        "clip": 0.1,
        "kl_weight": 0.0,
        "floor": 0.5,
    },
    "training": {"iterations": 7, "ema": 0.9},
}
NEW = {
    "seed": 1,
    "method": {
        "type": "otca",
        "sampler": {"type": "cps", "noise_level": 0.7},
        "plan": {"window": {"size": 2, "first": 1}, "best_of": None},
        "objective": {"loss": {"type": "clipped", "clip": 0.1}, "kl_weight": 0.0},
        "rule": {"floor": 0.5},
    },
    "training": {"iterations": 7, "ema": 0.9},
}


def test_an_old_recipe_gets_the_places_of_today_and_is_left_as_it_was():
    before = repr(OLD)
    assert today(OLD) == NEW
    assert repr(OLD) == before


def test_a_recipe_of_today_stays():
    assert today(NEW) == NEW


@pytest.mark.parametrize("recipe", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("method.kernel", "method.sampler.type", "cps"),
        ("method.noise_level", "method.sampler.noise_level", 0.7),
        ("method.window", "method.plan.window", {"size": 2, "first": 1}),
        ("method.window.size", "method.plan.window.size", 2),
        ("method.best_of", "method.plan.best_of", None),
        ("method.clip", "method.objective.loss.clip", 0.1),
        ("method.floor", "method.rule.floor", 0.5),
        ("training.ema", "training.ema", 0.9),
        ("method.type", "method.type", "otca"),
        ("training.iterations", "training.iterations", 7),
        ("seed", "seed", 1),
    ],
)
def test_a_setting_is_found_by_either_key(recipe, old, new, value):
    assert moved(old) == new
    assert moved(new) == new
    assert setting(recipe, old) == value
    assert setting(recipe, new) == value


@pytest.mark.parametrize("key", ["method.clipp", "method.sampler.clip", "nowhere.at.all", "seed.number", ""])
def test_a_key_that_is_nowhere_is_an_error(key):
    with pytest.raises(KeyError):
        setting(OLD, key)


def test_the_name_of_a_part_is_never_a_setting_of_the_rule():
    for part in ("type", "sampler", "plan", "rule", "objective"):
        assert moved(f"method.{part}") == f"method.{part}"
