"""Writes docs/recipes.md from the settings classes, so that the page cannot drift from the code.

python scripts/recipe_page.py
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stepcredit.methods import names
from stepcredit.methods.base import Method, Window
from stepcredit.recipe.recipe import Recipe, method_class

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

HEAD = """# Recipes, key by key

*Written by `scripts/recipe_page.py` from the settings classes; a test keeps it so.*

A recipe is a YAML file. A missing key has the default below; an unknown one is refused, and the nearest known one is
named. Every key is a flag, too: `--rollout.group_size 16`, `--method.floor 0`, `--rewards.0.name clip`.
`stepcredit train RECIPE --dry-run` prints the recipe with every default filled in.

Where a key has a `type`, the type decides which other keys there are.

## From several files to one recipe

`stepcredit recipes` lists the models that have a recipe in the package; `stepcredit train flux1_dev --method pcpo` is
one of them with another method. Two keys of a file say what it is put together from, and a resolved recipe has neither:

* `extends: flux1_dev`, or a path beside this file. This file is laid over that one: mappings key by key; lists, single
  values and mappings with another `type` replace.
* `methods: {pcpo: {...}, otca: {...}}`: what a method is given on this model beside its own defaults, if it is the
  method of the run and nothing else sets the key.

`method: otca` is short for `method: {type: otca}`. So this file is PCPO on FLUX.1-dev with another seed:

```yaml
extends: flux1_dev
method: pcpo
seed: 1
```
"""

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
TYPE_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}


def page() -> str:
    """The whole page; what is described once is referred to later."""
    parts = [HEAD, "## The recipe itself\n", table(Recipe.model_fields)]
    described: dict[type[BaseModel], str] = {}
    for name, field in Recipe.model_fields.items():
        models = models_in(field.annotation)
        if name == "method":
            parts.append(methods(field))
        elif models:
            parts.append(f"## `{name}`\n")
            parts.append(f"{field.description}\n" if field.description else "")
            parts += choices(models, described)
            for model in models:
                described.setdefault(model, name)
    return "\n".join(part for part in parts if part)


def choices(models: list[type[BaseModel]], described: Mapping[type[BaseModel], str]) -> list[str]:
    """The classes that one key can hold, or where they are described: rewards are trained and held out alike."""
    if all(model in described for model in models):
        earlier = described[models[0]]
        return [f"The choices are those of [`{earlier}`](#{earlier}).\n"]
    return [section(model, described, several=len(models) > 1) for model in models]


def methods(field: FieldInfo) -> str:
    """The keys that every method has, then what each adds or sets otherwise."""
    shared = Method.model_fields
    window = f"`window` holds: {first_line(Window)}\n\n{table(Window.model_fields)}"
    parts = [f"## `method`\n\n{field.description}\n\nEvery method has these keys:\n", table(shared), window]
    for name in names():
        model = method_class(name)
        own = {
            key: value
            for key, value in model.model_fields.items()
            if key not in shared or value.default != shared[key].default
        }
        sentence = f"{model.summary[0].upper()}{model.summary[1:]} ({model.paper})."
        parts.append(f"### `type: {name}`\n\n{sentence}\n\n{table(own)}")
    return "\n".join(parts)


def section(model: type[BaseModel], described: Mapping[type[BaseModel], str], *, several: bool) -> str:
    """One settings class, and those that its keys hold."""
    title = f"### `type: {model.model_fields['type'].default}`\n\n" if several else ""
    text = f"{title}{first_line(model)}\n\n{table(model.model_fields)}"
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            if inner not in described:
                kind = inner.model_fields["type"].default
                text += f"\n`type: {kind}`: {first_line(inner)}\n\n{table(inner.model_fields)}"
    return text


def first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def table(fields: Mapping[str, FieldInfo]) -> str:
    """Key, type, default, meaning of every field."""
    rows = [row(name, field) for name, field in fields.items() if name != "type"]
    if not rows:
        return "No keys besides `type`.\n"
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("\n", " ")  # a line break would end the table
    return f"| `{name}` | {spelled(field)} | {default(field)} | {meaning} |"


def spelled(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    bounds = []
    for constraint in field.metadata:
        # One object may hold two bounds: `Interval(ge=0, lt=1)`.
        bounds += [f"{sign} {getattr(constraint, name)}" for name, sign in BOUNDS.items() if hasattr(constraint, name)]
    return " ".join([words(field.annotation), *bounds])


def words(annotation: Any) -> str:
    """An annotation as a reader of YAML would say it."""
    origin = get_origin(annotation)
    inside = get_args(annotation)
    if annotation is NoneType:
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(words(choice) for choice in inside))  # each once: two classes are "settings"
    if origin is typing.Annotated:
        return words(inside[0])
    if origin is list or (origin is tuple and inside[-1] is ...):
        return f"list of {words(inside[0])}"
    if origin is tuple:
        return f"{len(inside)} numbers"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    return TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    """The default as YAML has it; a class that the page describes is only named."""
    if field.is_required():
        return "**must be set**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Window):
        return f"`{value.model_dump(exclude_defaults=True)}`"
    if isinstance(value, BaseModel):
        kind = getattr(value, "type", None)
        return f"`type: {kind}`" if kind else "see below"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that a key can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if annotation.model_fields else []
    return [model for argument in get_args(annotation) for model in models_in(argument)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
