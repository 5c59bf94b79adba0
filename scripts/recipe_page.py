"""Writes docs/recipes.md from the settings classes, so that the page cannot drift from the code.

python scripts/recipe_page.py
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.parts.rule import Rule
from stepcredit.policies.families import names as families
from stepcredit.policies.families import settings_class
from stepcredit.recipe.recipe import Recipe, method_class
from stepcredit.settings.strict import Strict

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"

HEAD = """# Recipes, key by key

*Written by `scripts/recipe_page.py` from the settings classes; a test keeps it so.*

A recipe is a YAML file. A missing key has the default below; an unknown one is refused, and the nearest known one is
named. Every key is a flag, too: `--rollout.group_size 16`, `--method.rule.floor 0`, `--rewards.0.name clip`.
`stepcredit train RECIPE --dry-run` prints the recipe with every default filled in.

A flag for a key that takes text is that text: `--policy.negative_prompt "blurry # dark: 1"` needs no quotes of its own,
and `null` is none. Everywhere else, and in files, words are true, false, null, numbers or text; what YAML readers do
not agree on (`010`, `1:30`, `no`, dates) is refused, and so is a key that two flags set.

Where a key has a `type`, the type decides which other keys there are.

A recipe that names a `package.module` or a `module:name` of its own is code: whoever runs it runs that module. `train`
and `--dry-run` say so. A method or family of one's own is imported even to check its settings, a reward only when it is
to score; `cite`, `show`, `report` and `compare` of runs import neither.

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
        if name == "policy":
            models = list[type[BaseModel]](settings_class(family) for family in families())
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
    """The parts of every method and their keys, then what each method sets and what its rule adds."""
    parts = "\n".join(f"* `{name}`: {part.description}" for name, part in Method.model_fields.items())
    text = f"## `method`\n\n{field.description}\n\nA method has these parts, with its paper's values:\n\n{parts}\n"
    for part in ("sampler", "plan", "objective"):
        text += f"\n### `{part}`\n\n{part_choices(part)}"
    text += f"\n### `rule`\n\nEach method has its own; all of them have these keys:\n\n{table(Rule.model_fields)}"
    for name in names():
        text += f"\n### `type: {name}`\n\n{method(method_class(name))}"
    return text


def part_choices(part: str) -> str:
    """The classes that a part has in any method, and those that their keys hold."""
    choices: dict[type[BaseModel], None] = {}  # a set that keeps the order
    for name in names():
        choices |= dict.fromkeys(models_in(method_class(name).model_fields[part].annotation))
    sections = [section(choice, {}, several=False) for choice in choices]
    if len(choices) > 1:
        sections = [f"`type: {kind(choice)}`: {text}" for choice, text in zip(choices, sections, strict=True)]
    return "\n".join(sections)


def method(model: type[Method]) -> str:
    """What a method is, the values of the paper where they are not the part's own, and the keys of its rule."""
    sentence = f"{model.summary[0].upper()}{model.summary[1:]} ({model.paper})."
    defaults = {part: field.default for part, field in model.model_fields.items() if part != "type"}
    spelled_parts = {part: spelled_value(value) for part, value in defaults.items()}
    values = [f"{part}: {value}" for part, value in spelled_parts.items() if value != "{}"]
    rule = type(model.model_fields["rule"].default)
    own = {key: field for key, field in rule.model_fields.items() if not same_field(field, Rule.model_fields.get(key))}
    keys = f"Its rule:\n\n{table(own)}" if own else "Its rule has no keys of its own.\n"
    return "\n".join([f"{sentence}\n", "```yaml", f"type: {kind(model)}", *values, "```", "", keys])


def same_field(field: FieldInfo, shared: FieldInfo | None) -> bool:
    return shared is not None and field.default == shared.default


def spelled_value(part: Strict) -> str:
    """A part in the flow style of YAML: its type, and what the method sets."""
    # By hand, not exclude_unset: a type is a default of its class, and says which class it is.
    plain = part.model_dump(include=part.model_fields_set | {"type"})
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).strip()


def kind(model: type[BaseModel]) -> str:
    """The word that chooses this class, under the key `type`."""
    return model.model_fields["type"].default


def section(model: type[BaseModel], described: Mapping[type[BaseModel], str], *, several: bool) -> str:
    """One settings class, and those that its keys hold."""
    title = f"### `type: {kind(model)}`\n\n" if several else ""
    text = f"{title}{first_line(model)}\n\n{table(model.model_fields)}"
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            if inner not in described:
                text += f"\n{inner_title(inner, name)}: {first_line(inner)}\n\n{table(inner.model_fields)}"
    return text


def inner_title(model: type[BaseModel], key: str) -> str:
    return f"`type: {kind(model)}`" if "type" in model.model_fields else f"`{key}`"


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
    if isinstance(value, BaseModel):
        return f"`type: {kind(type(value))}`" if "type" in type(value).model_fields else "see below"
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
