"""Paths in settings: `~` is the home folder everywhere, and what a run writes down can be found from anywhere."""

from pathlib import Path

import pytest

from stepcredit.errors import RecipeError
from stepcredit.recipe.load import DEFAULT, load_recipe, to_yaml


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with some files, and a home folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "clip").mkdir(parents=True)
    (tmp_path / "models" / "flux").mkdir(parents=True)
    (tmp_path / "head.safetensors").touch()
    (tmp_path / "scenes").mkdir()
    return tmp_path


PATHS = {
    "prompts": lambda path: {"type": "file", "path": path},
    "evaluation": lambda path: {"count": 8, "prompts": {"type": "file", "path": path}},
    "policy": lambda path: {"type": "flux", "resolution": 8, "weights": path},
    "policy.surface": lambda path: {"type": "flux", "resolution": 8, "surface": {"type": "lora", "start": path}},
    "rewards": lambda path: [{"type": "clip_t", "weights": path}],
    "held_out": lambda path: [{"type": "aesthetic", "name": "own", "head": path}],
    "tracking": lambda path: [{"type": "tensorboard", "folder": path}],
}


@pytest.mark.parametrize("section", PATHS)
@pytest.mark.parametrize(
    ("path", "wanted"),
    [("models/flux", "models/flux"), ("./models/../head.safetensors", "head.safetensors"), ("~/clip", "home/clip")],
)
def test_a_path_that_is_read_is_written_down_absolute(here, section, path, wanted):
    recipe = load_recipe(DEFAULT, {section.partition(".")[0]: PATHS[section](path)})
    assert str(here / wanted) in to_yaml(recipe)


def test_a_run_finds_its_files_from_another_folder(here, monkeypatch):
    (here / "run.yaml").write_text(to_yaml(load_recipe(DEFAULT, {"prompts": PATHS["prompts"]("prompts.txt")})))
    monkeypatch.chdir(here / "home")
    assert load_recipe(here / "run.yaml").model_dump()["prompts"]["path"] == here / "prompts.txt"


@pytest.mark.parametrize("name", ["scenes", "black-forest-labs/FLUX.1-dev", "models/nothing-here"])
def test_hub_ids_and_the_embedded_models_keep_their_names(here, name):
    recipe = load_recipe(DEFAULT, {"policy.weights": name, "rewards": PATHS["rewards"](name)})
    assert recipe.policy.weights == recipe.model_dump()["rewards"][0]["weights"] == name


@pytest.mark.parametrize(
    ("folder", "wanted"), [("~/runs/first", "home/runs/first"), ("runs/first", None), ("/tmp/a~b", None)]
)
def test_the_run_folder_may_be_at_home_and_is_else_as_it_is_said(here, folder, wanted):
    recipe = load_recipe(DEFAULT, {"output.folder": folder})
    assert recipe.folder == (Path(folder) if wanted is None else here / wanted)


@pytest.mark.parametrize("section", PATHS)
@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000, "a\0b"])
def test_a_path_that_no_file_can_have_is_refused_by_its_key(here, section, path):
    with pytest.raises(RecipeError, match=rf"{section.replace('.', '[.]')}.*no file can be called so"):
        load_recipe(DEFAULT, {section.partition(".")[0]: PATHS[section](path)})
