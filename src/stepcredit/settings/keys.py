"""A recipe as plain data: dotted keys, and what rewards are called. Knows no settings class, so runs can be read."""

from collections.abc import Mapping
from typing import Any

INCIDENTAL = ("output.", "tracking", "threads", "rollout.micro_batch", "rollout.share_states", "training.micro_batch")
"""Where dotted keys begin that say how fast and where to, and change nothing that is computed."""


def flatten(data: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists stay as they are."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        inner = flatten(value) if isinstance(value, Mapping) else None
        found |= {key: value} if inner is None else {f"{key}.{name}": item for name, item in inner.items()}
    return found


def labels(reward: Mapping[str, Any]) -> list[str]:
    """What the outputs of a reward are called in tables: its name, or the function of a custom one, or its type; with
    several outputs, their own names after its name, if it has one."""
    if reward.get("outputs"):
        return [f"{reward['name']}.{output}" if reward.get("name") else output for output in reward["outputs"]]
    return [str(reward.get("name") or reward.get("path", reward["type"]).rsplit(":", 1)[-1])]
