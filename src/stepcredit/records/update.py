"""What an objective asks the network, what the network answers, what is minimised."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.flow.sampler import Sampler


@dataclass(frozen=True)
class Queries:
    """Where an objective asks the network, one row for each term of its mean; light, nothing of latent size.

    sample   row of the sample, prompt x G + member
    step     the transition that the row is told under, 0 to N - 1
    state    rows with equal numbers ask at one and the same state; the network computes it once
    asked    False: the row counts in the mean, and its term is known to be 0, so the network is not asked
    extras   named tensors `[B, ...]` that the objective alone understands, such as its credit

    Example: one trained transition of two samples, of which the second has no credit:
    `Queries(tensor([0, 1]), tensor([3, 3]), tensor([0, 1]), tensor([True, False]), {"credit": ...})`.
    """

    sample: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    state: Int[Tensor, " B"]
    asked: Bool[Tensor, " B"]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, rows: Tensor) -> "Queries":
        # Extras may lie on the device while rows are counted on the CPU.
        extras = {name: tensor[rows.to(tensor.device)] for name, tensor in self.extras.items()}
        return Queries(self.sample[rows], self.step[rows], self.state[rows], self.asked[rows], extras)


@dataclass(frozen=True)
class Points:
    """Some rows of `Queries` with what the network needs, on its device.

    sampler   the rollout's; its laws turn velocities into moves

    Example: `Points(x=latents[rows], level=levels[steps], step=steps, sampler=rollout.sampler, extras={...})`.
    """

    x: Float[Tensor, "B *latent"]
    level: Float[Tensor, " B"]
    step: Int[Tensor, " B"]
    sampler: Sampler
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What policies say at some points, in float32 at least.

    now         the policy under training, with gradient
    reference   the policy before training; None unless the objective asks for it

    Example: `Answers(now=velocity, reference=None)`.
    """

    now: Float[Tensor, "B *latent"]
    reference: Float[Tensor, "B *latent"] | None = None


@dataclass(frozen=True)
class Loss:
    """What is minimised over some rows, and what there is to say about it.

    total       the sum over the rows, with gradient; the update divides by their number in the whole optimiser step
    sums        named sums over the rows, such as the KL
    by_step     named numbers `[B]`, shown as means over all rows and over those of each transition
    agreement   `[B]`, must be 0 as long as the policy is the one that sampled, such as a log-ratio; None: nothing must

    Example: `Loss(total=losses.sum(), sums={"kl": kl.sum()}, by_step={"clip_fraction": clipped})`.
    """

    total: Float[Tensor, ""]
    sums: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    by_step: Mapping[str, Tensor] = field(default_factory=dict)
    agreement: Float[Tensor, " B"] | None = None


@dataclass(frozen=True)
class UpdateReport:
    """What the optimiser steps of one rollout did.

    metrics    named `update/...`
    forwards   what they cost in network forwards; one with a gradient counts as three

    Example: `UpdateReport({"update/loss": -0.01, "update/steps": 2.0}, forwards=1440)`.
    """

    metrics: Mapping[str, float]
    forwards: int
