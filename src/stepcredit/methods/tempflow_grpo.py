"""TempFlow-GRPO (arXiv 2508.04324): steps count as much as the noise that they add."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import FlowGRPORule
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import FlowSDE, Stochastic


class TempFlowGRPO(Method):
    """TempFlow-GRPO's noise-aware weighting on Flow-GRPO, one advantage per sample; its branching is not here."""

    paper: ClassVar[str] = "arXiv 2508.04324"
    summary: ClassVar[str] = "Flow-GRPO weighted by each step's noise (without TempFlow's branching)"
    fills: ClassVar[str] = "when"

    type: Literal["tempflow_grpo"] = "tempflow_grpo"
    sampler: Stochastic = FlowSDE(noise_level=0.7)
    plan: Planning = Planning(shared_noise=False)
    rule: FlowGRPORule = FlowGRPORule(scale="group")
    objective: LikelihoodRatio = LikelihoodRatio(profile="noise", preserve="factor")
