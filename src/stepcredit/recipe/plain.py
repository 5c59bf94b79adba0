"""YAML as recipes need it: mappings, lists, text, numbers, true, false and null. Anything else is refused.

Our own reading of PyYAML's events, not its loader. That one reads `010` as 8, `1:30` as 90, `no` as false and a day as
an object, in silence; it calls itself for every bracket, and writes out aliases of aliases until the memory is full.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import yaml

from stepcredit.errors import RecipeError, shown

DEEPEST = 20
"""Mappings and lists inside each other; a recipe needs five."""
_MOST_VALUES = 100_000  # with aliases written out
_LONGEST_TEXT = 20_000  # the longest prompt that a model reads has about 5,000
_MOST_DIGITS = 40

_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|nan)", re.IGNORECASE)
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_READINGS = (
    (re.compile(r"yes|no|on|off", re.IGNORECASE), "some read it as true or false, others as text; write true or false"),
    (re.compile(r"[-+]?0[0-9_]+"), "some read it as a number to the base 8; leave out the zero in front"),
    (re.compile(r"[-+]?0[xXoObB][0-9a-fA-F_]+"), "some read it as a number to another base; write it to the base 10"),
    (_SEXAGESIMAL, "some read it as a number to the base 60; write it to the base 10"),
    (
        re.compile(r"[-+]?[0-9.]*_[0-9_.]*([eE][-+]?[0-9]+)?"),
        "some read it as a number, others as text; leave out the _",
    ),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"), "some read it as a day or a time, which no key takes"),
)
"""What is not the same to every reader of YAML, and what to write instead."""


def read_plain(text: str) -> Any:
    """The value that YAML text holds; what cannot be read is a `RecipeError` that begins with its line and key."""
    return _Reading(text).document()


def write_plain(value: Any) -> str:
    """YAML that is read back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """A class of its own, because representers are registered on the class and would change every SafeDumper."""


def _quoted_where_needed(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """PyYAML writes 1e5 and 08 without quotes, since neither is a number to it."""
    try:
        style = None if plain_value(text) == text else "'"
    except ValueError:
        style = "'"
    return dumper.represent_scalar(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, text, style=style)


_Dumper.add_representer(str, _quoted_where_needed)


def plain_value(text: str) -> Any:
    """What a word without quotes means: a number, true, false, null or itself; ValueError says why it is unclear."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        if len(text) > _MOST_DIGITS:
            raise ValueError(f"got a number of {len(text):,} digits, wanted at most {_MOST_DIGITS}")
        return int(text)
    for pattern, reading in _READINGS:
        if pattern.fullmatch(text):
            raise ValueError(f"got {_cut(text)}; {reading}, or put it in quotes if it is text")
    if _REAL.fullmatch(text):
        return float(text)
    special = _NOT_FINITE.fullmatch(text)
    if special:
        return math.copysign(float(special[2]), -1.0 if special[1] == "-" else 1.0)
    return checked_text(text)


def checked_text(text: str) -> str:
    """A text as it is, if it can be shown and written; ValueError says why not."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"got a text of {len(text):,} characters, wanted at most {_LONGEST_TEXT:,}")
    # Lone halves of surrogates cannot be written to a file, and no path may hold a NUL.
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t":
            raise ValueError(f"got a text with the control character {ord(character):#04x} in it; take it out")
    return text


class _Reading:
    """One pass over the events of a text; `_at` is the key that is being read, for messages."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._event: Any  # PyYAML's events have no common fields
        self._at: tuple[str, ...] = ()
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def document(self) -> Any:
        self._next()  # the stream begins
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        self._next()
        value = self._value(())
        self._next()  # the document ends
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise self._wrong("a second document begins here; a recipe is one, so take the line with --- out")
        return value

    def _next(self) -> Any:
        try:
            self._event = next(self._events)
        except Exception as error:  # a parser of somebody else, before text of somebody else
            raise RecipeError(f"not valid YAML: {_place(error)}{self._name()}") from None
        return self._event

    def _value(self, key: tuple[str, ...]) -> Any:
        """The value that begins with the present event."""
        self._at = key
        event = self._event
        self._count(1)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor)
        if len(key) > DEEPEST:
            raise self._wrong(f"more than {DEEPEST} mappings or lists inside each other")
        if getattr(event, "tag", None) is not None:
            raise self._wrong(f"got the tag {_cut(event.tag)}; write the value without it, text in quotes")
        before = self._values
        value = self._untagged(event, key)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = (value, self._values - before + 1)
        return value

    def _untagged(self, event: Any, key: tuple[str, ...]) -> Any:
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(key)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key)
        try:
            return checked_text(event.value) if event.style else plain_value(event.value)
        except ValueError as error:
            raise self._wrong(str(error)) from None

    def _list(self, key: tuple[str, ...]) -> list[Any]:
        items: list[Any] = []
        while not isinstance(self._next(), yaml.SequenceEndEvent):
            items.append(self._value((*key, str(len(items)))))
        return items

    def _mapping(self, key: tuple[str, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(self._next(), yaml.MappingEndEvent):
            self._at = key
            word = self._word()
            self._at = (*key, _cut(word))
            if word in mapping:
                raise self._wrong("occurs twice; keep one")
            self._next()
            mapping[word] = self._value(self._at)
        return mapping

    def _word(self) -> str:
        """A key: one word, and no number or the like."""
        event = self._event
        if not isinstance(event, yaml.ScalarEvent):
            raise self._wrong("this key is a list, a mapping or an alias, wanted a word")
        self._at = (*self._at, _cut(event.value))
        if event.value == "<<" and not event.style:
            raise self._wrong("mappings are not merged by <<; write the keys out, or use `extends`")
        try:
            word = checked_text(event.value) if event.style else plain_value(event.value)
        except ValueError as error:
            raise self._wrong(f"this key is not a word: {error}") from None
        if not isinstance(word, str) or event.tag is not None:
            raise self._wrong("this key is not a word; put it in quotes if it is one")
        return word

    def _alias(self, name: str) -> Any:
        if name not in self._anchors:
            raise self._wrong(f"*{_cut(name)} stands for nothing; mark a value before it with &{_cut(name)}")
        value, size = self._anchors[name]
        self._count(size)
        return deepcopy(value)  # a flag may reach into one of the two, and is not meant for the other

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise self._wrong(f"the recipe has more than {_MOST_VALUES:,} values; keep prompts in a file of their own")

    def _wrong(self, sentence: str) -> RecipeError:
        return RecipeError(f"line {self._event.start_mark.line + 1}{self._name()}: {sentence}")

    def _name(self) -> str:
        """The present key, dotted, as the end of a place; nothing at the top."""
        return f", {'.'.join(self._at)}" if self._at else ""


def _place(error: Exception) -> str:
    """Line and problem of what PyYAML says in six lines."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return _cut(str(error).partition("\n")[0], 100)
    return f"{_cut(str(getattr(error, 'problem', error)), 100)}, line {mark.line + 1}"


def _cut(text: str, length: int = 60) -> str:
    """Foreign words without quotes, short enough for a sentence."""
    return shown(text, length=length)[1:-1]
