"""Recipe files: where they are, and YAML that refuses what it would otherwise pass over in silence."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

from stepcredit import methods
from stepcredit.errors import RecipeError, nearest, shown
from stepcredit.files.reading import read_text
from stepcredit.recipe.moved import moved_recipe
from stepcredit.recipe.plain import read_plain

_MOST_BYTES = 2**20  # seconds to read; a recipe has a few thousand
PACKAGED = Path(str(resources.files("stepcredit") / "recipes"))
"""The recipes inside the package: one file a model, and the settings of OTCA's paper in full below a folder."""


def model_recipes() -> dict[str, Path]:
    """What can be named without a path: the models, such as `flux1_dev`."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.yaml"))}


def find_recipe(source: str | Path) -> Path:
    """A recipe file here, or a model or file of that name inside the package."""
    path = Path(source)
    recipe = path if is_file(path) else packaged_recipe(path)
    if recipe is not None:
        return recipe
    now = moved_recipe(path, model_recipes(), methods.names())
    if now is not None:
        raise RecipeError(f"{source} is now: {now}")
    hint = nearest(str(source), recipe_names())
    raise RecipeError(f"there is no recipe {shown(str(source))}, neither here nor inside the package; {hint}")


def packaged_recipe(name: Path) -> Path | None:
    """`flux1_dev`, `flux1_dev.yaml`, `flux1_dev/otca.yaml` and `recipes/flux1_dev/otca.yaml` inside the package."""
    if str(name) in model_recipes():
        return model_recipes()[str(name)]
    # The README writes `recipes/...`, as the folder is called in the package and in a checkout.
    inside = PACKAGED.joinpath(*(name.parts[1:] if name.parts[:1] == ("recipes",) else name.parts))
    return inside if is_file(inside) else None


def is_file(path: Path) -> bool:
    """Whether a name is one of a file; pathlib would fail on one that is too long."""
    return os.path.isfile(path)


def recipe_names() -> list[str]:
    """Every name that `find_recipe` takes from the package: models, then files below a folder."""
    below = [f"recipes/{path.relative_to(PACKAGED).as_posix()}" for path in PACKAGED.rglob("*/*.yaml")]
    return [*model_recipes(), *sorted(below)]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; what other readers would pass over or guess at is an error that names its line and key."""
    text = read_text(path, most_bytes=_MOST_BYTES, error=RecipeError, advice="keep prompts in a file of their own")
    try:
        content = read_plain(text)
    except RecipeError as error:
        between = " is " if str(error).startswith("not valid") else ", "
        raise RecipeError(f"{path}{between}{error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {_kind(content)}, wanted a mapping of recipe keys such as `policy:`")
    return content


def _kind(content: Any) -> str:
    """What a file holds that is no recipe."""
    return "nothing" if content is None else f"a {type(content).__name__} ({shown(content)})"
