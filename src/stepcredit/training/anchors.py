"""Policies beside the one under training: a moving average that is evaluated."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


class Average:
    """Exponential moving average of parameters; early on it is the plain mean, so that it does not lag at the start.

    decay   by how much the average stays where it is at every step, 0 to 1
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self._decay = decay
        # A list of parameters is a module, so what is copied is what is trained and not the whole generator.
        self._parameters = torch.nn.ParameterList(parameters)
        self._model = AveragedModel(self._parameters, multi_avg_fn=self._move)
        self._model.update_parameters(self._parameters)  # the first call copies: the start is the first of the mean

    @property
    def steps(self) -> int:
        """How often it has followed."""
        return int(self._model.n_averaged) - 1

    @steps.setter
    def steps(self, steps: int) -> None:
        self._model.n_averaged.fill_(steps + 1)

    @property
    def tensors(self) -> list[Tensor]:
        """The average, in the order of the parameters."""
        return [parameter.data for parameter in self._model.module.parameters()]

    def follow(self) -> None:
        """Move towards the parameters by 1 - decay (or 1/(steps + 1) while that is more)."""
        self._model.update_parameters(self._parameters)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the parameters hold the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # What they point to changes hands: no copy, and optimisers know parameters as objects, which stay.
        for parameter, average in zip(self._parameters, self._model.module.parameters(), strict=True):
            parameter.data, average.data = average.data, parameter.data

    @torch.no_grad()
    def _move(self, averages: Sequence[Tensor], parameters: Sequence[Tensor], followed: Tensor | int) -> None:
        # 1/2, 1/3, 1/4, ... is the plain mean; the decay takes over once it moves more.
        weight = max(1 - self._decay, 1 / (int(followed) + 1))
        torch._foreach_lerp_(list(averages), list(parameters), weight)  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True)
class Anchors:
    """What follows the policy at a distance; None: nothing does."""

    average: Average | None = None

    @property
    def evaluated(self) -> Literal["average", "trained"]:
        """Which weights are looked at."""
        return "trained" if self.average is None else "average"

    def follow(self) -> None:
        """After every iteration."""
        if self.average is not None:
            self.average.follow()

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the policy has the weights that are evaluated."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield
