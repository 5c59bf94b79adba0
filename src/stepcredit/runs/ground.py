"""What a run stands on, as far as its numbers hang on it: noted in every checkpoint, compared when a run goes on."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

_LONGEST = 60  # characters of a value in a sentence: a list of prompts would fill the screen


@dataclass(frozen=True)
class Ground:
    """What must be the same for a run to go on as if nothing had happened.

    Example: `Ground({"seed": 0, "optimiser.learning_rate": 1e-5}, {"training": "9f86..."}, {"hps.weights": "ab12..."},
    {"transformer/config.json": "77de..."}, {"torch": "2.14.0"}, {"device": "NVIDIA H200"})`.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Its keys with their values, without those that may change when a run goes on."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Digests of all training and all held-out prompts in their order."""
    rewards: Mapping[str, str] = field(default_factory=dict)
    """What each reward says that it stands on."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files of the generator before training, or the commit on the hub."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of packages that compute."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """What may move the last digits and is no reason to refuse: device, Python, other packages."""

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "Ground":
        """As a checkpoint has it."""
        return cls(**{name: stored.get(name, {}) for name in cls.__dataclass_fields__})

    def plain(self) -> dict[str, Any]:
        """As JSON gives it back: a tuple of a recipe is a list there."""
        return json.loads(json.dumps(asdict(self), default=str))


_PLACES = {
    "recipe": "{} (run.yaml)",
    "prompts": "{} prompts",
    "rewards": "reward {}",
    "weights": "policy.weights {}",
    "versions": "version of {}",
}


def differences(before: Ground, now: Ground) -> list[str]:
    """What is not as it was, a phrase each: `optimiser.learning_rate (run.yaml): 0.001 now, 1e-05 then`."""
    return list(chain(*(_of_part(before, now, part, words) for part, words in _PLACES.items())))


def remarks(before: Ground, now: Ground) -> list[str]:
    """The same of what is told and not refused."""
    return _of_part(before, now, "machine", "{}")


def _of_part(before: Ground, now: Ground, part: str, words: str) -> list[str]:
    then = before.plain()[part]
    today = now.plain()[part]
    names = [name for name in dict.fromkeys((*then, *today)) if then.get(name) != today.get(name)]
    return [f"{words.format(name)}: {_shown(today, name)} now, {_shown(then, name)} then" for name in names]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "not there"
    text = values[name] if isinstance(values[name], str) else json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
