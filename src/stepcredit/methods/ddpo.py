"""DDPO (arXiv 2305.13301): denoising as a decision process, on DDIM's stochastic sampler."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.records import Credit, Evidence


class DDPO(Method):
    """DDPO-IS. Ours: a prompt's statistics are those of its group; the official code keeps a buffer per prompt."""

    paper: ClassVar[str] = "arXiv 2305.13301"
    summary: ClassVar[str] = "policy gradient on DDIM; per-prompt statistics, clipped ratio"
    fills: ClassVar[str] = "kernel, advantage"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["ddpo"] = "ddpo"
    kernel: Kernel = "ddim"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=1.0, gt=0, le=1)
    """How much noise the kernel adds (DDIM's eta)."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    scale: Literal["batch", "group"] = "group"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, eps=1e-6, advantage_clip=self.advantage_clip)
