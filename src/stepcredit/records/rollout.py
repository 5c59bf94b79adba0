"""A rollout: what it was told, what each step does, what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the generator is told, one row per sample: named tensors `[B, ...]` that only the policy understands."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, rows: Tensor) -> "Condition":
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Trajectory:
    """A rollout of P prompts, G samples each, from noise to data.

    `velocities` are what the network said before each move; the law of a move follows from them, so no density is
    kept. `final` is the latent that is decoded; `similarity` compares it with every latent, `clean_similarity` with
    the clean prediction made before every move.
    """

    latents: Float[Tensor, "P G L *latent"]
    velocities: Float[Tensor, "P G L-1 *latent"]
    final: Float[Tensor, "P G *latent"]
    levels: Float[Tensor, " L"]
    similarity: Float[Tensor, "P G L"]
    clean_similarity: Float[Tensor, "P G L-1"]


@dataclass(frozen=True)
class Plan:
    """What each transition of each sample does: whether it adds noise, by which kernel, and whether it is trained."""

    kernel: str
    stochastic: Bool[Tensor, "P G N"]
    trained: Bool[Tensor, "P G N"]

    @property
    def steps(self) -> int:
        return self.trained.shape[-1]


@dataclass(frozen=True)
class Moves:
    """Trained moves in a flat batch, as the policy under training sees them.

    In units of the transition's standard deviation: `drift` is how far its mean has moved since the sample was drawn
    (with gradient), `noise` is the standard normal that was drawn. `ratio_factor` and `loss_factor` are the method's
    weights of the transition (`objective.profile`).
    """

    drift: Float[Tensor, "B *latent"]
    noise: Float[Tensor, "B *latent"]
    ratio_factor: Float[Tensor, " B"]
    loss_factor: Float[Tensor, " B"]
