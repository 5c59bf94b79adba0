"""From a YAML file and command-line flags to a checked `Recipe`, with errors that name the nearest right word."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from stepcredit.errors import RecipeError, nearest
from stepcredit.policies.families import settings_class
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.settings.keys import flatten

DEFAULT = "recipes/scenes/otca.yaml"


def load_recipe(source: str | Path = DEFAULT, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """Read a recipe and apply flags such as `["--seed", "3"]`, or settings such as `{"seed": 3, "method.floor": 0}`.

    A path that does not exist here is looked for among the recipes inside the package.
    """
    data = read_yaml(find_recipe(source))
    pairs = deepcopy(list(overrides.items())) if isinstance(overrides, Mapping) else parse_flags(overrides)
    for key, value in sorted(pairs, key=lambda pair: not pair[0].endswith(".type")):  # a type, then its settings
        _put(data, key, value)
    return validate(data)


def validate(data: dict[str, Any]) -> Recipe:
    """Check a recipe that is already a dictionary."""
    data = dict(data)
    problems: list[str] = []
    # these two have no union of classes to choose from: each type is a file, which is found by its name
    for key, class_of in {"policy": settings_class, "method": method_class}.items():
        section = data.get(key)
        if isinstance(section, dict) and "type" in section:
            settings = class_of(str(section["type"]))
            try:
                data[key] = settings.model_validate(section)
            except ValidationError as error:
                problems.append(_explain(error, settings, (key,)))
                data[key] = settings.model_construct()  # stands in, so that the mistakes of other keys are found, too
    try:
        recipe = Recipe.model_validate(data)
        if not problems:
            return recipe
    except ValidationError as error:
        across_keys = error.errors()[0]["loc"] == ()
        if not (across_keys and problems):  # what is checked across keys means nothing with a stand-in
            problems.append(_explain(error, Recipe, ()))
    raise RecipeError("\n".join(problems))


def find_recipe(source: str | Path) -> Path:
    """A recipe file here, or the one of that name inside the package."""
    path = Path(source)
    if path.is_file():
        return path
    packaged = Path(str(resources.files("stepcredit") / "recipes"))
    inside = packaged.joinpath(*(path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts))
    if inside.is_file():
        return inside
    names = [f"recipes/{file.relative_to(packaged).as_posix()}" for file in packaged.rglob("*.yaml")]
    raise RecipeError(
        f'there is no recipe "{source}", neither here nor inside the package; {nearest(str(source), names)}'
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; a key that occurs twice is an error, not a silent choice of the last one."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    except RecipeError as error:
        raise RecipeError(f"{path}, {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds {type(data).__name__}, wanted a mapping of recipe keys such as `policy:`")
    return data


def parse_flags(tokens: Sequence[str]) -> list[tuple[str, Any]]:
    """`--a.b value` and `--a.b=value` pairs; values are read as YAML, so `0.3`, `null`, `[1, 2]` work."""
    pairs, rest = [], list(tokens)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise RecipeError(f'got "{flag}" where a flag was wanted; recipe keys are set as --key.subkey value')
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RecipeError(f"--{key} has no value; write --{key} VALUE")
            value = rest.pop(0)
        try:
            pairs.append((key.replace("-", "_"), yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise RecipeError(
                f"--{key}: {value!r} is not valid YAML ({error}); put quotes inside, '\"{value}\"'"
            ) from None
    return pairs


def changed_keys(before: Recipe, after: Recipe) -> list[str]:
    """Dotted keys whose values differ."""
    old, new = (flatten(recipe.model_dump(mode="json")) for recipe in (before, after))
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _StrictLoader(yaml.SafeLoader):
    pass


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    odd = [key for key in keys if not isinstance(key, str)]
    if odd:
        raise RecipeError(f"line {node.start_mark.line + 1}: key {odd[0]!r} is not a word")
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise RecipeError(f"line {node.start_mark.line + 1}: key {', '.join(map(repr, twice))} occurs twice; keep one")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    at: Any = data
    for depth, key in enumerate(parents):
        if isinstance(at, list):
            at = _item(at, key, dotted)
            continue
        if not isinstance(at.setdefault(key, {}), dict | list):
            raise RecipeError(f"--{dotted}: {'.'.join(parents[: depth + 1])} is a single value, it has no sub-keys")
        at = at[key]
    if isinstance(at, list):
        _item(at, last, dotted)
        at[int(last)] = value
    else:
        if last == "type" and at.get("type") not in (None, value):
            at.clear()  # another choice: the recipe's settings of the old one do not apply to it
        at[last] = value


def _item(items: list[Any], key: str, dotted: str) -> Any:
    if not key.isdigit() or int(key) >= len(items):
        raise RecipeError(f'--{dotted}: "{key}" is not an item of a list with {len(items)} (count from 0)')
    return items[int(key)]


def _explain(error: ValidationError, model: type[BaseModel], prefix: tuple[str, ...]) -> str:
    lines = []
    for item in error.errors(include_url=False):
        at = (*prefix, *(str(part) for part in item["loc"]))
        owner = _model_at(model, item["loc"][:-1])
        if item["type"] == "extra_forbidden" and owner is not None:
            lines.append(f"{_dotted(at, model)}: unknown key; {nearest(str(item['loc'][-1]), owner.model_fields)}")
        elif item["type"] == "union_tag_invalid" and "ctx" in item:
            known = [tag.strip(" '") for tag in item["ctx"]["expected_tags"].split(",")]
            lines.append(
                f'{_dotted(at, model)}: there is no type "{item["ctx"]["tag"]}"; {nearest(item["ctx"]["tag"], known)}'
            )
        elif item["type"] == "union_tag_not_found":
            lines.append(f'{_dotted(at, model)}: no "type"; say which, e.g. {{type: ...}}')
        elif item["type"] == "missing":
            lines.append(f"{_dotted(at, model)}: missing; a recipe must set it")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = "" if item["type"] == "value_error" else f", got {item['input']!r}"
            lines.append(f"{_dotted(at, model)}: {message}{got}" if at else message)
    return "\n".join(lines)


def _dotted(at: tuple[str, ...], model: type[BaseModel]) -> str:
    """The key as a user writes it: the tags that pydantic adds for unions are left out."""
    tags = {field.default for item in _all_models(model) for name, field in item.model_fields.items() if name == "type"}
    return ".".join(part for index, part in enumerate(at) if not (0 < index < len(at) - 1 and part in tags))


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The settings class that an error location points into."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        tagged = [
            item for item in candidates if "type" in item.model_fields and item.model_fields["type"].default == part
        ]
        if tagged:
            candidates = tagged
        elif not isinstance(part, int):
            fields = [item.model_fields[part] for item in candidates if part in item.model_fields]
            candidates = [found for field in fields for found in _models_in(field.annotation)]
    return candidates[0] if candidates else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple, Union) or get_args(annotation):
        return [found for argument in get_args(annotation) for found in _models_in(argument)]
    return []


def _all_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    below = [found for field in model.model_fields.values() for found in _models_in(field.annotation)]
    return [model, *(deeper for found in below for deeper in _all_models(found))]
