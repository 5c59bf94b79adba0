"""GRPO-Guard (arXiv 2510.22319): a log-ratio of mean 0, whose spread no longer depends on the noise of the step."""

from typing import ClassVar, Literal

from pydantic import Field

from stepcredit.methods.base import Kernel, Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.objective.profile import Form, Place, Preserve, Profile
from stepcredit.records import Credit, Evidence


class GRPOGuard(Method):
    """GRPO-Guard on Flow-GRPO: log-ratio std mean(e drift), loss over the step length."""

    paper: ClassVar[str] = "arXiv 2510.22319"
    summary: ClassVar[str] = "Flow-GRPO with a centred, step-uniform ratio"
    fills: ClassVar[str] = "loss"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["grpo_guard"] = "grpo_guard"
    kernel: Kernel = "flow_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.7, gt=0)
    """How much noise the kernel adds."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    profile: Profile = "per_length"
    """How much each step should count in the gradient."""
    place: Place = "split"
    """`split`: the standard deviation on the log-ratio, the rest on the loss."""
    preserve: Preserve = "nothing"
    """What the profile leaves as it was."""
    form: Form = "linear"
    """`linear` removes the term that pulls every ratio below 1."""
    scale: Literal["batch", "group"] = "batch"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, advantage_clip=self.advantage_clip)
