"""What a rollout does where: which transitions add noise, which are trained, which samples share a path."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from pydantic import Field
from torch import Tensor

from stepcredit.errors import RecipeError
from stepcredit.parts.sampling import Sampling
from stepcredit.records import Credit, Key, Plan
from stepcredit.records.rollout import own_paths
from stepcredit.settings.strict import Strict


class Window(Strict):
    """Noise and training on a few neighbouring steps only, drawn at random; the rest of the path is deterministic."""

    size: int = Field(ge=1, le=1_000)
    """Steps in the window."""
    first: int = Field(default=0, ge=0, le=1_000)
    """The earliest step that a window may hold."""
    end: int | None = Field(default=None, ge=1, le=1_000)
    """The step after the last one that a window may hold; null is the last trained step."""
    per: Literal["rollout", "prompt"] = "rollout"
    """One window for the whole rollout, or one for each prompt."""

    def room(self, steps: int) -> int:
        """The step after the last possible one; an error if the window does not fit into so many trained steps."""
        end = steps if self.end is None else self.end
        if end > steps or self.first + self.size > end:
            raise ValueError(
                f"method.plan.window holds {self.size} of the steps {self.first} to {end - 1}, and the trained steps "
                f"are 0 to {steps - 1}; lower window.size, window.first or window.end, or raise rollout.steps"
            )
        return end

    def within(self, trained: Bool[Tensor, " N"], prompts: int, random: np.random.Generator) -> Bool[Tensor, "P 1 N"]:
        """Which transitions lie in each prompt's window, drawn among those that are `trained`."""
        starts = self.starts(trained)
        # `integers` excludes its bound: the last window ends with the last step that it may hold.
        begin = starts[random.integers(len(starts), size=prompts if self.per == "prompt" else 1)]
        step = torch.arange(len(trained))
        return (step >= begin[:, None, None]) & (step < begin[:, None, None] + self.size)

    def starts(self, trained: Bool[Tensor, " N"]) -> Int64[Tensor, " starts"]:
        """Where a window can begin so that all its steps are trained; an error if that is nowhere."""
        windows = trained[self.first : self.end].unfold(0, self.size, 1)
        starts = self.first + windows.all(-1).nonzero()[:, 0]
        if not len(starts):
            steps = ", ".join(map(str, trained.nonzero()[:, 0].tolist()))
            raise RecipeError(
                f"method.plan.window holds {self.size} steps, and those that the trained network decides are "
                f"{steps or 'none'}; lower method.plan.window.size, or raise rollout.steps"
            )
        return starts


class Planning(Strict):
    """What of a rollout is shared, noisy and trained."""

    shared_noise: bool = True
    """Whether the samples of a prompt start from the same noise."""
    window: Window | None = None
    """Noise and training on a few steps only; null is all of them."""
    timestep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the trained steps that each sample trains, drawn at random for every sample."""
    best_of: int | None = Field(default=None, ge=2, le=10_000)
    """Train only so many samples of a group, the best and the worst half; null is all of them."""

    def check(self, sampling: Sampling, *, steps: int, group_size: int) -> None:
        """Whether the settings fit a rollout of so many steps and samples per prompt; ValueError says what does not."""
        if self.window is not None:
            self.window.room(_trained_steps(sampling, steps))
        if self.best_of is not None and self.best_of > group_size:
            raise ValueError(f"method.plan.best_of is {self.best_of}, and a group has {group_size} samples; lower it")

    def draw(
        self,
        sampling: Sampling,
        *,
        steps: int,
        prompts: int,
        group_size: int,
        key: Key,
        trainable: Bool[Tensor, " N"] | None = None,
    ) -> Plan:
        """The plan of one iteration, a pure function of its arguments.

        Every transition is noisy and trained but the last, which ends without noise so that what is decoded is the
        clean prediction; unless the sampler says otherwise. A window confines noise and training to a few steps; a
        timestep fraction leaves out steps of each sample at random.

        trainable   steps that are decided by what is trained; the others follow the ODE. None: all of them
        """
        random = key.plan()
        could_train = self.could_train(sampling, steps=steps, trainable=trainable)
        trained = could_train.repeat(prompts, group_size, 1)
        if self.window is not None:
            trained = trained & self.window.within(could_train, prompts, random)
        stochastic = trained.clone() if sampling.adds_noise else torch.zeros_like(trained)
        if sampling.decodes_last:
            stochastic[..., -1] = True
        # After the noise is decided: steps that a fraction leaves out are as noisy as their neighbours.
        if self.timestep_fraction < 1:
            trained = trained & _some_of(trained, self.timestep_fraction, random)
        author = own_paths(prompts, group_size, steps, shared_start=self.shared_noise)
        return Plan(stochastic=stochastic, trained=trained, author=author)

    def could_train(
        self, sampling: Sampling, *, steps: int, trainable: Bool[Tensor, " N"] | None = None
    ) -> Bool[Tensor, " N"]:
        """The steps that a sample may be trained at, whatever is drawn; an error if there are none.

        trainable   as in `draw`
        """
        trained = torch.arange(steps) < _trained_steps(sampling, steps)
        if trainable is not None:
            trained = trained & trainable
        if self.window is not None:
            self.window.room(_trained_steps(sampling, steps))
            self.window.starts(trained)
        if not trained.any():
            raise RecipeError(
                f"the trained network decides none of the {steps} steps that get credit; raise rollout.steps, change "
                "rollout.shift, or train another network of the model"
            )
        return trained

    def choose(self, credit: Credit) -> Credit:
        """The credit of those samples that are trained; the others get none."""
        return credit if self.best_of is None else _extremes(credit, self.best_of)


def _trained_steps(sampling: Sampling, steps: int) -> int:
    return steps if sampling.last_is_trained else steps - 1


def _some_of(trained: Bool[Tensor, "P G N"], fraction: float, random: np.random.Generator) -> Bool[Tensor, "P G N"]:
    """A random subset of each sample's trained steps, as many as the fraction allows, at least one."""
    order = torch.from_numpy(random.permuted(np.broadcast_to(np.arange(trained.shape[-1]), trained.shape), axis=-1))
    # Sorting twice gives ranks; untrained steps are last, so that the first `count` ranks are trained ones.
    rank = torch.where(trained, order, trained.shape[-1]).argsort(-1).argsort(-1)
    exact = trained.sum(-1, keepdim=True).double() * fraction + 1e-9  # 0.53 of 100 steps are 53, not 52.99...
    count = exact.floor().clamp(min=1)
    return rank < count


def _extremes(credit: Credit, count: int) -> Credit:
    """Credit for the `count` samples of each group at both ends of its mix; the others get none.

    Kept credit grows by G / count, so that the mean over all moves of the rollout is the mean over the kept ones.
    """
    order = credit.mixed.nan_to_num(0.0).argsort(dim=-1, stable=True)  # a broken sample is nobody's best
    members = order.shape[-1]
    rank = order.argsort(dim=-1)
    at_an_end = ((rank < count - count // 2) | (rank >= members - count // 2))[..., None]
    factor = at_an_end.to(credit.per_step) * (members / count)
    terms = None if credit.terms is None else credit.terms * factor[..., None]
    return replace(credit, per_step=credit.per_step * factor, terms=terms)
