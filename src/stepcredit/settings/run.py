"""How a run goes: its rollouts, its updates, what is looked at on the way and what is written."""

from typing import Annotated, Literal

from pydantic import Field

from stepcredit.settings.places import OutputFolder
from stepcredit.settings.prompts import PromptChoice, ScenesPrompts
from stepcredit.settings.strict import Strict

# Upper bounds are far beyond what anybody means. They stop slips before these ask for days or terabytes.
NEVER = 1_000_000_000
"""Iterations that no run reaches: an interval of so many is none."""


class Rollout(Strict):
    """How many pictures an iteration draws, and how.

    `{prompts: 8, group_size: 12, steps: 16}` draws 96 pictures, and asks the network 16 times for each.
    """

    prompts: int = Field(default=8, ge=1, le=10_000)
    """Prompts of one iteration (P)."""
    # At least 2: with one sample its own mean is the baseline, and nothing is left.
    group_size: int = Field(default=12, ge=2, le=10_000)
    """Samples of each prompt (G); at least 2, because an advantage compares siblings."""
    # At least 2: the last one is mostly without noise and not trained; one has to be.
    steps: int = Field(default=16, ge=2, le=1_000)
    """Sampler steps (N)."""
    shift: float | None = Field(default=None, gt=0, le=1_000)
    """Shift of the noise levels; null is the model's own schedule."""
    micro_batch: int = Field(default=96, ge=1, le=1_000_000)
    """Samples that go through the network together; results depend on it by the device's rounding at most."""
    share_states: bool = True
    """Compute a state that samples share, such as a common first noise, once; results depend on it by rounding."""


class Optimiser(Strict):
    """AdamW with gradient clipping.

    `{learning_rate: 1.0e-5, weight_decay: 1.0e-4}`
    """

    type: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-5, gt=0, le=100)
    """Learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0, le=100)
    """Decoupled weight decay."""
    # Both below 1: at 1 the moments would never move, and the bias correction would divide by zero.
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the two moments."""
    max_gradient_norm: float = Field(default=1.0, gt=0, le=1e30)
    """Gradients are scaled down to this norm."""


class Training(Strict):
    """How a rollout becomes updates, and how many there are.

    `{iterations: 300, updates: 2, ema: 0.95}` makes 600 optimiser steps.
    """

    iterations: int = Field(default=100, ge=1, le=NEVER)
    """Rollouts."""
    budget: int | None = Field(default=None, ge=1, le=10**15)
    """Stop sooner, once so many network forwards are spent (one with a gradient counts as three); null is no limit."""
    updates: int = Field(default=1, ge=1, le=10_000)
    """Optimiser steps in one pass over a rollout; the (sample, step) pairs are dealt out evenly at random."""
    passes: int = Field(default=1, ge=1, le=1_000)
    """Passes over a rollout."""
    micro_batch: int = Field(default=192, ge=1, le=1_000_000)
    """(sample, step) pairs that go through the network together; results depend on it by rounding at most."""
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the moving average of the trained weights per iteration; null for none. It is what is evaluated."""

    @property
    def planned(self) -> int | None:
        """Iterations, where they are known beforehand: a budget may end a run at any of them."""
        return self.iterations if self.budget is None else None


class Evaluation(Strict):
    """What is looked at during and after training, always with the same captions and the same noise.

    `{count: 1024, steps: 50, every: 25}` draws 96 pictures every 25 iterations, and 1,024 at the end.
    """

    prompts: PromptChoice = ScenesPrompts(split="held_out")
    """Where held-out prompts come from."""
    count: int = Field(default=256, ge=2, le=1_000_000)
    """Pictures in the table of base against tuned."""
    steps: int | None = Field(default=None, ge=2, le=1_000)
    """Sampler steps (deterministic sampler); null is the rollout's number."""
    every: int = Field(default=10, ge=1, le=NEVER)
    """Iterations between snapshots of a few of them while training runs."""
    watch: int = Field(default=96, ge=4, le=10_000)  # one caption at least, with its four siblings
    """Pictures in a snapshot, siblings of 4 for each caption; they are kept, and the report shows them."""


class Output(Strict):
    """The run folder and what is written there.

    `{folder: runs/try, checkpoint_every: 25, keep_best: composition}`
    """

    folder: OutputFolder | None = None  # what it is by default needs method and seed, so `Recipe.folder` says it
    """Where the run is written; null is runs/METHOD-SEED, of videos runs/video-METHOD-SEED."""
    credit_every: int = Field(default=1, ge=1, le=NEVER)
    """Iterations between stored credit tensors."""
    checkpoint_every: int = Field(default=25, ge=1, le=NEVER)
    """Iterations between checkpoints; the last iteration always has one."""
    keep: int = Field(default=3, ge=1, le=NEVER)
    """The last so many checkpoints are kept."""
    keep_best: str | None = None
    """A reward, trained or held out: the checkpoint whose snapshot has its highest mean is kept as well."""
    report: bool = True
    """Whether report.html is kept current while training runs."""
