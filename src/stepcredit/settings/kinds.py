"""What kinds of plain values a key takes, read off its annotation: so that `true` is not taken for 1, or "5" for 5."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from stepcredit.errors import shown

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def choices(annotation: Any) -> Iterator[Any]:
    """The members of a union, however it is written; anything else is its only member."""
    if get_origin(annotation) is Annotated:
        yield from choices(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from choices(member)
    else:
        yield annotation


def takes_text_only(annotation: Any) -> bool:
    """Whether a key takes any text and no other value but null: `str`, `Path | None`."""
    members = set(choices(annotation)) - {NoneType}
    return bool(members) and members <= {str, Path}


def kinds(annotation: Any) -> frozenset[type]:
    """The plain types that a key takes, itself or in its list; empty where it takes something else as well."""
    kinds_of_members = [_kinds_of_one(member) for member in choices(annotation)]
    return frozenset().union(*kinds_of_members) if all(kinds_of_members) else frozenset()


def _kinds_of_one(member: Any) -> frozenset[type]:
    origin = get_origin(member)
    if origin is Literal:
        return frozenset(type(value) for value in get_args(member))
    if origin in (list, tuple):
        # `tuple[int, ...]`: the dots are not a type.
        return kinds(Union[tuple(item for item in get_args(member) if item is not ...)])  # noqa: UP007
    if member is Path:
        return frozenset({str})
    return frozenset({member}) if isinstance(member, type) and member in _WORDS else frozenset()


def confusion(value: Any, wanted: frozenset[type]) -> str | None:
    """Why a value is not of the wanted kinds although it might pass for one; None if there is nothing to say.

    | argument | meaning |
    |---|---|
    | value | as it was written; the items of a list one by one |
    | wanted | plain types, `{int, NoneType}`; empty where anything goes |
    """
    if isinstance(value, list | tuple):
        return next(filter(None, (confusion(item, wanted) for item in value)), None)
    numbers = wanted & {int, float}
    fits = {bool: bool in wanted, int: bool(numbers), float: bool(numbers), str: str in wanted}
    # Of other types nothing is known here, such as a Path that comes from Python.
    if not wanted or fits.get(type(value), True):
        return None
    words = " or ".join(_WORDS[kind] for kind in _WORDS if kind in wanted)
    return f"got {shown(value)}, wanted {words}{_advice(value, numbers, text=str in wanted)}"


def _advice(value: Any, numbers: frozenset[type], *, text: bool) -> str:
    if text and not isinstance(value, str):
        return "; put it in quotes"
    if numbers and isinstance(value, str) and value.strip().lstrip("+-.")[:1].isdigit():
        return "; write it without quotes"
    return ""
