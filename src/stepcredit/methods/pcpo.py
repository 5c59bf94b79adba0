"""PCPO, Proportionate Credit Policy Optimization (arXiv 2509.25774): credit by the length of path that a step covers.

Plain policy gradient weighs step n by its native weight, a constant of the sampler that spreads over a factor of 3 to
60. PCPO replaces it by zeta times the step length on flow samplers, by its mean on DDIM; and PPO's clip by a hinge in
the log-ratio, which has a closed form in the change of the prediction (`objective.profile.log_ratio`).
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from stepcredit.methods import dance_grpo
from stepcredit.methods.base import Method
from stepcredit.objective import surrogate
from stepcredit.objective.profile import Form, Place, Profile
from stepcredit.records import Credit, Evidence, over_prompts


class PCPO(Method):
    """PCPO on DanceGRPO's sampler and advantages, as in the paper's FLUX setting."""

    paper: ClassVar[str] = "arXiv 2509.25774"
    summary: ClassVar[str] = "log-ratio hinge; steps count by their length (flows) or all alike (DDIM)"
    fills: ClassVar[str] = "when, loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["pcpo"] = "pcpo"
    head: surrogate.Head = "hinge"
    """The loss of a log-ratio and its credit."""
    profile: Profile = "step_length"
    """`step_length` for flow samplers; `uniform` for DDIM, where it is the default."""
    place: Place = "ratio"
    """What the profile multiplies."""
    form: Form = "matching"
    """`matching`: the drift is weighted (the paper's closed form); `power`: the log-ratio is."""
    clip: float = Field(default=1e-4, gt=0)
    """The hinge's margin."""

    @model_validator(mode="before")
    @classmethod
    def _ddim_is_uniform(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("kernel") == "ddim":
            return {"profile": "uniform", **settings}
        return settings

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(dance_grpo.rule)(
            evidence.rewards.double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            advantage_clip=self.advantage_clip,
        )
