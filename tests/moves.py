"""Single moves through an objective, without a network: what it makes of a drift, a noise and a credit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.flow import schedules
from stepcredit.flow.sampler import Sampler, Step
from stepcredit.methods.base import Method
from stepcredit.records import Answers, Loss, Points


class InDeviations(Sampler):
    """A sampler whose velocities are told in standard deviations of the move, so that a change is a drift."""

    def drift(self, change: Tensor, step: Step) -> Tensor:
        del step
        return change


@dataclass(frozen=True)
class Moves:
    """Moves `[B]` with their drift and noise in standard deviations, and the factors of their steps."""

    drift: Tensor
    noise: Tensor
    ratio_factor: Tensor
    loss_factor: Tensor


@dataclass(frozen=True)
class Outcome:
    """What an objective says of each move, `[B]`."""

    loss: Tensor
    log_ratio: Tensor
    clipped: Tensor


def outcome(method: Method, moves: Moves, credit: Tensor) -> Outcome:
    """A method's losses of moves with this credit `[B, M]`, asked one by one: an objective gives the sum of rows."""
    rows = [_loss_of_one(method, moves, credit, row) for row in range(len(credit))]
    return Outcome(
        loss=torch.stack([loss.total for loss in rows]),
        log_ratio=torch.cat([loss.agreement for loss in rows]),
        clipped=torch.cat([loss.by_step["clip_fraction"] for loss in rows]) == 1,
    )


def _loss_of_one(method: Method, moves: Moves, credit: Tensor, row: int) -> Loss:
    one = slice(row, row + 1)
    drift = moves.drift[one]
    points = Points(
        x=torch.zeros_like(drift),
        level=torch.ones(1),
        step=torch.zeros(1, dtype=torch.long),
        sampler=InDeviations("dance_sde", 0.3, schedules.linear(2)),
        extras={
            "sampled": torch.zeros_like(drift),
            "noise": moves.noise[one],
            "ratio_factor": moves.ratio_factor[one],
            "loss_factor": moves.loss_factor[one],
            "credit": credit[one],
        },
    )
    return method.objective.losses(Answers(now=drift), points)
