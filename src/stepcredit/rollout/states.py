"""Rows that stand at one and the same state: the network is asked for the first of them, all get its answer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Distinct:
    """The distinct states of some rows: `first [S]` is the first row of each, `back [B]` the state of each row.

    Example: rows at the states 7, 7, 9 give `Distinct(first=[0, 2], back=[0, 0, 1])`.
    """

    first: Int[Tensor, " S"]
    back: Int[Tensor, " B"]


def distinct(states: Int[Tensor, " B"]) -> Distinct | None:
    """The distinct numbers among the rows' states, in the order of their first rows; None if all differ."""
    # unique sorts by number, and torch has no variant that keeps the order in which numbers come.
    numbers, inverse = states.unique(return_inverse=True)
    if len(numbers) == len(states):
        return None
    first = torch.full((len(numbers),), len(states)).scatter_reduce(0, inverse, torch.arange(len(states)), "amin")
    order = first.argsort()
    return Distinct(first[order], order.argsort()[inverse])


def spread(answers: Float[Tensor, "S *latent"], states: Distinct) -> Float[Tensor, "B *latent"]:
    """The answer of each row's state, `[B, *latent]`; gradients of rows that share a state add up."""
    return answers[states.back.to(answers.device)]
