"""A recipe: everything that defines a run. A missing key is the method's published setting, or a sane default."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from stepcredit.errors import RecipeError, nearest
from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.policies import families
from stepcredit.settings.policies import PolicySettings
from stepcredit.settings.prompts import PromptChoice, ScenesPrompts
from stepcredit.settings.rewards import RewardChoice
from stepcredit.settings.strict import Strict
from stepcredit.settings.tracking import TrackingChoice


class Rollout(Strict):
    """How many pictures an iteration draws, and how."""

    prompts: int = Field(default=8, ge=1)
    """Prompts of one iteration (P)."""
    group_size: int = Field(default=12, ge=2)
    """Samples of each prompt (G); at least 2, because an advantage compares siblings."""
    steps: int = Field(default=16, ge=2)
    """Sampler steps (N)."""
    shift: float | None = Field(default=None, gt=0)
    """Shift of the noise levels; null is the model's own schedule."""
    micro_batch: int = Field(default=96, ge=1)
    """Samples that go through the network together; results depend on it by the device's rounding at most."""
    share_states: bool = True
    """Compute a state that samples share, such as a common first noise, once; results depend on it by rounding."""


class Optimiser(Strict):
    """AdamW with gradient clipping."""

    type: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-5, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the two moments."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


class Training(Strict):
    """How a rollout becomes updates, and how many there are."""

    iterations: int = Field(default=100, ge=1)
    """Rollouts."""
    budget: int | None = Field(default=None, ge=1)
    """Stop sooner, once so many network forwards are spent (one with a gradient counts as three); null is no limit."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps in one pass over a rollout; the (sample, step) pairs are dealt out evenly at random."""
    passes: int = Field(default=1, ge=1)
    """Passes over a rollout."""
    micro_batch: int = Field(default=192, ge=1)
    """(sample, step) pairs that go through the network together; results depend on it by rounding at most."""
    ema: float | None = Field(default=None, ge=0, lt=1)
    """Decay of the moving average of the trained weights per iteration; null for none. It is what is evaluated."""

    @property
    def planned(self) -> int | None:
        """Iterations, where they are known beforehand: a budget may end a run at any of them."""
        return self.iterations if self.budget is None else None


class Evaluation(Strict):
    """What is looked at during and after training, always with the same captions and the same noise."""

    prompts: PromptChoice = ScenesPrompts(split="held_out")
    """Where held-out prompts come from."""
    count: int = Field(default=256, ge=2)
    """Pictures in the table of base against tuned."""
    steps: int | None = Field(default=None, ge=2)
    """Sampler steps (deterministic sampler); null is the rollout's number."""
    every: int = Field(default=10, ge=1)
    """Iterations between looks at a few of them while training runs."""
    watch: int = Field(default=96, ge=4)
    """Pictures in such a look, siblings of 4 for each caption; they are kept, and the report shows them."""


class Output(Strict):
    """The run folder and what is written there."""

    folder: Path | None = None
    """Where the run is written; null is runs/METHOD-SEED, of videos runs/video-METHOD-SEED."""
    credit_every: int = Field(default=1, ge=1)
    """Iterations between stored credit tensors."""
    checkpoint_every: int = Field(default=25, ge=1)
    """Iterations between checkpoints; the last iteration always has one."""
    keep: int = Field(default=3, ge=1)
    """The last so many checkpoints are kept."""
    keep_best: str | None = None
    """A reward, trained or held out: the checkpoint whose look has its highest mean is kept as well."""
    report: bool = True
    """Whether report.html is kept current while training runs."""


class Recipe(Strict):
    """A whole run."""

    seed: int = Field(default=0, ge=0, lt=2**40)
    """The same seed gives the same run."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; null leaves it to torch."""
    policy: SerializeAsAny[PolicySettings]
    """The generator and what of it is trained: a file of `policies/families/`, or `package.module` of your own."""
    prompts: PromptChoice
    """Training prompts."""
    rollout: Rollout = Rollout()
    method: SerializeAsAny[Method]
    """Which credit rule, and its settings: a file of `methods/`, or `package.module` of your own."""
    rewards: Annotated[list[RewardChoice], Field(min_length=1)]
    """The objectives (K)."""
    held_out: list[RewardChoice] = Field(default_factory=list)
    """Measured, never trained on: that is where reward hacking shows."""
    optimiser: Optimiser = Optimiser()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    output: Output = Output()
    tracking: list[TrackingChoice] = Field(default_factory=list)
    """Services that are told how the run goes, beside the run folder."""

    @field_validator("policy", mode="before")
    @classmethod
    def _find_family(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "type" not in value:
            raise ValueError('no "type"; name a family of models, e.g. policy: {type: flux}')
        return families.settings_class(str(value["type"])).model_validate(value)

    @field_validator("method", mode="before")
    @classmethod
    def _find_method(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "type" not in value:
            raise ValueError('no "type"; name a method, e.g. method: {type: otca}')
        return method_class(str(value["type"])).model_validate(value)

    @model_validator(mode="after")
    def _distinct_objectives(self) -> "Recipe":
        labels = [name for reward in (*self.rewards, *self.held_out) for name in reward.labels]
        twice = sorted({name for name in labels if labels.count(name) > 1})
        if twice:
            raise ValueError(
                f"reward {', '.join(twice)} is listed twice (rewards and held_out together); "
                "remove one, or give one of them another `name`"
            )
        if self.output.keep_best is not None and self.output.keep_best not in labels:
            raise ValueError(f'output.keep_best is "{self.output.keep_best}"; {nearest(self.output.keep_best, labels)}')
        for reward in (*self.rewards, *self.held_out):
            if self.policy.medium not in reward.scores:
                raise ValueError(
                    f"reward {', '.join(reward.labels)} scores {' and '.join(reward.scores)}s, and policy.type "
                    f"{self.policy_name} draws {self.policy.medium}s; take a reward that fits"
                )
        self.method.check(steps=self.rollout.steps, group_size=self.rollout.group_size)
        if self.method.rule.mixes_objectives and any(reward.weight != 1 for reward in self.rewards):
            raise ValueError(
                f"method {self.method_name} finds its own mix of the objectives and would ignore `weight`; "
                "remove the weights, or take a method that sums (dance_grpo, flow_grpo)"
            )
        return self

    @property
    def objectives(self) -> list[str]:
        """Names of the K objectives; one reward may have several."""
        return [name for reward in self.rewards for name in reward.labels]

    @property
    def objective_weights(self) -> list[float]:
        """Weight of each objective, for methods that sum them."""
        return [reward.weight for reward in self.rewards for _ in reward.labels]

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        kind = "video-" if self.policy.medium == "video" else ""
        return self.output.folder or Path("runs") / f"{kind}{self.method_name}-{self.seed}"

    @property
    def policy_name(self) -> str:
        return str(getattr(self.policy, "type", "policy"))

    @property
    def method_name(self) -> str:
        return str(getattr(self.method, "type"))  # noqa: B009 - subclasses alone have a type


def method_class(name: str) -> type[Method]:
    """The settings class of a method: the one subclass of Method in `stepcredit.methods.NAME` or in module NAME."""
    known = names()  # the folder is the registry
    if name not in known and "." not in name:
        raise RecipeError(f'there is no method "{name}"; {nearest(name, known)}')
    if "" in name.split("."):
        raise RecipeError(f'method "{name}" is not a module; write it as package.module')
    try:
        module = importlib.import_module(name if "." in name else f"stepcredit.methods.{name}")
    except ModuleNotFoundError as error:
        raise RecipeError(f'method "{name}" cannot be imported: {error}; is it on the Python path?') from None
    found = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, Method)]
    found = [item for item in found if item.__module__ == module.__name__]
    if len(found) != 1:
        raise RecipeError(f"{module.__name__} must define exactly one subclass of Method, found {len(found)}")
    return found[0]


def method_named(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method with the paper's settings, and these laid over them."""
    own = {key: value for key, value in (settings or {}).items() if key != "type"}
    return method_class(name).model_validate(own)
