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
from stepcredit.policies.families import names as families
from stepcredit.policies.families import settings_class
from stepcredit.recipe.recipe import Recipe, method_class

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

HEAD = """# Recipes, key by key

*Written by `scripts/recipe_page.py` from the settings classes; a test keeps it so.*

A recipe is a YAML file. A missing key has the default below; an unknown one is refused, and the nearest known one is
named. Every key is a flag, too: `--rollout.group_size 16`, `--method.floor 0`, `--rewards.0.name clip`.
`stepcredit train RECIPE --dry-run` prints the recipe with every default filled in.

Where a key has a `type`, the type decides which other keys there are.
"""


def page() -> str:
    """The whole page; what is described once is referred to later."""
    parts = [HEAD, "## The recipe itself\n", table(Recipe.model_fields)]
    where: dict[type[BaseModel], str] = {}
    for name, field in Recipe.model_fields.items():
        models = models_in(field.annotation)
        if name == "policy":
            models = [settings_class(family) for family in families()]
        if name == "method":
            parts.append(methods(field))
        elif models:
            parts.append(f"## `{name}`\n")
            parts.append(f"{field.description}\n" if field.description else "")
            if all(model in where for model in models):
                parts.append(f"The choices are those of [`{where[models[0]]}`](#{where[models[0]]}).\n")
            else:
                parts += [section(model, where, several=len(models) > 1) for model in models]
            where |= {model: where.get(model, name) for model in models}
    return "\n".join(part for part in parts if part)


def methods(field: FieldInfo) -> str:
    """The keys that every method has, then what each adds or sets otherwise."""
    shared = Method.model_fields
    window = f"`window` holds: {first_line(Window)}\n\n{table(Window.model_fields)}"
    parts = [f"## `method`\n\n{field.description}\n\nEvery method has these keys:\n", table(shared), window]
    for name in names():
        model = method_class(name)
        own = {
            key: found
            for key, found in model.model_fields.items()
            if key not in shared or found.default != shared[key].default
        }
        told = f"{model.summary[0].upper()}{model.summary[1:]} ({model.paper})."  # type: ignore[attr-defined]
        parts.append(f"### `type: {name}`\n\n{told}\n\n{table(own)}")
    return "\n".join(parts)


def section(model: type[BaseModel], where: dict[type[BaseModel], str], *, several: bool) -> str:
    """One settings class, and those that its keys hold."""
    title = f"### `type: {model.model_fields['type'].default}`\n\n" if several else ""
    text = f"{title}{first_line(model)}\n\n{table(model.model_fields)}"
    below = [deeper for field in model.model_fields.values() for deeper in models_in(field.annotation)]
    for inner in (item for item in below if item not in where):
        kind = inner.model_fields["type"].default
        text += f"\n`type: {kind}`: {first_line(inner)}\n\n{table(inner.model_fields)}"
    return text


def first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def table(fields: Mapping[str, FieldInfo]) -> str:
    """Key, type, default, meaning of every field."""
    rows = [
        f"| `{name}` | {spelled(field)} | {default(field)} | {(field.description or '').replace(chr(10), ' ')} |"
        for name, field in fields.items()
        if name != "type"
    ]
    if not rows:
        return "No keys besides `type`.\n"
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def spelled(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if hasattr(item, name)
    ]
    return " ".join([words(field.annotation), *bounds])


def words(annotation: Any) -> str:
    if annotation is NoneType:
        return "null"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (typing.Union, UnionType):
        found = [words(item) for item in inside]
        return " or ".join(dict.fromkeys(found))
    if origin is typing.Annotated:
        return words(inside[0])
    if origin is list:
        return f"list of {words(inside[0])}"
    if origin is tuple and inside[-1] is ...:
        return f"list of {words(inside[0])}"
    if origin is tuple:
        return f"{len(inside)} numbers"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    names_of = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    return names_of.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "**must be set**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Window):
        return f"`{value.model_dump(exclude_defaults=True)}`"
    if isinstance(value, BaseModel):
        return f"`type: {value.type}`" if hasattr(value, "type") and len(type(value).model_fields) else "see below"  # type: ignore[attr-defined]
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that a key can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation] if annotation.model_fields else []
    return [found for argument in get_args(annotation) for found in models_in(argument)]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
