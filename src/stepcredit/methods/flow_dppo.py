"""Flow-DPPO (arXiv 2606.11025): no ratio clip; moves that left a KL ball and go on outwards are masked."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import FlowGRPORule
from stepcredit.parts.likelihood_ratio import LikelihoodRatio, TrustRegion
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import FlowSDE, Stochastic


class FlowDPPO(Method):
    """Flow-DPPO on Flow-GRPO; `clip` is the largest KL."""

    paper: ClassVar[str] = "arXiv 2606.11025"
    summary: ClassVar[str] = "Flow-GRPO with a KL trust region in place of the ratio clip"
    fills: ClassVar[str] = "loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["flow_dppo"] = "flow_dppo"
    sampler: Stochastic = FlowSDE(noise_level=0.7)
    plan: Planning = Planning(shared_noise=False)
    rule: FlowGRPORule = FlowGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio(loss=TrustRegion(clip=1e-5))
