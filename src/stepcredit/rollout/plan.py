"""Per-transition instructions: which kernel moves, and whether the move is trained."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """One entry per transition, from noise to data."""

    kernels: tuple[str, ...]
    trained: Bool[Tensor, " N"]

    @property
    def steps(self) -> int:
        return len(self.kernels)


def every_step(steps: int, *, kernel: str, train_last: bool, noisy_end: bool) -> Plan:
    """Stochastic and trained everywhere but at the end.

    The last transition ends without noise, so that what is decoded is the clean prediction, unless it is trained or
    the method wants the noisy end.
    """
    last = kernel if train_last or noisy_end else "ode"
    trained = torch.ones(steps, dtype=torch.bool)
    trained[-1] = train_last
    return Plan((*(kernel,) * (steps - 1), last), trained)
