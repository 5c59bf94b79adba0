"""A rollout: what it was told, what each step does, what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stepcredit.flow.sampler import Sampler

GROUP = -1
"""The author of a state that a whole group has in common from the start."""


@dataclass(frozen=True)
class Condition:
    """What the generator is told, one row per sample: named tensors `[B, ...]` that only the policy understands.

    Example: `Condition({"encoder_hidden_states": torch.zeros(2, 77, 768)})`.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, rows: Tensor) -> "Condition":
        return Condition({name: tensor[rows] for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Plan:
    """What each transition of each sample does, decided before anything is drawn.

    stochastic   whether the transition adds noise; elsewhere the sample follows the ODE
    trained      whether the transition gets credit
    author       whose noise each state was made with: a member of the group, or `GROUP` for a noise that all have in
                 common. Samples that begin with the same author and go on with the same one walk one path until
                 they part: a common first noise, a shared prefix, a fork

    Example: 1 prompt, 2 samples, 2 transitions from one common noise, the last without noise:
    `Plan(tensor([[[True, False]] * 2]), tensor([[[True, False]] * 2]), tensor([[[-1, 0, 0], [-1, 1, 1]]]))`.
    """

    stochastic: Bool[Tensor, "P G N"]
    trained: Bool[Tensor, "P G N"]
    author: Int[Tensor, "P G N+1"]

    @property
    def steps(self) -> int:
        """N, the number of transitions."""
        return self.trained.shape[-1]

    @cached_property
    def node(self) -> Int[Tensor, "P G L"]:
        """The number of each state; equal numbers in a column are one shared state.

        Two samples share a state if they shared the one before and moved alike: both along the ODE, or both with the
        noise of one author. A shared state carries the row (prompt x G + member) of the first sample that has it.
        """
        prompts, members, _ = self.stochastic.shape
        together = _equal(self.author[..., 0])
        columns = [_first_of(together)]
        for step in range(self.steps):
            noisy = self.stochastic[..., step]
            alike = _equal(noisy) & (~noisy[:, :, None] | _equal(self.author[..., step + 1]))
            # Once parted, parted for good: the same author again adds the same noise to different latents.
            together = together & alike
            columns.append(_first_of(together))
        first_rows = torch.arange(prompts)[:, None, None] * members
        return first_rows + torch.stack(columns, dim=-1)


def own_paths(prompts: int, members: int, steps: int, *, shared_start: bool) -> Int[Tensor, "P G L"]:
    """Authors of a rollout in which every sample goes its own way, from one noise for each group or from its own."""
    author = torch.arange(members)[:, None].repeat(1, steps + 1)
    if shared_start:
        author[:, 0] = GROUP
    # Cloned, because expanded rows are one piece of memory: writing a fork into one prompt would write it into all.
    return author.expand(prompts, -1, -1).clone()


def _equal(values: Tensor) -> Bool[Tensor, "P G G"]:
    """Which members of a group agree with which."""
    return values[:, :, None] == values[:, None, :]


def _first_of(together: Bool[Tensor, "P G G"]) -> Int[Tensor, "P G"]:
    """The first member that each member is together with; it is together with itself at least."""
    return together.long().argmax(-1)  # of equal maxima argmax takes the first


@dataclass(frozen=True)
class Rollout:
    """P prompts, G samples each, from noise to data.

    plan         what each step did; `plan.node` says which states are one
    sampler      the law of the moves and the noise levels
    condition    what the generator was told, one row a prompt
    latents      every state `[P, G, L, *latent]`
    velocities   what the network said before each move `[P, G, N, *latent]`; the law of a move follows from it, so no
                 density is kept
    final        the latent that is decoded
    seen         what observers left, one row a sample, on the CPU
    places       the global number of each prompt among the iteration's prompts, `[P]`
    forwards     network forwards that were computed; fewer than P G N where states are shared

    Example: `rollout.latents[0, 3, 0]` is the noise that the fourth sample of the first prompt started from.
    """

    plan: Plan
    sampler: Sampler
    condition: Condition
    latents: Float[Tensor, "P G L *latent"]
    velocities: Float[Tensor, "P G L-1 *latent"]
    final: Float[Tensor, "P G *latent"]
    places: Int[Tensor, " P"]
    forwards: int
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def ids(self) -> Int[Tensor, "P G"]:
        """The global number of each sample: the same on whatever rank and in whatever micro-batch it was drawn."""
        members = self.final.shape[1]
        return self.places[:, None] * members + torch.arange(members)

    @cached_property
    def alive(self) -> Bool[Tensor, "P G"]:
        """Samples whose every latent is finite, on the CPU; the others have no density and get no credit."""
        return self.latents.flatten(2).isfinite().all(-1).cpu()


@dataclass(frozen=True)
class Move:
    """One transition of some samples, as observers see it while the rollout runs.

    Example: `Move(step=0, level=tensor(1.0), next_level=tensor(0.9), x=noise, velocity=velocity, y=next_latents)`.
    """

    step: int
    level: Float[Tensor, ""]
    next_level: Float[Tensor, ""]
    x: Float[Tensor, "B *latent"]
    velocity: Float[Tensor, "B *latent"]
    y: Float[Tensor, "B *latent"]
