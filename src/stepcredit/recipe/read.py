"""Recipe files: where they are, and YAML that refuses what it would otherwise pass over in silence."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from stepcredit import methods
from stepcredit.errors import RecipeError, nearest
from stepcredit.recipe.moved import moved_recipe

PACKAGED = Path(str(resources.files("stepcredit") / "recipes"))
"""The recipes inside the package: one file a model, and the settings of OTCA's paper in full below a folder."""


def model_recipes() -> dict[str, Path]:
    """What can be named without a path: the models, such as `flux1_dev`."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.yaml"))}


def find_recipe(source: str | Path) -> Path:
    """A recipe file here, or a model or file of that name inside the package."""
    path = Path(source)
    recipe = path if path.is_file() else packaged_recipe(path)
    if recipe is not None:
        return recipe
    now = moved_recipe(path, model_recipes(), methods.names())
    if now is not None:
        raise RecipeError(f"{source} is now: {now}")
    hint = nearest(str(source), recipe_names())
    raise RecipeError(f'there is no recipe "{source}", neither here nor inside the package; {hint}')


def packaged_recipe(name: Path) -> Path | None:
    """`flux1_dev`, `flux1_dev.yaml`, `flux1_dev/otca.yaml` and `recipes/flux1_dev/otca.yaml` inside the package."""
    if str(name) in model_recipes():
        return model_recipes()[str(name)]
    # The README writes `recipes/...`, as the folder is called in the package and in a checkout.
    inside = PACKAGED.joinpath(*(name.parts[1:] if name.parts[:1] == ("recipes",) else name.parts))
    return inside if inside.is_file() else None


def recipe_names() -> list[str]:
    """Every name that `find_recipe` takes from the package: models, then files below a folder."""
    below = [f"recipes/{path.relative_to(PACKAGED).as_posix()}" for path in PACKAGED.rglob("*/*.yaml")]
    return [*model_recipes(), *sorted(below)]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; a key that occurs twice is an error, not a silent choice of the last one."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    except RecipeError as error:  # from `_mapping`, which knows the line and not the file
        raise RecipeError(f"{path}, {error}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {type(content).__name__}, wanted a mapping of recipe keys such as `policy:`")
    return content


class _StrictLoader(yaml.SafeLoader):
    """A class of its own, because constructors are registered on the class and would change every SafeLoader."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    line = node.start_mark.line + 1
    # Always deep, whatever is asked: PyYAML fills shallow ones in later, and the checks here would see them empty.
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if not isinstance(key, str):
            raise RecipeError(f"line {line}: key {key!r} is not a word")
    repeated = {key for key in keys if keys.count(key) > 1}
    if repeated:
        raise RecipeError(f"line {line}: key {', '.join(map(repr, sorted(repeated)))} occurs twice; keep one")
    values = [loader.construct_object(value, deep=True) for _, value in node.value]
    return dict(zip(keys, values, strict=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
