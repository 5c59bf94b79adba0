"""What pydantic found wrong with a recipe, in the words of the file: dotted keys, and the nearest right word."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stepcredit.errors import nearest, shown
from stepcredit.recipe.compose import FILE_KEYS
from stepcredit.recipe.recipe import Recipe
from stepcredit.settings.strict import WRONG_KIND

_MOST_PROBLEMS = 10  # nobody reads more at a time, and finding near words takes a moment each


def explain(error: ValidationError, model: type[BaseModel], section: tuple[str, ...] = ()) -> str:
    """One line for each mistake that `model` found; `section` is where in the recipe it stands."""
    problems = error.errors(include_url=False)
    sentences = [_sentence(problem, model, section) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        sentences.append(f"... and {len(problems) - _MOST_PROBLEMS:,} more")
    return "\n".join(dict.fromkeys(sentences))  # a key with two classes to choose from may be told the same by both


def _sentence(problem: ErrorDetails, model: type[BaseModel], section: tuple[str, ...]) -> str:
    location = problem["loc"]
    key = ".".join((*section, *dotted(model, location)))
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {nearest(str(location[-1]), _known_keys(model, location[:-1]))}"
        case "union_tag_invalid":
            known = [word.strip(" '") for word in context["expected_tags"].split(",")]  # "'clip_t', 'hps', ..."
            return f"{key}.type: there is no type {shown(context['tag'])}; {nearest(context['tag'], known)}"
        case "union_tag_not_found":
            return without_type(key, problem["input"], _known_keys(model, location), "say which, e.g. {type: ...}")
        case kind if kind == WRONG_KIND:
            return f"{key}: {problem['msg']}"
        case "missing":
            return f"{key}: missing; a recipe must set it"
        case "value_error":  # raised by our own validators, which say themselves what they got
            message = problem["msg"].removeprefix("Value error, ")
            return f"{key}: {message}" if key else message
        case _:
            return f"{key}: {problem['msg']}, got {shown(problem['input'])}{_why(problem['type'])}"


def without_type(key: str, section: Any, known: Collection[str], advice: str) -> str:
    """The sentence of a section that names no type, or misspells the word; `known` are other keys that it may have."""
    words = section if isinstance(section, Mapping) else ()
    near = difflib.get_close_matches("type", [str(word) for word in words if word not in known], n=1)
    if near:
        return f'{key}.{near[0]}: unknown key; did you mean "type"? {key}.type is missing'
    return f"{key}.type: missing; {advice}"


def _why(kind: str) -> str:
    """Why there is a limit at all, where it is not in the nature of the key."""
    beyond = kind in ("less_than_equal", "too_long", "string_too_long")
    return "; nobody needs as much, so it is taken for a slip" if beyond else ""


def dotted(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The parts of a key as a user writes it: `("rewards", 0, "hps", "weight")` is `rewards.0.weight`."""
    return _walk(model, location)[0]


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that could have been meant there."""
    owners = _walk(model, location)[1]
    known = list(owners[0].model_fields) if owners else []
    return [*known, *FILE_KEYS] if owners[:1] == [Recipe] else known


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], list[type[BaseModel]]]:
    """The words of a location without pydantic's own, and the classes that it may point into."""
    words = []
    owners = [model]
    for part in location:
        # Of a choice between classes pydantic says which one it took; that word stands in no file.
        tagged = [owner for owner in owners if len(owners) > 1 and tag(owner) == part]
        if tagged:
            owners = tagged
            continue
        # Nothing stands below a plain value: the rest is pydantic's word for one of the kinds that it may have.
        if not owners and isinstance(part, str):
            continue
        words.append(shown(str(part))[1:-1])
        if isinstance(part, str):  # a number counts in a list, whose items have the classes of the list's key
            owners = below(owners, part)
    return words, owners


def below(owners: list[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    """The classes that a key of these classes may hold."""
    annotations = [owner.model_fields[key].annotation for owner in owners if key in owner.model_fields]
    return [choice for annotation in annotations for choice in _models_in(annotation)]


def tag(model: type[BaseModel]) -> Any:
    """The `type` by which a class is chosen."""
    return model.model_fields["type"].default if "type" in model.model_fields else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The classes in an annotation, however deep: `Annotated[A | B, ...]`, `list[A]`, `A | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
