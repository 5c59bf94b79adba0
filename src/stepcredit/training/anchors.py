"""Copies of the trained weights that follow at a distance."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class Average:
    """Exponential moving average of parameters; early on it is the plain mean, so that it does not lag at the start."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = list(parameters), decay
        self.steps = 0
        self.tensors = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the parameters by 1 - decay (or 1/steps while that is more)."""
        self.steps += 1
        weight = max(1 - self._decay, 1 / (self.steps + 1))
        torch._foreach_lerp_(self.tensors, [parameter.data for parameter in self._parameters], weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters hold the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for index, parameter in enumerate(self._parameters):
            parameter.data, self.tensors[index] = self.tensors[index], parameter.data
