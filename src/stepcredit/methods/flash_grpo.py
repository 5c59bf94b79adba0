"""Flash-GRPO (arXiv 2605.15980): one trained step per prompt, and a loss that does not depend on which."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method, Window
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.objective.profile import Preserve, Profile
from stepcredit.records import Credit, Evidence


class FlashGRPO(Method):
    """Flash-GRPO: one noisy step per prompt, the loss divided by its native weight.

    Ours: any kernel (the paper's diffusion is linear in the level), and any step (the paper draws from the first half:
    `window: {size: 1, end: 10, per: prompt}` of 20).
    """

    paper: ClassVar[str] = "arXiv 2605.15980"
    summary: ClassVar[str] = "one noisy step per prompt, its native weight divided out"
    fills: ClassVar[str] = "when, plan"

    type: Literal["flash_grpo"] = "flash_grpo"
    kernel: Kernel = "flow_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.7, gt=0)
    """How much noise the kernel adds."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    window: Window | None = Window(size=1, per="prompt")
    """Noise and training on a few steps only; null is all of them."""
    profile: Profile = "uniform"
    """`uniform`: the loss of a step is divided by its native weight."""
    preserve: Preserve = "factor"
    """`factor`: the weights have mean 1 over the rollout."""
    scale: Literal["batch", "group"] = "group"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)
