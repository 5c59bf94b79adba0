"""Flash-GRPO (arXiv 2605.15980): one trained step per prompt, and a loss that does not depend on which."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import FlowGRPORule
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning, Window
from stepcredit.parts.sampling import FlowSDE, Stochastic


class FlashGRPO(Method):
    """Flash-GRPO: one noisy step per prompt, the loss divided by its native weight.

    Ours: any kernel (the paper's diffusion is linear in the level), and any step (the paper draws from the first half:
    `window: {size: 1, end: 10, per: prompt}` of 20).
    """

    paper: ClassVar[str] = "arXiv 2605.15980"
    summary: ClassVar[str] = "one noisy step per prompt, its native weight divided out"
    fills: ClassVar[str] = "when, plan"

    type: Literal["flash_grpo"] = "flash_grpo"
    sampler: Stochastic = FlowSDE(noise_level=0.7)
    plan: Planning = Planning(shared_noise=False, window=Window(size=1, per="prompt"))
    rule: FlowGRPORule = FlowGRPORule(scale="group")
    objective: LikelihoodRatio = LikelihoodRatio(profile="uniform", preserve="factor")
