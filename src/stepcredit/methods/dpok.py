"""DPOK (arXiv 2305.16381): policy gradient without a clip, and a KL to the pretrained model at every step."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stepcredit.credit import mix
from stepcredit.methods.base import Kernel, Method, same_for_every_step
from stepcredit.objective import surrogate
from stepcredit.records import Credit, Evidence, over_prompts


@torch.no_grad()
def rule(
    rewards: Float[Tensor, "G K"],
    weights: Float[Tensor, " K"],
    *,
    trained: Bool[Tensor, "*G N"],
    baseline: Literal["group", "none"] = "group",
    advantage_clip: float = 5.0,
) -> Credit:
    """credit = r, or r - group mean, at every trained step; r is the weighted sum of the raw scores."""
    scores = mix.weighted_scores(rewards, weights.expand_as(rewards))
    known = scores.isfinite()
    level = torch.where(known, scores, torch.nan).nanmean() if baseline == "group" else scores.new_zeros(())
    advantages = (scores - level).clamp(-advantage_clip, advantage_clip)[:, None]
    mixed = mix.mean(torch.where(known[:, None], advantages, torch.nan))
    return same_for_every_step(mixed, advantages, torch.ones_like(advantages), trained=trained)


class DPOK(Method):
    """DPOK. Ours: the group's mean stands for its learned value baseline; code not compared."""

    paper: ClassVar[str] = "arXiv 2305.16381"
    summary: ClassVar[str] = "raw rewards, unclipped policy gradient, KL to the base at every step"
    fills: ClassVar[str] = "advantage, loss"

    type: Literal["dpok"] = "dpok"
    kernel: Kernel = "ddim"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=1.0, gt=0, le=1)
    """How much noise the kernel adds (DDIM's eta)."""
    shared_noise: bool = False
    """Whether the samples of a prompt start from the same noise."""
    head: surrogate.Head = "unclipped"
    """The loss of a log-ratio and its credit."""
    kl_weight: float = Field(default=0.01, ge=0)
    """Strength of the pull towards the policy before training, beside rewards of size 1."""
    baseline: Literal["group", "none"] = "group"
    """What is subtracted from the reward."""

    def assign(self, evidence: Evidence) -> Credit:
        return over_prompts(rule)(
            evidence.rewards.double(),
            evidence.weights.double().expand(len(evidence.rewards), -1),
            trained=evidence.trained,
            baseline=self.baseline,
            advantage_clip=self.advantage_clip,
        )
