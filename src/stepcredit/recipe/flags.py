"""Flags of the command line, `--rollout.steps 8`, as settings; and how a setting is put into a recipe.

Our own reading, not cyclopts' `**settings`: that fails on `--method otca --method.rule.floor 0` (a key and one below
it), and takes `--rewards.0.name` for a mapping. Flags also come from Python, from `--resume` and from studies, where
there is no command line.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from stepcredit.errors import RecipeError, shown
from stepcredit.recipe.plain import DEEPEST, checked_text, plain_value, read_plain

_NESTED = ("[", "{")
_QUOTES = ("'", '"')


def parse_flags(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """`--a.b value` and `--a.b=value` as pairs of a key and the text of its value."""
    settings = []
    remaining = deque(tokens)
    while remaining:
        token = remaining.popleft()
        if not token.startswith("--"):
            raise RecipeError(f"got {shown(token)} where a flag was wanted; recipe keys are set as --key.subkey value")
        name, equals, text = token.removeprefix("--").partition("=")
        if not equals:
            # Only two dashes are a flag: `--seed -1` has a value, if one that the recipe refuses.
            if not remaining or remaining[0].startswith("--"):
                raise RecipeError(f"--{name} has no value; write --{name} VALUE")
            text = remaining.popleft()
        settings.append((_key(name), text))
    return settings


def _key(name: str) -> str:
    try:
        return checked_text(name.replace("-", "_"))
    except ValueError as error:
        raise RecipeError(f"--{shown(name)[1:-1]} is no recipe key: {error}") from None


def laid_over(flags: Sequence[str], over: Sequence[str]) -> list[str]:
    """Flags of a program, without those that somebody else's flags `over` set as well, and these behind them.

    On one command line a key that occurs twice is a mistake; here one of the two is a default.
    """
    set_by_others = {key for key, _ in parse_flags(over)}
    return [*(f"--{key}={text}" for key, text in parse_flags(flags) if key not in set_by_others), *over]


def flag_value(key: str, text: str, *, is_text: bool) -> Any:
    """What the value of a flag means.

    | argument | meaning |
    |---|---|
    | key | dotted, for messages |
    | text | as it stands on the command line |
    | is_text | whether the recipe takes text there and nothing else but null: then it is that text, whatever it holds |
    """
    try:
        if (text.startswith(_QUOTES) and text.endswith(text[:1])) or (text.startswith(_NESTED) and not is_text):
            return _from_yaml(text, is_text=is_text)
        if is_text and text.lower() not in ("null", "~"):
            return checked_text(text)
        # One word, in which # begins no comment: people write prompts with it.
        return plain_value(text.strip())
    except ValueError as error:
        raise RecipeError(f"--{key}: {error}") from None


def _from_yaml(text: str, *, is_text: bool) -> Any:
    """The value of YAML; quotes that are no YAML, such as those around two parts of a text, are part of the text."""
    try:
        return read_plain(text)
    except RecipeError as error:
        if is_text:
            return checked_text(text)
        raise ValueError(f"got {shown(text)}, {error}; wanted a value, a list [...] or a mapping {{...}}") from None


def put(recipe: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one key of a recipe in place: `rewards.0.name` reaches into lists, missing sections are made."""
    *parents, last = _parts(dotted)
    section: Any = recipe
    for depth, key in enumerate(parents):
        if isinstance(section, list):
            section = section[_index(section, key, dotted)]
        else:
            section = section.setdefault(key, {})
        if not isinstance(section, dict | list):
            owner = ".".join(parents[: depth + 1])
            raise RecipeError(f"--{dotted}: {owner} is {shown(section)}, a single value; it has no sub-keys")
    if isinstance(section, list):
        section[_index(section, last, dotted)] = value
        return
    if last == "type" and section.get("type") not in (None, value):
        section.clear()  # another choice: the recipe's settings of the old one do not apply to it
    section[last] = value


def _parts(dotted: str) -> list[str]:
    parts = dotted.split(".")
    if "" in parts or len(parts) > DEEPEST:
        raise RecipeError(f"--{shown(dotted)[1:-1]} is no recipe key; wanted one such as --rollout.steps")
    return parts


def _index(items: list[Any], key: str, dotted: str) -> int:
    # Plain digits leave out "-1": counting from the end would change its meaning when a recipe gets another reward.
    # They are compared as text, because 007 or a digit of another script would be a second name of the same item.
    places = {str(place): place for place in range(len(items))}
    if key not in places:
        raise RecipeError(f'--{dotted}: "{key}" is not an item of a list with {len(items)} (count from 0)')
    return places[key]
