"""The state after the last whole iteration: what can be saved when the one that follows is not finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.protocols import Policy
from stepcredit.training.anchors import Average
from stepcredit.training.finite import all_finite

COPIED = 2**30
"""Bytes of what is trained, up to which each iteration copies it first: a LoRA, and no more than a second of work."""

_COPIES = 4  # weights, two moments and the average, which are all of the same shapes


@dataclass(frozen=True)
class State:
    """All that training changes, in main memory; e.g. `State([w], [{"step": 3.0, "exp_avg": m}], [w], 3)`."""

    weights: Sequence[Tensor]
    moments: Sequence[Mapping[str, Tensor]]
    average: Sequence[Tensor]
    average_steps: int


class LastWhole:
    """Follows a run and knows how many whole iterations the weights in memory stand for, if any.

    Between the first optimiser step of an iteration and its end the weights are those of no iteration. A copy is taken
    just before that step, unless it would be larger than `COPIED`; an iteration that fails earlier costs none.
    `silent` counts for how many iterations each reward scored nothing, and belongs to the state.
    """

    def __init__(
        self,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        average: Average | None,
        *,
        iteration: int,
        silent: Mapping[str, int],
    ) -> None:
        self.silent = dict(silent)
        self._parameters = policy.parameters()
        self._optimiser = optimiser
        self._average = average
        self._is_small = _COPIES * sum(parameter.nbytes for parameter in self._parameters) <= COPIED
        self.begin(iteration)
        optimiser.register_step_pre_hook(lambda *_: self._before_step())

    def begin(self, iteration: int) -> None:
        """After so many whole iterations another one begins."""
        self._iteration: int | None = iteration
        self._is_written = True
        self._began_with = iteration
        self._silent_before = dict(self.silent)
        self._average_steps = self._average.steps if self._average else 0
        self._copy: State | None = None

    def finish(self) -> None:
        """All of the iteration's optimiser steps were taken; it is whole once it is `written`."""
        self._iteration = self._began_with + 1
        self._is_written = False

    def written(self) -> None:
        """All numbers of the iteration are in the run folder: a run could not go on behind a gap in them."""
        self._is_written = True

    @property
    def can_go_back(self) -> bool:
        """Whether the state from before this iteration is still there."""
        return self._copy is not None or self._is_as_it_began()

    def newest(self) -> int | None:
        """Leaves the newest state that is whole in memory, and returns after how many iterations it is.

        None if there is none: weights were changed, are not finite or not written, and were too large to be copied.
        """
        if self._iteration is not None and self._is_written and self._is_usable():
            return self._iteration
        if self._copy is None:
            return None
        self._put_back(self._copy)
        self._iteration = self._began_with
        self._is_written = True
        return self._iteration

    def _is_as_it_began(self) -> bool:
        return self._iteration == self._began_with

    def _is_usable(self) -> bool:
        # An iteration without any optimiser step still moves the average, at its end.
        if self._is_as_it_began() and self._average is not None and self._average.steps != self._average_steps:
            return False
        return all_finite(self._parameters)

    def _before_step(self) -> None:
        if self._is_as_it_began() and self._is_small:
            self._copy = State(
                weights=[_copied(parameter) for parameter in self._parameters],
                moments=[_copies(self._optimiser.state.get(parameter, {})) for parameter in self._parameters],
                average=[_copied(tensor) for tensor in self._average.tensors] if self._average else [],
                average_steps=self._average_steps,
            )
        self._iteration = None

    @torch.no_grad()
    def _put_back(self, state: State) -> None:
        """The run as it was before the iteration began, bit for bit."""
        for parameter, weights, moments in zip(self._parameters, state.weights, state.moments, strict=True):
            parameter.copy_(weights)
            # What the optimiser keeps appears at its first step: before that there was nothing.
            self._optimiser.state.pop(parameter, None)
            if moments:
                self._optimiser.state[parameter] = {name: _beside(parameter, value) for name, value in moments.items()}
        if self._average is not None:
            for tensor, average in zip(self._average.tensors, state.average, strict=True):
                tensor.copy_(average)
            self._average.steps = state.average_steps
        self.silent = dict(self._silent_before)


def _copied(tensor: Tensor) -> Tensor:
    # On the CPU, whatever the device: the memory there is what a run is short of.
    return tensor.detach().to("cpu", copy=True)


def _beside(parameter: Tensor, value: Tensor) -> Tensor:
    # The count of steps stays on the CPU, where AdamW keeps it.
    return value.to(parameter.device) if value.ndim else value


def _copies(moments: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: _copied(value) for name, value in moments.items() if isinstance(value, Tensor)}
