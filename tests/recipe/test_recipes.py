"""Recipes: what is accepted, and that every mistake is named together with the nearest right word."""

import copy
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from stepcredit.errors import RecipeError, nearest
from stepcredit.recipe.flags import flag_value, laid_over, parse_flags
from stepcredit.recipe.load import changed_keys, load_recipe, to_yaml, validate
from stepcredit.recipe.read import find_recipe, read_yaml
from stepcredit.recipe.recipe import method_named
from stepcredit.settings.keys import flatten, labels
from stepcredit.settings.policies import Full
from stepcredit.settings.prompts import FilePrompts, ScenesPrompts
from stepcredit.settings.rewards import Composition, RewardChoice

NOT_REFUSED = pytest.fail.Exception
PACKAGED = sorted(Path(str(resources.files("stepcredit") / "recipes")).rglob("*.yaml"))


@pytest.fixture
def plain() -> dict[str, Any]:
    """The resolved default recipe as a dictionary that a test may spoil."""
    return yaml.safe_load(to_yaml(load_recipe()))


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(data)
    return str(caught.value)


def refused_flags(*flags: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(overrides=flags)
    return str(caught.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_packaged_recipe_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.rewards
    assert recipe.rollout.group_size >= 2


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_resolved_yaml_of_a_packaged_recipe_reads_back_as_the_same_recipe(path, tmp_path):
    recipe = load_recipe(path)
    resolved = to_yaml(recipe)
    again = load_recipe(write(tmp_path, resolved))
    assert again == recipe
    assert to_yaml(again) == resolved


@pytest.mark.parametrize(
    "text", ["1e5", "08", "010", "no", "1:30", "2024-01-01", "null", "=", "<<", "a # b", "- x", " x "]
)
def test_a_text_that_looks_like_something_else_survives_the_resolved_yaml(text, tmp_path):
    recipe = load_recipe("sd15", {"policy.negative_prompt": text})
    assert load_recipe(write(tmp_path, to_yaml(recipe))) == recipe


@pytest.mark.parametrize("name", ["otca", "moca", "tcd", "dance_grpo", "flow_grpo"])
def test_every_method_survives_the_resolved_yaml(name, tmp_path):
    recipe = load_recipe(overrides=["--method.type", name, "--method.objective.loss.clip", "0.01"])
    again = load_recipe(write(tmp_path, to_yaml(recipe)))
    assert again.method == recipe.method
    assert type(again.method) is type(recipe.method)
    assert again.method.model_dump()["objective"]["loss"]["clip"] == 0.01


# Unknown keys


@pytest.mark.parametrize(
    ("at", "misspelt", "meant"),
    [
        ((), "sede", "seed"),
        (("rollout",), "group_sise", "group_size"),
        (("optimiser",), "learing_rate", "learning_rate"),
        (("rewards", 1), "wieght", "weight"),
        (("held_out", 0), "nmae", "name"),
        (("method",), "sampelr", "sampler"),
        (("method", "rule"), "flor", "floor"),
        (("method", "sampler"), "noise_levle", "noise_level"),
        (("method", "objective", "loss"), "clp", "clip"),
        (("policy",), "wieghts", "weights"),
        (("policy", "surface"), "rnk", "rank"),
        (("prompts",), "splt", "split"),
        (("evaluation", "prompts"), "splt", "split"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_key(plain, at, misspelt, meant):
    owner = plain
    for part in at:
        owner = owner[part]
    owner[misspelt] = 1
    message = refused(plain)
    assert ".".join(map(str, (*at, misspelt))) + ": unknown key" in message
    assert f'did you mean "{meant}"?' in message
    assert "known: " in message


def test_several_mistakes_are_all_reported(plain):
    plain["sede"] = 1
    plain["rollout"]["steps"] = "many"
    message = refused(plain)
    assert "sede" in message
    assert "rollout.steps" in message


def test_the_known_keys_of_a_method_are_its_own(plain):
    plain["method"] = {"type": "dance_grpo", "rule": {"floor": 0.3}}
    message = refused(plain)
    assert "method.rule.floor: unknown key" in message
    assert "mix_of" in message


def test_a_hint_lists_what_is_known_even_when_nothing_is_near():
    assert nearest("zzz", ["b", "a"]) == "(known: a, b)"


# Values


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("rollout.steps", "many"),
        ("rollout.steps", "4.5"),
        ("rollout", "many"),
        ("rewards", "clip_t"),
        ("rewards.0", "clip_t"),
        ("method", "3"),
        ("method", "[otca]"),
        ("optimiser.betas", "[0.9]"),
        ("training.ema", "1.0"),
        ("optimiser.learning_rate", "0"),
        ("optimiser.learning_rate", ".nan"),
        ("method.sampler.noise_level", "loud"),
        ("policy.dtype", "float8"),
        ("seed", "-1"),
    ],
)
def test_a_value_of_the_wrong_type_or_size_names_its_key(flag, value):
    assert flag in refused_flags(f"--{flag}", value)


@pytest.mark.parametrize(
    ("flag", "value", "least"),
    [("rollout.group_size", "1", "2"), ("rollout.prompts", "0", "1"), ("rollout.steps", "1", "2")],
)
def test_a_rollout_below_its_least_size_is_refused_with_the_limit(flag, value, least):
    message = refused_flags(f"--{flag}", value)
    assert flag in message
    assert f"greater than or equal to {least}" in message
    assert f"got {value}" in message


def test_the_least_rollout_is_accepted():
    recipe = load_recipe(overrides=["--rollout.group_size", "2", "--rollout.prompts", "1", "--rollout.steps", "2"])
    assert (recipe.rollout.group_size, recipe.rollout.prompts, recipe.rollout.steps) == (2, 1, 2)


def test_a_number_like_1e_4_without_a_dot_is_a_number(tmp_path, plain):
    assert load_recipe(overrides=["--optimiser.learning_rate", "1e-4"]).optimiser.learning_rate == 1e-4
    text = re.sub("learning_rate: .*", "learning_rate: 1e-4", yaml.safe_dump(plain))
    assert "1e-4" in text
    assert load_recipe(write(tmp_path, text)).optimiser.learning_rate == 1e-4


@pytest.mark.parametrize("missing", ["policy", "prompts", "method", "rewards"])
def test_a_missing_section_is_named(plain, missing):
    del plain[missing]
    assert f"{missing}: missing" in refused(plain)


def test_an_unknown_reward_type_names_the_nearest(plain):
    plain["rewards"][0] = {"type": "clipt"}
    message = refused(plain)
    assert "rewards.0" in message
    assert 'did you mean "clip_t"?' in message


def test_an_unknown_method_names_the_nearest(plain):
    plain["method"] = {"type": "otac"}
    assert 'there is no method "otac"; did you mean "otca"?' in refused(plain)


def test_the_base_class_is_not_a_method(plain):
    plain["method"] = {"type": "base"}
    assert 'no method "base"' in refused(plain)


def test_an_unknown_policy_type_names_the_known_one(plain):
    plain["policy"]["type"] = "fluks"
    message = refused(plain)
    assert message.startswith('policy.type: there is no type "fluks"')
    assert 'did you mean "flux"' in message


def test_an_unknown_surface_type_names_the_nearest(plain):
    plain["policy"]["surface"] = {"type": "lroa"}
    message = refused(plain)
    assert "policy.surface" in message
    assert 'did you mean "lora"?' in message


def test_a_method_section_without_a_type_says_what_to_write(plain):
    plain["method"] = {"floor": 0.3}
    assert "name a method" in refused(plain)


def test_a_foreign_method_that_cannot_be_imported_says_so(plain):
    plain["method"] = {"type": "nowhere.at_all"}
    assert "cannot be imported" in refused(plain)


def test_a_module_without_a_method_is_refused(plain):
    plain["method"] = {"type": "os.path"}
    assert "exactly one subclass of Method, found 0" in refused(plain)


def test_a_method_of_ones_own_is_found_by_its_module(plain, their_lab):
    name = their_lab(
        "mine",
        "from typing import Literal\n"
        "from stepcredit.methods.base import Method\n"
        "from stepcredit.methods.dance_grpo import DanceGRPO\n"
        "from stepcredit.parts.likelihood_ratio import LikelihoodRatio\n"
        "from stepcredit.parts.rule import Rule\n"
        "from stepcredit.parts.sampling import DanceSDE, Stochastic\n"
        "class Sharp(Rule):\n"
        "    sharpness: float = 2.0\n"
        "    def assign(self, evidence): ...\n"
        "class Mine(Method):\n"
        "    type: Literal['their_lab.mine'] = 'their_lab.mine'\n"
        "    sampler: Stochastic = DanceSDE()\n"
        "    rule: Sharp = Sharp()\n"
        "    objective: LikelihoodRatio = LikelihoodRatio()\n",
    )
    plain["method"] = {"type": name, "rule": {"sharpness": 3}}
    recipe = validate(plain)
    assert recipe.method.rule.model_dump()["sharpness"] == 3.0
    assert yaml.safe_load(to_yaml(recipe))["method"]["rule"]["sharpness"] == 3.0
    plain["method"]["rule"]["sharpnes"] = 1
    assert 'did you mean "sharpness"?' in refused(plain)


@pytest.mark.parametrize("method", ["otca", "moca", "tcd"])
def test_weights_with_a_method_that_mixes_objectives_are_refused(method):
    message = refused_flags("--method.type", method, "--rewards.0.weight", "2")
    assert f"method {method} finds its own mix" in message
    assert "dance_grpo" in message


@pytest.mark.parametrize("method", ["dance_grpo", "flow_grpo"])
def test_weights_with_a_method_that_sums_objectives_are_kept(method):
    recipe = load_recipe(overrides=["--method.type", method, "--rewards.0.weight", "2"])
    assert [reward.weight for reward in recipe.rewards] == [2, 1, 1]


def test_two_rewards_of_one_name_are_refused(plain):
    twice = copy.deepcopy(plain)
    twice["rewards"].append({"type": "hps"})
    assert "reward hps is listed twice" in refused(twice)
    twice["rewards"][-1]["name"] = "hps_again"
    assert validate(twice).objectives[-1] == "hps_again"


def test_a_trained_reward_cannot_be_held_out_as_well(plain):
    plain["held_out"].append({"type": "clip_t"})
    assert "reward clip_t is listed twice (rewards and held_out together)" in refused(plain)


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe().seed = 4


# Files


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 3, seed: occurs twice; keep one"):
        read_yaml(write(tmp_path, "seed: 1\nthreads: 2\nseed: 3\n"))


def test_a_nested_key_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"line 3, rollout\.steps: occurs twice"):
        read_yaml(write(tmp_path, "rollout:\n  steps: 4\n  steps: 5\n"))


def test_a_recipe_that_is_not_utf8_is_refused_with_the_place(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: 1 # caf\xe9\n")
    with pytest.raises(RecipeError, match=r"not UTF-8 text \(.*byte 13\); save it as UTF-8"):
        read_yaml(path)


@pytest.mark.parametrize(("text", "kind"), [("- 1\n", "a list"), ("", "nothing"), ("hello\n", "a str")])
def test_a_recipe_that_is_not_a_mapping_is_refused(tmp_path, text, kind):
    with pytest.raises(RecipeError, match=f"holds {kind}.* wanted a mapping"):
        read_yaml(write(tmp_path, text))


@pytest.mark.parametrize("text", ["a: [1\n", "a: \x00\n", "\ta: 1\n", "a: 'x' 'y'\n", 'a: "\\UFFFFFFFF"\n'])
def test_a_recipe_that_is_not_plain_yaml_is_refused(tmp_path, text):
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_yaml(write(tmp_path, text))


def test_a_missing_recipe_names_the_nearest_packaged_one():
    with pytest.raises(RecipeError, match=r'did you mean "recipes/scenes/otca\.yaml"'):
        load_recipe("recipes/scenes/otac.yaml")


def test_a_recipe_here_goes_before_the_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = find_recipe("recipes/scenes/otca.yaml")
    assert inside.is_absolute()
    (tmp_path / "recipes" / "scenes").mkdir(parents=True)
    (tmp_path / "recipes" / "scenes" / "otca.yaml").write_text("seed: 9\n")
    assert read_yaml(find_recipe("recipes/scenes/otca.yaml")) == {"seed": 9}
    assert find_recipe("scenes/otca.yaml") == inside


# Flags


def test_a_flag_takes_its_value_after_a_space_or_an_equals_sign():
    assert parse_flags(["--a.b=1", "--c.d", "2"]) == [("a.b", "1"), ("c.d", "2")]
    assert parse_flags(["--a=x=y"]) == [("a", "x=y")]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.3", 0.3), ("null", None), ("[1, 2]", [1, 2]), ("true", True), ("-1", -1), ("{a: 1}", {"a": 1})],
)
def test_flag_values_are_read_as_in_a_file(text, value):
    assert flag_value("a", text, is_text=False) == value


def test_dashes_in_a_flag_are_underscores():
    assert load_recipe(overrides=["--rollout.group-size", "5"]).rollout.group_size == 5


def test_settings_are_the_same_as_flags():
    settings = {"method.rule.floor": 0.25, "method.type": "tcd", "optimiser.learning_rate": 1e-7, "training.ema": None}
    flags = [f"--{key}={'null' if value is None else value}" for key, value in settings.items()]
    assert load_recipe(overrides=settings) == load_recipe(overrides=flags)
    assert load_recipe(overrides={"output.folder": Path("here"), "optimiser.betas": (0.5, 0.75)}).output.folder == Path(
        "here"
    )


def test_settings_stay_as_they_were():
    rewards = [{"type": "clip_t"}]
    assert load_recipe(overrides={"rewards": rewards, "rewards.0.name": "clip"}).objectives[0] == "clip"
    assert rewards == [{"type": "clip_t"}]


def test_keys_are_flattened():
    assert flatten({"a": 1, "b": {"c": [{"d": 2}], "e": {"f": None}}, "g": {}}) == {
        "a": 1,
        "b.c": [{"d": 2}],
        "b.e.f": None,
    }


def test_changed_keys_are_named():
    recipe = load_recipe()
    assert changed_keys(recipe, recipe) == []
    other = load_recipe(overrides={"seed": 5, "method.type": "tcd", "rewards.0.name": "own"})
    assert changed_keys(recipe, other)[:1] == ["seed"]
    assert {"method.type", "rewards"} <= set(changed_keys(recipe, other))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"type": "hps"}, "hps"),
        ({"type": "hps", "name": "own"}, "own"),
        ({"type": "custom", "path": "package.module:taste"}, "taste"),
        ({"type": "custom", "path": "package.module:taste", "name": "own"}, "own"),
        ({"type": "custom", "path": "package.module:taste", "name": None}, "taste"),
    ],
)
def test_a_reward_has_the_same_label_as_settings_and_as_plain_data(settings, name):
    assert labels(settings) == TypeAdapter(RewardChoice).validate_python(settings).labels == [name]


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", "1", "--seed", "2"),
        ("--rollout.group-size=3", "--rollout.group_size=3"),
        ("--method", "otca", "--method.type", "tcd"),
        ("--rollout", "{steps: 4}", "--rollout.steps", "5"),
        ("--rollout.steps", "5", "--rollout", "{steps: 4}"),
        ("--method", "{type: tcd, rule: {floor: 0}}", "--method.rule.floor", "0.1"),
    ],
)
def test_a_key_that_two_flags_set_is_refused(flags):
    assert "is given twice" in refused_flags(*flags)


def test_a_section_that_is_set_as_a_whole_does_not_clear_its_parts():
    flags = ("--prompts.path", "x.txt", "--prompts", "{type: file}")
    assert load_recipe(overrides=flags).prompts == FilePrompts(path=Path("x.txt"))


def test_flags_are_laid_over_the_flags_of_a_program():
    assert laid_over(["--a", "1", "--b.c=2"], ["--a", "3"]) == ["--b.c=2", "--a", "3"]


def test_a_flag_reaches_an_item_of_a_list():
    recipe = load_recipe(overrides=["--rewards.0.name", "x"])
    assert recipe.objectives == ["x", "hps", "aesthetic"]


def test_a_flag_replaces_a_whole_item_of_a_list():
    recipe = load_recipe(overrides=["--held_out.0", "{type: custom, path: 'm:f'}"])
    assert [name for reward in recipe.held_out for name in reward.labels] == ["f", "diversity"]


@pytest.mark.parametrize("item", ["9", "x", "-1"])
def test_a_flag_to_an_item_that_is_not_there_is_refused(item):
    assert "not an item of a list with 3" in refused_flags(f"--rewards.{item}.name", "x")


def test_a_flag_below_a_single_value_is_refused():
    with pytest.raises(RecipeError, match="single value"):
        load_recipe(overrides=["--rollout.steps.x", "3"])


def test_switching_a_type_by_flag_drops_the_settings_of_the_old_type():
    recipe = load_recipe(overrides=["--prompts.type", "file", "--prompts.path", "x.txt"])
    assert recipe.prompts == FilePrompts(path=Path("x.txt"))
    recipe = load_recipe(overrides=["--policy.surface.type", "full"])
    assert recipe.policy.surface == Full()
    recipe = load_recipe(overrides=["--method.type", "flow_grpo"])
    assert recipe.method == method_named("flow_grpo")  # its own settings, none of those that the file gives otca
    recipe = load_recipe(overrides=["--rewards.0.type", "composition", "--held_out", "[]"])
    assert recipe.rewards[0] == Composition()


def test_naming_the_same_type_by_flag_keeps_its_settings():
    recipe = load_recipe(overrides=["--method.type", "otca", "--prompts.type", "scenes"])
    assert recipe.method == method_named("otca", {"sampler": {"noise_level": 0.7}, "rule": {"floor": 0.5}})
    assert recipe.prompts == ScenesPrompts(split="training")


def test_a_flag_without_a_value_is_refused():
    assert "--seed has no value" in refused_flags("--seed")


def test_a_value_without_a_flag_is_refused():
    assert 'got "seed" where a flag was wanted' in refused_flags("seed", "3")


@pytest.mark.parametrize(
    ("flag", "meant"), [("sede", "seed"), ("rollout.stps", "steps"), ("policy.surface.rnk", "rank")]
)
def test_an_unknown_flag_names_the_nearest(flag, meant):
    message = refused_flags(f"--{flag}", "3")
    assert f"{flag}: unknown key" in message
    assert f'did you mean "{meant}"?' in message


def test_settings_and_recipe_files_are_read_without_torch():
    script = (
        "import sys, stepcredit, stepcredit.settings.run, stepcredit.settings.policies, stepcredit.recipe.compose\n"
        "print(sorted({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Known defects


@pytest.mark.parametrize("value", ["[1", "{a: b: c}", "[*x]"])
def test_a_flag_value_that_is_not_yaml_is_refused(value):
    assert "--rollout.steps" in refused_flags("--rollout.steps", value)


@pytest.mark.parametrize(
    "text", ["ugly #lowres, watermark #2: text", "[1", "a: b: c", "*x", "5", "true", "2024-01-01", '"a" and "b"', "010"]
)
def test_a_flag_whose_key_takes_text_is_that_text(text):
    assert load_recipe("sd15", ["--policy.negative_prompt", text]).policy.model_dump()["negative_prompt"] == text
    assert load_recipe(overrides=["--output.folder", text]).output.folder == Path(text)


def test_quotes_around_a_flag_are_not_part_of_it_and_null_is_null():
    flags = ["--policy.negative_prompt", "'a, #b'", "--policy.revision", "null"]
    policy = load_recipe("sd15", flags).policy.model_dump()
    assert (policy["negative_prompt"], policy["revision"]) == ("a, #b", None)


def test_a_flag_is_read_by_the_type_that_another_flag_chooses():
    flags = ["--prompts.path", "a # b.txt", "--prompts.type", "file", "--rewards.0.name", "7"]
    recipe = load_recipe(overrides=flags)
    assert recipe.prompts == FilePrompts(path=Path("a # b.txt"))
    assert recipe.objectives[0] == "7"


@pytest.mark.parametrize("name", [".otca", "..x", "."])
def test_a_relative_method_module_is_refused(name):
    assert "method" in refused_flags("--method.type", name)


@pytest.mark.parametrize("text", ["? [1, 2]\n: 2\n", "? {a: b}\n: 2\n"])
def test_a_yaml_key_that_is_not_a_word_is_refused(tmp_path, text):
    with pytest.raises(RecipeError):
        read_yaml(write(tmp_path, text))


def test_flags_of_a_new_type_may_come_before_the_type():
    recipe = load_recipe(overrides=["--prompts.path", "x.txt", "--prompts.type", "file"])
    assert recipe.prompts == FilePrompts(path=Path("x.txt"))


def test_a_flag_followed_by_another_flag_has_no_value():
    assert "--seed has no value" in refused_flags("--seed", "--rollout.steps", "3")


def test_training_the_last_step_of_a_kernel_that_ends_without_noise_is_refused():
    assert "train_last" in refused_flags("--method.sampler.train_last", "true", "--method.sampler.type", "cps")


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimiser.learning_rate", ".inf"),
        ("--method.type", "dance_grpo", "--rewards.0.weight", ".nan"),
        ("--method.sampler.noise_level", ".inf"),
    ],
)
def test_a_setting_that_is_not_finite_is_refused(flags):
    refused_flags(*flags)


def test_betas_outside_zero_to_one_are_refused():
    refused_flags("--optimiser.betas", "[1.5, 2]")


def test_a_seed_that_torch_cannot_take_is_refused():
    refused_flags("--seed", str(2**62))


# What does not fit into the trajectory


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (
            ("--method.plan.window", "{size: 4}", "--rollout.steps", "4"),
            "method.plan.window holds 4 of the steps 0 to 2",
        ),
        (
            ("--method.plan.window", "{size: 2, first: 2}", "--rollout.steps", "4"),
            "method.plan.window holds 2 of the steps 2 to",
        ),
        (("--method.plan.window", "{size: 1, end: 4}", "--rollout.steps", "4"), "the trained steps are 0 to 2"),
        (("--method.plan.window", "{size: 2, first: 1, end: 2}"), "method.plan.window holds 2 of the steps 1 to 1"),
    ],
)
def test_a_window_outside_the_trajectory_names_what_to_change(flags, wanted):
    message = refused_flags(*flags)
    assert wanted in message
    assert "lower window.size, window.first or window.end, or raise rollout.steps" in message


def test_a_window_may_reach_the_last_step_if_that_is_trained():
    flags = ("--method.plan.window", "{size: 4}", "--rollout.steps", "4")
    refused_flags(*flags)
    assert load_recipe(overrides=[*flags, "--method.sampler.train_last", "true"]).method.plan.window.size == 4


def test_a_window_that_a_method_brings_itself_is_checked_too():
    flags = ("--method.type", "flash_grpo", "--method.plan.window.size", "5")
    assert "rollout.steps" in refused_flags(*flags, "--rollout.steps", "5")
    assert load_recipe(overrides=[*flags, "--rollout.steps", "6"]).method.plan.window.size == 5


def test_more_best_samples_than_a_group_has_name_both_numbers():
    message = refused_flags("--method.plan.best_of", "6", "--rollout.group_size", "5")
    assert "method.plan.best_of is 6, and a group has 5 samples; lower it" in message
    assert load_recipe(overrides=["--method.plan.best_of", "5", "--rollout.group_size", "5"]).method.plan.best_of == 5


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("plan.window", "{size: 0}"),
        ("plan.window", "{size: 1, first: -1}"),
        ("plan.window", "{size: 1, end: 0}"),
        ("plan.window", "{size: 1, per: sample}"),
        ("plan.best_of", "1"),
        ("plan.timestep_fraction", "0"),
        ("plan.timestep_fraction", "1.1"),
        ("objective.loss", "{type: soft}"),
        ("objective.profile", "flat"),
        ("objective.place", "both"),
        ("objective.form", "log"),
        ("objective.preserve", "all"),
    ],
)
def test_a_setting_of_the_plan_or_the_loss_that_makes_no_sense_is_refused_by_name(flag, value):
    assert f"method.{flag}" in refused_flags(f"--method.{flag}", value)
