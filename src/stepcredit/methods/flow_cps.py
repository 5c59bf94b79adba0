"""Flow-CPS (arXiv 2509.05952): Flow-GRPO on a sampler that keeps the coefficients of data and noise."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.objective.profile import Place, Preserve, Profile
from stepcredit.records import Credit, Evidence


class FlowCPS(Method):
    """Flow-CPS. Its log-probability is -(y - mean)^2, without 1/(2 std^2): the ratio is 2 std^2 times as flat."""

    paper: ClassVar[str] = "arXiv 2509.05952"
    summary: ClassVar[str] = "Flow-GRPO on a coefficients-preserving sampler, squared-error ratio"
    fills: ClassVar[str] = "kernel, loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["flow_cps"] = "flow_cps"
    kernel: Kernel = "cps"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.8, gt=0, le=1)
    """Share of the noise that is drawn anew, as an angle: sin(noise_level pi / 2)."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    profile: Profile = "error"
    """`error` is the published ratio; `native` that of the true density."""
    place: Place = "ratio"
    """What the profile multiplies."""
    preserve: Preserve = "nothing"
    """What the profile leaves as it was."""
    scale: Literal["batch", "group"] = "batch"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)
