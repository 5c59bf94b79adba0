"""The folder of families is the registry: one file says all about a family, and those of other people are found."""

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch

from stepcredit.build import open_generator
from stepcredit.errors import RecipeError
from stepcredit.policies import families
from stepcredit.policies.families import family_of, settings_class
from stepcredit.policies.lora_file import NAME
from stepcredit.recipe.load import to_yaml, validate
from stepcredit.viewer.cite import entries

NAMES = families.names()


def settings_of(name: str, **keys: Any) -> Any:
    """A family's own settings; `weights`, `type` and others have no default in the class that all share."""
    own: Any = settings_class(name)
    return own(**keys)


def recipe_with(policy):
    return validate(
        {
            "policy": policy,
            "prompts": {"type": "scenes"},
            "method": {"type": "otca"},
            "rewards": [{"type": "diversity"}],
        }
    )


def test_the_folder_is_the_registry():
    assert {"flux", "qwen_image", "sd", "sd3", "wan"} <= set(families.names())


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_called_as_its_file(name):
    settings = settings_of(name)
    assert settings.type == name
    assert family_of(settings).__module__ == f"stepcredit.policies.families.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_its_pipeline_is_one_of_diffusers_and_leads_back_to_it(name):
    family = family_of(settings_of(name))
    assert family.pipeline_class().__name__ == family.pipeline
    assert families.taking(family.pipeline) == name
    expected = inspect.signature(family.pipeline_class().__init__).parameters
    assert set(family.network_names) <= expected.keys()
    assert set(family.parts) <= expected.keys()
    assert set(family.encoders) <= expected.keys()
    assert set(family.unused) <= expected.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_pipeline_knows_every_argument_of_its_call(name):
    keys = {"negative_prompt": "blurred"} if name != "flux" else {}
    settings = settings_of(name, resolution=(64, 96), guidance=2.5, **keys)
    family = family_of(settings)
    call = {key: value for key, value in family.call(settings).items() if value is not None}
    assert call.keys() <= inspect.signature(family.pipeline_class().__call__).parameters.keys()
    assert (call["height"], call["width"]) == (64, 96)
    assert 2.5 in call.values()
    assert call.get("negative_prompt") == keys.get("negative_prompt")


@pytest.mark.parametrize("name", NAMES)
def test_its_paper_is_in_the_bibliography(name):
    assert settings_class(name).paper in entries()


@pytest.mark.parametrize("name", NAMES)
def test_its_published_models_name_their_parts_as_the_pipeline_does(name):
    family = family_of(settings_of(name))
    assert settings_of(name).weights in {*family.published, "scenes"}
    for model in family.published.values():
        expected = inspect.signature(family.pipeline_class().__init__).parameters
        assert {*model.parts, *model.arguments} <= expected.keys()
        assert all("_class_name" in config for config in model.parts.values())


def test_files_of_a_lora_are_where_the_loader_of_diffusers_looks(tmp_path):
    wan = family_of(settings_of("wan"))
    assert wan.lora_files(tmp_path) == {
        "transformer": tmp_path / NAME,
        "transformer_2": tmp_path / "transformer_2" / NAME,
    }
    assert wan.lora_loader("transformer") == {}
    loader = wan.lora_loader("transformer_2")
    assert tmp_path / loader["subfolder"] / loader["weight_name"] == wan.lora_files(tmp_path)["transformer_2"]
    assert wan.lora_prefix() == "transformer"  # of both: the loader moves the second by `load_into_transformer_2`
    assert family_of(settings_of("sd")).lora_prefix() == "unet"


def test_checking_a_recipe_imports_no_diffusers():
    script = (
        "import sys\n"
        "from stepcredit.recipe.load import load_recipe\n"
        "load_recipe('recipes/flux1_dev/otca.yaml'), load_recipe('recipes/scenes_video/otca.yaml')\n"
        "print(sorted({'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def their_family(their_lab):
    """A family of somebody else, which is the embedded FLUX under another name."""
    name = their_lab(
        "model",
        "from typing import Literal\n"
        "from stepcredit.policies.families.flux import Flux, FluxFamily\n"
        "class Theirs(Flux):\n"
        "    type: Literal['their_lab.model'] = 'their_lab.model'\n"
        "    sharpness: float = 2.0\n"
        "class TheirFamily(FluxFamily):\n"
        "    text_batch = 3\n",
    )
    return {"type": name, "resolution": 32, "max_tokens": 12, "surface": {"type": "lora", "rank": 2}}


def test_a_family_of_ones_own_is_found_by_its_module_and_draws(their_family):
    recipe = recipe_with({**their_family, "sharpness": 3})
    assert recipe.policy_name == "their_lab.model"
    assert "sharpness: 3.0" in to_yaml(recipe)
    policy = open_generator(recipe.policy)
    assert policy.family.text_batch == 3
    latents = torch.zeros(1, *policy.latent_shape())
    assert policy.velocity(latents, torch.tensor([0.5]), policy.encode(["a red circle"])).isfinite().all()


def test_an_unknown_key_of_ones_own_family_names_the_nearest(their_family):
    with pytest.raises(RecipeError, match=r'policy\.sharpnes: unknown key; did you mean "sharpness"\?'):
        recipe_with({**their_family, "sharpnes": 1})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.at_all", r"cannot be imported.*is the module on the Python path"),
        ("os.path", r"posixpath must define exactly one subclass of PolicySettings, found 0"),
        (".flux", r"is not a module; write it as package\.module"),
        ("fluks", r'^policy\.type: there is no type "fluks"; did you mean "flux"'),
    ],
)
def test_a_type_that_is_no_family_says_why(name, reason):
    with pytest.raises(RecipeError, match=reason):
        recipe_with({"type": name})


def test_mistakes_of_the_generator_and_of_other_keys_are_told_together():
    with pytest.raises(RecipeError) as caught:
        validate({"policy": {"type": "flux", "wieghts": "x"}, "method": {"type": "otca", "flor": 0}, "sede": 1})
    message = str(caught.value)
    assert all(f"{key}: unknown key" in message for key in ("policy.wieghts", "method.flor", "sede"))
    assert "prompts: missing" in message
