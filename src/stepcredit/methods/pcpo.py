"""PCPO, Proportionate Credit Policy Optimization (arXiv 2509.25774): credit by the length of path that a step covers.

Plain policy gradient weighs step n by its native weight, a constant of the sampler that spreads over a factor of 3 to
60. PCPO replaces it by zeta times the step length on flow samplers, by its mean on DDIM; and PPO's clip by a hinge in
the log-ratio, which has a closed form in the change of the prediction (`objective.profile.log_ratio`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from stepcredit.methods.base import Method
from stepcredit.methods.dance_grpo import DanceGRPORule
from stepcredit.parts.likelihood_ratio import Hinge, LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import DanceSDE, Stochastic


class PCPO(Method):
    """PCPO on DanceGRPO's sampler and advantages, as in the paper's FLUX setting."""

    paper: ClassVar[str] = "arXiv 2509.25774"
    summary: ClassVar[str] = "log-ratio hinge; steps count by their length (flows) or all alike (DDIM)"
    fills: ClassVar[str] = "when, loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["pcpo"] = "pcpo"
    sampler: Stochastic = DanceSDE()
    plan: Planning = Planning()
    rule: DanceGRPORule = DanceGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio(
        loss=Hinge(clip=1e-4), profile="step_length", place="ratio", form="matching"
    )

    @model_validator(mode="before")
    @classmethod
    def _ddim_is_uniform(cls, given: Any) -> Any:
        """On DDIM the published profile is the mean of the native weights, not the step length."""
        if not isinstance(given, Mapping):
            return given
        sampler = given.get("sampler")
        objective = given.get("objective", {})
        kind = sampler.get("type") if isinstance(sampler, Mapping) else getattr(sampler, "type", None)
        if kind == "ddim" and isinstance(objective, Mapping):
            # What is given comes last: the recipe has the last word on a profile.
            return {**given, "objective": {"profile": "uniform", **objective}}
        return given
