"""What every method decides: a kernel, which transitions are trained, how credit is assigned, the loss."""

from abc import abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.config.strict import Strict
from stepcredit.flow.gaussian import Gaussian
from stepcredit.objective import surrogate
from stepcredit.records import Credit, Evidence


class Method(Strict):
    """Settings and decisions of a method. The trainer calls `assign` and `loss` and knows nothing else of it.

    Abstract: each method is one final subclass in its own file.
    """

    paper: ClassVar[str]
    """Where it comes from, e.g. "arXiv 2604.19234"."""
    summary: ClassVar[str]
    """One line for `stepcredit methods`."""
    mixes_objectives: ClassVar[bool] = False
    """Whether the method finds its own mix of the objectives, so that weights in the recipe would be ignored."""

    kernel: Literal["flow_sde", "dance_sde", "cps"] = "dance_sde"
    """The stochastic transition of the sampler."""
    noise_level: float = Field(default=0.3, gt=0)
    """How much noise the kernel adds (the papers' eta)."""
    shared_noise: bool = True
    """Whether the samples of a prompt start from the same noise."""
    train_last: bool = False
    """Whether the last transition is trained too; if not, it is deterministic."""
    final_state: Literal["x0", "x_N"] = "x0"
    """What is decoded and compared with: the last step's clean prediction, or the last latent with its noise."""
    clip: float = Field(default=1e-4, gt=0)
    """Half-width of the clipped ratio."""
    advantage_clip: float = Field(default=5.0, gt=0)
    """Advantages are clamped to plus or minus this."""
    kl_weight: float = Field(default=0.0, ge=0)
    """Strength of the pull towards the policy before training."""
    kl_form: Literal["exact", "flow_grpo"] = "exact"
    """`exact`: the transition's KL; `flow_grpo`: that times the step length, as published with Flow-GRPO."""

    @abstractmethod
    def assign(self, evidence: Evidence) -> Credit:
        """Credit of a whole rollout, `[P, G, N]`."""

    def divergence(self, law: Gaussian, reference: Gaussian, step_length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Distance of each transition from the reference policy's.

        Flow-GRPO's published KL has g^2 where the transition's variance is g^2 times the step length; so it is the
        exact one times the step length, and a weight tuned for one form means something else in the other.
        """
        kl = law.kl(reference)
        return kl if self.kl_form == "exact" else kl * step_length

    def loss(self, log_ratio: Float[Tensor, " B"], credit: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The loss of each (sample, transition), to be minimised."""
        return surrogate.clipped(log_ratio, credit, clip=self.clip)
