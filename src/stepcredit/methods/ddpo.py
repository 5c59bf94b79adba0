"""DDPO (arXiv 2305.13301): denoising as a decision process, on DDIM's stochastic sampler."""

from typing import ClassVar, Literal

from stepcredit.methods.base import Method
from stepcredit.methods.flow_grpo import broadcast
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.planning import Planning
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import DDIM, Stochastic
from stepcredit.records import Credit, Evidence


class DDPORule(Rule):
    """Per-prompt statistics, as DDPO's buffer of each prompt gives them."""

    scale: Literal["batch", "group"] = "group"
    """Whose standard deviation divides: that of all scores of the rollout, or the group's own."""

    def assign(self, evidence: Evidence) -> Credit:
        return broadcast(evidence, scale=self.scale, eps=1e-6, advantage_clip=self.advantage_clip)


class DDPO(Method):
    """DDPO-IS. Ours: a prompt's statistics are those of its group; the official code keeps a buffer per prompt."""

    paper: ClassVar[str] = "arXiv 2305.13301"
    summary: ClassVar[str] = "policy gradient on DDIM; per-prompt statistics, clipped ratio"
    fills: ClassVar[str] = "kernel, advantage"
    status: ClassVar[Literal["formula", "code"]] = "code"

    type: Literal["ddpo"] = "ddpo"
    sampler: Stochastic = DDIM(noise_level=1.0)
    plan: Planning = Planning(shared_noise=False)
    rule: DDPORule = DDPORule()
    objective: LikelihoodRatio = LikelihoodRatio()
