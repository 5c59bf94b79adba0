"""TempFlow-GRPO (arXiv 2508.04324): steps count as much as the noise that they add."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.objective.profile import Preserve, Profile
from stepcredit.records import Credit, Evidence


class TempFlowGRPO(Method):
    """TempFlow-GRPO's noise-aware weighting on Flow-GRPO, one advantage per sample; its branching is not here."""

    paper: ClassVar[str] = "arXiv 2508.04324"
    summary: ClassVar[str] = "Flow-GRPO weighted by each step's noise (without TempFlow's branching)"
    fills: ClassVar[str] = "when"

    type: Literal["tempflow_grpo"] = "tempflow_grpo"
    kernel: Kernel = "flow_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.7, gt=0)
    """How much noise the kernel adds."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    profile: Profile = "noise"
    """`noise`: the loss of a step is weighted by its standard deviation."""
    preserve: Preserve = "factor"
    """`factor`: the weights have mean 1."""
    scale: Literal["batch", "group"] = "group"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)
