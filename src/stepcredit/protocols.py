"""What the rooms with effects promise each other. Nothing inherits from these; a class that fits, fits."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stepcredit.records import (
    Condition,
    Credit,
    Key,
    Move,
    Problem,
    Prompt,
    RewardBatch,
    RewardOutput,
    Rollout,
    StepReport,
    UpdateReport,
)

Progress = Callable[[int], None]
"""Hears how many (sample, step) pairs were computed, for progress bars; a negative number takes some back."""


# Checked at run time as well: tests wrap every function with beartype, which asks a protocol with isinstance.
@runtime_checkable
class Policy(Protocol):
    """A generator: velocities for a sampler, pictures from latents, and the parameters that are trained."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the network; says how exactly a recomputed log-probability can agree."""
        ...

    @property
    def prediction(self) -> Literal["velocity", "noise"]:
        """What the network predicts by itself; per-step weights are told apart by it."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of the videos that it draws; None for pictures."""
        ...

    @property
    def cut_prompts(self) -> int:
        """Distinct prompts so far that were longer than the tokenizer takes, and were cut."""
        ...

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Conditions for distinct prompts, one row each."""
        ...

    def latent_shape(self) -> tuple[int, ...]:
        """The axes of one latent."""
        ...

    def levels(self, steps: int, shift: float | None) -> Float[Tensor, " L"]:
        """The noise levels of a sampler with this many steps; `shift=None` is the model's own schedule."""
        ...

    def trainable(self, levels: Float[Tensor, " L"]) -> Bool[Tensor, " N"]:
        """Which transitions are decided by what is trained; a model with two experts may train one."""
        ...

    def start(self, noise: Float[Tensor, "B *latent"], level: Float[Tensor, ""]) -> Float[Tensor, "B *latent"]:
        """The first latents, from standard normal noise."""
        ...

    def velocity(
        self, latents: Float[Tensor, "B *latent"], level: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B *latent"]:
        """The network: noise minus data."""
        ...

    def decode(self, latents: Float[Tensor, "B *latent"]) -> Float[Tensor, "B *frames 3 H W"]:
        """Pictures or videos in [0, 1]; what is not finite stays so, for a clamp would make a picture of it."""
        ...

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in a fixed order."""
        ...

    def keep_reference(self) -> None:
        """Called before training where `reference` will be asked for: full training has to copy its networks now."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Inside, `velocity` is that of the policy before training."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained in the format that plain diffusers loads."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Somebody who watches a rollout. Rows come in micro-batches: `begin`, `see` for each step, `leave`."""

    # The key of what it leaves for `evidence.seen`, and what tells two alike: a rollout has each name once.
    name: str

    def begin(self) -> None:
        """Some rows start; nothing of earlier rows is remembered."""
        ...

    def see(self, move: Move) -> None:
        """These rows made one transition."""
        ...

    def leave(self, final: Float[Tensor, "B *latent"]) -> Mapping[str, Tensor]:
        """What was seen, `[B, ...]` by name, now that the latents to be decoded are known."""
        ...


@runtime_checkable
class Update(Protocol):
    """How the optimiser steps of one rollout are taken."""

    def observers(self) -> tuple[Observer, ...]:
        """Who has to watch the rollout for it."""
        ...

    def apply(self, rollout: Rollout, credit: Credit, key: Key, progress: Progress) -> UpdateReport:
        """Take them all."""
        ...


@runtime_checkable
class Reward(Protocol):
    """One scorer; it may offer several outputs from one call.

    One that is always 1 for right or 0 for wrong may say so with an attribute `exact = True`.
    """

    # Known before anything is scored: a table has a column for a reward that fails, too.
    outputs: tuple[str, ...]

    def score(self, batch: RewardBatch) -> RewardOutput: ...

    def fingerprint(self) -> Mapping[str, str]:
        """Weights, preprocessing and versions: whatever could change a score."""
        ...


@runtime_checkable
class PromptSource(Protocol):
    """A fixed list of prompts and the order in which training takes them."""

    @property
    def prompts(self) -> Sequence[Prompt]: ...

    def draw(self, count: int, key: Key) -> list[Prompt]:
        """So many prompts for the iteration of a key: a pure function of its arguments."""
        ...


@runtime_checkable
class Questions(Protocol):
    """An exact checker: what a prompt asks of a picture or video, and whether it is so."""

    def __call__(self, medium: np.ndarray, prompt: Prompt) -> Mapping[str, bool] | None:
        """Answers by name, for example `{"object": True, "count": False}`; None for a prompt that it cannot read."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Somebody who wants to know how a run goes.

    One clock: a tracker shows everything at the number of finished iterations, which is 0 for the pictures of the base
    and n + 1 for whatever iteration n (counted from 0) left behind; `tracking.clock.finished_after` says it. So what
    was learned in an iteration, the held-out pictures after it and the checkpoint of that number lie at one place.
    Files count iterations from 0: the run folder's lines and credit keep the `iteration` that they are given.
    """

    def log(self, report: StepReport) -> None:
        """Numbers of one iteration; `report.iteration` counts from 0."""
        ...

    def problems(self, iteration: int, problems: Sequence[Problem]) -> None:
        """What could not be scored in this iteration (from 0), and why; often nothing. People read `str(problem)`."""
        ...

    def pictures(self, finished: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        """Held-out pictures after so many finished iterations, always of the same captions and noise."""
        ...

    def distributions(self, iteration: int, values: Mapping[str, np.ndarray]) -> None:
        """Arrays of any shape of this iteration (from 0), for those who can draw a histogram."""
        ...

    def close(self) -> None: ...
