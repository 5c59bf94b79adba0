"""Per-transition instructions of a rollout: who adds noise where, and what is trained."""

import numpy as np
import torch
from jaxtyping import Bool

from stepcredit.methods.base import Method
from stepcredit.records import Plan
from stepcredit.rollout.noise import PLAN


def draw(
    method: Method,
    *,
    steps: int,
    prompts: int,
    group_size: int,
    seed: int,
    iteration: int,
    trainable: Bool[torch.Tensor, " N"] | None = None,
) -> Plan:
    """The plan of one iteration, a pure function of its arguments.

    Every transition is stochastic and trained but the last, which ends without noise so that what is decoded is the
    clean prediction; unless it is trained as well or the method wants the noisy end. A window confines noise and
    training to a few steps; a timestep fraction leaves out steps of each sample at random. Steps that are not
    `trainable`, because another network decides them, follow the ODE.
    """
    last = steps if method.train_last else steps - 1
    random = np.random.default_rng(np.random.SeedSequence((seed, iteration, PLAN)))
    trained = torch.zeros(prompts, group_size, steps, dtype=torch.bool)
    trained[..., :last] = True
    stochastic = trained.clone()
    if method.window is not None:
        window = method.window
        choices = window.room(last) - window.size + 1 - window.first
        first = window.first + random.integers(choices, size=prompts if window.per == "prompt" else 1)
        at = torch.arange(steps)
        begin = torch.from_numpy(first)[:, None, None]
        trained = trained & (at >= begin) & (at < begin + window.size)
        stochastic = trained.clone()
    if trainable is not None:
        trained, stochastic = trained & trainable, stochastic & trainable
    if method.final_state == "x_N":
        stochastic[..., -1] = True
    if method.timestep_fraction < 1:
        trained = trained & _some(trained, method.timestep_fraction, random)
    return Plan(kernel=method.kernel, stochastic=stochastic, trained=trained)


def _some(trained: torch.Tensor, fraction: float, random: np.random.Generator) -> torch.Tensor:
    """A random subset of each sample's trained steps, as many as the fraction allows, at least one."""
    order = torch.from_numpy(random.permuted(np.broadcast_to(np.arange(trained.shape[-1]), trained.shape), axis=-1))
    rank = torch.where(trained, order, trained.shape[-1]).argsort(-1).argsort(-1)
    exact = trained.sum(-1, keepdim=True).double() * fraction + 1e-9  # 0.53 of 100 steps are 53
    kept = exact.floor().clamp(min=1)
    return rank < kept
