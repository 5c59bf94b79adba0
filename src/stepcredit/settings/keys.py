"""A recipe as plain data: dotted keys, and what rewards are called. Knows no settings class, so runs can be read."""

from collections.abc import Mapping
from typing import Any

INCIDENTAL = ("output.", "tracking", "threads", "rollout.micro_batch", "rollout.share_states", "training.micro_batch")
"""Where dotted keys begin that say how fast and where to, and change nothing that is computed."""
RESUMABLE = ("training.iterations", "training.budget", *INCIDENTAL)
"""Recipe keys that may change when a run goes on: they change how long, how fast and where to, not what is computed."""


def flatten(data: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            # An empty mapping leaves no key behind: nothing in it can differ between two recipes.
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def labels(reward: Mapping[str, Any]) -> list[str]:
    """What the outputs of a reward are called in tables: its name, or the function of a custom one, or its type; with
    several outputs, their own names after its name, if it has one."""
    name = reward.get("name")
    outputs = reward.get("outputs")
    if outputs:
        return [f"{name}.{output}" if name else output for output in outputs]
    # Only a custom reward has a path, `package.module:function`; "custom" would say nothing, and two would clash.
    return [str(name or reward.get("path", reward["type"]).rsplit(":", 1)[-1])]
