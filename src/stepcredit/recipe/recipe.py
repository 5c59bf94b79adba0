"""A recipe: everything that defines a run. A missing key is the method's published setting, or a sane default."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, model_validator

from stepcredit.errors import RecipeError, nearest, shown
from stepcredit.foreign.modules import import_named
from stepcredit.methods import names
from stepcredit.methods.base import Method
from stepcredit.settings.policies import PolicySettings
from stepcredit.settings.prompts import PromptChoice
from stepcredit.settings.rewards import RewardChoice
from stepcredit.settings.run import Evaluation, Optimiser, Output, Rollout, Training
from stepcredit.settings.strict import Strict
from stepcredit.settings.tracking import TrackingChoice

_MOST_REWARDS = 64
_MOST_PAIRS = 4_000_000  # far beyond what is drawn between two updates, and a plan of so many is made in a blink


class Recipe(Strict):
    """A whole run.

    `{policy: {type: flux}, prompts: {type: scenes}, method: otca, rewards: [{type: clip_t}]}`, as YAML, is one.
    """

    seed: int = Field(default=0, ge=0, lt=2**40)  # streams mix it with counters, and torch takes 64 bits in all
    """The same seed gives the same run."""
    threads: int | None = Field(default=None, ge=1, le=4_096)
    """CPU threads; null leaves it to torch."""
    policy: SerializeAsAny[PolicySettings]
    """The generator and what of it is trained: a file of `policies/families/`, or `package.module` of your own."""
    prompts: PromptChoice
    """Training prompts."""
    rollout: Rollout = Rollout()
    method: SerializeAsAny[Method]  # as any: the field's own class knows none of the settings that a method adds
    """Which credit rule, and its settings: a file of `methods/`, or `package.module` of your own."""
    rewards: Annotated[list[RewardChoice], Field(min_length=1, max_length=_MOST_REWARDS)]
    """The objectives (K)."""
    held_out: list[RewardChoice] = Field(default_factory=list, max_length=_MOST_REWARDS)
    """Measured, never trained on: that is where reward hacking shows."""
    optimiser: Optimiser = Optimiser()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    output: Output = Output()
    tracking: list[TrackingChoice] = Field(default_factory=list, max_length=_MOST_REWARDS)
    """Services that are told how the run goes, beside the run folder."""

    @model_validator(mode="after")
    def _rewards_have_names_of_their_own(self) -> "Recipe":
        measured = self._measured
        repeated = sorted({name for name in measured if measured.count(name) > 1})
        if repeated:
            raise ValueError(
                f"reward {', '.join(repeated)} is listed twice (rewards and held_out together); "
                "remove one, or give one of them another `name`"
            )
        return self

    @model_validator(mode="after")
    def _best_checkpoint_is_measured(self) -> "Recipe":
        best = self.output.keep_best
        if best is not None and best not in self._measured:
            raise ValueError(f'output.keep_best is "{best}"; {nearest(best, self._measured)}')
        return self

    @model_validator(mode="after")
    def _rewards_score_what_is_drawn(self) -> "Recipe":
        for reward in (*self.rewards, *self.held_out):
            if self.policy.medium not in reward.scores:
                raise ValueError(
                    f"reward {', '.join(reward.labels)} scores {' and '.join(reward.scores)}s, and policy.type "
                    f"{self.policy_name} draws {self.policy.medium}s; take a reward that fits"
                )
        return self

    @model_validator(mode="after")
    def _method_fits(self) -> "Recipe":
        self.method.check(steps=self.rollout.steps, group_size=self.rollout.group_size)
        # Refused, not passed over: a weight that changes nothing would be believed to.
        if self.method.rule.mixes_objectives and any(reward.weight != 1 for reward in self.rewards):
            raise ValueError(
                f"method {self.method_name} finds its own mix of the objectives and would ignore `weight`; "
                "remove the weights, or take a method that sums (dance_grpo, flow_grpo)"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_be_summed(self) -> "Recipe":
        for index, reward in enumerate(self.rewards):
            if reward.weight < 0:
                raise ValueError(
                    f"rewards.{index}.weight: got {shown(reward.weight)}, wanted at least 0; to have less of it, "
                    "write a reward of your own that returns its negative ({type: custom, path: ...})"
                )
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards.0.weight: every reward has weight 0, so nothing would be trained; raise one")
        return self

    @model_validator(mode="after")
    def _plan_fits_into_memory(self) -> "Recipe":
        rollout = self.rollout
        pairs = rollout.prompts * rollout.group_size * rollout.steps
        if pairs > _MOST_PAIRS:
            raise ValueError(
                f"rollout.prompts x rollout.group_size x rollout.steps is {pairs:,}, wanted at most {_MOST_PAIRS:,} "
                "steps of samples in an iteration; lower one of the three"
            )
        return self

    @property
    def _measured(self) -> list[str]:
        return [name for reward in (*self.rewards, *self.held_out) for name in reward.labels]

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
        return str(getattr(self.method, "type"))  # noqa: B009 - each method declares its own `type`, the base has none


def method_class(name: str) -> type[Method]:
    """The settings class of a method: the one subclass of Method in `stepcredit.methods.NAME` or in module NAME."""
    module = _method_module(name)
    # Of this module itself: a file may import another method to share its rule.
    methods = [item for item in vars(module).values() if _is_method(item) and item.__module__ == module.__name__]
    if len(methods) != 1:
        raise RecipeError(
            f"method.type: {module.__name__} must define exactly one subclass of Method, found {len(methods)}"
        )
    return methods[0]


def method_named(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method with the paper's settings, and these laid over them."""
    own = {key: value for key, value in (settings or {}).items() if key != "type"}
    return method_class(name).model_validate(own)


def _method_module(name: str) -> ModuleType:
    known = names()  # the folder is the registry
    if name not in known and "." not in name:
        raise RecipeError(f"method.type: there is no method {shown(name)}; {nearest(name, known)}")
    # ".otca" would be taken relative to whoever imports, and a path has no module's name.
    if not all(part.isidentifier() for part in name.split(".")):
        raise RecipeError(f"method.type: method {shown(name)} is not a module; write it as package.module")
    if "." not in name:
        return import_module(f"stepcredit.methods.{name}")
    return import_named(name, key=f'method.type: method "{name}"')


def _is_method(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, Method)
