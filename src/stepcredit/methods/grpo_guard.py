"""GRPO-Guard (arXiv 2510.22319): a log-ratio of mean 0, whose spread no longer depends on the noise of the step."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import FlowGRPORule
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.sampling import FlowSDE, Stochastic


class GRPOGuard(Method):
    """GRPO-Guard on Flow-GRPO: log-ratio std mean(e drift), loss over the step length."""

    paper: ClassVar[str] = "arXiv 2510.22319"
    summary: ClassVar[str] = "Flow-GRPO with a centred, step-uniform ratio"
    fills: ClassVar[str] = "loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["grpo_guard"] = "grpo_guard"
    sampler: Stochastic = FlowSDE(noise_level=0.7)
    plan: Planning = Planning(shared_noise=False)
    rule: FlowGRPORule = FlowGRPORule()
    objective: LikelihoodRatio = LikelihoodRatio(profile="per_length", place="split", preserve="nothing", form="linear")
