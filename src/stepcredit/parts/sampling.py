"""How samples are drawn: which transition adds noise, how much, and what happens at the end of the path.

Each kernel is a type of its own, so that a key that would mean nothing is refused: the ODE has no noise level, and
kernels that end without noise cannot train the last transition.
"""

from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from stepcredit.flow.sampler import Sampler
from stepcredit.flow.transitions import Prediction
from stepcredit.settings.strict import Strict


class Sampling(Strict):
    """What all samplers have in common. Abstract: each kernel is one final subclass."""

    adds_noise: ClassVar[bool] = True
    """Whether its transitions are stochastic where the plan says so."""

    @property
    def kernel(self) -> str:
        """The transition, one of `flow.kernels.KERNELS`: the name of the type."""
        return str(getattr(self, "type"))  # noqa: B009 - subclasses alone have a type

    @property
    def last_has_noise(self) -> bool:
        """Whether the last transition adds noise."""
        return False

    @property
    def last_is_trained(self) -> bool:
        """Whether the last transition gets credit."""
        return False

    @property
    def decodes_last(self) -> bool:
        """Whether the last latent is decoded; if not, the clean prediction of the last step."""
        return False

    def at(self, levels: Float[Tensor, " L"], *, prediction: Prediction = "velocity") -> Sampler:
        """The sampler on these noise levels."""
        # The ODE has no noise level, and must not have the key: a recipe that sets it is wrong.
        return Sampler(self.kernel, getattr(self, "noise_level", 0.0), levels, prediction)


class NoisyEnd(Sampling):
    """Samplers whose last transition may add noise, too."""

    train_last: bool = False
    """Whether the last transition is trained too; if not, it is deterministic."""
    final_state: Literal["x0", "x_N"] = "x0"
    """What is decoded and compared with: the last step's clean prediction, or the last latent with its noise."""

    @property
    def last_has_noise(self) -> bool:
        # A last latent that is decoded was drawn like all others, trained or not.
        return self.train_last or self.decodes_last

    @property
    def last_is_trained(self) -> bool:
        return self.train_last

    @property
    def decodes_last(self) -> bool:
        return self.final_state == "x_N"


class DanceSDE(NoisyEnd):
    """DanceGRPO's stochastic sampler: constant noise."""

    type: Literal["dance_sde"] = "dance_sde"
    noise_level: float = Field(default=0.3, gt=0, le=1_000)
    """How much noise the kernel adds (the papers' eta)."""


class FlowSDE(NoisyEnd):
    """Flow-GRPO's stochastic sampler: noise that depends on the level."""

    type: Literal["flow_sde"] = "flow_sde"
    noise_level: float = Field(default=0.7, gt=0, le=1_000)
    """How much noise the kernel adds."""


class CPS(Sampling):
    """Flow-CPS's coefficients-preserving sampler; it ends without noise."""

    type: Literal["cps"] = "cps"
    noise_level: float = Field(default=0.8, gt=0, le=1)
    """Share of the noise that is drawn anew, as an angle: sin(noise_level pi / 2)."""


class DDIM(Sampling):
    """DDIM, the sampler of noise-predicting models; it ends without noise."""

    type: Literal["ddim"] = "ddim"
    noise_level: float = Field(default=1.0, gt=0, le=1)
    """How much noise the kernel adds (DDIM's eta); 1 is DDPM's posterior noise."""


class ODE(Sampling):
    """The deterministic sampler; every transition can get credit, none has a likelihood."""

    adds_noise: ClassVar[bool] = False

    type: Literal["ode"] = "ode"

    @property
    def last_is_trained(self) -> bool:
        return True


Stochastic = Annotated[DanceSDE | FlowSDE | CPS | DDIM, Field(discriminator="type")]
"""Any sampler whose moves have a likelihood."""
