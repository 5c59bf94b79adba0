"""Flow-CPS (arXiv 2509.05952): Flow-GRPO on a sampler that keeps the coefficients of data and noise."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import FlowGRPORule
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import CPS, Stochastic


class FlowCPS(Method):
    """Flow-CPS. Its log-probability is -(y - mean)^2, without 1/(2 std^2): the ratio is 2 std^2 times as flat."""

    paper: ClassVar[str] = "arXiv 2509.05952"
    summary: ClassVar[str] = "Flow-GRPO on a coefficients-preserving sampler, squared-error ratio"
    fills: ClassVar[str] = "kernel, loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["flow_cps"] = "flow_cps"
    sampler: Stochastic = CPS(noise_level=0.8)
    plan: Planning = Planning(shared_noise=False)
    rule: FlowGRPORule = FlowGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio(profile="error", place="ratio", preserve="nothing")
