"""Flow-DPPO (arXiv 2606.11025): no ratio clip; moves that left a KL ball and go on outwards are masked."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.objective import surrogate
from stepcredit.records import Credit, Evidence


class FlowDPPO(Method):
    """Flow-DPPO on Flow-GRPO; `clip` is the largest KL."""

    paper: ClassVar[str] = "arXiv 2606.11025"
    summary: ClassVar[str] = "Flow-GRPO with a KL trust region in place of the ratio clip"
    fills: ClassVar[str] = "loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["flow_dppo"] = "flow_dppo"
    kernel: Kernel = "flow_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.7, gt=0)
    """How much noise the kernel adds."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    head: surrogate.Head = "trust_region"
    """The loss of a log-ratio and its credit."""
    clip: float = Field(default=1e-5, gt=0)
    """The largest KL per dimension."""
    scale: Literal["batch", "group"] = "batch"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)
