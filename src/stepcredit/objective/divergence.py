"""Distance of a transition from the frozen reference policy, per (sample, transition)."""

from jaxtyping import Float
from torch import Tensor

from stepcredit.flow.gaussian import Gaussian


def exact(law: Gaussian, reference: Gaussian) -> Float[Tensor, " B"]:
    """The transition's KL per dimension, mean (mean - mean_ref)^2 / (2 std^2)."""
    return law.kl(reference)


def flow_grpo(law: Gaussian, reference: Gaussian, *, step_length: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The form that Flow-GRPO trains with: `exact` times the step length (its denominator holds g^2, not g^2 dt).

    A weight tuned for one form means something else in the other.
    """
    return law.kl(reference) * step_length
