"""A generator, rewards and a trainer that fit the protocols and cost milliseconds: no model is loaded.

`FakePolicy` is a small network on latents of shape (4, 3) that decodes to pictures of 8 x 8 pixels.
"""

import copy
import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from composing import composed
from stepcredit.build import wire
from stepcredit.flow import schedules
from stepcredit.prompts.sources import Listed
from stepcredit.protocols import Reward
from stepcredit.recipe.load import validate
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Condition, Prompt, RewardBatch, RewardOutput
from stepcredit.rewards.suite import RewardSuite
from stepcredit.training.step import Parts

SHAPE = (4, 3)
PROMPTS = ("a red circle", "a blue square", "two green triangles", "a white circle above a red square")
_WORDS = 5  # numbers in a condition
_HIDDEN = 8


class FakePolicy:
    """Implements `protocols.Policy`. The weights depend on the seed alone."""

    prediction: Literal["velocity", "noise"] = "velocity"
    fps: float | None = None
    cut_prompts = 0

    def __init__(self, seed: int = 0) -> None:
        self.device, self.dtype = torch.device("cpu"), torch.float32
        generator = torch.Generator().manual_seed(seed)
        size = SHAPE[0] * SHAPE[1]
        self.network = torch.nn.Sequential(
            torch.nn.Linear(size + 1 + _WORDS, _HIDDEN), torch.nn.Tanh(), torch.nn.Linear(_HIDDEN, size)
        )
        for parameter in self.network.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
        self.frozen = copy.deepcopy(self.network).requires_grad_(False)
        self._active: torch.nn.Module = self.network
        self._picture = torch.randn(size, 3 * 8 * 8, generator=generator) / size**0.5

    def encode(self, prompts: Sequence[str]) -> Condition:
        rows = [[byte / 128 - 1 for byte in hashlib.sha256(text.encode()).digest()[:_WORDS]] for text in prompts]
        return Condition({"words": torch.tensor(rows)})

    def latent_shape(self) -> tuple[int, ...]:
        return SHAPE

    def levels(self, steps: int, shift: float | None) -> Tensor:
        return schedules.linear(steps) if shift is None else schedules.shifted(steps, shift=shift)

    def trainable(self, levels: Tensor) -> Tensor:
        return torch.ones(len(levels) - 1, dtype=torch.bool)

    def start(self, noise: Tensor, level: Tensor) -> Tensor:
        return noise

    def velocity(self, latents: Tensor, level: Tensor, condition: Condition) -> Tensor:
        told = torch.cat([latents.flatten(1), level[:, None], condition.tensors["words"]], dim=1)
        return self._active(told).view_as(latents) + latents

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.flatten(1) @ self._picture).sigmoid().view(-1, 3, 8, 8)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.network.parameters())

    def keep_reference(self) -> None:
        pass  # it is there from the start

    @contextmanager
    def reference(self) -> Generator[None]:
        self._active = self.frozen
        try:
            yield
        finally:
            self._active = self.network

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.network.state_dict()), folder / "weights.safetensors")


class BreakingPolicy(FakePolicy):
    """In the second step of the first rollout, of `samples` rows in one micro-batch, the rows in `broken` turn NaN."""

    def __init__(self, broken: Sequence[int], samples: int, seed: int = 0) -> None:
        super().__init__(seed)
        self._broken, self._samples, self._seen = set(broken), samples, 0

    def velocity(self, latents: Tensor, level: Tensor, condition: Condition) -> Tensor:
        rows = torch.arange(self._seen, self._seen + len(latents))
        self._seen += len(latents)
        bad = torch.isin(rows - self._samples, torch.tensor(sorted(self._broken)))
        return super().velocity(latents, level, condition).masked_fill(bad[:, None, None], torch.nan)


class Brightness:
    """The mean of a picture's pixels."""

    def __init__(self, name: str = "brightness") -> None:
        self.outputs = (name,)

    def numbers(self, batch: RewardBatch) -> np.ndarray:
        return batch.media.reshape(len(batch.media), -1).mean(1) / 255

    def score(self, batch: RewardBatch) -> RewardOutput:
        return RewardOutput({self.outputs[0]: self.numbers(batch)})

    def fingerprint(self) -> dict[str, str]:
        return {"kind": type(self).__name__}


class Contrast(Brightness):
    """How much a picture's pixels differ."""

    def numbers(self, batch: RewardBatch) -> np.ndarray:
        return batch.media.reshape(len(batch.media), -1).std(1) / 255


class Raising(Brightness):
    def numbers(self, batch: RewardBatch) -> np.ndarray:
        raise RuntimeError("the scorer ran out of ink")


class NotANumber(Brightness):
    def numbers(self, batch: RewardBatch) -> np.ndarray:
        return np.full(len(batch.media), np.nan)


class Infinite(Brightness):
    """Infinity for the first picture, brightness for the others."""

    def numbers(self, batch: RewardBatch) -> np.ndarray:
        numbers = super().numbers(batch)
        numbers[0] = np.inf
        return numbers


class WrongLength(Brightness):
    def numbers(self, batch: RewardBatch) -> np.ndarray:
        return super().numbers(batch)[:-1]


class Constant(Brightness):
    def numbers(self, batch: RewardBatch) -> np.ndarray:
        return np.full(len(batch.media), 0.25)


class RecordingSGD(torch.optim.SGD):
    """Plain gradient descent that remembers weights and gradients before every step."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.weights: list[list[Tensor]] = []
        self.gradients: list[list[Tensor]] = []

    def step(self, closure: None = None) -> None:
        parameters = self.param_groups[0]["params"]
        self.weights.append([parameter.detach().clone() for parameter in parameters])
        self.gradients.append([parameter.grad.clone() for parameter in parameters])
        super().step(closure)


def batch(images: np.ndarray, prompts: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> RewardBatch:
    """Pictures with captions; by default one caption and one group for all."""
    count = len(images)
    listed = Prompt.listed(prompts or ["a red circle"] * count)
    return RewardBatch(images, listed, tuple(groups or [0] * count))


def noise_pictures(count: int, seed: int = 0, height: int = 8, width: int = 8) -> np.ndarray:
    """Random pictures, uint8 `[count, height, width, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def make_recipe(names: Sequence[str] = ("brightness",), **sections: object) -> Recipe:
    """A small recipe; `sections` are recipe keys, and dictionaries are laid over the small settings below."""
    data: dict[str, object] = {
        "policy": {"type": "flux", "resolution": 8},
        "prompts": {"type": "list", "prompts": list(PROMPTS)},
        "rollout": {"prompts": 2, "group_size": 4, "steps": 4, "micro_batch": 8},
        "method": {"type": "dance_grpo"},
        "rewards": [{"type": "custom", "path": "fakes:unused", "name": name} for name in names],
        "training": {"iterations": 2, "micro_batch": 8},
        "evaluation": {"prompts": {"type": "list", "prompts": list(PROMPTS)}, "count": 8},
    }
    for key, value in sections.items():
        if key == "method" and isinstance(value, dict):
            value = composed(value)
        old = data.get(key)
        data[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return validate(data)


def make_parts(
    rewards: Sequence[Reward] | None = None,
    *,
    policy: FakePolicy | None = None,
    descent: torch.optim.Optimizer | None = None,
    **sections: object,
) -> Parts:
    """The `Parts` of a run around fakes; `sections` as in `make_recipe`.

    `descent` is the optimiser, by default AdamW with the recipe's learning rate."""
    rewards = [Brightness()] if rewards is None else rewards
    recipe = make_recipe(RewardSuite(rewards).names, **sections)
    return make_parts_of(recipe, rewards, policy=policy, descent=descent)


def make_parts_of(
    recipe: Recipe,
    rewards: Sequence[Reward],
    *,
    policy: FakePolicy | None = None,
    descent: torch.optim.Optimizer | None = None,
) -> Parts:
    """The `Parts` of a recipe, with fakes for everything that costs time."""
    policy = policy or FakePolicy(recipe.seed)
    return wire(recipe, policy, Listed(PROMPTS), RewardSuite(rewards), optimiser=descent)
