"""Flags of the command line, `--rollout.steps 8`, as settings; and how a setting is put into a recipe.

Our own reading, not cyclopts' `**settings`: that refuses a flag given twice where the later one should win, fails on
`--method otca --method.rule.floor 0` (a key and one below it), and takes `--rewards.0.name` for a mapping. Flags also
come from Python, from `--resume` and from studies, where there is no command line.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import yaml

from stepcredit.errors import RecipeError


def parse_flags(tokens: Sequence[str]) -> list[tuple[str, Any]]:
    """`--a.b value` and `--a.b=value` pairs; values are read as YAML, so `0.3`, `null`, `[1, 2]` work."""
    settings = []
    remaining = deque(tokens)
    while remaining:
        token = remaining.popleft()
        if not token.startswith("--"):
            raise RecipeError(f'got "{token}" where a flag was wanted; recipe keys are set as --key.subkey value')
        key, equals, value = token.removeprefix("--").partition("=")
        if not equals:
            # Only two dashes are a flag: `--seed -1` has a value, if one that the recipe refuses.
            if not remaining or remaining[0].startswith("--"):
                raise RecipeError(f"--{key} has no value; write --{key} VALUE")
            value = remaining.popleft()
        settings.append((key.replace("-", "_"), _read_value(key, value)))
    return settings


def _read_value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--{key}: {text!r} is not valid YAML ({error}); put quotes inside, '\"{text}\"'") from None


def put(recipe: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one key of a recipe in place: `rewards.0.name` reaches into lists, missing sections are made."""
    *parents, last = dotted.split(".")
    section: Any = recipe
    for depth, key in enumerate(parents):
        if isinstance(section, list):
            section = section[_index(section, key, dotted)]
            continue
        if not isinstance(section.setdefault(key, {}), dict | list):
            owner = ".".join(parents[: depth + 1])
            raise RecipeError(f"--{dotted}: {owner} is a single value, it has no sub-keys")
        section = section[key]
    if isinstance(section, list):
        section[_index(section, last, dotted)] = value
        return
    if last == "type" and section.get("type") not in (None, value):
        section.clear()  # another choice: the recipe's settings of the old one do not apply to it
    section[last] = value


def _index(items: list[Any], key: str, dotted: str) -> int:
    # isdigit() leaves out "-1": counting from the end would change its meaning when a recipe gets another reward.
    if not key.isdigit() or int(key) >= len(items):
        raise RecipeError(f'--{dotted}: "{key}" is not an item of a list with {len(items)} (count from 0)')
    return int(key)
